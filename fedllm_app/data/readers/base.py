"""What every reader is told, what it yields, and what it notes about a file for the user to see.

A reader yields (location, row): the location is what a user looks for ("train.jsonl line 7"), the row a dict by column
name, or the `BadRow` that says why there is none. Damage counts in records: a damaged record costs itself and no other,
and what lies inside it never becomes a row. Where nobody can say where the damage ends, the file is refused
(`UnreadableFile`) with the line where it begins.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fedllm_app.data.errors import BadRow, DataError

Located = Iterator[tuple[str, "dict[str, Any] | BadRow"]]

Notes = dict[str, list[str]]
"""What was found out about files, a sentence each, and the names of the files that it is true of."""

BATCH = 1024
"""Rows held in memory at a time."""

_TAB = ("tab", "\\t")


class UnreadableFile(DataError):
    """A data file cannot be read at all, or not to its end."""

    public = "a data file cannot be read, or not to its end"

    @classmethod
    def of(cls, file: Path, what: str) -> UnreadableFile:
        """The error of a file, about which `what` says nothing that stands in it but places and numbers."""
        return cls(f"{file} {what}", public=f"a data file of the site {what}")


@dataclass(frozen=True)
class TextFormat:
    """How text files are written; an empty value means: find it out from the file.

    Attributes
    ----------
    delimiter : str
        What stands between the cells of a CSV file: one character, or `tab`.
    encoding : str
        A name that Python knows: `utf-8`, `cp1252`, `gbk`, …
    """

    delimiter: str = ""
    encoding: str = ""

    @property
    def separator(self) -> str:
        """The delimiter as a character, "" where it is to be found out."""
        return "\t" if self.delimiter in _TAB else self.delimiter

    def problems(self) -> dict[str, str]:
        """What is wrong, by the name of the value."""
        problems = {}
        if self.delimiter and (len(self.separator) != 1 or self.separator in '"\r\n'):
            problems["delimiter"] = 'must be one character other than a quotation mark, or "tab"'
        try:
            "a".encode(self.encoding or "utf-8")
        except (LookupError, UnicodeError):
            problems["encoding"] = 'must be an encoding that Python knows, such as "utf-8", "cp1252" or "gbk"'
        return problems


FOUND = TextFormat()
"""Everything is found out from the file."""


def note(notes: Notes, sentence: str, file: str) -> None:
    """Add a file to those of which a sentence is true."""
    notes.setdefault(sentence, []).append(file)
