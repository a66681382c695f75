"""Replies that wait for their turn: their arrays on disk, so that memory does not depend on who is slow."""

import tempfile
from dataclasses import dataclass, field
from logging import WARNING
from pathlib import Path
from typing import BinaryIO

from flwr.app import Array, ArrayRecord, Message, RecordDict
from flwr.supercore import log

_Place = tuple[str, str, str, tuple[int, ...], str, int, int]
"""Record, name, dtype, shape, serialization, offset and bytes of one array."""


@dataclass
class Waiting:
    """A reply without its arrays, and where those are; `places` is empty for one that waits as it is."""

    reply: Message | None
    places: list[_Place] = field(default_factory=list)


class Spool:
    """Keeps the arrays of waiting replies in one file without a name, which vanishes with the process.

    Parameters
    ----------
    directory : Path | None
        Where the file lies, readable by its owner alone; None: the system's temporary directory.
    """

    def __init__(self, directory: Path | None = None) -> None:
        self._directory = directory
        self._file: BinaryIO | None = None
        self._waiting = 0  # replies with arrays in the file
        self._end = 0

    def put(self, reply: Message | None) -> Waiting:
        """Take the arrays of a reply away. Where the disk is full, it waits in memory, which is logged."""
        if reply is None or reply.has_error():
            return Waiting(reply)
        records = [(key, record) for key, record in reply.content.items() if isinstance(record, ArrayRecord)]
        if not any(len(record) for _, record in records):
            return Waiting(reply)
        try:
            places = [self._write(key, name, array) for key, record in records for name, array in record.items()]
        except OSError as error:
            log(WARNING, "a reply waits in memory for its turn, because it cannot be written: %s", error)
            return Waiting(reply)
        self._waiting += 1
        reply.content = RecordDict(
            {
                key: ArrayRecord({}) if isinstance(record, ArrayRecord) else record
                for key, record in reply.content.items()
            }
        )
        return Waiting(reply, places)

    def take(self, waiting: Waiting) -> Message | None:
        """The reply as it was."""
        for key, name, dtype, shape, stype, offset, size in waiting.places:
            self._file.seek(offset)
            data = self._file.read(size)
            if len(data) < size:
                raise OSError(f"{len(data)} of {size} bytes of a waiting reply could be read again")
            waiting.reply.content[key][name] = Array(dtype, shape, stype, data)
        if waiting.places:
            self._waiting -= 1
            if not self._waiting:  # nobody waits: give the disk back
                self._file.truncate(0)
                self._end = 0
        return waiting.reply

    def close(self) -> None:
        """Let the file go."""
        if self._file is not None:
            self._file.close()
            self._file = None

    def _write(self, key: str, name: str, array: Array) -> _Place:
        if self._file is None:
            self._file = tempfile.TemporaryFile(dir=self._directory, buffering=0)  # noqa: SIM115  open between replies
        self._file.seek(self._end)
        left = memoryview(array.data)
        while left:
            left = left[self._file.write(left) :]
        offset, self._end = self._end, self._end + len(array.data)
        return key, name, array.dtype, tuple(array.shape), array.stype, offset, len(array.data)
