"""Make rows of a file that is one JSON object: what the object's keys mean is seen from what they hold."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from fedllm_app.data.errors import listed
from fedllm_app.data.readers.base import UnreadableFile
from fedllm_app.data.turns import is_messages

Rows = tuple[str, list[dict[str, Any]]]
"""A sentence that says how the object was understood, and its rows."""

_MANY_TEXTS = 20
"""An object of more texts than this is no row: it is a table of two columns."""


def rows_of_object(value: dict[str, Any], path: Path) -> Rows:
    """The rows of an object: the first shape of `SHAPES` that fits, else the object is one row.

    Raises
    ------
    UnreadableFile
        The object holds several lists of rows, or texts by key.
    """
    for shape in SHAPES:
        found = shape(value)
        if found is not None:
            return found
    lists = [key for key, part in value.items() if _is_rows(part)]
    if len(lists) > 1:
        raise UnreadableFile(f"{path} holds one object with several lists of rows ({listed(lists)}): keep one a file")
    if len(value) > _MANY_TEXTS and not any(isinstance(part, dict | list) for part in value.values()):
        raise UnreadableFile.of(
            path,
            f"holds one object of {len(value)} texts or numbers by key, which are no rows: write an object with "
            'column names for each, {"prompt": …, "completion": …}',
        )
    return "one object, read as one row", [value]


def _is_rows(value: Any) -> bool:
    """Whether a value is a list of rows, as opposed to a list of messages, which is one row's."""
    return (
        isinstance(value, list)
        and bool(value)
        and all(isinstance(row, dict) for row in value)
        and not is_messages(value)
    )


def _split(value: dict[str, Any]) -> Rows | None:
    """`DataFrame.to_json(orient="split")`: columns, index, data."""
    columns, data = value.get("columns"), value.get("data")
    if not (isinstance(columns, list) and isinstance(data, list) and data):
        return None
    if not all(isinstance(row, list) and len(row) == len(columns) for row in data):
        return None
    return "rows below the key 'data', named by 'columns'", [dict(zip(columns, row, strict=True)) for row in data]


def _below_a_key(value: dict[str, Any]) -> Rows | None:
    """`{"version": "1.0", "data": [{…}, {…}]}`."""
    lists = [key for key, part in value.items() if _is_rows(part)]
    if len(lists) != 1:
        return None
    rest = [key for key in value if key != lists[0]]
    unread = f"; keys beside it that are not read: {listed(rest)}" if rest else ""
    return f"rows below the key {lists[0]!r}{unread}", value[lists[0]]


def _by_column_and_index(value: dict[str, Any]) -> Rows | None:
    """`DataFrame.to_json()`: `{"prompt": {"0": …, "1": …}, "completion": {"0": …, "1": …}}`."""
    parts = list(value.values())
    if not parts or not all(isinstance(part, dict) and part for part in parts):
        return None
    index = parts[0].keys()
    if not all(key.isdecimal() for key in index) or any(part.keys() != index for part in parts):
        return None
    rows = [{column: part[key] for column, part in value.items()} for key in index]
    return "columns that hold their rows by number", rows


def _by_id(value: dict[str, Any]) -> Rows | None:
    """`{"21645374": {…}, "16418930": {…}}`, as PubMedQA is published; the key becomes a column."""
    parts = list(value.values())
    if not parts or not all(isinstance(part, dict) for part in parts) or is_messages(parts):
        return None
    taken = {key for part in parts for key in part}
    name = next(name for name in ("id", "key", "object key") if name not in taken)
    return f"rows by key, which is column '{name}'", [{name: key, **part} for key, part in value.items()]


def _by_column(value: dict[str, Any]) -> Rows | None:
    """`{"prompt": ["…", "…"], "completion": ["…", "…"]}`."""
    parts = list(value.values())
    if len(parts) < 2 or not all(isinstance(part, list) and part for part in parts):
        return None
    if len({len(part) for part in parts}) > 1 or any(is_messages(part) or _is_rows(part) for part in parts):
        return None
    return "columns that hold lists", [dict(zip(value, row, strict=True)) for row in zip(*parts, strict=True)]


SHAPES: tuple[Callable[[dict[str, Any]], Rows | None], ...] = (
    _split,
    _below_a_key,
    _by_column_and_index,
    _by_id,
    _by_column,
)
"""The shapes in the order of trial. Each gives the rows, or None where the object has another shape."""
