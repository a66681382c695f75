"""Checkpoints: written whole, and checked before they are used."""

import json
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from zipfile import BadZipFile

import numpy as np

from fedllm_app.adapters.layout import Manifest
from fedllm_app.adapters.peft_directory import load_peft_directory
from fedllm_app.errors import UserError
from fedllm_app.paths import atomic_path, file_sha256

FOLDER = "checkpoints"
"""In a run directory."""

_PREFIX = "round-"
_STATE, _STRATEGY, _UPDATES, _SUMS = "state.json", "strategy.npz", "updates.npz", "sha256.json"


class CheckpointError(UserError):
    """A checkpoint that a run cannot go on from; the message says why."""


@dataclass(frozen=True)
class Checkpoint:
    """All that a run needs to go on after a round.

    Attributes
    ----------
    adapter : np.ndarray
        The global adapter, packed: when it is written, the part that travels; when it was read, the whole of it.
    strategy, updates : Mapping[str, np.ndarray]
        State of the strategy and of the server halves of the update steps; arrays of any shape.
    positions, versions : Mapping[int, int]
        By client, optimizer steps accepted so far and the round of the last of them.
    participation : Sequence[Mapping[str, int | str]]
        Who took part how often until then, a line a client.
    totals : Mapping[str, float]
        Bytes, refusals and peaks until then.
    """

    server_round: int
    adapter: np.ndarray
    strategy: Mapping[str, np.ndarray]
    updates: Mapping[str, np.ndarray]
    positions: Mapping[int, int]
    versions: Mapping[int, int]
    participation: Sequence[Mapping[str, int | str]] = ()
    totals: Mapping[str, float] = field(default_factory=dict)


def write_checkpoint(run: Path, checkpoint: Checkpoint, save_adapter: Callable[[Path], None]) -> None:
    """Write a checkpoint of the run directory `run`; it is there whole, also after a power cut, or not at all."""
    with atomic_path(run / FOLDER / f"{_PREFIX}{checkpoint.server_round}", durable=True) as directory:
        directory.mkdir()
        save_adapter(directory / "adapter")
        np.savez(directory / _STRATEGY, allow_pickle=False, **checkpoint.strategy)
        if checkpoint.updates:
            np.savez(directory / _UPDATES, allow_pickle=False, **checkpoint.updates)
        state = {
            "round": checkpoint.server_round,
            "positions": checkpoint.positions,
            "versions": checkpoint.versions,
            "participation": list(checkpoint.participation),
            "totals": dict(checkpoint.totals),
        }
        (directory / _STATE).write_text(json.dumps(state))
        (directory / _SUMS).write_text(json.dumps(_sums(directory), indent=2) + "\n")


def newest_checkpoint(run: Path) -> tuple[Path | None, list[str]]:
    """The directory of the newest checkpoint that is whole, None if there is none; a sentence for each damaged one."""
    damaged = []
    for directory in reversed(checkpoint_directories(run)):
        problem = _damage(directory)
        if problem is None:
            return directory, damaged
        damaged.append(f"the checkpoint {directory.name} is not used: {problem}")
    return None, damaged


def read_checkpoint(directory: Path, manifest: Manifest) -> Checkpoint:
    """Read a whole checkpoint. `CheckpointError` if it is not of an adapter with this manifest."""
    try:
        return _read(directory, manifest)
    except (UserError, BadZipFile, KeyError, OSError, TypeError, ValueError) as error:
        raise CheckpointError(f"the checkpoint {directory} cannot be read: {error}") from error


def versions_before(directory: Path) -> dict[int, int]:
    """The clients' versions in the newest whole checkpoint before this one; none if there is no such checkpoint."""
    earlier = [other for other in checkpoint_directories(directory.parents[1]) if _before(other, directory)]
    whole = next((other for other in reversed(earlier) if _damage(other) is None), None)
    return {} if whole is None else _by_client(_state(whole)["versions"])


def checkpoint_round(directory: Path) -> int:
    """The round after which a checkpoint was written."""
    return int(directory.name.removeprefix(_PREFIX))


def checkpoint_directories(run: Path) -> list[Path]:
    """The checkpoints of a run directory, oldest first, whole or not."""
    found = (run / FOLDER).glob(f"{_PREFIX}*")
    numbered = (directory for directory in found if directory.name.removeprefix(_PREFIX).isdecimal())
    return sorted(numbered, key=checkpoint_round)


def _read(directory: Path, manifest: Manifest) -> Checkpoint:
    state = _state(directory)
    updates = directory / _UPDATES
    return Checkpoint(
        server_round=state["round"],
        adapter=load_peft_directory(directory / "adapter", manifest),
        strategy=_arrays(directory / _STRATEGY),
        updates=_arrays(updates) if updates.exists() else {},
        positions=_by_client(state["positions"]),
        versions=_by_client(state["versions"]),
        participation=state["participation"],
        totals=state["totals"],
    )


def _state(directory: Path) -> dict:
    return json.loads((directory / _STATE).read_text(encoding="utf-8"))


def _by_client(numbers: Mapping[str, int]) -> dict[int, int]:
    return {int(client): number for client, number in numbers.items()}


def _before(one: Path, other: Path) -> bool:
    return checkpoint_round(one) < checkpoint_round(other)


def _arrays(file: Path) -> dict[str, np.ndarray]:
    with np.load(file, allow_pickle=False) as arrays:
        return {name: arrays[name] for name in arrays}


def _damage(directory: Path) -> str | None:
    """What differs from the sums that were written with a checkpoint; None if nothing does."""
    file = directory / _SUMS
    if not file.is_file():
        return f"it has no {_SUMS}, which is written last"
    try:
        written, found = json.loads(file.read_text(encoding="utf-8")), _sums(directory)
    except (OSError, ValueError) as error:
        return f"it cannot be read: {error}"
    different = sorted(name for name in {*written, *found} if written.get(name) != found.get(name))
    return f"{different[0]} is not what was written" if different else None


def _sums(directory: Path) -> dict[str, str]:
    """SHA-256 of every file of a checkpoint but the sums themselves, by its path in the checkpoint."""
    sums = {}
    for folder, _, names in os.walk(directory):
        for name in names:
            file = Path(folder) / name
            if name != _SUMS:
                sums[str(file.relative_to(directory))] = file_sha256(file)
    return dict(sorted(sums.items()))
