"""Compressed files, and files whose contents are not what their names say."""

import bz2
import gzip
import lzma

import pyarrow as pa
import pytest

from fedllm_app.data.readers.base import TextFormat, UnreadableFile
from fedllm_app.data.readers.files import format_of, read_files

LINES = b"".join(b'{"prompt": "%d", "completion": "a"}\n' % number for number in range(20_000))

PACK = {
    "gz": gzip.compress,
    "bz2": bz2.compress,
    "xz": lzma.compress,
    "zst": lambda data: pa.compress(data, "zstd", asbytes=True),
}


@pytest.fixture(params=PACK)
def packed(request, tmp_path):
    """A path with the ending of a compression, and its function."""
    return tmp_path / f"rows.jsonl.{request.param}", PACK[request.param]


def count(path):
    return sum(1 for _ in read_files([path]))


def test_every_compression_is_read(packed):
    path, pack = packed
    path.write_bytes(pack(LINES))
    assert count(path) == 20_000


def test_parts_packed_one_after_the_other_are_read_to_the_end(packed):
    """As `cat a.gz b.gz` makes them."""
    path, pack = packed
    path.write_bytes(pack(LINES) + pack(LINES))
    assert count(path) == 40_000


@pytest.mark.parametrize("damage", ["half", "junk behind", "no such data", "a broken second part"])
def test_damage_of_a_packed_file_is_never_fewer_rows(damage, packed):
    path, pack = packed
    whole = pack(LINES)
    broken = bytearray(whole)
    broken[0] ^= 255
    contents = {
        "half": whole[: len(whole) // 2],
        "junk behind": whole + b"junk" * 10,
        "no such data": b"junk" * 10,
        "a broken second part": whole + bytes(broken),
    }
    path.write_bytes(contents[damage])
    with pytest.raises(UnreadableFile, match="rows.jsonl.* cannot be read"):
        count(path)


def test_csv_is_read_from_packed_files_too(tmp_path):
    (tmp_path / "rows.CSV.XZ").write_bytes(lzma.compress("prompt;completion\nü;a\n".encode("cp1252")))
    assert [row for _, row in read_files([tmp_path / "rows.CSV.XZ"])] == [{"prompt": "ü", "completion": "a"}]


@pytest.mark.parametrize(
    ("content", "told"),
    [
        (gzip.compress(LINES), "compressed with gzip; let its name end in .gz"),
        (pa.compress(LINES, "zstd", asbytes=True), "let its name end in .zst"),
        (b"PK\x03\x04" + bytes(100), "Excel workbook; unpack it, or export it as CSV"),
        (b"PAR1" + bytes(100), "let its name end in .parquet"),
    ],
)
@pytest.mark.parametrize("name", ["rows.csv", "rows.jsonl"])
def test_other_contents_than_the_name_says(content, told, name, tmp_path):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(UnreadableFile, match=told):
        count(tmp_path / name)


def test_broken_utf16_is_refused_with_the_line_before_it(tmp_path):
    """Half a surrogate pair."""
    good = "".join('{"prompt": "q", "completion": "a"}\n' for _ in range(3)).encode("utf-16")
    (tmp_path / "rows.jsonl").write_bytes(good + b"\x00\xd8\x41\x00" + good[2:])
    with pytest.raises(UnreadableFile, match="not UTF-16"):
        count(tmp_path / "rows.jsonl")


@pytest.mark.parametrize(
    ("name", "form"),
    [
        ("a.JSONL", ".jsonl"),
        ("a.Csv.GZ", ".csv"),
        ("a.ndjson.zst", ".ndjson"),
        ("a.b.parquet", ".parquet"),
        ("a.parquet.gz", ""),
        ("a.xlsx", ""),
        ("csv", ""),
    ],
)
def test_formats_by_ending(name, form, tmp_path):
    assert format_of(tmp_path / name) == form


@pytest.mark.parametrize(
    ("given", "wrong"),
    [
        ({"delimiter": ";", "encoding": "latin-1"}, []),
        ({"delimiter": "tab"}, []),
        ({"delimiter": ";;"}, ["delimiter"]),
        ({"delimiter": '"'}, ["delimiter"]),
        ({"encoding": "utf-99"}, ["encoding"]),
        ({"encoding": "base64"}, ["encoding"]),  # from bytes to bytes
    ],
)
def test_text_formats(given, wrong):
    assert list(TextFormat(**given).problems()) == wrong
