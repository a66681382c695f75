"""Base models: loaded, frozen, and held against what their files promised.

The base never travels and never changes; the server reads its configuration only.
"""

import logging
from typing import TYPE_CHECKING, Any

from fedllm_app.models.check import check_stored_quantization, loading_notes
from fedllm_app.models.files import UnusableModel, check_directory
from fedllm_app.models.hardware import choose_attention, choose_dtype
from fedllm_app.models.location import (
    ModelLocation,
    ModelValues,
    context_length,
    found_once,
    from_pretrained,
    load_model_config,
    load_tokenizer,
    locate_model,
    stop_ids,
    stored_dtype,
)
from fedllm_app.models.quantization import bitsandbytes_config, compute_in, use_one_arithmetic
from fedllm_app.models.quiet import quiet_transformers
from fedllm_app.models.several_gpus import check_spread, spread_options
from fedllm_app.models.skeleton import leave_routers_alone, skeleton

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel

__all__ = [
    "ModelLocation",
    "ModelValues",
    "UnusableModel",
    "choose_attention",
    "choose_dtype",
    "context_length",
    "found_once",
    "load_base_model",
    "load_model",
    "load_model_config",
    "load_tokenizer",
    "locate_model",
    "stop_ids",
    "stored_dtype",
]

_log = logging.getLogger(__name__)


def load_base_model(
    location: ModelLocation,
    dtype: "torch.dtype",
    attention: str = "auto",
    quantization: str = "none",
    double_quantization: bool = False,
    device_map: str = "none",
) -> "PreTrainedModel":
    """The frozen base model on the device that the process sees. Every weight is one of its files.

    Parameters
    ----------
    dtype : torch.dtype
        Of the weights; of a quantized model's head, embedding and norms, and what its 4-bit weights are multiplied in.
    attention : str
        "auto" takes what the model's class has: sdpa, else eager.
    quantization : str
        "none", "int8" (LLM.int8, Dettmers et al. 2022) or "nf4" (QLoRA, Dettmers et al. 2023), of all linear layers
        but the head; with `double_quantization` the scales of nf4 are quantized, too.
    device_map : str
        "none": on one device. "auto": over all GPUs that the process sees, see `models.several_gpus`.

    Raises
    ------
    ModelNotFound
        If the model cannot be loaded.
    UnusableModel
        If it is no decoder-only model, its files do not fit, it has no such attention, or the GPUs cannot hold it.
    QuantizationError
        If bitsandbytes cannot compute with nf4 weights of these shapes on a CPU.
    """
    import torch
    from transformers import AutoModelForCausalLM

    if location.directory is not None:
        check_directory(location.directory)
    values = ModelValues(location.name, "", attention, location.trust_remote_code, quantization, double_quantization)
    stored = check_stored_quantization(load_model_config(location), location, values)
    skeleton(location, attention=attention)  # refuses what no weights can mend
    device = "cuda" if torch.cuda.is_available() else "cpu"
    spread = spread_options(device_map)
    options: dict[str, Any] = {"dtype": dtype, "output_loading_info": True, "ignore_mismatched_sizes": True} | spread
    if attention != "auto":
        options["attn_implementation"] = attention
    if quantization != "none":
        options = {"device_map": {"": device}} | options  # quantized as they arrive, and must not be moved afterwards
    if quantization != "none" and not stored:
        options["quantization_config"] = bitsandbytes_config(quantization, double_quantization, dtype)
    with quiet_transformers():
        model, info = from_pretrained(AutoModelForCausalLM, location, **options)
    for note in loading_notes(info, model, location):
        _log.warning(note)
    _freeze(model)
    if spread:
        check_spread(model, location)
    elif quantization == "none":
        model.to(device)
    if quantization != "none":
        _compute_as_trained(model, dtype if stored else None, device)
    return model


def _compute_as_trained(model: "PreTrainedModel", dtype: "torch.dtype | None", device: str) -> None:
    """Make a quantized model multiply in `dtype` (None: it does), and the same in training and in evaluation."""
    if dtype:
        compute_in(model, dtype)
    if device == "cpu":
        use_one_arithmetic(model)


def _freeze(model: "PreTrainedModel") -> None:
    """Leave nothing to be trained, and no settings of generation but the special tokens."""
    from transformers import GenerationConfig

    model.requires_grad_(False)
    model.config.use_cache = False
    leave_routers_alone(model)
    # What a model's files say of penalties and temperatures would be applied to every answer, greedy ones included.
    special = {f"{name}_token_id": getattr(model.config, f"{name}_token_id", None) for name in ("bos", "eos", "pad")}
    model.generation_config = GenerationConfig(**special)


def load_model(values: ModelValues) -> "PreTrainedModel":
    """The frozen base model that `values` describe."""
    return load_base_model(
        locate_model(values.name, values.trust_remote_code),
        choose_dtype(values.dtype),
        values.attention,
        values.quantization,
        values.double_quantization,
        values.device_map,
    )
