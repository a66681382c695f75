"""Read tables: Parquet files, Arrow files and streams, and the batches that `datasets` hands out."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from fedllm_app.data.errors import BadRow
from fedllm_app.data.readers.base import BATCH, Located, UnreadableFile

_ARROW_FILE = b"ARROW1"  # how an Arrow file begins; what begins otherwise is a stream


def read_parquet(path: Path) -> Located:
    """Yield the rows of a Parquet file."""
    import pyarrow.parquet as pq

    with pq.ParquetFile(path) as file:
        yield from read_tables(file.iter_batches(BATCH), path.name)


def read_arrow(path: Path) -> Located:
    """Yield the rows of an Arrow file or stream."""
    yield from read_tables(arrow_batches(path), path.name)


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


def read_tables(tables: Iterable[Any], name: str) -> Located:
    """Yield the rows of Arrow tables or record batches, numbered from 1."""
    number = 0
    for table in tables:
        for row in _rows(table, name):
            number += 1
            yield f"{name} row {number}", row


def _rows(table: Any, name: str) -> list[dict[str, Any] | BadRow]:
    names = table.schema.names
    if len(set(names)) < len(names):
        twice = next(column for column in names if names.count(column) > 1)
        raise UnreadableFile(f"{name} has column '{twice}' twice: rename or leave out one of them")
    bad: dict[int, BadRow] = {}
    columns = [_values(column, title, bad) for title, column in zip(names, table.columns, strict=True)]
    rows: list[dict[str, Any] | BadRow] = [dict(zip(names, row, strict=True)) for row in zip(*columns, strict=True)]
    for index, reason in bad.items():
        rows[index] = reason
    return rows


def _values(column: Any, title: str, bad: dict[int, BadRow]) -> list[Any]:
    """The values of a column as Python's; what Python cannot hold, such as a year after 9999, makes its row bad."""
    import pyarrow as pa

    errors = (ValueError, OverflowError, pa.ArrowException)  # UnicodeDecodeError is a ValueError
    try:
        return column.to_pylist()
    except errors:
        values = []
        for index, value in enumerate(column):
            try:
                values.append(value.as_py())
            except errors as error:
                values.append(None)
                bad[index] = BadRow(f"column '{title}' {_reason(error)}")
        return values


def _reason(error: Exception) -> str:
    if isinstance(error, UnicodeDecodeError):
        return f"holds broken UTF-8 ({error.reason} at position {error.start + 1})"
    return "holds a value that cannot be read, such as a date out of range"
