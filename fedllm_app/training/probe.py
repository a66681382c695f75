"""One short row through a loaded model, before it is trained: is it causal, and does the whole adapter get a gradient?

What configurations and files cannot tell, weights do: models differ in more ways than any list of their names.
"""

from typing import TYPE_CHECKING

import torch

from fedllm_app.adapters.layout import AdapterError
from fedllm_app.adapters.reach import misfit, untrained
from fedllm_app.adapters.targets import adapted_modules, pattern
from fedllm_app.models.check import encoder_error
from fedllm_app.models.files import UnusableModel, some
from fedllm_app.models.location import ModelLocation
from fedllm_app.training.head import OwnLogits, own_logits, probe_row, score_completions

if TYPE_CHECKING:
    from peft import PeftModel
    from transformers import PreTrainedModel

# How much the logits before the last token may depend on it, relative to the last position's own. In a causal model
# they
# do not at all; an encoder that was just drawn, whose attention does next to nothing yet, lets through twice as much.
_LEAK = 1e-3
_NOISE = 10  # times what differs between two runs of the same rows, on hardware that adds in any order


def probe_base(base: "PreTrainedModel", location: ModelLocation) -> OwnLogits:
    """Run two rows of text that differ in their last token through the base.

    Raises
    ------
    UnusableModel
        The forward pass fails, or earlier logits depend on the last token: the model sees what it is to predict.
    """
    try:
        own = own_logits(base)
    except torch.OutOfMemoryError:
        raise
    except Exception as error:  # a model's code may raise anything
        lines = str(error).strip().splitlines() or [""]
        raise UnusableModel(
            f"model.name = {location.name!r}: the forward pass of {type(base).__name__} fails on a row of text "
            f"({type(error).__name__}: {lines[0][:200]}): name another model"
        ) from error
    change = (own.logits[0] - own.logits[1]).abs().amax(-1)
    leak = float(change[:-1].max())
    if leak > _LEAK * float(change[-1]):
        noise = float((own_logits(base).logits - own.logits).abs().max())
        if leak > _NOISE * noise:
            raise encoder_error(location, base)
    return own


def check_trainable(model: "PeftModel", method: str) -> None:
    """Refuse an adapter of which a part gets no gradient from a row of text, or that breaks the forward pass.

    Call it when the model has its head (`head.install_head`). Parameters are left without gradients.

    Raises
    ------
    AdapterError
        The message names the modules.
    """
    row = probe_row(model.get_base_model())
    try:
        with torch.enable_grad():  # a caller may only want to score rows
            loss = score_completions(model, row, row)[0].sum()
    except torch.OutOfMemoryError:
        raise
    except Exception as error:  # as above
        raise misfit(model, method, error) from error
    if loss.requires_grad:
        loss.backward()
    idle = untrained(model, method, lambda parameter: parameter.grad is not None)
    model.zero_grad(set_to_none=True)
    if idle:
        raise AdapterError(
            f"lora.target-modules puts adapters on modules that rows of text do not pass through, so they would never "
            "be "
            f"trained: {some(idle, 6)}. Name other modules, such as {some(_others(model, idle), 6)}"
        )


def _others(model: "PeftModel", idle: list[str]) -> set[str]:
    """Names for `lora.target-modules` that match modules with a gradient only."""
    unmet = {name.rpartition(".")[2] for name in idle}
    return {name.rpartition(".")[2] for name in map(pattern, adapted_modules(model))} - unmet - {"base_layer"}
