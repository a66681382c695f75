"""Read JSON files: an object a line (JSONL), one array, or one object that `json_shapes` makes rows of.

The beginning of a file decides which of them it is, more than the ending of its name: there are arrays in .jsonl files
and lines in .json files. A row that was printed over several lines is read, too.
"""

from __future__ import annotations

import io
import json
import re
from collections import deque
from collections.abc import Iterator
from itertools import chain
from typing import Any

from fedllm_app.data.errors import BadRow
from fedllm_app.data.literals import python_literal
from fedllm_app.data.readers.base import Located, Notes, TextFormat, UnreadableFile, note
from fedllm_app.data.readers.json_shapes import rows_of_object
from fedllm_app.data.readers.text import TextFile, check_decoded, is_decoded, shown

_WINDOW = 1000  # lines in which the end of a row is looked for that was printed over several lines
_BETWEEN = re.compile(r"[ \t\r\n,]*")  # what may stand between two items
_TOO_LONG = "a number has too many digits"
_TOO_DEEP = "it is nested too deeply"


class _RepeatedKey(ValueError):
    """An object has a key twice: one of its values would be lost."""


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    row = dict(pairs)
    if len(row) < len(pairs):
        raise _RepeatedKey
    return row


# Not strict: a line break or a tab inside a text has one meaning.
_decode = json.JSONDecoder(strict=False).raw_decode
_decode_object = json.JSONDecoder(object_pairs_hook=_object, strict=False).raw_decode  # by a tenth slower


def read_json(file: TextFile, lines_expected: bool, text_format: TextFormat, notes: Notes) -> Located:
    """Yield the rows of a file; the location is the line, or the number of the item in an array or object.

    `lines_expected` says how a file of a single line is meant: as one row, or as an object that may hold rows.
    """
    encoding = file.encoding(text_format.encoding)
    if encoding != "utf-8":
        note(notes, shown(encoding), file.path.name)
    with file.open(encoding, None) as lines:
        begin = _up_to_text(lines)
        first = begin[-1].strip() if begin else ""
        whole = first.startswith("[") or not _is_object(first)
        if not whole and not lines_expected:
            more = _up_to_text(lines)
            whole = not (more and more[-1].strip())
            begin += more
        if first and whole:
            text = "".join(chain(begin, lines))
            rows = _whole(text, file, encoding, notes)
            if rows is not None:
                yield from rows
                return
            lines = io.StringIO(text)
            begin = []
        yield from _Lines(chain(begin, lines), file, encoding).rows()


def _up_to_text(lines: Iterator[str]) -> list[str]:
    """The next lines up to the first that is not blank."""
    found = []
    for line in lines:
        found.append(line)
        if not line.isspace():
            break
    return found


def _is_object(text: str) -> bool:
    try:
        value, end = _decode(text)
    except (ValueError, RecursionError):
        return False
    return end == len(text) and isinstance(value, dict)


def _whole(text: str, file: TextFile, encoding: str, notes: Notes) -> Located | None:
    """The rows of a file that is one array or one object; None if it is neither."""
    start = len(text) - len(text.lstrip())
    is_array = text[start] == "["
    try:
        value, end = (_decode if is_array else _decode_object)(text, start)
        rest = text[end:].strip()
    except _RepeatedKey:
        raise UnreadableFile.of(file.path, "holds an object that has a key twice: a value would be lost") from None
    except (ValueError, RecursionError):
        value, rest = _in_python(text), ""
        if value is None and is_array:
            value = _array_items(text, start, file)
    if not isinstance(value, list | dict) or (rest and not is_array):
        return None
    if rest:
        line = text.count("\n", 0, len(text.rstrip()) - len(rest)) + 1
        raise UnreadableFile.of(
            file.path,
            f"line {line}: more follows after the end of the array; a file must hold one array, or one object a line",
        )
    if isinstance(value, dict):
        sentence, value = rows_of_object(value, file.path)
        note(notes, sentence, file.path.name)
    return _items(value, file.path.name, None if is_decoded(text) else encoding)


def _items(rows: list[Any], name: str, broken: str | None) -> Located:
    """Rows by number; `broken` is the encoding if some bytes of the file are not valid in it."""
    for number, value in enumerate(rows, 1):
        try:
            if broken and not is_decoded(json.dumps(value, ensure_ascii=False)):
                raise BadRow(f"broken {shown(broken)}")
            row: dict[str, Any] | BadRow = _row(value)
        except BadRow as error:
            row = error
        yield f"{name} item {number}", row


def _in_python(text: str) -> Any:
    """The value of a text in Python's notation, which has single quotes; None for any other."""
    if "'" not in text[: text.find(":")]:
        return None
    try:
        return python_literal(text)
    except ValueError:
        return None


def _array_items(text: str, start: int, file: TextFile) -> list[Any]:
    """The items of an array that is not valid JSON as a whole: a comma too many or too few does no harm.

    Raises
    ------
    UnreadableFile
        An item is broken, or the array does not end: no item after it can be found.
    """
    items: list[Any] = []
    place = start + 1
    while True:
        begins = place = _BETWEEN.match(text, place).end()
        if text[place : place + 1] == "]" and not text[place + 1 :].strip():
            return items
        try:
            value, place = _decode(text, place)
        except (ValueError, RecursionError) as error:
            reason = _reason(error) if begins < len(text) else "the array does not end"
            line = text.count("\n", 0, begins) + 1
            raise UnreadableFile.of(
                file.path, f"holds broken JSON: item {len(items) + 1} of the array, in line {line}: {reason}"
            ) from None
        items.append(value)


def _reason(error: Exception) -> str:
    if isinstance(error, json.JSONDecodeError):
        return error.msg
    return _TOO_DEEP if isinstance(error, RecursionError) else _TOO_LONG


def _row(value: Any) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise BadRow(f"a row must be a JSON object with column names, not {type(value).__name__}")
    return value


class _Lines:
    """The rows of a file with an object a line."""

    def __init__(self, lines: Iterator[str], file: TextFile, encoding: str) -> None:
        self._lines, self._file, self._encoding = iter(lines), file, encoding
        self._ahead: deque[str] = deque()
        self._number = 0  # of the line that was read last
        self._opened = 0  # the line of the last object that did not end where its line ends

    def _next(self) -> Iterator[str]:
        while True:
            if self._ahead:
                yield self._ahead.popleft()
            else:
                line = next(self._lines, None)
                if line is None:
                    return
                yield line

    def rows(self) -> Located:
        """See `read_json`."""
        name = self._file.path.name
        for line in self._next():
            self._number += 1
            text = line.strip()
            if not text:
                continue
            number = self._number
            try:
                if not text.isascii():
                    check_decoded(text, self._encoding)
                    text = text.removeprefix("\ufeff")  # files were joined, each with its mark
                row, end = _decode(text)
                yield f"{name} line {number}", _row(row)
                while end < len(text):  # files were joined without a line break, or commas stand between the objects
                    end = _BETWEEN.match(text, end).end()
                    if end < len(text):
                        row, end = _decode(text, end)
                        yield f"{name} line {number}", _row(row)
            except BadRow as error:
                yield f"{name} line {number}", error
            except (ValueError, RecursionError) as error:
                yield f"{name} line {number}", self._repaired(text, error)

    def _repaired(self, text: str, error: Exception) -> dict[str, Any] | BadRow:
        """The row of a broken line, if it ends in a later line or is written in Python's notation; else the reason."""
        value = self._over_lines(text, error) or _in_python(text)
        if isinstance(value, dict):
            return value
        if text[0] in "}]":
            raise UnreadableFile.of(
                self._file.path,
                f"line {self._opened or self._number}: a row begins there that goes on over several lines and cannot "
                "be read; repair it, or write every row in one line",
            )
        place = f" at position {error.pos + 1}" if isinstance(error, json.JSONDecodeError) else ""
        return BadRow(f"broken JSON: {_reason(error)}{place}")

    def _over_lines(self, text: str, error: Exception) -> dict[str, Any] | None:
        """The object that begins in this line and ends in a later one; the lines up to there are then read."""
        if not isinstance(error, json.JSONDecodeError) or text[0] != "{":
            return None
        if error.pos < len(text) and not error.msg.startswith("Unterminated"):
            return None
        self._opened = self._number
        while len(self._ahead) < _WINDOW and (line := next(self._lines, None)) is not None:
            self._ahead.append(line)
        longer = "\n".join((text, *(line.rstrip("\n") for line in self._ahead)))
        try:
            value, end = _decode(longer)
            check_decoded(longer[:end], self._encoding)
        except (ValueError, RecursionError):  # BadRow is one
            return None
        if longer[end:].partition("\n")[0].strip():
            return None
        for _ in range(longer.count("\n", 0, end)):
            self._ahead.popleft()
            self._number += 1
        return value
