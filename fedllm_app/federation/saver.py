"""Writing checkpoints during a run: whether there is room, and what a full disk means."""

from dataclasses import dataclass

from fedllm_app.errors import UserError
from fedllm_app.federation.schedule import Schedule
from fedllm_app.federation.start import StartingPoint
from fedllm_app.runs.checkpoints import Checkpoint
from fedllm_app.runs.directory import RunDirectory
from fedllm_app.runs.space import check_space

_FLOAT32 = 4  # bytes


class NotSaved(UserError):
    """A checkpoint could not be written; the message says from which round the run can go on."""


@dataclass
class Saver:
    """Writes the checkpoints of a run.

    Attributes
    ----------
    last : int
        The round of the last checkpoint, 0 for none.
    """

    directory: RunDirectory
    start: StartingPoint
    schedule: Schedule
    last: int = 0

    def check(self, vectors: int) -> str:
        """A sentence if the disk has no room for all checkpoints; `vectors`: of the size of what travels, in each."""
        count = sum(plan.saves for plan in self.schedule.training(self.last))
        state = vectors * self.start.travelling.size * _FLOAT32
        return check_space(self.directory.path, self.start.layout.size * _FLOAT32, state, count)

    def save(self, checkpoint: Checkpoint) -> None:
        """Write a checkpoint. NotSaved if the disk does not take it; what was there before is as it was."""
        try:
            self.directory.checkpoint(checkpoint, self.start.merge(checkpoint.adapter), self.start.layout)
        except OSError as error:
            before = f"the last whole one is of round {self.last}" if self.last else "there is none before it"
            raise NotSaved(
                f"the checkpoint of round {checkpoint.server_round} could not be written: {error.strerror or error}; "
                f"{before}. Make room, then go on with: fedllm run --resume {self.directory.path}"
            ) from error
        self.last = checkpoint.server_round
