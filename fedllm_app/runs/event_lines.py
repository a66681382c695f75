"""The events of a run as lines of Flower's log, which a terminal on another machine can read.

Flower brings the output of the ServerApp to whoever asks its SuperLink for it. Each event is one line, or several if it
is long, each with a mark, the event's number and which part of it the line is:

    fedllm-event 3f9c… 17 1/1 {"event": "round", …}

The mark is drawn anew for every run. The first line of a run is written before any client is asked anything, so a
reader takes the mark from it, and text of a client that looks like such a line is no event.
"""

import json
import re
import secrets
from collections.abc import Callable, Mapping
from logging import INFO

_PIECE = 4_000  # characters of a line
_LARGEST = 1_000_000  # characters of an event; of a larger one only its short values are written
_SHORT = 2_000
_LINE = re.compile(r"fedllm-event ([0-9a-f]{16}) (\d{1,9}) (\d{1,4})/(\d{1,4}) (.*)")


class EventWriter:
    """Writes events to a log, by default Flower's."""

    def __init__(self, write: Callable[[str], None] | None = None) -> None:
        self._write = write or _to_flower
        self._mark = secrets.token_hex(8)
        self._number = 0

    def __call__(self, event: Mapping[str, object]) -> None:
        """Write one event."""
        self._number += 1
        text = json.dumps(dict(event))  # ASCII without line ends, whatever the values are
        if len(text) > _LARGEST:
            text = json.dumps(_short(event))
        pieces = [text[start : start + _PIECE] for start in range(0, len(text), _PIECE)]
        for part, piece in enumerate(pieces, 1):
            self._write(f"fedllm-event {self._mark} {self._number} {part}/{len(pieces)} {piece}")


class EventReader:
    """Finds the events among the lines of a log. Lines may come again, after a connection broke: no event does."""

    def __init__(self) -> None:
        self._mark = ""
        self._number = 0
        self._parts: list[str] = []

    def read(self, line: str) -> dict | None:
        """The event that a line completes; None for a part of one, for one that was read, and for any other line."""
        found = _LINE.search(line)
        if not found:
            return None
        mark, number, part, parts = found[1], int(found[2]), int(found[3]), int(found[4])
        self._mark = self._mark or mark
        if mark != self._mark or number <= self._number:
            return None
        if part == 1:
            self._parts = []
        if part != len(self._parts) + 1:  # the line before was not seen
            return None
        self._parts.append(found[5])
        if part < parts:
            return None
        self._number = number
        try:
            event = json.loads("".join(self._parts))
        except ValueError:
            return None
        return event if isinstance(event, dict) and isinstance(event.get("event"), str) else None

    @staticmethod
    def is_event(line: str) -> bool:
        """Whether a line looks like a part of an event."""
        return _LINE.search(line) is not None


def _short(event: Mapping[str, object]) -> dict[str, object]:
    kept = {
        name: value[:_SHORT] if isinstance(value, str) else value
        for name, value in event.items()
        if value is None or isinstance(value, str | int | float)
    }
    return kept | {"left_out": sorted(set(event) - set(kept))}


def _to_flower(line: str) -> None:
    from flwr.supercore import log

    log(INFO, "%s", line)
