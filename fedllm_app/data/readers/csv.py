"""Read CSV and TSV files: a first line that names the columns, then a record a row.

Quotation marks decide where a record ends, so a wrong one can swallow any number of rows. Three rules keep the count of
bad rows honest:

- A damaged record whose fault shows in its first line is taken to end with that line: one bad row.
- After such a row every record must be faultless. If one is not, the lines before it may have been lines of a damaged
  cell, and the file is refused with the line where the damage begins.
- Where a damaged record spans lines, or a quotation mark is never closed, the end of the record is unknown, and the
  file is refused with the line where the record begins.
"""

from __future__ import annotations

import csv
import re
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice

from fedllm_app.data.errors import BadRow
from fedllm_app.data.readers.base import Located, Notes, TextFormat, UnreadableFile, note
from fedllm_app.data.readers.text import TextFile, check_decoded, is_decoded, shown

_DELIMITERS = (",", ";", "\t", "|")
_NAMES = {"\t": "tabs"}
_SAMPLE = 100  # records from which the delimiter is found out
_LINES = 1000  # lines among which the sample is
_LARGEST_CELL = 2**31 - 1  # the module's own limit cuts a cell of 131,072 characters in its middle
_HINT = re.compile(r'"?sep=(.)"?[\r\n]*', re.IGNORECASE)
_TO_LINE_END = re.compile(r'(?:[^"\r\n]|"[^"]*")*(\r\n|\n|\r)?')


@dataclass(frozen=True)
class Dialect:
    """How records are written: a blank after each delimiter or none, a line `sep=` before the header or none."""

    delimiter: str
    blank_after: bool = False
    hinted: bool = False


def read_csv(file: TextFile, usual: str, text_format: TextFormat, notes: Notes) -> Located:
    """Yield the rows of a file; the location is the line in which a row begins.

    Parameters
    ----------
    file : TextFile
        The file.
    usual : str
        The delimiter that its ending promises: kept where the first lines do not show another.
    text_format : TextFormat
        What need not be found out.
    notes : Notes
        Told how the file was read.
    """
    encoding, sound = file.found_encoding(text_format.encoding)
    newline = _line_end(file, encoding)
    with file.open(encoding, newline) as lines:
        dialect = _dialect(list(islice(lines, _LINES)), usual, text_format.separator)
    between = f"columns separated by {_NAMES.get(dialect.delimiter, repr(dialect.delimiter))}"
    note(notes, f"{between}, {shown(encoding)}", file.path.name)
    csv.field_size_limit(_LARGEST_CELL)
    with file.open(encoding, newline) as lines:
        yield from _Records(file, lines, dialect, encoding, sound).rows()


def _line_end(file: TextFile, encoding: str) -> str:
    """What ends a line: a carriage return alone where the header ends with one, as on old Macs; else a line feed.

    A carriage return elsewhere is left where it stands: taken for the end of a line, it would make two rows of one.
    """
    with file.open(encoding, "") as pieces:  # cut at each of the three, and left as they are
        head = "".join(islice(pieces, 50))
    return "\r" if _TO_LINE_END.match(head).group(1) == "\r" else "\n"


def _dialect(lines: list[str], usual: str, given: str) -> Dialect:
    hint = _HINT.fullmatch(lines[0]) if lines else None
    lines = lines[1:] if hint else lines
    delimiter = given or (hint.group(1) if hint else "") or _found_delimiter(lines, usual)
    header = next((line.strip("\r\n") for line in lines if not line.isspace()), "")
    after = header.split(delimiter)[1:]
    return Dialect(delimiter, bool(after) and all(name[:1] == " " for name in after), bool(hint))


def _found_delimiter(lines: list[str], usual: str) -> str:
    """The delimiter that divides the header, and the most of the next records into as many cells."""
    best, best_score = usual, (0.0, 0)
    for delimiter in dict.fromkeys((usual, *_DELIMITERS)):
        try:
            sample = [cells for cells in islice(csv.reader(lines, delimiter=delimiter), _SAMPLE) if cells]
        except csv.Error:  # a cell too long for the sample, or a line end inside one
            sample = [line.split(delimiter) for line in lines[:_SAMPLE] if not line.isspace()]
        width = len(sample[0]) if sample else 0
        if width < 2:
            continue
        agreeing = sum(len(cells) == width for cells in sample[1:]) / max(len(sample) - 1, 1)
        if (agreeing, width) > best_score:
            best, best_score = delimiter, (agreeing, width)
    return best


class _Records:
    """The records of one file, with the lines that each is made of."""

    def __init__(self, file: TextFile, lines: Iterator[str], dialect: Dialect, encoding: str, sound: bool) -> None:
        self._file, self._encoding, self._sound = file, encoding, sound
        self._lines: list[str] = []
        self._reader = csv.reader(
            self._kept(lines), delimiter=dialect.delimiter, strict=True, skipinitialspace=dialect.blank_after
        )
        self._hinted = dialect.hinted
        self._faultless = _faultless(dialect)
        self._damaged = 0  # the line of the last bad record whose end had to be guessed

    def _kept(self, lines: Iterator[str]) -> Iterator[str]:
        for line in lines:
            self._lines.append(line)
            yield line

    def rows(self) -> Located:
        """See `read_csv`."""
        header = self._header()
        width, name = len(header), self._file.path.name
        while True:
            self._lines.clear()
            begins = self._reader.line_num + 1
            try:
                cells = next(self._reader)
                if not cells:
                    continue
                if self._damaged or len(self._lines) > 1:
                    self._check_end(begins)
                if not self._sound:
                    check_decoded("".join(self._lines), self._encoding)
                if len(cells) != width:
                    cells = self._fitted(cells, width, begins)
            except StopIteration:
                return
            except csv.Error as error:
                yield f"{name} line {begins}", self._broken(error, begins)
            except BadRow as error:
                yield f"{name} line {begins}", error
            else:
                yield f"{name} line {begins}", dict(zip(header, cells, strict=True))

    def _header(self) -> list[str]:
        """The column names without blanks around them; a column without a name is called by its number."""
        try:
            if self._hinted:
                next(self._reader)
            header = next((cells for cells in self._reader if cells), [])
        except csv.Error as error:
            raise UnreadableFile.of(
                self._file.path, f"line 1: the column names cannot be read ({error}): check the quotation marks"
            ) from None
        names = [name.strip() or f"column {number}" for number, name in enumerate(header, 1)]
        for number, name in enumerate(names, 1):
            first = names.index(name) + 1
            if first < number:
                raise UnreadableFile.of(
                    self._file.path,
                    f"line 1: must name every column once; columns {first} and {number} have the same name",
                )
        if not is_decoded("".join(names)):
            raise UnreadableFile.of(
                self._file.path,
                f"line 1: the column names are not {shown(self._encoding)}; name the encoding (data.encoding)",
            )
        return names

    def _check_end(self, begins: int) -> None:
        """Refuse the file if this record has a fault, so that it may not end where it seems to."""
        if not self._faultless.fullmatch("".join(self._lines)):
            raise self._endless(self._damaged or begins)

    def _fitted(self, cells: list[str], width: int, begins: int) -> list[str]:
        """The cells without surplus ones at the end that are empty."""
        if len(cells) > width and not any(cells[width:]):
            return cells[:width]
        if len(self._lines) > 1:
            raise self._endless(begins)
        raise BadRow(f"{len(cells)} cells where the header names {width}")

    def _broken(self, error: csv.Error, begins: int) -> BadRow:
        """Why a record of one line is bad; a record of several lines refuses the file."""
        text = "".join(self._lines)
        if len(self._lines) > 1:
            raise self._endless(self._damaged or begins) from None
        self._damaged = self._damaged or begins
        if '\\"' in text:
            return BadRow('broken CSV: a quotation mark inside a cell must be doubled, "", not written \\"')
        if "new-line" in str(error):
            return BadRow("broken CSV: a line break inside a cell without quotation marks around it")
        return BadRow(f"broken CSV: {error}")

    def _endless(self, begins: int) -> UnreadableFile:
        return UnreadableFile.of(
            self._file.path,
            f"line {begins}: the end of the record that begins there cannot be found, because a "
            "quotation mark is missing or not doubled. Repair that record: a cell with delimiters, line breaks or "
            'quotation marks must stand in quotation marks, and each one inside it must be doubled ("")',
        )


def _faultless(dialect: Dialect) -> re.Pattern[str]:
    """A record in which every quotation mark stands around a cell or is doubled inside one."""
    between = re.escape(dialect.delimiter)
    blanks = " *+" if dialect.blank_after else ""
    cell = rf'{blanks}(?:"[^"]*+(?:""[^"]*+)*+"|[^"{between}\r\n]*+)'
    return re.compile(rf"{cell}(?:{between}{cell})*+[\r\n]*+")
