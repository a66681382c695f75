"""Read the rows of data files one by one, and say exactly which row cannot be read.

Every reader yields (location, row): the location is what a user looks for ("train.jsonl line 7"), the row a dict
by column name, or the `BadRow` that says why there is none. Only a file that is unreadable as a whole raises.
"""

from __future__ import annotations

import csv
import gzip
import json
import re
import zlib
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import IO, Any

from fedllm_app.data.schemas import BadRow, DataError

Located = Iterator[tuple[str, "dict[str, Any] | BadRow"]]

SUFFIXES = (".json", ".jsonl", ".csv", ".tsv", ".parquet", ".arrow", ".json.gz", ".jsonl.gz", ".csv.gz", ".tsv.gz")
"""File names that are read, by their endings."""

BATCH = 1024
"""Rows held in memory at a time."""

_BOM = b"\xef\xbb\xbf"
_ARROW_FILE = b"ARROW1"  # how an Arrow file begins; what begins otherwise is a stream
_SPLIT = re.compile(r"(train|test|valid|validation|val|dev|eval)(_\w+)?")


class UnreadableFile(DataError):
    """A data file cannot be read at all."""


class AmbiguousSplit(DataError):
    """A folder holds several splits and the configuration does not say which one to read."""


def is_data_file(path: Path) -> bool:
    """Whether the name of a file says that it can be read."""
    return path.name.endswith(SUFFIXES)


def files_of(folder: Path, split: str) -> list[Path]:
    """List the data files of one split below a folder, sorted.

    A file belongs to the split that its name starts with, up to the first `-` or `.`, or else that a folder above
    it is called. Without a given split, files of a training split are preferred to all others, so that a test
    split lying beside it is never trained on.

    Raises
    ------
    AmbiguousSplit
        The files belong to several splits, none or several of them for training.
    UnreadableFile
        There is no data file (of that split).
    """
    found: dict[str, list[Path]] = {}
    for path in sorted(folder.rglob("*")):
        relative = path.relative_to(folder)
        hidden = any(part.startswith(".") for part in relative.parts)
        # Beside the rows that it has loaded, datasets keeps what was computed from them.
        computed = path.suffix == ".arrow" and path.name.startswith("cache-")
        if is_data_file(path) and path.is_file() and not hidden and not computed:
            found.setdefault(split_of(relative, split), []).append(path)
    if not found:
        raise UnreadableFile(f"{folder} holds no data file; readable are {', '.join(SUFFIXES)}")
    names = sorted(name for name in found if name)
    if split and split not in found:
        raise UnreadableFile(f"{folder} holds no files of split '{split}', only of: {', '.join(names) or 'none'}")
    if split or not names:
        return found[split]
    training = [name for name in names if name.startswith("train")]
    if len(training) != 1:
        raise AmbiguousSplit(f"{folder} holds the splits {', '.join(names)}: name the one to read (data.split)")
    return found[training[0]]


def split_of(relative: Path, split: str) -> str:
    """The split of a file, from its path below the folder that is read; "" for none. `split` is the name of one."""
    stem = re.split(r"[-.]", relative.name, maxsplit=1)[0]
    for name in (stem, *reversed(relative.parts[:-1])):
        if _SPLIT.fullmatch(name) or name == split:
            return name
    return ""


def read_files(paths: Sequence[Path]) -> Located:
    """Yield the rows of data files, one file after the other.

    Raises
    ------
    UnreadableFile
        A file is missing, damaged as a whole, or not what its ending says.
    """
    import pyarrow as pa

    for path in paths:
        try:
            yield from _read(path)
        except (OSError, EOFError, zlib.error, pa.ArrowInvalid, UnicodeDecodeError) as error:
            raise UnreadableFile(f"{path} cannot be read: {error}") from error


def _read(path: Path) -> Located:
    name = path.name.removesuffix(".gz")
    if name.endswith(".parquet"):
        import pyarrow.parquet as pq

        with pq.ParquetFile(path) as file:
            yield from read_tables(file.iter_batches(BATCH), path.name)
        return
    if name.endswith(".arrow"):
        yield from read_tables(arrow_batches(path), path.name)
        return
    opener = gzip.open if path.suffix == ".gz" else open
    with opener(path, "rb") as file:
        if name.endswith((".csv", ".tsv")):
            yield from _read_separated(file, path, "\t" if name.endswith(".tsv") else ",")
        elif name.endswith(".json") and _is_array(file):
            yield from _read_array(file.read(), path)
        else:
            yield from _read_lines(file, path.name)


def arrow_batches(path: Path) -> Iterator[Any]:
    """Record batches of at most `BATCH` rows: of an Arrow file, or of a stream, as `datasets.save_to_disk` writes."""
    import pyarrow as pa

    with pa.memory_map(str(path)) as source:
        is_file = source.read(len(_ARROW_FILE)) == _ARROW_FILE
        source.seek(0)
        if is_file:
            reader = pa.ipc.open_file(source)
            batches = (reader.get_batch(number) for number in range(reader.num_record_batches))
        else:
            batches = iter(pa.ipc.open_stream(source))
        for batch in batches:
            yield from validated(batch.slice(start, BATCH) for start in range(0, len(batch), BATCH))


def validated(tables: Iterable[Any]) -> Iterator[Any]:
    """Arrow tables or record batches whose buffers are sound: reading others can end the process.

    Broken UTF-8 in a column of text is left to the rows, of which it spoils no other; inside lists and records it is
    damage like any other (`pyarrow.ArrowInvalid`).
    """
    import pyarrow as pa

    as_bytes = {pa.string(): pa.binary(), pa.large_string(): pa.large_binary()}
    for table in tables:
        for column in table.columns:
            for chunk in column.chunks if isinstance(column, pa.ChunkedArray) else [column]:
                (chunk.view(as_bytes[chunk.type]) if chunk.type in as_bytes else chunk).validate(full=True)
        yield table


def _is_array(file: IO[bytes]) -> bool:
    """Whether the first character of a JSON file opens an array; leaves the file at its start."""
    start = b""
    while not start.strip():
        start = file.read(512).removeprefix(_BOM)
        if not start:
            break
    file.seek(0)
    return start.lstrip().startswith(b"[")


def _decode(raw: bytes) -> str:
    try:
        return raw.decode()
    except UnicodeDecodeError as error:
        raise BadRow(f"broken UTF-8: byte 0x{raw[error.start]:02x} at position {error.start + 1}") from None


def _parse(raw: bytes) -> dict[str, Any]:
    try:
        row = json.loads(_decode(raw))
    except json.JSONDecodeError as error:
        raise BadRow(f"broken JSON: {error.msg} at position {error.pos + 1}") from None
    except RecursionError:
        raise BadRow("broken JSON: nested too deeply") from None
    return _row(row)


def _row(value: Any) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise BadRow(f"a row must be a JSON object with column names, not {type(value).__name__}")
    return value


def _read_lines(file: IO[bytes], name: str) -> Located:
    for number, raw in enumerate(file, 1):
        raw = raw.removeprefix(_BOM) if number == 1 else raw
        if raw.isspace():
            continue
        try:
            row: dict[str, Any] | BadRow = _parse(raw)
        except BadRow as error:
            row = error
        yield f"{name} line {number}", row


def _read_array(raw: bytes, path: Path) -> Located:
    """Rows of one JSON array. An error in it leaves no way to find the next row, so the whole file is refused."""
    try:
        rows = json.loads(raw.removeprefix(_BOM).decode())
    except UnicodeDecodeError as error:
        line = raw.count(b"\n", 0, error.start) + 1
        raise UnreadableFile(f"{path} holds broken UTF-8 in line {line}; save it as UTF-8") from None
    except (json.JSONDecodeError, RecursionError) as error:
        raise UnreadableFile(f"{path} holds broken JSON: {error}") from None
    for number, value in enumerate(rows, 1):
        try:
            row: dict[str, Any] | BadRow = _row(value)
        except BadRow as error:
            row = error
        yield f"{path.name} item {number}", row


def _read_separated(file: IO[bytes], path: Path, delimiter: str) -> Located:
    """Rows of a CSV or TSV file whose first line names the columns; the location is the last line of the row."""
    # Undecodable bytes are smuggled through the CSV parser as surrogates, so that they spoil one row only.
    lines = (
        (raw.removeprefix(_BOM) if number == 0 else raw).decode(errors="surrogateescape")
        for number, raw in enumerate(file)
    )
    reader = csv.reader(lines, delimiter=delimiter, strict=True)
    header = next(reader, None)
    if header is None:
        return
    if len(set(header)) < len(header) or "" in header:
        raise UnreadableFile(f"the first line of {path} must name every column once; it holds: {', '.join(header)}")
    while True:
        try:
            cells = next(reader)
            if not cells:
                continue
            row: dict[str, Any] | BadRow = _separated_row(header, cells)
        except StopIteration:
            return
        except csv.Error as error:
            row = BadRow(f"broken CSV: {error}")
        except BadRow as error:
            row = error
        yield f"{path.name} line {reader.line_num}", row


def _separated_row(header: list[str], cells: list[str]) -> dict[str, Any]:
    if len(cells) != len(header):
        raise BadRow(f"{len(cells)} cells where the header names {len(header)}")
    for cell in cells:
        if not cell.isascii():
            _decode(cell.encode(errors="surrogateescape"))
    return dict(zip(header, cells, strict=True))


def read_tables(tables: Iterable[Any], name: str) -> Located:
    """Yield the rows of Arrow tables or record batches, numbered from 1."""
    number = 0
    for table in tables:
        try:
            rows: list[Any] = table.to_pylist()
        except UnicodeDecodeError:  # somewhere in the batch: find the rows
            rows = [_table_row(table.slice(index, 1)) for index in range(len(table))]
        for row in rows:
            number += 1
            yield f"{name} row {number}", row


def _table_row(table: Any) -> dict[str, Any] | BadRow:
    try:
        return table.to_pylist()[0]
    except UnicodeDecodeError as error:
        return BadRow(f"broken UTF-8: {error.reason} at position {error.start + 1}")
