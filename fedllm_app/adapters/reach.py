"""Which adapted modules text passes through, and whether a method fits a model: a walk through it without storage."""

from typing import TYPE_CHECKING

from fedllm_app.adapters.layout import AdapterError
from fedllm_app.adapters.targets import without_gradient

if TYPE_CHECKING:
    from peft import PeftModel

_TOKENS = 8


def unreached(model: "PeftModel", method: str) -> list[str]:
    """Patterns of the adapted modules that no row of text passes through, in a model on the meta device.

    The other modality's tower is one, and so are cross-attention without an encoder, and layers whose output is only
    compared, not differentiated. Models whose forward pass depends on values cannot be walked through without them; their
    adapters are checked when the weights are loaded (`training.probe`).

    Raises
    ------
    AdapterError
        The model can be walked through, but not with this method.
    """
    model.eval()
    with model.disable_adapter():
        if _failure(model) is not None:
            return []
    failure = _failure(model)
    if failure is None:
        found = untrained(model, method)
        model.zero_grad(set_to_none=True)
        return found
    # Walks with adapters inside can fail for want of values alone.
    if model.active_peft_config.is_prompt_learning and not _for_want_of_values(failure):
        raise misfit(model, method, failure)
    return []


def untrained(model: "PeftModel", method: str) -> list[str]:
    """After a backward pass: the modules that it has not reached. AdapterError if it has reached nothing of the adapter."""
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    if all(parameter.grad is None for parameter in trained):
        raise AdapterError(
            f"adapter.method = {method!r} does not fit {type(model.get_base_model()).__name__}: nothing of the adapter "
            "takes part in the forward pass, so it would never be trained; choose another adapter.method, such as 'lora'"
        )
    return [] if model.active_peft_config.is_prompt_learning else without_gradient(model)


def misfit(model: "PeftModel", method: str, failure: Exception) -> AdapterError:
    """Of a model whose forward pass fails with an adapter of this method."""
    lines = str(failure).strip().splitlines()
    reason = f"{type(failure).__name__}: {lines[0]}" if lines else type(failure).__name__
    others = (
        "name layers in lora.target-modules" if method == "lora" else "choose another adapter.method, such as 'lora'"
    )
    return AdapterError(
        f"adapter.method = {method!r} does not fit {type(model.get_base_model()).__name__}: its forward pass fails with "
        f"that adapter ({reason[:200]}); {others}"
    )


def _failure(model: "PeftModel") -> Exception | None:
    """What goes wrong in a forward and backward pass; a model's code may raise anything."""
    import torch

    tokens = torch.zeros(1, _TOKENS, dtype=torch.long, device="meta")
    try:
        logits: torch.Tensor = model(input_ids=tokens, attention_mask=torch.ones_like(tokens), use_cache=False).logits
        if logits.requires_grad:
            logits.float().sum().backward()
    except Exception as error:
        return error
    return None


def _for_want_of_values(failure: Exception) -> bool:
    return isinstance(failure, NotImplementedError) or "meta" in str(failure)
