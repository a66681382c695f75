"""An adapter added to the weights of its base, so that the model needs no PEFT any more."""

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from fedllm_app.adapters.layout import AdapterError
from fedllm_app.adapters.start import METHOD_OF

if TYPE_CHECKING:
    import peft
    import torch
    from transformers import PreTrainedModel

MERGEABLE = ("LORA", "IA3")
"""PEFT's types of the methods that change weights; the others put virtual tokens before a prompt."""

_TOLERANCE = 1e-3  # of the largest logit; float32 rounds two orders of magnitude finer
_UNITS = 8  # of rounding, relative to the largest logit, that the layers of a model may add up to


@dataclass(frozen=True)
class Merged:
    """A model with its adapter merged; on a prompt the largest difference and the largest size of logits, at how many
    of its places the most likely token is the same, and by how much the adapter itself changes a logit at most.
    """

    model: "PreTrainedModel"
    difference: float
    largest: float
    same: int
    places: int
    effect: float

    @property
    def is_rounding(self) -> bool:
        """Whether rounding of weights can cause the difference: some units of the largest logit's last place."""
        import torch

        unit = torch.finfo(next(self.model.parameters()).dtype).eps
        return self.difference <= max(_UNITS * unit, _TOLERANCE) * self.largest


def check_mergeable(settings: Mapping, adapter: Path) -> None:
    """Refuse an adapter that cannot be merged, by its settings (adapter_config.json): AdapterError names the method."""
    kind = settings.get("peft_type")
    if kind in MERGEABLE and not settings.get("alora_invocation_tokens"):
        return
    method = METHOD_OF.get(kind)
    if method and method not in ("lora", "ia3"):
        raise AdapterError(
            f"{adapter} is an adapter of adapter.method = {method!r}, which cannot be merged: it puts virtual tokens "
            "before every prompt and changes no weights. `fedllm export` writes it as a PEFT directory with a card"
        )
    named = "activated LoRA (alora_invocation_tokens)" if kind == "LORA" else f"peft_type {kind!r}"
    raise AdapterError(
        f"{adapter} is an adapter of {named}, which is not merged here: LoRA, with rsLoRA and DoRA, and (IA)³ "
        "are. `fedllm export` writes it as a PEFT directory with a card"
    )


def merge(model: "peft.PeftModel", prompt: Sequence[int]) -> Merged:
    """Add the adapter to the weights. Each sum is taken in float32 and rounded once, to the type of the weights.

    Parameters
    ----------
    model : peft.PeftModel
        LoRA or (IA)³ over a base that is not quantized; it is changed in place.
    prompt : Sequence[int]
        Token ids on which the model is asked before and after.

    Raises
    ------
    AdapterError
        A merged weight is not finite, or the merged model in float32 says something else.
    """
    import torch
    from peft.tuners.tuners_utils import BaseTunerLayer

    model.eval()
    before = _logits(model, prompt)
    with model.disable_adapter():
        effect = float((before - _logits(model, prompt)).abs().max())
    _untie(model.get_base_model())
    try:
        with torch.no_grad(), warnings.catch_warnings():
            # Of the layers that are merged already, and of tied weights, which are no longer tied where it matters.
            warnings.simplefilter("ignore", UserWarning)
            for layer in [module for module in model.modules() if isinstance(module, BaseTunerLayer)]:
                _merge_layer(layer)
            merged = model.merge_and_unload()
    except (ValueError, RuntimeError) as error:
        if isinstance(error, torch.OutOfMemoryError | AdapterError):
            raise
        raise AdapterError(f"the adapter cannot be merged: {str(error).splitlines()[0]}") from error
    after = _logits(merged, prompt)
    difference, largest = float((after - before).abs().max()), float(before.abs().max())
    exact = next(merged.parameters()).dtype == torch.float32
    if not difference <= (_TOLERANCE * largest if exact else largest):  # also where it is no number
        raise AdapterError(
            f"the merged model does not say what base and adapter say: logits up to {largest:.4g} differ by up to "
            f"{difference:.4g}. Use the adapter with PEFT; `fedllm export` writes it with a card"
        )
    same = int((after.argmax(-1) == before.argmax(-1)).sum())
    return Merged(merged, difference, largest, same, len(before), effect)


def _merge_layer(layer: "torch.nn.Module") -> None:
    import torch

    base = layer.get_base_layer()
    dtype = base.weight.dtype
    base.float()
    layer.merge(safe_merge=True)
    base.to(dtype)
    if not torch.isfinite(base.weight).all():
        raise AdapterError(f"a merged weight is too large for {str(dtype).removeprefix('torch.')}: set --dtype float32")


def _untie(base: "PreTrainedModel") -> None:
    """Give the head weights of its own where only the embedding has an adapter, or only the head."""
    import torch
    from peft.tuners.tuners_utils import BaseTunerLayer

    ends = [base.get_input_embeddings(), base.get_output_embeddings()]
    if None in ends or not any(isinstance(end, BaseTunerLayer) for end in ends):
        return
    embedding, head = (end.get_base_layer() if isinstance(end, BaseTunerLayer) else end for end in ends)
    if head.weight is not embedding.weight:
        return
    head.weight = torch.nn.Parameter(head.weight.detach().clone(), requires_grad=False)
    for config in (base.config, base.config.get_text_config()):
        config.tie_word_embeddings = False


def _logits(model: "torch.nn.Module", prompt: Sequence[int]) -> "torch.Tensor":
    """Shape (tokens, vocabulary), float32."""
    import torch

    with torch.inference_mode():
        ids = torch.tensor([list(prompt)], device=next(model.parameters()).device)
        return model(input_ids=ids).logits[0].float().cpu()
