"""From the bytes of a file to its text: decompression, encoding, and where a byte is not text.

Bytes that are not text in the encoding pass through the parsers as surrogates (`errors="surrogateescape"`), so that
they spoil only the record they are in.
"""

from __future__ import annotations

import codecs
import io
import lzma
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from fedllm_app.data.errors import BadRow
from fedllm_app.data.readers.base import UnreadableFile

COMPRESSIONS = {".gz": "gzip", ".bz2": "bz2", ".zst": "zstd", ".xz": "xz"}
"""Endings of compressed text files."""

_BLOCK = 1 << 20
_HEAD = 1 << 16

_BOMS = (  # UTF-32 first: its mark begins like that of UTF-16
    (codecs.BOM_UTF8, "utf-8"),
    (codecs.BOM_UTF32_LE, "utf-32"),
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)
_OTHER_CONTENTS = (
    (b"\x1f\x8b", "compressed with gzip; let its name end in .gz"),
    (b"BZh", "compressed with bzip2; let its name end in .bz2"),
    (b"\xfd7zXZ\0", "compressed with xz; let its name end in .xz"),
    (b"\x28\xb5\x2f\xfd", "compressed with zstd; let its name end in .zst"),
    (b"PK\x03\x04", "a ZIP archive or an Excel workbook; unpack it, or export it as CSV"),
    (b"\xd0\xcf\x11\xe0", "an old Excel workbook; export it as CSV"),
    (b"PAR1", "a Parquet file; let its name end in .parquet"),
    (b"ARROW1", "an Arrow file; let its name end in .arrow"),
)
_SMUGGLED = re.compile("[\udc80-\udcff]")
_LONGER = re.compile("[^\x00-\x7f\udc80-\udcff]+")  # characters of more than one byte
_HIGH_RUN = re.compile("[\udc80-\udcff]{3,}")
_NO_TEXT = re.compile("[\x00-\x08\x0e-\x1f\udc81\udc8d\udc8f\udc90\udc9d]")  # no characters of cp1252


@dataclass(frozen=True)
class TextFile:
    """A text file, compressed or not."""

    path: Path

    def head(self) -> bytes:
        """The first bytes. `UnreadableFile` if they show that the file is not text."""
        with self._bytes() as file:
            head = file.read(_HEAD)
        for start, contents in _OTHER_CONTENTS:
            if head.startswith(start):
                raise UnreadableFile.of(self.path, f"is {contents}")
        return head

    @contextmanager
    def open(self, encoding: str, newline: str | None) -> Iterator[Iterator[str]]:
        """The lines of the file, ended as `newline` says (see `io.TextIOWrapper`), without a byte order mark."""
        with (
            self._bytes() as file,
            io.TextIOWrapper(file, encoding, errors="surrogateescape", newline=newline) as text,
        ):
            yield self._lines(text, encoding)

    def _lines(self, text: IO[str], encoding: str) -> Iterator[str]:
        number = 0
        try:
            for number, line in enumerate(text, 1):
                yield line.removeprefix("\ufeff") if number == 1 else line
        except UnicodeError:  # an encoding of two or four bytes a character has no way around a broken one
            raise UnreadableFile.of(
                self.path, f"holds bytes soon after line {number} that are not {shown(encoding)}"
            ) from None

    def _bytes(self) -> IO[bytes]:
        compression = COMPRESSIONS.get(self.path.suffix.lower())
        if compression is None:
            return open(self.path, "rb")
        if compression == "xz":
            return io.BufferedReader(_XzFile(self.path), _BLOCK)
        import pyarrow as pa

        # Unlike gzip and bz2 of the standard library, it refuses a file in which other bytes follow the data.
        return pa.input_stream(str(self.path), compression=compression)

    def encoding(self, given: str) -> str:
        """The encoding given, else that of the byte order mark or of the zeros between letters, else UTF-8."""
        head = self.head()
        return given or marked_encoding(head) or "utf-8"

    def found_encoding(self, given: str) -> tuple[str, bool]:
        """The encoding given, else the one that the bytes of the whole file suggest; and whether all of them fit it.

        A file is UTF-8 if all of it is, or if it has characters of more than one byte; other bytes beside them are
        damage. Otherwise it is cp1252, as Excel writes it in the West, if that gives text: there, letters beyond ASCII
        stand alone or in pairs, while other scripts have long runs of them.
        """
        head = self.head()
        known = given or marked_encoding(head)
        if known:
            return known, False
        if self._is_utf8():
            return "utf-8", True
        smuggled = longer = in_runs = 0
        no_text = False
        for text in self._decoded("surrogateescape"):
            smuggled += len(_SMUGGLED.findall(text))
            in_runs += sum(map(len, _HIGH_RUN.findall(text)))
            longer += len(text) - len(_LONGER.sub("", text))
            no_text = no_text or bool(_NO_TEXT.search(text))
        nonsense = no_text or 2 * in_runs > smuggled
        if longer >= smuggled or (longer and not nonsense):
            return "utf-8", False
        if nonsense:
            raise UnreadableFile.of(
                self.path,
                "is not UTF-8, and its bytes do not show which encoding it has: save it as UTF-8 or name "
                'the encoding, data.encoding = "gbk" for instance (at a site: encoding)',
            )
        return "cp1252", True

    def _is_utf8(self) -> bool:
        try:
            for _ in self._decoded("strict"):
                pass
        except UnicodeDecodeError:
            return False
        return True

    def _decoded(self, errors: str) -> Iterator[str]:
        """The contents as UTF-8, block by block."""
        decoder = codecs.getincrementaldecoder("utf-8")(errors)
        with self._bytes() as file:
            while block := file.read(_BLOCK):
                yield decoder.decode(block)
        yield decoder.decode(b"", final=True)


class _XzFile(io.RawIOBase):
    """The bytes of an .xz file, all its streams; `lzma.open` ignores damage after the first."""

    def __init__(self, path: Path) -> None:
        self._file = open(path, "rb")  # noqa: SIM115  closed with this file
        self._decompressor = lzma.LZMADecompressor()

    def readable(self) -> bool:
        return True

    def readinto(self, buffer) -> int:
        while True:
            if self._decompressor.eof:
                rest = (self._decompressor.unused_data or self._file.read(_BLOCK)).lstrip(b"\0")  # streams are padded
                if not rest:
                    return 0
                self._decompressor = lzma.LZMADecompressor()
                data = self._decompressor.decompress(rest, len(buffer))
            else:
                block = self._file.read(_BLOCK) if self._decompressor.needs_input else b""
                if not block and self._decompressor.needs_input:
                    raise EOFError("the compressed data ends in its middle")
                data = self._decompressor.decompress(block, len(buffer))
            if data:
                buffer[: len(data)] = data
                return len(data)

    def close(self) -> None:
        self._file.close()
        super().close()


def marked_encoding(head: bytes) -> str:
    """The encoding that the first bytes show, by a byte order mark or by zeros between letters; "" for none."""
    for mark, encoding in _BOMS:
        if head.startswith(mark):
            return encoding
    even, odd = head[:_HEAD:2], head[1:_HEAD:2]
    for first, second, encoding in ((even, odd, "utf-16-le"), (odd, even, "utf-16-be")):
        if second and first.count(0) * 20 < len(first) and second.count(0) * 2 > len(second):
            return encoding
    return ""


def shown(encoding: str) -> str:
    """The name of an encoding as people write it."""
    return encoding.upper() if encoding.startswith("utf") else encoding


def is_decoded(text: str) -> bool:
    """Whether all bytes of the text were valid in its encoding."""
    return text.isascii() or not _SMUGGLED.search(text)


def check_decoded(text: str, encoding: str) -> None:
    """Raise `BadRow` if bytes of the text were not valid in its encoding."""
    if not text.isascii() and (broken := _SMUGGLED.search(text)):
        byte, place = ord(broken.group()) - 0xDC00, broken.start() + 1
        raise BadRow(
            f"broken {shown(encoding)}: byte 0x{byte:02x} at position {place}; if the file has another encoding, name "
            "it (data.encoding)"
        )
