"""Norms and gated MLPs that keep less for the backward pass: their inputs in the dtype of the base, nothing of between.

A layer gets the lean forward pass only if that gives the bits of its own on random numbers; any other stays as it is.
"""

import copy
import types
from collections.abc import Callable

import torch
from torch import nn
from torch.nn import functional
from transformers.activations import SiLUActivation

_WIDTH = 64  # numbers of the check


class RootMeanSquareNorm(torch.autograd.Function):
    """``w · x / √(mean(x²) + ε)`` (Zhang and Sennrich 2019, arXiv:1910.07467, equation 4), computed in float32.

    w is frozen. Kept are x as it came and one float32 number a row.
    """

    @staticmethod
    def forward(ctx, x, weight, epsilon):
        wide = x.to(torch.float32)
        inverse = torch.rsqrt(wide.pow(2).mean(-1, keepdim=True) + epsilon)
        ctx.save_for_backward(x, inverse, weight)
        return weight * (wide * inverse).to(x.dtype)

    @staticmethod
    def backward(ctx, gradient):
        x, inverse, weight = ctx.saved_tensors
        gradient, x_hat = (gradient * weight).to(torch.float32), x.to(torch.float32) * inverse
        projection = (gradient * x_hat).mean(-1, keepdim=True)
        return (gradient - x_hat.mul_(projection)).mul_(inverse).to(x.dtype), None, None


class SwiGLU(torch.autograd.Function):
    """``silu(g) · u`` (Shazeer 2020, arXiv:2002.05202, equation 6). Kept are g and u."""

    @staticmethod
    def forward(ctx, gate, up):
        ctx.save_for_backward(gate, up)
        return functional.silu(gate) * up

    @staticmethod
    def backward(ctx, gradient):
        gate, up = ctx.saved_tensors
        return torch.ops.aten.silu_backward(gradient * up, gate), gradient * functional.silu(gate)


def install_lean_layers(model: nn.Module) -> int:
    """Give the norms and MLPs of a model whose base is frozen the lean forward pass; how many got it."""
    checked: dict[tuple, bool] = {}
    count = 0
    for module in model.modules():
        if _is_norm(module):
            key, check, forward = (type(module), _epsilon(module), module.weight.dtype), _norm_agrees, _norm_forward
        elif _is_gated(module):
            key, check, forward = (type(module), type(module.act_fn)), _gated_agrees, _gated_forward
        else:
            continue
        if key not in checked:
            checked[key] = _agrees(check, module)
        if checked[key]:
            module.forward = types.MethodType(forward, module)
            count += 1
    return count


def _is_norm(module: nn.Module) -> bool:
    weight = getattr(module, "weight", None)
    named = "RMSNorm" in type(module).__name__ and "forward" not in vars(module)
    return named and isinstance(weight, nn.Parameter) and not weight.requires_grad and _epsilon(module) is not None


def _is_gated(module: nn.Module) -> bool:
    parts = module._modules.keys() >= {"gate_proj", "up_proj", "down_proj", "act_fn"} and "forward" not in vars(module)
    return parts and isinstance(module.act_fn, nn.SiLU | SiLUActivation)


def _epsilon(norm: nn.Module) -> float | None:
    return getattr(norm, "variance_epsilon", getattr(norm, "eps", None))


def _norm_forward(self: nn.Module, hidden_states: torch.Tensor) -> torch.Tensor:
    if not torch.is_grad_enabled() or self.weight.requires_grad:
        return type(self).forward(self, hidden_states)
    return RootMeanSquareNorm.apply(hidden_states, self.weight, _epsilon(self))


def _gated_forward(self: nn.Module, x: torch.Tensor) -> torch.Tensor:
    return self.down_proj(SwiGLU.apply(self.gate_proj(x), self.up_proj(x)))


def _agrees(check: Callable[[nn.Module], bool], module: nn.Module) -> bool:
    try:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            return check(module)
    except Exception:  # a class of another make that wants other arguments stays as it is
        return False


def _norm_agrees(norm: nn.Module) -> bool:
    """On a copy with weights of its own, which also works where the model has none (`fedllm plan`)."""
    own = copy.copy(norm)
    weight = 1 + torch.randn(_WIDTH, dtype=torch.float32).to(norm.weight.dtype) / 4
    own._parameters = {**norm._parameters, "weight": nn.Parameter(weight, requires_grad=False)}
    x = torch.randn(3, 2, _WIDTH).to(weight.dtype) * 5
    return torch.equal(own(x), RootMeanSquareNorm.apply(x, own.weight, _epsilon(norm)))


class _Scaled(nn.Module):
    """Stands for a projection in the check."""

    def __init__(self, factor: float) -> None:
        super().__init__()
        self.factor = factor

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x * self.factor


def _gated_agrees(module: nn.Module) -> bool:
    """On a copy whose projections are factors, since only what is between them is replaced."""
    own = copy.copy(module)
    own._modules = {**module._modules, "gate_proj": _Scaled(1.5), "up_proj": _Scaled(-0.5), "down_proj": _Scaled(3.0)}
    x = torch.randn(3, 2, _WIDTH)
    return torch.equal(own(x), _gated_forward(own, x))
