"""Open a set of rows by name and keep it, converted, in memory-mapped Arrow files that all processes share.

The first open reads every row, converts it (`schemas`), and writes the result below `cache_dir`; later opens map
that file and read nothing else. Whatever is wrong with a row is counted and located, never silently skipped.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import tempfile
from array import array
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass
from itertools import chain, groupby, islice
from pathlib import Path
from typing import Any

import numpy as np

from fedllm_app.data.errors import BadRow, DataError, UnwantedRow, listed
from fedllm_app.data.examples import ROW_KINDS, Row
from fedllm_app.data.origins import Origin, locate
from fedllm_app.data.readers.base import BATCH, FOUND, Located, Notes, TextFormat, UnreadableFile
from fedllm_app.data.schemas import Binding, Columns, nearest_column, recognise
from fedllm_app.paths import is_private, keep_to_owner, make_directory

CODE_VERSION = 2
"""Part of every cache key: raise it whenever the conversion of rows changes."""

LABEL_LENGTH = 64
"""A column is kept for partitioning if its values are shorter than this on average, in characters."""

_LABEL = "label:"
_FIRST = 10
_FEW = 3
_ALL_RECOGNISED = Columns()


class EmptySource(DataError):
    """The data holds no usable row."""

    public = "the data holds no usable row"


class TooManyBadRows(DataError):
    """More rows are unusable than the configuration allows."""


class UnknownLabel(DataError):
    """The column to partition by was not kept."""

    public = f"the data has no column of that name to divide by with less than {LABEL_LENGTH} characters on average"


@dataclass(frozen=True)
class BadRows:
    """What could not be used: how many of `total` rows, and the first ones as (location, reason)."""

    count: int
    total: int
    first: tuple[tuple[str, str], ...]


@dataclass(frozen=True)
class Unread:
    """Columns, message keys, and files or splits beside the data that hold something and were not read."""

    columns: tuple[str, ...] = ()
    message_keys: tuple[str, ...] = ()
    files: tuple[str, ...] = ()


class Source:
    """Converted rows, memory-mapped.

    Attributes
    ----------
    schema : str
        Name of the schema that was recognised.
    columns : dict[str, str]
        The columns that were read, by field.
    bad : BadRows
        The rows that cannot be used and were left out.
    unwanted : int
        How many rows were left out because their label or weight says that they are not to be learnt.
    unread : Unread
        What of the data was not read.
    repeated : np.ndarray
        Numbers of the rows that are equal to another one, int64, ascending.
    label_columns : tuple[str, ...]
        Columns kept under their original names, for `labels`.
    fingerprint : str
        Changes with the files, the kind of rows, the columns, the split and the version of the conversion.
    """

    def __init__(self, directory: Path) -> None:
        import pyarrow as pa

        meta = json.loads((directory / "meta.json").read_text())
        self.schema: str = meta["schema"]
        self.bad = BadRows(meta["bad"], meta["total"], tuple((where, why) for where, why in meta["first"]))
        self.columns: dict[str, str] = meta["columns"]
        self.unwanted: int = meta["unwanted"]
        self.unread = Unread(**{key: tuple(names) for key, names in meta["unread"].items()})
        self.repeated = np.load(directory / "repeated.npy", allow_pickle=False)
        self.label_columns = tuple(meta["labels"])
        self._notes: Notes = meta["notes"]
        self.fingerprint = directory.name
        self._kind = ROW_KINDS[meta["rows"]]
        reader = pa.ipc.open_file(pa.memory_map(str(directory / "rows.arrow")))
        self._batches = [reader.get_batch(number) for number in range(reader.num_record_batches)]

    def __len__(self) -> int:
        return sum(len(batch) for batch in self._batches)

    def examples(self, indices: Iterable[int]) -> Iterator[Row]:
        """Yield the rows at the indices (0 to len - 1), in that order."""
        # All batches but the last have BATCH rows, so the place of a row needs no search.
        for number, rows in groupby(indices, lambda index: index // BATCH):
            batch = self._batches[number].take([int(index % BATCH) for index in rows])
            columns = (batch[name].to_pylist() for name in self._kind.cell_names)
            for cells in zip(*columns, strict=True):
                yield self._kind.from_cells(*cells)

    def notes(self, used_column: str = "") -> list[str]:
        """Sentences on how the data was read, on what was guessed and on what was left out.

        `used_column` is not among the unread ones: the rows are divided by it.
        """
        unread = [name for name in self.unread.columns if name != used_column]
        sentences = [f"{listed(files, _FEW)}: {sentence}" for sentence, files in self._notes.items()]
        sentences += [f"columns read: {listed([f'{name} as {key}' for key, name in self.columns.items()])}"]
        for kind, names in (
            ("columns", unread),
            ("message keys", self.unread.message_keys),
            ("files", self.unread.files),
        ):
            sentences += [f"{kind} not read: {listed(names)}"] if names else []
        return [*sentences, *self._unwanted_note()]

    def public_notes(self) -> list[str]:
        """What of `notes` may leave a site: counts, and the fields that were read."""
        unread = self.unread
        counts = (("columns", unread.columns), ("message keys", unread.message_keys), ("files", unread.files))
        sentences = [f"read: {', '.join(self.columns)}"]
        sentences += [f"{len(names)} {kind} not read" for kind, names in counts if names]
        return [*sentences, *self._unwanted_note()]

    def _unwanted_note(self) -> list[str]:
        said = "rows left out that a label of false or a weight of 0 excludes"
        return [f"{self.unwanted:,} {said}"] if self.unwanted else []

    def labels(self, column: str) -> list[str]:
        """Return one column as text, one value a row; missing values are empty.

        Raises
        ------
        UnknownLabel
            The column was not kept: it does not exist, is not text or integer, or is long free text.
        """
        if column not in self.label_columns:
            kept = listed(self.label_columns) or "none"
            near = nearest_column(column, self.label_columns)
            raise UnknownLabel(
                f"the data has no column '{column}' to partition by"
                + (f"; did you mean '{near}'?" if near else ".")
                + f" Its text and integer columns of less than {LABEL_LENGTH} characters on average are: {kept}"
            )
        name = f"{_LABEL}{self.label_columns.index(column)}"
        return list(chain.from_iterable(batch[name].to_pylist() for batch in self._batches))


def open_source(
    name: str,
    *,
    rows: str,
    cache_dir: Path,
    columns: Columns = _ALL_RECOGNISED,
    split: str = "",
    max_bad_share: float = 0.0,
    text_format: TextFormat = FOUND,
) -> Source:
    """Open a set of rows.

    Parameters
    ----------
    name : str
        An absolute path (a data file, a folder of them, or a directory written by `datasets.save_to_disk`), a name
        of `NAMED_SETS`, or a Hub id `owner/name`.
    rows : str
        The kind of rows to make, a name of `ROW_KINDS`.
    cache_dir : Path
        Where converted rows are kept; may be shared by any number of processes.
    columns : Columns
        Columns to read where they are not to be recognised.
    split : str
        The split to read; empty for that of the named set, or the training split.
    max_bad_share : float
        Accepted share of unusable rows, 0 to 1.
    text_format : TextFormat
        What need not be found out about text files.

    Raises
    ------
    DataNotFound, UnreadableFile, UnknownColumn, UnknownSchema, TooManyBadRows, EmptySource
        See there; all are `DataError`.
    """
    origin = locate(name, rows, split, text_format)
    key = json.dumps([CODE_VERSION, rows, asdict(columns), split, asdict(text_format), origin.stamp, origin.left_out])
    directory = cache_dir / hashlib.sha256(key.encode()).hexdigest()[:32]
    if not directory.exists():
        try:
            _build(origin, rows, columns, directory)
        except (EmptySource, UnreadableFile):
            raise  # names the file already
        except DataError as error:
            raise type(error)(f"{origin.name}: {error}", public=error.public) from None
    source = Source(directory)
    bad = source.bad
    if bad.count > max_bad_share * bad.total:
        first = "\n".join(f"  {where}: {why}" for where, why in bad.first)
        counts = (
            f"{bad.count} of {bad.total} rows ({bad.count / bad.total:.2%}) cannot be used, more than the accepted "
            f"share of {max_bad_share:.2%}. Repair them or accept more. The first ones:"
        )
        public = "; ".join(public_reason(where, why, source.columns) for where, why in bad.first)
        raise TooManyBadRows(f"{origin.name}: {counts}\n{first}", public=f"{counts} {public}")
    if not len(source):
        unwanted = f": a label of false or a weight of 0 excludes {source.unwanted}" if source.unwanted else ""
        raise EmptySource(f"{origin.name} holds no usable row{unwanted}")
    return source


_PLACE = re.compile(r"\b(?:line|row|item) \d{1,12}$")


def public_reason(where: str, why: str, columns: Mapping[str, str]) -> str:
    """Where a row is and why it cannot be used, without names of the site's files and columns.

    Columns are called after the fields that are read from them. A reason that quotes anything else is left out.
    """
    for field, column in sorted(columns.items(), key=lambda pair: -len(pair[1])):
        why = why.replace(f"column '{column}'", f"the {field} column")
    place = _PLACE.search(where)
    reasons = [place.group() if place else "a row", "" if "'" in why else why]
    return ": ".join(filter(None, reasons))


def _build(origin: Origin, rows: str, columns: Columns, directory: Path) -> None:
    """Write the converted rows; processes that do so at the same time end with one complete directory."""
    make_directory(directory.parent)
    building = Path(tempfile.mkdtemp(prefix=".building-", dir=directory.parent))
    try:
        meta = _convert(origin, rows, columns, building)
        (building / "meta.json").write_text(json.dumps(meta))
        if is_private(directory):
            keep_to_owner(building)
        try:
            os.replace(building, directory)
        except OSError:
            if not directory.exists():  # otherwise another process was faster, with the same rows
                raise
    finally:
        shutil.rmtree(building, ignore_errors=True)


def _convert(origin: Origin, kind: str, columns: Columns, directory: Path) -> dict[str, Any]:
    """Convert all rows into one Arrow file, with the numbers of repeated rows; return what `Source` needs to know."""
    import pyarrow as pa

    notes: Notes = {}
    rows = origin.rows(notes)
    head, readable = _head(rows)
    if not readable:
        first = "; ".join(f"{where}: {row}" for where, row in head[:3])
        raise EmptySource(f"{origin.name} holds no readable row{': ' + first if first else ''}")
    binding = recognise(dict.fromkeys(key for row in readable for key in row), kind, columns)
    binding = binding.fitting(readable, columns)
    labels = _label_columns(readable)
    # Numbered, because the name of a column need not be Unicode.
    names = [*ROW_KINDS[kind].cell_names, *(f"{_LABEL}{number}" for number in range(len(labels)))]
    schema = pa.schema([(name, pa.large_string()) for name in names])
    conversion = _Conversion(binding, labels)
    with (
        pa.OSFile(str(directory / "rows.arrow"), "wb") as file,
        pa.ipc.new_file(file, schema) as writer,
    ):
        for batch in conversion.batches(chain(head, rows)):
            writer.write_batch(_batch(batch, schema))
    np.save(directory / "repeated.npy", conversion.repeated(), allow_pickle=False)
    meta: dict[str, Any] = {"rows": kind, "schema": binding.schema.name, "columns": binding.columns, "labels": labels}
    unread = {"columns": conversion.unread, "message_keys": sorted(conversion.unread_keys), "files": origin.left_out}
    return meta | {"notes": notes, "unread": unread, **conversion.counts}


def _head(rows: Located) -> tuple[list[tuple[str, Any]], list[dict[str, Any]]]:
    """The first `BATCH` rows, more until one of them is readable, and the readable ones among them."""
    head: list[tuple[str, Any]] = []
    readable: list[dict[str, Any]] = []
    while not readable and (more := list(islice(rows, BATCH))):
        head += more
        readable += [row for _, row in more if not isinstance(row, BadRow)]
    return head, readable


class _Conversion:
    """Converts rows one by one and counts what it meets."""

    def __init__(self, binding: Binding, labels: list[str]) -> None:
        self._binding, self._labels = binding, labels
        self._known = set(binding.columns.values())  # columns that are read, or known not to be
        self._hashes = array("q")
        self.unread: list[str] = []
        self.unread_keys: set[str] = set()
        self.counts: dict[str, Any] = {"bad": 0, "unwanted": 0, "total": 0, "first": []}

    def batches(self, rows: Iterable[tuple[str, dict[str, Any] | BadRow]]) -> Iterator[list[tuple[str, ...]]]:
        """Yield the cells of `BATCH` rows at a time, of fewer at the end; the list is used again."""
        buffer: list[tuple[str, ...]] = []
        counts, known, labels = self.counts, self._known, self._labels
        for where, row in rows:
            counts["total"] += 1
            try:
                if isinstance(row, BadRow):
                    raise row
                if not row.keys() <= known:
                    self._note_unread(row)
                cells = self._binding.convert(row, self.unread_keys).cells()
            except UnwantedRow:
                counts["unwanted"] += 1
                continue
            except BadRow as error:
                counts["bad"] += 1
                counts["first"] += [(where, str(error))] if len(counts["first"]) < _FIRST else []
                continue
            self._hashes.append(hash(cells))
            buffer.append((*cells, *(_label(row.get(label)) for label in labels)))
            if len(buffer) == BATCH:
                yield buffer
                buffer.clear()
        if buffer:
            yield buffer

    def _note_unread(self, row: dict[str, Any]) -> None:
        """Remember the columns that are not read and hold something in this row."""
        for column in row:
            if column not in self._known and row[column] not in (None, "", [], {}):
                self._known.add(column)
                self.unread.append(column)

    def repeated(self) -> np.ndarray:
        """Numbers of the rows that are equal to another one, by their hashes of 64 bits."""
        _, which, times = np.unique(np.frombuffer(self._hashes, np.int64), return_inverse=True, return_counts=True)
        return np.flatnonzero(times[which] > 1).astype(np.int64)


def _batch(buffer: list[tuple[str, ...]], schema: Any) -> Any:
    import pyarrow as pa

    return pa.record_batch([pa.array(cells, pa.large_string()) for cells in zip(*buffer, strict=True)], schema=schema)


def _label_columns(rows: list[dict[str, Any]]) -> list[str]:
    """Choose the columns to keep as labels, from the first rows: short text and integers."""
    kept = []
    for name in dict.fromkeys(key for row in rows for key in row):
        values = [row[name] for row in rows if row.get(name) is not None]
        short = all(isinstance(value, str | int) for value in values) and (
            sum(len(str(value)) for value in values) < LABEL_LENGTH * len(values)
        )
        if short:
            kept.append(name)
    return kept


def _label(value: Any) -> str:
    # A label that is not Unicode must not spoil a row whose texts are fine.
    return str(value).encode(errors="replace").decode() if isinstance(value, str | int) else ""
