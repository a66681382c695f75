"""Adapter methods: what each one asks of PEFT, where its parameters lie, and what they are when a run starts.

Adding a method is one line of `METHODS`, and the start of its parameters.
"""

import math
import tempfile
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from fedllm_app.adapters.layout import ENCODER, PROMPT, AdapterError, AdapterSettings, Layout, Manifest, is_a_factor
from fedllm_app.adapters.reach import unreached
from fedllm_app.adapters.targets import (
    adapted_modules,
    check_targets,
    excluded_patterns,
    exclusion,
    layer_names,
    pattern,
)
from fedllm_app.adapters.view import AdapterView, manifest_of
from fedllm_app.models.files import some
from fedllm_app.models.location import ModelLocation, found_once
from fedllm_app.models.skeleton import skeleton

if TYPE_CHECKING:
    import peft
    import torch
    from transformers import PreTrainedModel

_SHOWN = 6  # patterns of modules in a sentence


@dataclass(frozen=True)
class AdapterValues:
    """What determines an adapter beside the model; a method reads its own values only."""

    r: int
    alpha: int
    dropout: float
    targets: tuple[str, ...] | str
    rslora: bool = False
    dora: bool = False
    method: str = "lora"
    virtual_tokens: int = 16
    encoder_hidden_size: int = 128


# LoRA (Hu et al. 2021), rank-stabilised (Kalajdzievski 2023), weight-decomposed (Liu et al. 2024); (IA)³ (Liu et al.
# 2022); prefix tuning (Li and Liang 2021); p-tuning (Liu et al. 2021); prompt tuning (Lester et al. 2021).
METHODS: dict[str, Callable[[AdapterValues], "peft.PeftConfig"]] = {
    "lora": lambda values: _config("LoraConfig", **_lora(values)),
    "ia3": lambda values: _config("IA3Config"),
    "prefix-tuning": lambda values: _config("PrefixTuningConfig", **_prompt(values)),
    "p-tuning": lambda values: _config(
        "PromptEncoderConfig", **_prompt(values), encoder_hidden_size=values.encoder_hidden_size
    ),
    "prompt-tuning": lambda values: _config("PromptTuningConfig", **_prompt(values)),
}


def peft_config(values: AdapterValues) -> "peft.PeftConfig":
    """PEFT's configuration of the adapter."""
    return METHODS[values.method](values)


def _config(name: str, **options) -> "peft.PeftConfig":
    import peft

    return getattr(peft, name)(task_type="CAUSAL_LM", **options)


def _lora(values: AdapterValues) -> dict:
    return {
        "r": values.r,
        "lora_alpha": values.alpha,
        "lora_dropout": values.dropout,
        "target_modules": values.targets if isinstance(values.targets, str) else list(values.targets),
        "use_rslora": values.rslora,
        "use_dora": values.dora,
    }


def _prompt(values: AdapterValues) -> dict:
    return {"num_virtual_tokens": values.virtual_tokens}


def add_adapter(base: "torch.nn.Module", adapter: "peft.PeftConfig") -> "peft.PeftModel":
    """Put the adapter into `base`, with float32 adapter weights. `AdapterError` if it does not fit the model."""
    from peft import PeftType, get_peft_model
    from peft.tuners.tuners_utils import BaseTunerLayer

    adapter.base_model_name_or_path = None  # PEFT puts in the directory on this machine, and warns of another name
    try:
        with peft_asks_by_an_old_name():
            model = get_peft_model(base, adapter)
    except (ValueError, TypeError) as error:  # PEFT raises the second where it does not find the embedding
        key = "lora.target-modules" if adapter.peft_type == PeftType.LORA else "adapter.method"
        raise AdapterError(
            f"{key} does not fit {type(base).__name__}: {str(error).splitlines()[0].rstrip('.')} "
            f"(layers of this model: {some(layer_names(base), 12)})"
        ) from error
    if isinstance(model.get_output_embeddings(), BaseTunerLayer):
        # Losses multiply hidden states by the head's weight directly, so an adapter on it would never be trained.
        raise AdapterError("lora.target-modules names the language-model head: it must name modules below it")
    return model


@contextmanager
def peft_asks_by_an_old_name() -> Iterator[None]:
    """While PEFT wraps a model: it asks by a name that transformers 6 will not have, and transformers 5 warns of it."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "`is_gradient_checkpointing` is deprecated", FutureWarning)
        yield


def check_dora(dora: bool, quantization: str) -> None:
    """Refuse DoRA on 8-bit weights without a GPU (`AdapterError`).

    PEFT reads the weights of a DoRA layer at every step; on a CPU, bitsandbytes loses their scales by that.
    """
    import torch

    if dora and quantization == "int8" and not torch.cuda.is_available():
        raise AdapterError(
            "lora.dora with model.quantization = 'int8' needs a GPU; on a CPU set model.quantization = 'nf4' or 'none'"
        )


def adapter_layout(location: ModelLocation, values: AdapterValues) -> Layout:
    """The layout of the adapter on a model, with PEFT's settings for it, without the model's weights.

    Modules that no row of text passes through get no adapter: the settings exclude them, and `left_out` tells of them.

    Raises
    ------
    AdapterError
        The adapter does not fit the model, or `lora.target-modules` names what is not there or not reached by text.
    """

    def find() -> dict:
        layout = _find_layout(location, values)
        return {"names": layout.manifest.names, "shapes": layout.manifest.shapes, "settings": layout.settings.text}

    # The settings name the model, so a copy by another name has its own.
    found = found_once(location, [location.name, asdict(values)], find)
    shapes = tuple(tuple(shape) for shape in found["shapes"])
    return Layout(Manifest(tuple(found["names"]), shapes), AdapterSettings(found["settings"]))


def left_out(layout: Layout) -> str:
    """A sentence on the modules that got no adapter because text does not pass through them; "" if there are none."""
    expression = layout.settings.values.get("exclude_modules")
    if not expression:
        return ""
    patterns = excluded_patterns(expression)
    return (
        f"no adapter on modules that rows of text do not pass through, and that could never be trained: "
        f"{some(patterns, _SHOWN)}"
    )


def _find_layout(location: ModelLocation, values: AdapterValues) -> Layout:
    """Build the model without storage, put the adapter in, and see."""
    import torch

    # PEFT draws the values of what it builds, and fills in the settings that depend on the model.
    with torch.random.fork_rng(devices=[]):
        base = _walkable(location)
        if values.method == "lora" and not isinstance(values.targets, str):
            check_targets(base, values.targets)
        adapter = fitted_config(base, values)
        model = add_adapter(base, adapter)
        patterns = unreached(model, values.method)
        if patterns:
            _check_asked_for(model, values.targets, patterns)
            adapter = fitted_config(_walkable(location), values)
            adapter.exclude_modules = exclusion(patterns)
            model = add_adapter(_walkable(location), adapter)
        manifest = manifest_of(model)
    # PEFT has put in the directory on this machine, which is another on the next.
    adapter.base_model_name_or_path = location.name
    with tempfile.TemporaryDirectory() as scratch:
        adapter.save_pretrained(scratch)
        settings = AdapterSettings((Path(scratch) / "adapter_config.json").read_text(encoding="utf-8"))
        return Layout(manifest, settings)


def _walkable(location: ModelLocation) -> "PreTrainedModel":
    """The base without storage, in a form whose forward pass depends on values as little as may be."""
    import torch

    return skeleton(location, dtype=torch.bfloat16, attention="eager")


def fitted_config(base: "PreTrainedModel", values: AdapterValues) -> "peft.PeftConfig":
    """PEFT's configuration of the adapter, with the dimensions of a prompt method taken from the model itself.

    PEFT guesses them from names in the model's configuration. Virtual tokens have the width of the embedding, which in
    some models is not that of the layers (OPT-350m, RemBERT).
    """
    adapter = peft_config(values)
    if adapter.is_prompt_learning:
        text = base.config.get_text_config()
        adapter.num_layers = getattr(text, "num_hidden_layers", None)
        adapter.num_attention_heads = getattr(text, "num_attention_heads", None)
        if values.method != "prefix-tuning":
            adapter.token_dim = base.get_input_embeddings().weight.shape[1]
            # Of which virtual tokens need neither.
            adapter.num_layers = adapter.num_layers or 1
            adapter.num_attention_heads = adapter.num_attention_heads or 1
    return adapter


def _check_asked_for(model: "peft.PeftModel", targets: tuple[str, ...] | str, patterns: list[str]) -> None:
    """Refuse names of `lora.target-modules` that match only modules which text does not reach."""
    if isinstance(targets, str):
        return
    adapted = adapted_modules(model)
    for target in targets:
        matched = {pattern(name) for name in adapted if name == target or name.endswith(f".{target}")}
        if matched and matched <= set(patterns):
            raise AdapterError(
                f"lora.target-modules: {target!r} is in this model only where rows of text do not pass "
                f"({some(matched)}), so it would never be trained: name modules of the language model"
            )


def initial_adapter(
    layout: Layout,
    values: AdapterValues,
    seed: int,
    load_base: Callable[[], "PreTrainedModel"],
) -> np.ndarray:
    """The adapter that every client starts from, drawn once, on the server, from `seed`.

    Parameters
    ----------
    layout : Layout
        What `adapter_layout` gives for `values`.
    load_base : Callable[[], PreTrainedModel]
        Loads the base model. Called for DoRA alone, whose magnitudes start at the column norms of the base's weights.

    Returns
    -------
    np.ndarray
        The packed float32 vector, shape (layout.size,).
    """
    manifest = layout.manifest
    if PROMPT in manifest.names:
        return manifest.pack(_drawn_encoder(layout.settings, seed))
    vector = draw_adapter(manifest, seed)
    if values.dora:
        vector = manifest.pack(manifest.unpack(vector) | _column_norms(load_base, layout))
    return vector


def draw_adapter(manifest: Manifest, seed: int) -> np.ndarray:
    """The seeded initial adapter of a layout of LoRA or (IA)³, without the base model's weights.

    LoRA as its paper and PEFT start it: `A` uniform on ±1/√fan_in (Kaiming uniform with a = √5), `B` zero; on an
    embedding, `A` zero and `B` standard normal; (IA)³ at one. In each case the first forward pass is the base model's.
    """
    random = np.random.default_rng([seed, 0])
    tensors = {}
    for name, shape in zip(manifest.names, manifest.shapes, strict=True):
        if is_a_factor(name) and "lora_embedding" not in name:
            bound = 1.0 / math.sqrt(math.prod(shape[1:]))
            tensors[name] = random.uniform(-bound, bound, shape).astype(np.float32)
        elif "lora_embedding_B" in name:
            tensors[name] = random.standard_normal(shape).astype(np.float32)
        else:
            tensors[name] = (np.ones if "ia3_l" in name else np.zeros)(shape, np.float32)
    return manifest.pack(tensors)


def _drawn_encoder(settings: AdapterSettings, seed: int) -> dict[str, np.ndarray]:
    """The parameters of a prompt method's encoder as PEFT draws them, from `seed` and without touching torch's own."""
    import torch
    from peft import PrefixEncoder, PromptEmbedding, PromptEncoder

    config = settings.peft_config()
    encoders = {"PREFIX_TUNING": PrefixEncoder, "P_TUNING": PromptEncoder}
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        encoder = encoders.get(config.peft_type)
        encoder = encoder(config) if encoder else PromptEmbedding(config, None)
    return {ENCODER + name: parameter.detach().numpy() for name, parameter in encoder.named_parameters()}


def _column_norms(load_base: Callable[[], "PreTrainedModel"], layout: Layout) -> dict[str, np.ndarray]:
    """DoRA's magnitudes by name, as PEFT computes them when the adapter is put in: the product BA is zero then."""
    import torch

    with torch.random.fork_rng(devices=[]):
        view = AdapterView(add_adapter(load_base(), layout.settings.peft_config()))
    tensors = view.manifest.unpack(view.read())
    return {name: tensor for name, tensor in tensors.items() if "lora_magnitude_vector" in name}
