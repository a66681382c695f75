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
