"""The runs on this disk: what each was, how far it came, and how it ended. Nothing is written but what is deleted."""

import json
import os
import shutil
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from filelock import Timeout

from fedllm_app.errors import UserError
from fedllm_app.paths import lock_file
from fedllm_app.runs.directory import RunDirectory, is_run, read_result, read_run_config
from fedllm_app.runs.interruption import REASON, STOPPED
from fedllm_app.runs.journal import JOURNAL_FILE, RESUMED, STARTED, read_journal, without_repeated
from fedllm_app.runs.measures import headline_metric, metric_labels, trains_alone

RUNNING, FINISHED, FAILED, ENDED, UNREADABLE = "running", "finished", "failed", "stopped", "unreadable"
"""The states of a run. `ENDED`: it was stopped or killed; it can be resumed if it has a checkpoint."""

GRID_FILE, GRID_RUNS = "grid.json", "runs"
"""In the directory of a comparison: the configuration that all its runs share, and the directories of these."""

_LOCK = ".lock"
_FIRST_EVENTS = (STARTED, RESUMED, "failed", "holds")
_SILENT = "its processes ended without a word"


class NotDeleted(UserError):
    """A run that must not or cannot be deleted."""


@dataclass(frozen=True)
class RunOverview:
    """One run directory.

    Attributes
    ----------
    strategy, task, data : str
        As configured; "" where the run has no configuration, because it failed before its first event.
    done, asked : int
        Rounds that are done, and that the configuration asks for.
    state, reason : str
        One of the states of this module, and why it is that.
    metric : tuple[str, float] | None
        The held-out metric that says most, by the terminal's name, and its value in the last evaluation.
    began, ended : float
        Times of the first and the last event, in seconds since the epoch.
    size : int
        Bytes of all its files.
    """

    path: Path
    strategy: str
    task: str
    data: str
    done: int
    asked: int
    state: str
    reason: str
    metric: tuple[str, float] | None
    began: float
    ended: float
    size: int


def find_runs(places: Iterable[Path]) -> list[Path]:
    """The run directories at, in, and one level below some directories (as those of a demo), each once, oldest first.

    Of a comparison in one of the directories, its runs as well.

    Links are not followed, so that nothing is found twice and nothing of elsewhere is deleted.
    """
    found: dict[Path, float] = {}
    for place in places:
        for path in _candidates(place.resolve()):
            if path not in found and is_run_directory(path):
                found[path] = (path / JOURNAL_FILE).stat().st_mtime
    return sorted(found, key=lambda path: (found[path], str(path)))


def _candidates(place: Path) -> Iterator[Path]:
    yield place
    if is_run_directory(place):
        return
    for inner in _folders(place):
        yield inner
        if not is_run_directory(inner):
            yield from _folders(inner)
            if (inner / GRID_FILE).is_file():
                yield from _folders(inner / GRID_RUNS)


def _folders(path: Path) -> list[Path]:
    try:
        entries = list(os.scandir(path))
    except OSError:  # gone meanwhile, no directory, or not ours to read
        return []
    return sorted(Path(entry.path) for entry in entries if entry.is_dir(follow_symlinks=False))


def alone_beside(run: Path) -> Path | None:
    """The newest finished run in the same directory in which the clients of `run` train alone; None without one."""
    config = read_run_config(run) if is_run(run) else {}
    found = None
    for path in find_runs([run.parent]):
        try:
            if is_run(path) and read_result(path) is not None and trains_alone(read_run_config(path), config):
                found = path
        except (OSError, ValueError):  # of another version, or damaged
            continue
    return found


def is_run_directory(path: Path) -> bool:
    """Whether a directory is that of a run: with its configuration, or of a run that failed before it had one."""
    if is_run(path):
        return True
    journal = path / JOURNAL_FILE
    if not (path / _LOCK).is_file() or not journal.is_file():
        return False
    try:
        with open(journal, encoding="utf-8") as file:
            first = json.loads(file.readline())
    except (OSError, ValueError):
        return False
    return isinstance(first, dict) and first.get("event") in _FIRST_EVENTS


def is_running(path: Path) -> bool:
    """Whether a process holds the run directory. Nothing is created there."""
    if not (path / _LOCK).is_file():
        return False
    lock = lock_file(path / _LOCK)
    try:
        lock.acquire(timeout=0)
    except Timeout:
        return True
    except OSError:  # somebody else's directory: whether it is held cannot be known
        return False
    lock.release()
    return False


def overview(path: Path) -> RunOverview:
    """What a run directory says of itself. One that cannot be read is told as such, with the reason."""
    try:
        return _overview(path)
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        reason = f"its files cannot be read: {type(error).__name__}: {error}"
        state = RUNNING if is_running(path) else UNREADABLE
        return RunOverview(path, "", "", "", 0, 0, state, reason, None, 0.0, 0.0, directory_size(path))


def _overview(path: Path) -> RunOverview:
    config = read_run_config(path) if is_run(path) else {}
    everything = read_journal(path, everything=True)
    events = without_repeated(everything)
    state, reason = _state(path, everything)
    labels = metric_labels(config)
    evaluations = [event for event in events if event["event"] == "evaluation"]
    last = evaluations[-1] if evaluations else {}
    name = headline_metric(labels, list(last))
    return RunOverview(
        path=path,
        strategy=str(config.get("strategy.name", "")),
        task=str(config.get("train.task", "")),
        data=str(config.get("data.name", "")),
        done=max((event["round"] for event in events if event["event"] == "round"), default=0),
        asked=int(config.get("train.rounds", 0)),
        state=state,
        reason=reason,
        metric=(labels[name], float(last[name])) if name else None,
        began=everything[0]["time"] if everything else 0.0,
        ended=everything[-1]["time"] if everything else 0.0,
        size=directory_size(path),
    )


def _state(path: Path, everything: list[dict]) -> tuple[str, str]:
    if is_running(path):
        return RUNNING, ""
    if read_result(path) is not None:
        return FINISHED, ""
    ends = [event for event in everything if event["event"] in (STARTED, RESUMED, "failed")]
    if not ends or ends[-1]["event"] != "failed":
        return ENDED, _SILENT
    reason = str(ends[-1]["reason"])
    return (ENDED if reason in (STOPPED, REASON) else FAILED), reason


def directory_size(path: Path) -> int:
    """Bytes of all files of a directory; links are not followed, and what is gone meanwhile counts nothing."""
    total = 0
    for folder, _, names in os.walk(path):
        for name in names:
            try:
                total += (Path(folder) / name).lstat().st_size
            except OSError:
                continue
    return total


def delete_run(path: Path) -> None:
    """Delete a run directory with all its files.

    Its configuration and journal go last: what is left of an interrupted deletion is still known as a run.

    Raises
    ------
    NotDeleted
        It is no run directory, a link, or in use by a run that has not ended; or a file of it cannot be deleted.
    """
    if path.is_symlink() or not is_run_directory(path):
        raise NotDeleted(f"{path} is no run directory; it is left as it is")
    if is_running(path):
        raise NotDeleted(f"{path} is in use by a run that has not ended; stop it first")
    try:
        with RunDirectory(path.absolute()).held():
            for entry in list(os.scandir(path)):
                if entry.is_dir(follow_symlinks=False):
                    shutil.rmtree(entry.path)
                elif entry.name not in (_LOCK, JOURNAL_FILE, "config.json"):
                    os.unlink(entry.path)
            shutil.rmtree(path)
    except OSError as error:
        raise NotDeleted(
            f"{path} cannot be deleted: {error.strerror}: {error.filename}; delete what is left as its owner"
        ) from error
