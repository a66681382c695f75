"""Which adapted modules text passes through, and whether a method fits a model: a walk through it without storage."""

from typing import TYPE_CHECKING

from fedllm_app.adapters.layout import AdapterError
from fedllm_app.adapters.targets import adapted_modules, never_met, without_gradient

if TYPE_CHECKING:
    from peft import PeftModel

_TOKENS = 8


def unreached(model: "PeftModel", method: str) -> list[str]:
    """Patterns of the adapted modules that no row of text passes through, in a model on the meta device.

    The other modality's tower is one, and so is cross-attention without an encoder. Models whose forward pass depends
    on
    values cannot be walked through without them; their adapters are checked when the weights are loaded, and so is what
    a row passes through without a gradient (`training.probe`).

    Raises
    ------
    AdapterError
        The model can be walked through, but not with this method.
    """
    base = model.get_base_model()
    met: dict[str, bool] = dict.fromkeys(adapted_modules(model), False)
    handles = [
        base.get_submodule(name).register_forward_hook(lambda *_, name=name: met.__setitem__(name, True))
        for name in met
    ]
    model.eval()
    failure = _failure(model)
    for handle in handles:
        handle.remove()
    if failure is None:
        return never_met(met)
    # Walks with adapters inside can fail for want of values alone.
    if model.active_peft_config.is_prompt_learning and not _for_want_of_values(failure):
        with model.disable_adapter():
            if _failure(model) is None:
                raise misfit(model, method, failure)
    return []


def untrained(model: "PeftModel", method: str) -> list[str]:
    """The modules that a backward pass has not reached, as patterns. AdapterError if it has reached no parameter at
    all."""
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    if all(parameter.grad is None for parameter in trained):
        raise AdapterError(
            f"adapter.method = {method!r} does not fit {type(model.get_base_model()).__name__}: nothing of the adapter "
            "takes part in the forward pass, so it would never be trained; choose another method, such as 'lora'"
        )
    return [] if model.active_peft_config.is_prompt_learning else without_gradient(model)


def misfit(model: "PeftModel", method: str, failure: Exception) -> AdapterError:
    """Of a model whose forward pass fails with an adapter of this method."""
    lines = str(failure).strip().splitlines()
    reason = f"{type(failure).__name__}: {lines[0]}" if lines else type(failure).__name__
    others = "name layers in lora.target-modules" if method == "lora" else "choose another method, such as 'lora'"
    return AdapterError(
        f"adapter.method = {method!r} does not fit {type(model.get_base_model()).__name__}: its forward pass fails "
        "with "
        f"that adapter ({reason[:200]}); {others}"
    )


def _failure(model: "PeftModel") -> Exception | None:
    """What goes wrong in a forward pass; a model's code may raise anything."""
    import torch

    tokens = torch.zeros(1, _TOKENS, dtype=torch.long, device="meta")
    try:
        with torch.no_grad():
            model(input_ids=tokens, attention_mask=torch.ones_like(tokens), use_cache=False)
    except Exception as error:
        return error
    return None


def _for_want_of_values(failure: Exception) -> bool:
    return isinstance(failure, NotImplementedError) or "meta" in str(failure)
