"""Base models and tokenizers: from a built-in name, a local directory or the Hub.

The base never travels and never changes; the server reads its configuration only.
"""

import hashlib
import importlib.metadata
import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from fedllm_app.models.packaged import PACKAGED_MODELS, ModelNotFound, converted
from fedllm_app.models.quantization import bitsandbytes_config, use_one_arithmetic
from fedllm_app.paths import home, write_text

if TYPE_CHECKING:
    import torch
    from transformers import PretrainedConfig, PreTrainedModel, PreTrainedTokenizerBase


_SHORT = 128  # tokens


@dataclass(frozen=True)
class ModelValues:
    """What determines the loaded base model: its name, how its weights are stored and multiplied."""

    name: str
    dtype: str
    attention: str = "sdpa"
    trust_remote_code: bool = False
    quantization: str = "none"
    double_quantization: bool = False


@dataclass(frozen=True)
class ModelLocation:
    """What transformers' `from_pretrained` is given: a directory or a Hub id.

    `name` is the model's name as configured, which adapters record: of a built-in model the directory is this
    machine's.
    """

    reference: str
    name: str
    trust_remote_code: bool = False


def locate_model(name: str, trust_remote_code: bool = False) -> ModelLocation:
    """Find the base model `name`: a built-in name, an absolute directory or a Hub id.

    A built-in model is converted once from its package's GGUF file into a safetensors copy below `FEDLLM_HOME`
    (loading the GGUF takes some 20 s, the copy under 1 s); processes that ask at the same time wait for one another.

    Raises
    ------
    ModelNotFound
        If the package or the directory is missing, or the path is relative.
    """
    if name in PACKAGED_MODELS:
        return ModelLocation(str(converted(name, PACKAGED_MODELS[name])), name)
    path = Path(name).expanduser()
    if path.is_absolute():
        if not (path / "config.json").is_file():
            raise ModelNotFound(f"model.name = {name!r}: {path / 'config.json'} does not exist")
        return ModelLocation(str(path), str(path), trust_remote_code)
    if name.startswith(".") or name.count("/") > 1 or path.exists():
        raise ModelNotFound(
            f"model.name = {name!r}: a model directory must be named by its absolute path, because clients and server "
            "run in other working directories"
        )
    return ModelLocation(name, name, trust_remote_code)


def load_model_config(location: ModelLocation) -> "PretrainedConfig":
    """The model's configuration, without weights."""
    from transformers import AutoConfig

    return _found(AutoConfig, location)


def found_once(location: ModelLocation, what: object, find: Callable[[], dict]) -> dict:
    """What `find()` learns from the model's configuration, as JSON: kept for a model in a local directory.

    Finding it takes transformers and PEFT, whose import is a good part of a run's start. `what` names all else that the
    answer depends on.
    """
    config = Path(location.reference) / "config.json"
    if not config.is_file():
        return find()
    versions = [importlib.metadata.version(name) for name in ("peft", "transformers")]
    key = json.dumps([config.read_text(encoding="utf-8"), what, versions])
    kept = home() / "layouts" / f"{hashlib.sha256(key.encode()).hexdigest()[:32]}.json"
    if kept.is_file():
        return json.loads(kept.read_text(encoding="utf-8"))
    found = find()
    write_text(kept, json.dumps(found))
    return found


def context_length(location: ModelLocation) -> int | None:
    """How many positions the model has; None for one whose configuration sets no bound."""

    def find() -> dict:
        text = load_model_config(location).get_text_config()
        return {"context": getattr(text, "max_position_embeddings", None)}

    return found_once(location, "context", find)["context"]


def stop_ids(location: ModelLocation) -> tuple[int, ...]:
    """Ids of the tokens at which the model's files say that generation stops: end tokens, of text or of a turn.

    They stand in generation_config.json, or else in config.json.
    """
    file = _file_of(location, "generation_config.json")
    try:
        settings = {} if file is None else json.loads(file.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ModelNotFound(f"{file} cannot be read: {error}; repair it, or remove it") from error
    named = settings.get("eos_token_id")
    if named is None:

        def find() -> dict:
            return {"stops": getattr(load_model_config(location).get_text_config(), "eos_token_id", None)}

        named = found_once(location, "stops", find)["stops"]
    return tuple(named) if isinstance(named, list) else () if named is None else (named,)


def _file_of(location: ModelLocation, name: str) -> Path | None:
    """A file beside a model's weights; None where it has no such file."""
    if Path(location.reference).is_dir():
        file = Path(location.reference) / name
        return file if file.is_file() else None
    from huggingface_hub import hf_hub_download
    from huggingface_hub.errors import EntryNotFoundError

    try:
        return Path(hf_hub_download(location.reference, name))
    except EntryNotFoundError:  # also where the model was loaded before and there is no connection now
        return None


def load_tokenizer(location: ModelLocation) -> "PreTrainedTokenizerBase":
    """The model's tokenizer, with a padding token. Padding is masked by construction, so the end token may serve."""
    from transformers import AutoTokenizer

    tokenizer = _found(AutoTokenizer, location)
    if tokenizer.pad_token is None:
        tokenizer.pad_token = tokenizer.eos_token
    return tokenizer


def load_base_model(
    location: ModelLocation,
    dtype: "torch.dtype",
    attention: str = "sdpa",
    quantization: str = "none",
    double_quantization: bool = False,
) -> "PreTrainedModel":
    """The frozen base model on the device that the process sees.

    Parameters
    ----------
    dtype : torch.dtype
        Of the weights; of a quantized model's head, embedding and norms, and what its 4-bit weights are multiplied in.
    quantization : str
        "none", "int8" (LLM.int8, Dettmers et al. 2022) or "nf4" (QLoRA, Dettmers et al. 2023), of all linear layers
        but the head.
    double_quantization : bool
        Of nf4: its scales are quantized too.

    Raises
    ------
    ModelNotFound
        If the model cannot be loaded.
    QuantizationError
        If bitsandbytes cannot compute with nf4 weights of these shapes on a CPU.
    """
    import torch
    from transformers import AutoModelForCausalLM, GenerationConfig

    device = "cuda" if torch.cuda.is_available() else "cpu"
    options = {"dtype": dtype, "attn_implementation": attention}
    if quantization != "none":
        # Weights are quantized on the device they arrive on, and must not be moved afterwards.
        options["quantization_config"] = bitsandbytes_config(quantization, double_quantization, dtype)
        options["device_map"] = {"": device}
    model = _found(AutoModelForCausalLM, location, **options)
    model.requires_grad_(False)
    model.config.use_cache = False
    # What a model's files say of penalties and temperatures would be applied to every answer, greedy ones included.
    special = {f"{which}_token_id": getattr(model.config, f"{which}_token_id", None) for which in ("bos", "eos", "pad")}
    model.generation_config = GenerationConfig(**special)
    if quantization == "none":
        return model.to(device)
    if device == "cpu":
        use_one_arithmetic(model)
    return model


def load_model(values: ModelValues) -> "PreTrainedModel":
    """The frozen base model that `values` describe."""
    return load_base_model(
        locate_model(values.name, values.trust_remote_code),
        choose_dtype(values.dtype),
        values.attention,
        values.quantization,
        values.double_quantization,
    )


def choose_dtype(name: str) -> "torch.dtype":
    """The dtype of the frozen weights; "auto" is bfloat16 where the GPU or the CPU multiplies it in hardware.

    On a CPU that means AMX or AVX512-BF16; elsewhere bfloat16 is emulated and slower than float32.
    """
    import torch

    if name != "auto":
        return getattr(torch, name)
    if torch.cuda.is_available():
        return torch.bfloat16 if torch.cuda.is_bf16_supported() else torch.float32
    in_hardware = torch.cpu._is_amx_tile_supported() or torch.cpu._is_avx512_bf16_supported()
    return torch.bfloat16 if in_hardware else torch.float32


def choose_attention(name: str, max_length: int) -> str:
    """The attention implementation; "auto" is sdpa, but eager for short rows on a CPU.

    There the fused kernel's backward pass costs more than it saves: on two cores a training step of 8 rows of 35 tokens
    takes a quarter less with eager attention, one of 4 rows of 200 about the same, with a third more memory.
    """
    import torch

    if name != "auto":
        return name
    return "eager" if max_length <= _SHORT and not torch.cuda.is_available() else "sdpa"


def _found(auto_class, location: ModelLocation, **options):
    """`auto_class.from_pretrained`, with an error that says how to provide a model that cannot be reached."""
    try:
        return auto_class.from_pretrained(location.reference, trust_remote_code=location.trust_remote_code, **options)
    except (OSError, ValueError) as error:
        raise ModelNotFound(
            f"model.name = {location.reference!r} could not be loaded ({str(error).splitlines()[0]}). Give the "
            f"absolute path of a directory with config.json, tokenizer and safetensors, a Hub id that this machine can "
            f"reach, or one of {', '.join(PACKAGED_MODELS)}"
        ) from error
