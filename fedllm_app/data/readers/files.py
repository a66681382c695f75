"""The entry point of the readers: which format a file has, by its ending, and its rows.

To read another format, write a module beside this one and add a line to `_FORMATS`, or to `_DOCUMENTS` if a file of
it is one document and not a table of rows.
"""

from __future__ import annotations

import lzma
import zlib
from collections.abc import Callable, Sequence
from pathlib import Path

from fedllm_app.data.readers.arrow import read_arrow, read_parquet
from fedllm_app.data.readers.base import FOUND, Located, Notes, TextFormat, UnreadableFile
from fedllm_app.data.readers.csv import read_csv
from fedllm_app.data.readers.documents import read_document
from fedllm_app.data.readers.json import read_json
from fedllm_app.data.readers.text import COMPRESSIONS, TextFile

Reader = Callable[[Path, TextFormat, Notes], Located]

_FORMATS: dict[str, Reader] = {
    ".json": lambda path, given, notes: read_json(TextFile(path), False, given, notes),
    ".jsonl": lambda path, given, notes: read_json(TextFile(path), True, given, notes),
    ".ndjson": lambda path, given, notes: read_json(TextFile(path), True, given, notes),
    ".csv": lambda path, given, notes: read_csv(TextFile(path), ",", given, notes),
    ".tsv": lambda path, given, notes: read_csv(TextFile(path), "\t", given, notes),
    ".parquet": lambda path, given, notes: read_parquet(path),
    ".arrow": lambda path, given, notes: read_arrow(path),
}
_TABLES = (".parquet", ".arrow")  # compressed inside

_DOCUMENTS: dict[str, Reader] = {
    ".txt": lambda path, given, notes: read_document(TextFile(path), given, notes),
    ".md": lambda path, given, notes: read_document(TextFile(path), given, notes),
}

ENDINGS = f"{', '.join(_FORMATS)}; those of text also with {', '.join(COMPRESSIONS)} after them"
"""For messages: which endings are read, in capitals too."""

DOCUMENT_ENDINGS = ", ".join(_DOCUMENTS)
"""For messages: which endings are those of documents."""


def format_of(path: Path) -> str:
    """The ending that says which format a file has, without that of a compression; "" where it is not read."""
    ending, compression = _endings(path)
    return ending if ending in _FORMATS and not (compression and ending in _TABLES) else ""


def is_document(path: Path) -> bool:
    """Whether a file is one document, by its ending. Only continued pretraining reads documents."""
    return _endings(path)[0] in _DOCUMENTS


def _endings(path: Path) -> tuple[str, str]:
    """The ending of a file's name in small letters, and that of a compression after it, if there is one."""
    name = path.name.lower()
    compression = next((ending for ending in COMPRESSIONS if name.endswith(ending)), "")
    return Path(name.removesuffix(compression)).suffix, compression


def read_files(paths: Sequence[Path], given: TextFormat = FOUND, notes: Notes | None = None) -> Located:
    """Yield the rows of data files, one file after the other.

    Parameters
    ----------
    paths : Sequence[Path]
        Files with an ending of `ENDINGS` or `DOCUMENT_ENDINGS`.
    given : TextFormat
        What need not be found out about text files.
    notes : Notes | None
        Told how each file was read, before its first row.

    Raises
    ------
    UnreadableFile
        A file is missing, damaged as a whole, or not what its ending says.
    """
    import pyarrow as pa

    notes = {} if notes is None else notes
    for path in paths:
        try:
            yield from (_FORMATS | _DOCUMENTS)[_endings(path)[0]](path, given, notes)
        except (OSError, EOFError, zlib.error, lzma.LZMAError, pa.ArrowException, UnicodeDecodeError) as error:
            raise UnreadableFile(f"{path} cannot be read: {error}") from error
