"""Tables: damage in buffers, values that Python cannot hold, and how much is read at a time."""

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from fedllm_app.data.errors import BadRow
from fedllm_app.data.readers.arrow import arrow_batches
from fedllm_app.data.readers.base import BATCH, UnreadableFile
from fedllm_app.data.readers.files import read_files


def write(table, path, kind="parquet"):
    if kind == "parquet":
        pq.write_table(table, path)
    else:
        with (pa.ipc.new_file if kind == "arrow" else pa.ipc.new_stream)(str(path), table.schema) as writer:
            writer.write_table(table)
    return path


def read(path):
    located = list(read_files([path]))
    good = [row for _, row in located if not isinstance(row, BadRow)]
    return good, {where: str(row) for where, row in located if isinstance(row, BadRow)}


@pytest.mark.parametrize("kind", ["arrow", "stream"])
def test_a_truncated_arrow_file_is_named(kind, tmp_path):
    """Two batches, cut where the second is."""
    path = write(pa.table({"a": [str(n) for n in range(2 * BATCH)]}), tmp_path / "rows.arrow", kind)
    path.write_bytes(path.read_bytes()[: path.stat().st_size * 3 // 5])
    with pytest.raises(UnreadableFile, match=r"rows.arrow cannot be read"):
        read(path)


@pytest.mark.parametrize("part", [0.0, 0.5, 0.9])
def test_a_truncated_parquet_file_is_named(part, tmp_path):
    path = write(pa.table({"a": [str(n) for n in range(100)]}), tmp_path / "rows.parquet")
    path.write_bytes(path.read_bytes()[: int(path.stat().st_size * part)])
    with pytest.raises(UnreadableFile, match="rows.parquet cannot be read"):
        read(path)


def test_damage_inside_an_arrow_file_is_named(tmp_path):
    """Text whose second value ends before it begins: read without a check, it gives rows that are not there."""
    offsets = np.array([0, 2, 1, 3], np.int32)
    column = pa.StringArray.from_buffers(3, pa.py_buffer(offsets), pa.py_buffer(b"abc"))
    with pytest.raises(UnreadableFile, match="rows.arrow cannot be read: .*offset"):
        read(write(pa.table({"a": column}), tmp_path / "rows.arrow", "stream"))


def test_large_batches_are_read_in_pieces(tmp_path):
    """One batch of 2 BATCH + 1 rows: no more than BATCH become Python objects at a time."""
    path = write(pa.table({"a": [str(n) for n in range(2 * BATCH + 1)]}), tmp_path / "rows.arrow", "arrow")
    assert [len(batch) for batch in arrow_batches(path)] == [BATCH, BATCH, 1]
    assert list(read_files([path]))[-1] == (f"rows.arrow row {2 * BATCH + 1}", {"a": str(2 * BATCH)})


@pytest.mark.parametrize("kind", ["parquet", "arrow", "stream"])
def test_broken_utf8_costs_one_row(kind, tmp_path):
    answers = pa.array([b"a", b"\xff", b"c"]).cast(pa.string(), safe=False)
    path = tmp_path / f"rows.{'parquet' if kind == 'parquet' else 'arrow'}"
    good, bad = read(write(pa.table({"q": ["x", "y", "z"], "answer": answers}), path, kind))
    assert good == [{"q": "x", "answer": "a"}, {"q": "z", "answer": "c"}]
    assert "column 'answer' holds broken UTF-8" in bad[f"{path.name} row 2"]


@pytest.mark.parametrize(
    "column",
    [
        pa.array([0, 2**60, 0], pa.timestamp("s")),  # far after the year 9999
        pa.array([0, 2**62, 0], pa.duration("s")),
        pa.array([0, 2**30, 0], pa.date32()),
    ],
)
def test_a_value_that_python_cannot_hold_costs_one_row(column, tmp_path):
    good, bad = read(write(pa.table({"when": column, "a": ["x", "y", "z"]}), tmp_path / "rows.arrow", "arrow"))
    assert [row["a"] for row in good] == ["x", "z"]
    assert "column 'when' holds a value that cannot be read" in bad["rows.arrow row 2"]


def test_a_column_that_stands_twice(tmp_path):
    """A dict would hold the second alone."""
    table = pa.table([pa.array(["a"]), pa.array(["b"])], names=["prompt", "prompt"])
    with pytest.raises(UnreadableFile, match="rows.arrow has column 'prompt' twice"):
        read(write(table, tmp_path / "rows.arrow", "arrow"))
