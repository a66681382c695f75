"""An update step of your own: clients clip what they send to a norm, the server checks it and counts.

    PYTHONPATH=examples fedllm run . -c "update.steps='own_update.ClipNorm'"

Steps come before compression: add `update.compress='int8'`. A step is built without arguments, on every client and on
the server; for another norm, subclass it.
"""

from collections.abc import Mapping
from typing import ClassVar

import numpy as np

from fedllm_app.messages import ADAPTER
from fedllm_app.updates.update import Arrays, Numbers, StepState, UpdateError, UpdateStep


class ClipNorm(UpdateStep):
    """``Δ ← Δ · min(1, C / ‖Δ‖)`` with C the attribute `norm`. The journal says how long each Δ was, in "update-norm".

    The server counts replies and clipped ones: arrays of shape () that every checkpoint holds in `updates.npz`.
    """

    name: ClassVar[str] = "clip-norm"
    norm: ClassVar[float] = 10.0  # a client of the demo moves about 11 in its first round
    tolerance: ClassVar[float] = 0.02  # rounding, and half a step of each block with update.compress

    def __init__(self) -> None:
        self.replies, self.clipped = 0, 0

    def on_client(self, changes: Arrays, state: StepState) -> tuple[Arrays, Numbers]:
        """Clip the adapter's change; other arrays pass as they are."""
        norm = float(np.linalg.norm(changes[ADAPTER]))
        scale = np.float32(min(1.0, self.norm / norm) if norm else 1.0)
        return {**changes, ADAPTER: changes[ADAPTER] * scale}, {"update-norm": norm}

    def on_server(self, arrays: Arrays, size: int) -> Arrays:
        """Refuse a reply that was not clipped."""
        norm = float(np.linalg.norm(arrays[ADAPTER])) if ADAPTER in arrays else np.inf
        if not norm <= self.norm * (1 + self.tolerance):
            raise UpdateError(
                f"the update has the norm {norm:.3g}, above {self.norm:g}: does the client run {self.name}?"
            )
        self.replies += 1
        self.clipped += norm >= self.norm * (1 - self.tolerance)
        return arrays

    def state_arrays(self) -> Arrays:
        """For checkpoints."""
        return {"replies": np.asarray(self.replies), "clipped": np.asarray(self.clipped)}

    def load_state_arrays(self, arrays: Mapping[str, np.ndarray]) -> None:
        """From a checkpoint; nothing before the first."""
        self.replies, self.clipped = int(arrays.get("replies", 0)), int(arrays.get("clipped", 0))
