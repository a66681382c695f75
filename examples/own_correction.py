"""A correction of your own: gradient centralization, between clipping and the optimizer's step.

PYTHONPATH=examples fedllm run . -c "train.corrections='own_correction.Centralized'"
"""

import torch

from fedllm_app.training.corrections import Correction, LocalRound, Numbers, Vectors


class Centralized(Correction):
    """Take its mean out of the gradient of every row of a matrix (Yong et al. 2020, arXiv:2004.01461, equation 1).

    The journal's line of each client says in "centralized" which share of the gradients' norm was left on average.
    """

    def __init__(self) -> None:
        self.shares: list[float] = []

    @classmethod
    def requested(cls, local_round: LocalRound) -> "Centralized":
        """In every round, whatever the strategy asks for in `local_round.config`."""
        return cls()

    def apply(self, parameters: list[torch.nn.Parameter]) -> None:
        """Change the gradients in place."""
        gradients = [parameter.grad for parameter in parameters if parameter.grad.dim() > 1]
        before = _norm(gradients)
        for gradient in gradients:
            gradient -= gradient.mean(dim=1, keepdim=True)
        self.shares.append(float(_norm(gradients) / before) if before > 0 else 1.0)

    def finish(self) -> tuple[Vectors, Numbers]:
        """No array for the reply, one number for the journal."""
        return {}, {"centralized": sum(self.shares) / len(self.shares)}


def _norm(gradients: list[torch.Tensor]) -> torch.Tensor:
    return torch.stack([gradient.norm() for gradient in gradients]).norm()
