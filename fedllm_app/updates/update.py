"""What a step of the update chain is: a half on the client, after training, and a half on the server."""

from collections.abc import Mapping
from typing import ClassVar, Protocol

import numpy as np

from fedllm_app.errors import UserError
from fedllm_app.strategies.round_strategy import RoundStrategy

Arrays = dict[str, np.ndarray]
Numbers = dict[str, int | float]


class UpdateError(UserError):
    """A reply that the server's half of a step cannot read."""


class StepState(Protocol):
    """What a client keeps on its disk between rounds, valid after its last reply that the server accepted."""

    expected: bool  # the server accepted a reply of this client before, so that state should be here

    def load(self, name: str) -> np.ndarray | None:
        """The array as it was after that reply; None if it is not here."""

    def save(self, name: str, array: np.ndarray) -> None:
        """Keep an array for the round after this one, valid once the server accepts this reply."""


class UpdateStep:
    """One step of the chain. A step overrides the halves that it has; the defaults pass everything on.

    Both halves see the changes of a round: "adapter" is `Δ = y − x`, shape (P,), other arrays (SCAFFOLD's
    "control-delta") are changes already.

    Attributes
    ----------
    name : str
        What its state is called by: letters, digits, hyphens, underscores; another one for each step of a chain.
    needs_fixed_coordinates : bool
        Its state adds up coordinate by coordinate over the rounds.
    """

    name: ClassVar[str] = ""
    needs_fixed_coordinates: ClassVar[bool] = False

    def problem(self, strategy: RoundStrategy) -> str | None:
        """Why the step cannot work with a strategy; None if it can."""
        if self.needs_fixed_coordinates and not strategy.fixed_coordinates:
            return (
                "it adds up errors coordinate by coordinate, and the coordinates of this strategy move between rounds"
            )
        return None

    def on_client(self, changes: Arrays, state: StepState) -> tuple[Arrays, Numbers]:
        """After local training: what travels instead of `changes`, and numbers for the journal."""
        return changes, {}

    def on_server(self, arrays: Arrays, size: int) -> Arrays:
        """Before the mean: the changes that `on_client` made `arrays` of, float32, shape (size,).

        Raises UpdateError for arrays that cannot be what the client's half made.
        """
        return arrays

    def after_step(self, before: np.ndarray, after: np.ndarray) -> np.ndarray:
        """The x that follows the strategy's step from `before` to `after`; all are float32, shape (P,)."""
        return after

    def state_arrays(self) -> Arrays:
        """The server half's state, arrays of any shape by name, for checkpoints."""
        return {}

    def load_state_arrays(self, arrays: Mapping[str, np.ndarray]) -> None:
        """Put back what `state_arrays` returned."""
