"""What a task does on a client: train one round, evaluate."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import numpy as np

from fedllm_app.config.sections import Config, TrainConfig
from fedllm_app.data.row_shards import AnyShard
from fedllm_app.messages import Assignment
from fedllm_app.training.corrections import Correction
from fedllm_app.training.resident import Resident

Numbers = dict[str, int | float]
Progress = Callable[[int, int, float | None], None]
"""Told of step, steps and loss; of step 0, without a loss, when training begins."""


@dataclass(frozen=True)
class TrainResult:
    """What local training gave.

    Attributes
    ----------
    adapter : np.ndarray
        The new packed adapter.
    logs : dict[str, list[float]]
        What the trainer logged at every optimizer step, by name.
    metrics : dict[str, float]
        What the task reports of the round beside the loss.
    """

    adapter: np.ndarray
    logs: dict[str, list[float]]
    seconds: float
    metrics: dict[str, float] = field(default_factory=dict)

    @property
    def losses(self) -> list[float]:
        """The loss of every optimizer step."""
        return self.logs["loss"]

    def means(self, names: Mapping[str, str]) -> dict[str, float]:
        """Means over the round of what the trainer logged: `names` maps its names to ours; absent ones are left out."""
        return {own: float(np.mean(self.logs[logged])) for logged, own in names.items() if logged in self.logs}


@dataclass(frozen=True)
class ClientShards:
    """A client's tokenized rows, what it is called, and a key that names the training rows exactly.

    `bad` counts the unusable rows of the set that they are from; `first_refused` names the first row that cannot be
    written as tokens, and why, without anything of what it says. `public_notes` are what of `notes` may leave a site.
    """

    label: str
    schema: str
    key: str
    train: AnyShard
    held_out: AnyShard
    bad: int = 0
    duplicates: int = 0
    notes: tuple[str, ...] = ()
    first_refused: str = ""
    public_notes: tuple[str, ...] = ()

    @property
    def refused(self) -> int:
        """Rows that cannot be written as tokens."""
        return self.train.refused.count + self.held_out.refused.count


@dataclass(frozen=True)
class Job:
    """One request to one client with all that a task needs to answer it.

    Attributes
    ----------
    adapter : np.ndarray
        The global adapter, packed, shape (P,).
    reference : np.ndarray | None
        The adapter of the reference policy, packed; None for the base model alone.
    seed : int
        Of dropout: it depends on the client and the round.
    """

    model: Resident
    train: TrainConfig
    shards: ClientShards
    assignment: Assignment
    adapter: np.ndarray
    reference: np.ndarray | None
    seed: int
    corrections: list[Correction]
    progress: Progress | None


class Task(ABC):
    """Trains and evaluates. Built once a run with its section of the configuration.

    Parameters
    ----------
    config : Config
        The run's configuration; a task reads its own section.
    """

    @abstractmethod
    def __init__(self, config: Config) -> None: ...

    @abstractmethod
    def train(self, job: Job, indices: np.ndarray) -> TrainResult:
        """Train one round on the examples at `indices` of the training shard, in their order."""

    @abstractmethod
    def evaluate(self, job: Job, examples: int) -> Numbers:
        """Held-out metrics of the job's adapter on `examples` of the held-out rows, `num-examples` among them."""
