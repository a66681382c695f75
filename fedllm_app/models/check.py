"""Whether a base model can be trained as its files stand: asked before a run, and again of what a client has loaded."""

import re
from collections.abc import Mapping
from typing import TYPE_CHECKING

from fedllm_app.models.files import (
    Shapes,
    UnusableModel,
    check_directory,
    files_digest,
    last_token_id,
    quantization_problem,
    some,
    weight_shapes,
)
from fedllm_app.models.location import ModelLocation, ModelValues, found_once, load_model_config, load_tokenizer
from fedllm_app.models.quiet import quiet_transformers
from fedllm_app.models.skeleton import bidirectional, skeleton

if TYPE_CHECKING:
    from transformers import PretrainedConfig, PreTrainedModel, PreTrainedTokenizerBase

Notes = tuple[str, ...]


def check_model(location: ModelLocation, values: ModelValues, checkpointing: bool = False) -> Notes:
    """Refuse a base model that cannot be trained as its files stand; no weights are read.

    Of a Hub id only the configuration is looked at: its files are fetched by the clients, who look at them then.

    Parameters
    ----------
    checkpointing : bool
        `train.gradient-checkpointing`, which the model's class must know.

    Returns
    -------
    Notes
        What is in the files and will not be used, a sentence each.

    Raises
    ------
    UnusableModel
        The message names the file or key and says what to do.
    """
    directory = location.directory
    shapes = None
    if directory is not None:
        check_directory(directory)
        shapes = weight_shapes(directory)

    def find() -> dict:
        config = load_model_config(location)
        check_stored_quantization(config, location, values)
        model = skeleton(location, attention=_named_anywhere(values.attention))
        if bidirectional(model):
            raise encoder_error(location, model)
        if checkpointing and not model.supports_gradient_checkpointing:
            raise UnusableModel(
                f"train.gradient-checkpointing = true: {type(model).__name__} does not support it; set false, or a "
                "smaller "
                "train.batch-size or train.max-length"
            )
        notes = []
        if shapes is not None and not stored_quantization(config):
            notes += loading_notes(_compare(model, shapes), model, location)
        if directory is not None:
            rows = model.get_input_embeddings().weight.shape[0]
            last = last_token_id(directory)
            if last is None or last >= rows:
                notes += tokenizer_notes(load_tokenizer(location), rows, location)
        return {"notes": notes}

    kept = files_digest(directory) if directory is not None else ""
    subject = ["check", kept, values.attention, values.quantization, values.double_quantization, checkpointing]
    return tuple(found_once(location, subject, find)["notes"])


def _named_anywhere(attention: str) -> str:
    """An attention whose presence is a matter of the model and not of the machine; flash attention is one of both."""
    return attention if attention in ("sdpa", "eager") else "auto"


def stored_quantization(config: "PretrainedConfig") -> Mapping | None:
    """How a model's files keep its weights quantized (`quantization_config`); None if they do not."""
    stored = getattr(config, "quantization_config", None)
    stored = stored or getattr(config.get_text_config(), "quantization_config", None)
    return stored if stored is None or isinstance(stored, Mapping) else stored.to_dict()


def check_stored_quantization(config: "PretrainedConfig", location: ModelLocation, values: ModelValues) -> bool:
    """Whether the base is stored quantized. UnusableModel if it is not as `model.quantization` says."""
    stored = stored_quantization(config)
    problem = quantization_problem(stored, values.quantization, values.double_quantization)
    if problem:
        raise UnusableModel(f"model.name = {location.name!r}: {problem}")
    return bool(stored)


def tokenizer_notes(tokenizer: "PreTrainedTokenizerBase", rows: int, location: ModelLocation) -> list[str]:
    """Refuse a tokenizer whose tokens the embedding has no rows for.

    Some models are published with a few added tokens too many, which their text never holds (an image's place in a
    model
    of text alone). Those are told of, and rows that hold one are refused when they are tokenized.

    Parameters
    ----------
    rows : int
        Of the embedding.

    Returns
    -------
    list[str]
        A sentence on added tokens without a row.
    """
    beyond = tokens_beyond(tokenizer, rows)
    if not beyond:
        return []
    added = set(tokenizer.get_added_vocab())
    used = {token for token in tokenizer.special_tokens_map.values() if isinstance(token, str)}
    names = some(repr(token) for token in beyond)
    if not beyond.keys() <= added - used:
        raise UnusableModel(
            f"model.name = {location.name!r}: the tokenizer has {len(beyond)} tokens beyond the {rows} rows of the "
            "model's "
            f"embedding ({names}). Either it is another model's tokenizer, or tokens were added to it and the "
            "embedding was "
            "not enlarged: use the tokenizer that came with the weights"
        )
    return [
        f"the tokenizer has {len(beyond)} added tokens beyond the {rows} rows of the embedding ({names}); rows of text "
        "that hold one are refused"
    ]


def tokens_beyond(tokenizer: "PreTrainedTokenizerBase", rows: int) -> dict[str, int]:
    """The tokens, with their ids, that an embedding of so many rows has none for."""
    return {token: number for token, number in tokenizer.get_vocab().items() if number >= rows}


def loading_notes(info: Mapping, model: "PreTrainedModel", location: ModelLocation) -> list[str]:
    """Refuse weights that are missing, of another shape, or of a model with more in it than was built.

    Parameters
    ----------
    info : Mapping
        What transformers tells of a load (`output_loading_info`). Tied weights are no missing ones.

    Returns
    -------
    list[str]
        A sentence on weights that belong to no part of this model.
    """
    problems = []
    if info["missing_keys"]:
        problems.append(
            f"{len(info['missing_keys'])} weights are not in its files and would be drawn at random: "
            f"{some(info['missing_keys'])}"
        )
    if info["mismatched_keys"]:
        shapes = [f"{name} {tuple(stored)}, not {tuple(built)}" for name, stored, built in info["mismatched_keys"]]
        problems.append(f"{len(shapes)} weights have another shape than config.json says: {some(shapes)}")
    known = {_pattern(name) for name, _ in model.named_modules()}
    strange = {name for name in info["unexpected_keys"] if _pattern(name).rpartition(".")[0] in known}
    if strange:
        problems.append(
            f"{len(strange)} weights are in its files that config.json has no place for, though it has modules of that "
            f"name: {some(strange)}"
        )
    if problems:
        raise UnusableModel(
            f"model.name = {location.name!r} does not load as {type(model).__name__}: {'; '.join(problems)}. Files and "
            "config.json must be of one model: copy or download it again, or correct config.json"
        )
    unused = set(info["unexpected_keys"]) - strange
    if not unused:
        return []
    parts = some({_pattern(name).split(".*")[0].rpartition(".")[0] or name for name in unused})
    return [
        f"{len(unused)} weights in the model's files are no part of {type(model).__name__} and are not used ({parts})"
    ]


def _pattern(name: str) -> str:
    return re.sub(r"(?<=\.)\d+(?=\.|$)", "*", name)


def encoder_error(location: ModelLocation, model: "PreTrainedModel") -> UnusableModel:
    """Of a model in which every position sees the ones after it."""
    return UnusableModel(
        f"model.name = {location.name!r} is no causal language model: in {type(model).__name__}, as its config.json "
        "sets "
        "it, every token sees the ones that it is to predict. Name a decoder-only model; one of BERT's family becomes "
        "one "
        "with is_decoder = true in config.json, if it was trained so"
    )


def _compare(model: "PreTrainedModel", shapes: Shapes) -> Mapping:
    """What transformers would tell of loading tensors of these shapes: its own loader, with tensors without storage."""
    import torch

    built = {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}
    tied = {name for name, source in model.all_tied_weights_keys.items() if source in shapes}
    if shapes.items() <= built.items() and built.keys() - shapes.keys() <= tied:
        # Name by name what was built: the loader, which also knows how names have changed, takes ten times as long.
        return dict.fromkeys(("missing_keys", "unexpected_keys", "mismatched_keys"), ())
    tensors = {name: torch.empty(shape, device="meta") for name, shape in shapes.items()}
    with quiet_transformers(), torch.random.fork_rng(devices=[]):
        _, info = type(model).from_pretrained(
            None,
            config=model.config,
            state_dict=tensors,
            device_map={"": "meta"},
            output_loading_info=True,
            ignore_mismatched_sizes=True,
        )
    return info
