"""The journal of a run: JSON lines, appended one at a time, and read again as the history that counts."""

import errno
import json
import os
import time
from pathlib import Path
from typing import TYPE_CHECKING

from fedllm_app.paths import file_mode

if TYPE_CHECKING:
    from pandas import DataFrame

JOURNAL_FILE = "journal.jsonl"
STARTED, RESUMED, ENVIRONMENT = "started", "resumed", "environment"
_ONCE_AN_ATTEMPT = (
    ENVIRONMENT,
    "connecting",
    "describing",
    "versions",
    "ready",
    "failed",
    "finished",
)  # told anew by a run that goes on


def append_event(file: Path, event: str, **fields: object) -> None:
    """Append one event with its time (seconds since the epoch), whole or not at all. OSError if the disk is full."""
    line = (json.dumps({"event": event, "time": time.time(), **fields}) + "\n").encode()
    descriptor = os.open(file, os.O_WRONLY | os.O_APPEND | os.O_CREAT, file_mode(file))
    try:
        before = os.fstat(descriptor).st_size
        if os.write(descriptor, line) < len(line):  # the next event would join the half line
            os.ftruncate(descriptor, before)
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(file))
    finally:
        os.close(descriptor)


def read_journal(run: Path, everything: bool = False) -> list[dict]:
    """The events of a run, oldest first.

    A last line without an end, from a process that was killed while it wrote, is left out.

    Parameters
    ----------
    everything : bool
        Also lines of rounds that a resumed run did again. Without it, each round stands there once.
    """
    text = (run / JOURNAL_FILE).read_text(encoding="utf-8")
    events = [json.loads(line) for line in text.rpartition("\n")[0].splitlines()]
    return events if everything else without_repeated(events)


def journal_frame(run: Path, event: str = "", everything: bool = False) -> "DataFrame":
    """The journal as a table: one row an event, one column a key, oldest first.

    `time` is a point in time (UTC), `run_id` is text, and numbers that are whole wherever they stand are whole numbers
    (`Int64`, with missing values). Lists and objects, such as `clients`, stay as they are. docs/journal.md says what
    the keys mean.

    Parameters
    ----------
    event : str
        The rows of this event alone, with the columns that it has. "": all.
    everything : bool
        As in `read_journal`.
    """
    import pandas

    lines = [line for line in read_journal(run, everything) if event in ("", line["event"])]
    frame = pandas.DataFrame.from_records([{**line, **_ids_as_text(line)} for line in lines])
    if not lines:
        return pandas.DataFrame({"event": [], "time": pandas.to_datetime([], utc=True)})
    frame["time"] = pandas.to_datetime(frame["time"], unit="s", utc=True)
    for name in frame.columns.drop(["event", "time"]):
        there = [line[name] for line in lines if line.get(name) is not None]
        if there and all(type(value) is int and abs(value) < 2**63 for value in there):
            frame[name] = pandas.array([line.get(name) for line in lines], dtype="Int64")
    return frame


def _ids_as_text(line: dict) -> dict[str, str]:
    """Flower's ids of runs have more digits than a float holds; earlier versions wrote them as numbers."""
    return {"run_id": str(line["run_id"])} if "run_id" in line else {}


def without_repeated(events: list[dict]) -> list[dict]:
    """The events without those of rounds after the checkpoint from which a run went on later, and without its ends.

    A client that says again what it holds has said it once.
    """
    kept: list[dict] = []
    for event in events:
        if event["event"] == RESUMED:
            kept = [earlier for earlier in kept if not _repeated(earlier, event["round"])]
        kept.append(event)
    last = {event.get("client"): number for number, event in enumerate(kept) if event["event"] == "holds"}
    return [
        event for number, event in enumerate(kept) if event["event"] != "holds" or last[event.get("client")] == number
    ]


def _repeated(event: dict, resumed_round: int) -> bool:
    if event["event"] in _ONCE_AN_ATTEMPT:
        return True
    # A run that goes on from its start evaluates before round 1 again.
    return event.get("round", -1) >= (resumed_round + 1 if resumed_round else 0) and event["event"] != RESUMED


def cut_torn_line(file: Path) -> bool:
    """Cut a last line that a killed process left without an end; whether there was one."""
    content = file.read_bytes()
    whole = content.rpartition(b"\n")[0]
    end = len(whole) + 1 if whole else 0
    if end >= len(content):
        return False
    os.truncate(file, end)
    return True
