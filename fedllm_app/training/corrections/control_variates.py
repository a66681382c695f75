"""SCAFFOLD on the client."""

import numpy as np
import torch

from fedllm_app.messages import CONTROL, CONTROL_DELTA
from fedllm_app.training.corrections.correction import Correction, LocalRound, Numbers, Vectors


class ControlVariates(Correction):
    """SCAFFOLD (Karimireddy et al. 2020, Algorithm 1, line 10): the gradient plus `c - c_i`.

    The client's next control variate is the mean over the K steps of its raw gradients. Under SGD with a constant
    learning rate that is the paper's Option II, `c_i - c + (x - y) / (K eta)`; under AdamW or any other optimizer, for
    which Option II does not hold, it still estimates the client's gradient, which is what the correction needs. Raw
    means before the correction; gradients are clipped before (`train.max-grad-norm`), as the steps are.

    c_i lies on the client's disk under the round after which it is valid. The server says which round that should be,
    so a c_i that was lost, or belongs to a reply that the server never accepted, is noticed.
    """

    def __init__(self, local_round: LocalRound) -> None:
        self.round = local_round
        before = local_round.state.load_version(CONTROL, local_round.version)
        # A client that trained before and finds nothing has lost its state: it starts at zero, and the journal says so.
        self.lost = before is None and local_round.version > 0
        server_control = local_round.vectors[CONTROL]
        self.before = np.zeros_like(server_control) if before is None else before
        self.difference = local_round.pieces(server_control - self.before)
        self.total = [torch.zeros_like(piece) for piece in self.difference]
        self.steps = 0

    @classmethod
    def requested(cls, local_round: LocalRound) -> "ControlVariates | None":
        """By "scaffold"; the array "control" is `c`."""
        return cls(local_round) if local_round.config.get("scaffold", False) else None

    def apply(self, parameters: list[torch.nn.Parameter]) -> None:
        """Add the raw gradients to the sum, then `c - c_i` to them."""
        self.steps += 1
        for parameter, total, difference in zip(parameters, self.total, self.difference, strict=True):
            total += parameter.grad.reshape(-1)
            parameter.grad += difference.view_as(parameter)

    def finish(self) -> tuple[Vectors, Numbers]:
        """Keep `c_i⁺` under this round's version; send its change, and whether c_i was lost."""
        after = torch.cat([(total / self.steps).float().cpu() for total in self.total]).numpy()
        self.round.state.save_version(CONTROL, self.round.server_round, after, keep=self.round.version)
        return {CONTROL_DELTA: after - self.before}, {"control-reset": int(self.lost)}
