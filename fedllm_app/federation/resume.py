"""Where a run begins: at its first round, or after the last checkpoint of an earlier attempt."""

import secrets
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from fedllm_app.class_paths import is_class_path
from fedllm_app.config.sections import Config
from fedllm_app.federation.fingerprint import environment
from fedllm_app.federation.ledger import Ledger
from fedllm_app.federation.participation import recorded_names
from fedllm_app.federation.start import StartingPoint, starting_point
from fedllm_app.runs.checkpoints import (
    Checkpoint,
    checkpoint_round,
    newest_checkpoint,
    read_checkpoint,
    versions_before,
)
from fedllm_app.runs.directory import NotResumable, RunDirectory
from fedllm_app.runs.journal import ENVIRONMENT, RESUMED, STARTED, read_journal
from fedllm_app.strategies.round_strategy import ForeignStrategy, RoundStrategy
from fedllm_app.updates.chain import UpdateChain


def other_client(client: int, was: str, now: str) -> str:
    """A sentence on a client that is not the one with which the run began."""
    return (
        f"client {client} was {was!r} and is {now!r} now: a run goes on with the sites that it began with; start the "
        "missing ones, end the others"
    )


@dataclass
class Beginning:
    """Where a run begins.

    Attributes
    ----------
    key : str
        What the run is known by, also when it is resumed: 32 hexadecimal digits.
    server_round : int
        The last round that need not be done: 0 for a new run.
    directory : Path | None
        The checkpoint to go on from.
    checkpoint : Checkpoint | None
        The same, once `starting_point` has read it.
    """

    key: str
    server_round: int = 0
    directory: Path | None = None
    checkpoint: Checkpoint | None = None

    def starting_point(self, config: Config, run: RunDirectory) -> StartingPoint:
        """What clients start from, and the checkpoint read. CheckpointError if that is of another adapter."""
        if run.start_directory.is_dir():  # what adapter.start names may have changed since
            kept = config.adapter.model_copy(update={"start": str(run.start_directory)})
            config = config.model_copy(update={"adapter": kept})
        start = starting_point(config)
        if config.adapter.start and not run.start_directory.is_dir():
            run.keep_start(start.full, start.layout)
        if self.directory is not None:
            self.checkpoint = read_checkpoint(self.directory, start.layout.manifest)
        return start

    def adapter(self, start: StartingPoint) -> np.ndarray:
        """The global adapter to go on from, shape (travelling.size,)."""
        if self.checkpoint is None:
            return start.adapter
        return self.checkpoint.adapter[start.layout.slots(start.travelling)]

    def restore(self, strategy: RoundStrategy, chain: UpdateChain, ledger: Ledger) -> None:
        """Put back the state of the strategy and of the update steps, and the books. Called after `bind`."""
        if self.checkpoint is not None:
            self._check_clients(self.checkpoint, ledger)
            strategy.load_state_arrays(self.checkpoint.strategy)
            chain.load_state_arrays(self.checkpoint.updates)
            ledger.restore(self.checkpoint, versions_before(self.directory))

    def _check_clients(self, checkpoint: Checkpoint, ledger: Ledger) -> None:
        """Clients are numbered by the names of their sites: another set of sites would mix up what is kept of them."""
        before, now = recorded_names(checkpoint.participation), ledger.known_names()
        other = {client for client in before.keys() & now.keys() if before[client] != now[client]}
        other |= checkpoint.positions.keys() ^ ledger.totals.positions.keys()
        if other:
            first = min(other)
            raise NotResumable(other_client(first, before.get(first, "not there"), now.get(first, "not there")))

    def state_note(self, config: Config, strategy: RoundStrategy) -> str:
        """A sentence where a strategy of the user's may have a state that no checkpoint holds; "" elsewhere."""
        name = config.strategy.name
        if not self.server_round or not is_class_path(name) or not isinstance(strategy, ForeignStrategy):
            return ""
        return f"{name} keeps no state in checkpoints: if it has one, it starts anew after round {self.server_round}"


def begin(config: Config, run: RunDirectory, run_id: int, code: str) -> Beginning:
    """Find where the run of a directory begins, and journal it.

    Parameters
    ----------
    run_id : int
        Flower's number of this attempt.
    code : str
        Hash of the app's code. A run that is resumed by other code is warned of it.
    """
    about = {"run_id": str(run_id), "rounds": config.train.rounds, "strategy": config.strategy.name, "code": code}
    if not config.run.resume:
        key = secrets.token_hex(16)
        run.journal(STARTED, run=key, **about)
        run.journal(ENVIRONMENT, **environment())
        return Beginning(key)
    key, found = run.run_key(), newest_checkpoint(run.path)
    directory, notes = found
    server_round = 0 if directory is None else checkpoint_round(directory)
    history = read_journal(run.path)
    done = {event["round"] for event in history if event["event"] == "round"}
    codes = [event["code"] for event in history if event["event"] in (STARTED, RESUMED)]
    run.journal(RESUMED, run=key, round=server_round, again=len([n for n in done if n > server_round]), **about)
    run.journal(ENVIRONMENT, **environment())
    if codes[-1] != code:
        notes.append("the run goes on with other code of the app than it began with; its numbers may differ")
    for note in notes:
        run.journal("warning", reason=note)
    return Beginning(key, server_round, directory)
