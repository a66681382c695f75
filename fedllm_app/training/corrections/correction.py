"""What a correction is: it acts on gradients, after clipping and before the optimizer's step.

So the same few lines serve SFT and DPO, every optimizer and any gradient accumulation, and the logged loss stays the
task's own.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
import torch

from fedllm_app.training.client_state import ClientState

Vectors = dict[str, np.ndarray]
Numbers = dict[str, int | float]


@dataclass(frozen=True)
class LocalRound:
    """One round of one client, as a correction sees it.

    Attributes
    ----------
    config : Mapping[str, bool | int | float | str]
        The configuration of the server's message; a strategy's own keys are among it.
    vectors : Mapping[str, np.ndarray]
        The packed arrays of the message, shape (P,), float32; "adapter" is the global adapter x.
    pieces : Callable[[np.ndarray], list[torch.Tensor]]
        Cuts a packed vector into one flat tensor a parameter, on the parameter's device.
    state : ClientState
        What the client keeps on its disk.
    server_round, version : int
        This round, and that of the client's last reply that the server accepted (0: none).
    """

    config: Mapping[str, bool | int | float | str]
    vectors: Mapping[str, np.ndarray]
    pieces: Callable[[np.ndarray], list[torch.Tensor]]
    state: ClientState
    server_round: int
    version: int


class Correction(ABC):
    """Changes the gradients of the adapter's parameters in place before every optimizer step of a round."""

    @classmethod
    @abstractmethod
    def requested(cls, local_round: LocalRound) -> "Correction | None":
        """The correction of this round, or None where the message does not ask for it."""

    @abstractmethod
    def apply(self, parameters: list[torch.nn.Parameter]) -> None:
        """`parameters` are the adapter's, in the manifest's order, with their gradients populated."""

    def finish(self) -> tuple[Vectors, Numbers]:
        """After the last step: packed arrays for the reply, shape (P,), and numbers for the journal."""
        return {}, {}
