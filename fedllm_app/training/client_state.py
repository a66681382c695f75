"""What a client keeps on its own disk between rounds, because Flower's context loses large values without a word.

Everything lies below one directory a run and client, written atomically. What must match what the server knows is kept
by version, so that state that was lost or is older than the server's is noticed.
"""

import os
import shutil
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import numpy as np

from fedllm_app.paths import atomic_path, file_mode, home, make_directory

_RUNS = 16  # runs whose state is kept, the last used ones
_ENDED_RUNS = 4  # of those, runs that have ended; they can still be continued with more rounds
_ENDED = "ended"  # a file of this name marks a run that has ended

_place: Path | None = None  # instead of the directory of clients in FEDLLM_HOME, see `kept_in`


def save_array(path: Path, array: np.ndarray) -> None:
    """Write one array atomically; after a power cut, the old or the new one is there."""
    with atomic_path(path, durable=True) as temporary, open(temporary, "wb") as file:
        np.save(file, array, allow_pickle=False)
        file.flush()


def load_array(path: Path) -> np.ndarray | None:
    """Read one array; None if it is not there or damaged, which its owner tells as lost."""
    try:
        return np.load(path, allow_pickle=False)
    except (OSError, EOFError, ValueError):
        return None


class ClientState:
    """The files of one client in one run.

    Parameters
    ----------
    run : str
        The run's key, which a resumed run has as well.
    checkpoints : Iterable[int]
        The versions that the run's checkpoints name: a run that is resumed asks for one of them.
    """

    def __init__(self, run: str, client: int, checkpoints: Iterable[int] = ()) -> None:
        self.directory = _runs() / run / f"client-{client}"
        self.checkpoints = frozenset(checkpoints)

    def load_version(self, name: str, version: int) -> np.ndarray | None:
        """The array `name` as it was after `version`, or None if it is not here."""
        return load_array(self._path(name, version))

    def save_version(self, name: str, version: int, array: np.ndarray, keep: int) -> None:
        """Keep the array `name` as `version`, and of the older ones `keep` and those of checkpoints.

        The one before stays, because the server may never accept the reply that goes with the new one; then the next
        message names the old version again.
        """
        self._enter()
        save_array(self._path(name, version), array)
        wanted = {version, keep, *self.checkpoints}
        for other in self.directory.glob(f"{name}-*.npy"):
            number = other.stem.removeprefix(f"{name}-")  # no number: a version of an array with a longer name
            if number.isdecimal() and int(number) not in wanted:
                other.unlink(missing_ok=True)

    def kept(self, name: str) -> np.ndarray | None:
        """An array that the server sent once, if it did."""
        return load_array(self.directory / f"{name}.npy")

    def keep(self, name: str, array: np.ndarray) -> None:
        """Keep an array that the server sends once."""
        self._enter()
        save_array(self.directory / f"{name}.npy", array)

    def _enter(self) -> None:
        """Note that the run is used, and make room for it if it is new here."""
        run = self.directory.parent
        if run.is_dir():
            (run / _ENDED).unlink(missing_ok=True)  # it goes on
        else:
            make_directory(run)
            _forget_old_runs()
        os.utime(run)

    def _path(self, name: str, version: int) -> Path:
        return self.directory / f"{name}-{version}.npy"


def end_run(run: str, versions: Sequence[int]) -> None:
    """Note that a run has ended: of each array one version stays, and of ended runs only the last few.

    What stays is enough to continue the run with more rounds. A run without state on this disk leaves nothing to do.

    Parameters
    ----------
    versions : Sequence[int]
        For each client the version that the server accepted last.
    """
    directory = _runs() / run
    if not directory.is_dir():
        return
    for client, last in enumerate(versions):
        for file in (directory / f"client-{client}").glob("*-*.npy"):
            version = file.stem.rpartition("-")[2]
            if version.isdecimal() and int(version) != last:
                file.unlink(missing_ok=True)
    (directory / _ENDED).touch(file_mode(directory))
    os.utime(directory)
    _forget_old_runs()


def _forget_old_runs() -> None:
    """Remove the state of runs beyond the bounds, the longest unused first, ended ones before others."""
    runs = sorted(_last_used(), key=lambda found: found[1], reverse=True)
    ended = [run for run, _ in runs if (run / _ENDED).exists()]
    others = [run for run, _ in runs if run not in ended]
    for run in (*ended[_ENDED_RUNS:], *others[_RUNS:]):
        shutil.rmtree(run, ignore_errors=True)  # another process may be removing it as well


def _last_used() -> list[tuple[Path, float]]:
    found = []
    for run in _runs().iterdir():
        try:
            found.append((run, run.stat().st_mtime))
        except FileNotFoundError:
            continue  # another process has just removed it
    return found


@contextmanager
def kept_in(directory: Path) -> Iterator[None]:
    """Within the block this process keeps the state of clients in another place, and that of other runs is left alone.

    For a run that is only a measurement.
    """
    global _place
    before, _place = _place, directory
    try:
        yield
    finally:
        _place = before


def _runs() -> Path:
    return _place or home() / "clients"


class RoundState:
    """The state of one client as one step of one round sees it: what was valid after its last accepted reply.

    Parameters
    ----------
    version : int
        The round of the client's last reply that the server accepted (0: none).
    server_round : int
        This round; what is saved is valid once the server accepts its reply.
    """

    def __init__(self, state: ClientState, version: int, server_round: int) -> None:
        self.state, self.version, self.server_round = state, version, server_round

    @property
    def expected(self) -> bool:
        """Whether the client trained before, so that its state should be here."""
        return self.version > 0

    def load(self, name: str) -> np.ndarray | None:
        """The array as it was after the last accepted reply; None if it is not here."""
        return self.state.load_version(name, self.version)

    def save(self, name: str, array: np.ndarray) -> None:
        """Keep an array under this round."""
        self.state.save_version(name, self.server_round, array, keep=self.version)
