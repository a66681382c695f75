"""FedProx on the client."""

import torch

from fedllm_app.messages import ADAPTER
from fedllm_app.training.corrections.correction import Correction, LocalRound


class Proximal(Correction):
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

    @classmethod
    def requested(cls, local_round: LocalRound) -> "Proximal | None":
        """By "proximal-mu" above 0, the key of Flower's own FedProx."""
        mu = local_round.config.get("proximal-mu", 0.0)
        return cls(mu, local_round.pieces(local_round.vectors[ADAPTER])) if mu > 0 else None

    def apply(self, parameters: list[torch.nn.Parameter]) -> None:
        """Add `mu (y - x)` to each gradient."""
        for parameter, origin in zip(parameters, self.start, strict=True):
            parameter.grad.add_(parameter.detach() - origin.view_as(parameter), alpha=self.mu)
