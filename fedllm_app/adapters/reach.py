"""Which adapted modules text passes through, and whether a method fits a model: a walk through it without storage."""

from collections import defaultdict
from collections.abc import Callable
from typing import TYPE_CHECKING

from fedllm_app.adapters.layout import AdapterError
from fedllm_app.adapters.targets import adapted_modules, pattern

if TYPE_CHECKING:
    import torch
    from peft import PeftModel

_TOKENS = 8


def unreached(model: "PeftModel", method: str) -> list[str]:
    """Patterns of the adapted modules that no gradient of a row of text reaches, in a model on the meta device.

    Those of the other modality's tower are among them, cross-attention without an encoder, and layers whose output is
    compared and not differentiated. Models whose forward pass depends on values cannot be walked through without them;
    their adapters are checked when the weights are loaded (`training.probe`).

    Raises
    ------
    AdapterError
        The model can be walked through, but not with this method.
    """
    model.eval()
    logits = _walk(model)
    if not isinstance(logits, Exception):
        leaves = _leaves(logits)
        return untrained(model, method, lambda parameter: id(parameter) in leaves)
    # Walks with adapters inside can fail for want of values alone.
    if model.active_peft_config.is_prompt_learning and not _for_want_of_values(logits):
        with model.disable_adapter():
            if not isinstance(_walk(model), Exception):
                raise misfit(model, method, logits)
    return []


def untrained(model: "PeftModel", method: str, reached: Callable[["torch.nn.Parameter"], bool]) -> list[str]:
    """Patterns of the adapted modules of which a gradient has reached no parameter.

    Of experts a short row meets a few only, and layers of two kinds may take turns: what differs in number is one.
    AdapterError if it has reached nothing of the adapter.
    """
    if not any(reached(parameter) for parameter in model.parameters() if parameter.requires_grad):
        raise AdapterError(
            f"adapter.method = {method!r} does not fit {type(model.get_base_model()).__name__}: nothing of the adapter "
            "takes part in the forward pass, so it would never be trained; choose another method, such as 'lora'"
        )
    met: dict[str, bool] = defaultdict(bool)
    for name, parameters in adapted_modules(model).items():
        if parameters:
            met[pattern(name)] |= any(map(reached, parameters))
    return sorted(name for name, here in met.items() if not here)


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


def _walk(model: "PeftModel") -> "torch.Tensor | Exception":
    """The logits of a forward pass, or what goes wrong in it; a model's code may raise anything."""
    import torch

    tokens = torch.zeros(1, _TOKENS, dtype=torch.long, device="meta")
    try:
        return model(input_ids=tokens, attention_mask=torch.ones_like(tokens), use_cache=False).logits
    except Exception as error:
        return error


def _leaves(tensor: "torch.Tensor") -> set[int]:
    """The ids of the parameters that a backward pass from `tensor` would reach: the graph alone says it."""
    found, seen, nodes = set(), set(), [tensor.grad_fn]
    while nodes:
        node = nodes.pop()
        if node is None or node in seen:
            continue
        seen.add(node)
        if node.name() == "torch::autograd::AccumulateGrad":
            found.add(id(node.variable))
        nodes += [following for following, _ in node.next_functions]
    return found


def _for_want_of_values(failure: Exception) -> bool:
    return isinstance(failure, NotImplementedError) or "meta" in str(failure)
