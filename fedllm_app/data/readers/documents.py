"""Text files as documents for continued pretraining: each file is one row, with its content in the column `text`."""

from __future__ import annotations

from fedllm_app.data.errors import BadRow
from fedllm_app.data.readers.base import Located, Notes, TextFormat, UnreadableFile, note
from fedllm_app.data.readers.text import TextFile, check_decoded, shown

COLUMN = "text"


def read_document(file: TextFile, text_format: TextFormat, notes: Notes) -> Located:
    r"""Yield the file as one row, with `\n` for the ends of lines and without a byte order mark."""
    try:
        encoding, sound = file.found_encoding(text_format.encoding)
        with file.open(encoding, None) as lines:
            text = "".join(lines)
        if not sound:
            check_decoded(text, encoding)
    except (BadRow, UnreadableFile) as error:  # of a whole file, which is one row here
        row: dict[str, str] | BadRow = BadRow(str(error))
    else:
        note(notes, f"a document, {shown(encoding)}", file.path.name)
        row = {COLUMN: text}
    yield file.path.name, row
