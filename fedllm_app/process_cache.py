"""The one cache of a process: what costs too much to make for every message.

A simulation's actors live across messages and serve several clients; a site's process lives for one message. Everything
that is kept in memory between messages is here, so that one call clears it.
"""

from collections import OrderedDict
from collections.abc import Callable, Hashable
from typing import Any


class ProcessCache:
    """Values by kind and key; of each kind, only the most recently used ones stay."""

    def __init__(self) -> None:
        self._kinds: dict[str, OrderedDict[Hashable, Any]] = {}
        self._on_drop: dict[str, Callable[[], None]] = {}

    def get(self, kind: str, key: Hashable, make: Callable[[], Any], keep: int = 1) -> Any:
        """Return the value of `key`, made on first use; at most `keep` values of a kind stay.

        The least recently used value is dropped before a new one is made, so that two large ones never stand side by
        side.
        """
        values = self._kinds.setdefault(kind, OrderedDict())
        if key not in values:
            while len(values) >= keep:
                values.popitem(last=False)
                self._dropped(kind)
            values[key] = make()
        values.move_to_end(key)
        return values[key]

    def holds(self, kind: str) -> bool:
        """Whether a value of this kind is here."""
        return bool(self._kinds.get(kind))

    def on_drop(self, kind: str, clean_up: Callable[[], None]) -> None:
        """Call `clean_up` whenever a value of this kind was dropped."""
        self._on_drop[kind] = clean_up

    def clear(self, kind: str = "") -> None:
        """Drop all values, or those of one kind."""
        for name in [kind] if kind else list(self._kinds):
            if self._kinds.pop(name, None):
                self._dropped(name)

    def _dropped(self, kind: str) -> None:
        if kind in self._on_drop:
            self._on_drop[kind]()


PROCESS_CACHE = ProcessCache()
"""The cache of this process."""
