"""A base model without storage: its modules, names and shapes, from its configuration alone."""

import contextlib
from collections.abc import Iterator
from typing import TYPE_CHECKING

from fedllm_app.models.files import UnusableModel
from fedllm_app.models.location import ModelLocation, load_model_config

if TYPE_CHECKING:
    import torch
    from transformers import PretrainedConfig, PreTrainedModel


def skeleton(location: ModelLocation, dtype: "torch.dtype | None" = None, attention: str = "auto") -> "PreTrainedModel":
    """Build the model on the meta device.

    Raises
    ------
    UnusableModel
        It is no decoder-only language model, or has no such attention.
    ModelNotFound
        Its configuration cannot be loaded.
    """
    import torch
    from transformers import AutoModelForCausalLM

    config = load_model_config(location)
    check_kind(config, location)
    options = {} if dtype is None else {"dtype": dtype}
    if attention != "auto":
        options["attn_implementation"] = attention
    with torch.random.fork_rng(devices=[]), torch.device("meta"), attention_errors(location, attention):
        model = AutoModelForCausalLM.from_config(config, trust_remote_code=location.trust_remote_code, **options)
    leave_routers_alone(model)
    return model


def leave_routers_alone(model: "PreTrainedModel") -> None:
    """Keep a mixture of experts from computing the loss that balances its routers, which are frozen here."""
    text = model.config.get_text_config()
    if getattr(text, "output_router_logits", False):
        text.output_router_logits = False


@contextlib.contextmanager
def attention_errors(location: ModelLocation, attention: str) -> Iterator[None]:
    """While a model is built with an attention that was named: say which key asked for what the model has not."""
    try:
        yield
    except (ValueError, ImportError) as error:
        if attention == "auto" or "attention" not in str(error).lower():
            raise
        raise UnusableModel(
            f"model.attention = {attention!r} does not work with model.name = {location.name!r}: "
            f"{first_sentence(error)}. Set model.attention = 'auto', which takes what the model has"
        ) from error


def check_kind(config: "PretrainedConfig", location: ModelLocation) -> None:
    """Refuse a model that is no decoder-only language model. UnusableModel says what it is instead."""
    from transformers import MODEL_FOR_CAUSAL_LM_MAPPING

    kind = config.model_type or type(config).__name__
    remedy = "name a decoder-only model, such as one of the Llama, Qwen, Mistral, Gemma or SmolLM families"
    if config.is_encoder_decoder:
        raise UnusableModel(f"model.name = {location.name!r} is an encoder-decoder model ({kind}): {remedy}")
    own_code = location.trust_remote_code and "AutoModelForCausalLM" in (getattr(config, "auto_map", None) or {})
    if not own_code and type(config) not in MODEL_FOR_CAUSAL_LM_MAPPING:
        raise UnusableModel(
            f"model.name = {location.name!r} is a model of type {kind!r}, which transformers knows no causal language "
            f"model of: {remedy}"
        )


def bidirectional(model: "PreTrainedModel") -> bool:
    """Whether the model says of itself that it is an encoder: every position sees the ones after it.

    Of BERT and its kin, which can be either, `is_decoder` in config.json decides, and their attention follows it.
    Models
    that say nothing are asked by a forward pass when their weights are loaded.
    """
    if getattr(model.config, "is_decoder", None) is not False:
        return False
    return any(getattr(module, "is_causal", None) is False for module in model.modules())


def first_sentence(error: Exception) -> str:
    """The first line of an error, without the full stop at its end."""
    lines = str(error).strip().splitlines()
    return lines[0].strip().rstrip(".") if lines else type(error).__name__
