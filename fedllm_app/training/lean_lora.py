"""LoRA's product with less memory: a layer keeps its input as it is for the backward pass, not a float32 copy of it.

PEFT casts the input of every layer to the adapter's float32, and autograd keeps each copy, though q, k and v (or gate
and up) have one input, which is in the base's bfloat16. The cast is cheap to do again. `benchmarks/client_memory.py`
compares the two.
"""

import types
from typing import Any

import torch
from peft.tuners.lora.layer import Linear
from torch.nn import functional


class LowRankProduct(torch.autograd.Function):
    """``s · B A x`` (Hu et al. 2021, arXiv:2106.09685, equation 3), computed in the dtype of A and B.

    x is (…, n), A is (r, n), B is (m, r); the result is (…, m).
    """

    @staticmethod
    def forward(ctx, x, a, b, scaling):
        inner = functional.linear(x.to(a.dtype), a)
        # Factors that are frozen need neither.
        ctx.save_for_backward(x if a.requires_grad else None, inner if b.requires_grad else None, a, b)
        ctx.scaling, ctx.dtype = scaling, x.dtype
        return functional.linear(inner, b) * scaling

    @staticmethod
    def backward(ctx, gradient):
        x, inner, a, b = ctx.saved_tensors
        gradient = gradient * ctx.scaling
        d_b = _columns(gradient).T @ _columns(inner) if ctx.needs_input_grad[2] else None
        d_inner = gradient @ b
        d_a = _columns(d_inner).T @ _columns(x).to(a.dtype) if ctx.needs_input_grad[1] else None
        d_x = (d_inner @ a).to(ctx.dtype) if ctx.needs_input_grad[0] else None
        return d_x, d_a, d_b, None


def _columns(tensor: torch.Tensor) -> torch.Tensor:
    return tensor.reshape(-1, tensor.shape[-1])


def install_lean_lora(model: torch.nn.Module) -> None:
    """Let the plain LoRA layers of a model compute `LowRankProduct` while they are trained.

    Whatever else PEFT does with a layer stays PEFT's: adapters that are off, merged or several, DoRA and other
    variants, dropout, biases, quantized bases, automatic mixed precision.
    """
    for module in model.modules():
        if type(module) is Linear:
            module.forward = types.MethodType(_forward, module)


def _forward(self: Linear, x: torch.Tensor, *args: Any, **kwargs: Any) -> torch.Tensor:
    name = _plain_adapter(self) if torch.is_grad_enabled() and not (args or kwargs) else None
    if name is None or torch.is_autocast_enabled(x.device.type):
        return Linear.forward(self, x, *args, **kwargs)
    result = self.base_layer(x)
    product = LowRankProduct.apply(x, self.lora_A[name].weight, self.lora_B[name].weight, self.scaling[name])
    return (result + product).to(result.dtype)


def _plain_adapter(layer: Linear) -> str | None:
    """The name of the one adapter that is on, if it is nothing but A and B."""
    if layer.disable_adapters or layer.merged or len(layer.active_adapters) != 1:
        return None
    (name,) = layer.active_adapters
    if name not in layer.lora_A or name in layer.lora_variant:
        return None
    dropout = layer.lora_dropout[name]
    if not isinstance(dropout, torch.nn.Identity) and layer.training:
        return None
    biases = (layer.lora_A[name].bias, layer.lora_B[name].bias)
    return name if biases == (None, None) else None
