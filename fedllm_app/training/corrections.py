"""Corrections act on gradients, after clipping and before the optimizer's step.

So the same few lines serve SFT and DPO, every optimizer and any gradient accumulation, and the logged loss stays the
task's own. Adding a correction is one class here and one key in its strategy's message.
"""

from typing import Protocol

import torch


class Correction(Protocol):
    """Changes the gradients of the adapter's parameters in place before every optimizer step."""

    def apply(self, parameters: list[torch.nn.Parameter]) -> None:
        """`parameters` are the adapter's, in the manifest's order, with their gradients populated."""


class Proximal:
    """FedProx (Li et al. 2020, eq. 2): the gradient of `mu/2 ||y - x||²`, which is `mu (y - x)`.

    Parameters
    ----------
    mu : float
        Weight of the proximal term.
    start : list[torch.Tensor]
        The global adapter `x` that the round started from, tensor by tensor.
    """

    def __init__(self, mu: float, start: list[torch.Tensor]) -> None:
        self.mu = mu
        self.start = start

    def apply(self, parameters: list[torch.nn.Parameter]) -> None:
        """Add `mu (y - x)` to each gradient."""
        for parameter, origin in zip(parameters, self.start, strict=True):
            parameter.grad.add_(parameter.detach() - origin.view_as(parameter), alpha=self.mu)


class ControlVariates:
    """SCAFFOLD (Karimireddy et al. 2020, Algorithm 1, line 10): the gradient plus `c - c_i`.

    The client's next control variate is the mean over the K steps of its raw gradients. Under SGD with a constant
    learning rate that is the paper's Option II, `c_i - c + (x - y) / (K eta)`; under AdamW or any other optimizer, for
    which Option II does not hold, it still estimates the client's gradient, which is what the correction needs. Raw
    means before the correction; gradients are clipped before (`train.max-grad-norm`), as the steps are.

    Parameters
    ----------
    server_control, client_control : list[torch.Tensor]
        `c` and `c_i`, tensor by tensor.
    """

    def __init__(self, server_control: list[torch.Tensor], client_control: list[torch.Tensor]) -> None:
        self.difference = [c - c_i for c, c_i in zip(server_control, client_control, strict=True)]
        self.total = [torch.zeros_like(piece) for piece in self.difference]
        self.steps = 0

    def apply(self, parameters: list[torch.nn.Parameter]) -> None:
        """Add the raw gradients to the sum, then `c - c_i` to them."""
        self.steps += 1
        for parameter, total, difference in zip(parameters, self.total, self.difference, strict=True):
            total += parameter.grad.reshape(-1)
            parameter.grad += difference.view_as(parameter)

    def next_control(self) -> torch.Tensor:
        """`c_i⁺`, packed: the mean raw gradient of the round."""
        return torch.cat(self.total) / self.steps
