"""Finding the rows of a set by its name, and telling a changed file from the one before."""

import json
import os

import numpy as np
import pyarrow as pa
import pytest

from fedllm_app.data import origins
from fedllm_app.data.origins import DataNotFound, locate, stamps
from fedllm_app.data.readers.base import FOUND, UnreadableFile
from fedllm_app.data.sources import open_source


@pytest.fixture
def cache(tmp_path):
    return tmp_path / "cache"


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("rows.jsonl", "relative path"),
        ("data/rows.jsonl", "relative path"),
        ("./data", "relative path"),
        ("~/data", "relative path"),
        ("a/b/c", "relative path"),
        ("alpacca", "Did you mean 'alpaca'"),
        ("hh-rlhf", "has pair rows, and the task needs example rows"),
        ("/no/such/folder", "no file or folder"),
    ],
)
def test_names_that_lead_nowhere(name, reason, cache):
    with pytest.raises(DataNotFound, match=reason):
        open_source(name, rows="example", cache_dir=cache)


def test_unreachable_hub_says_how_to_use_a_local_copy(cache, monkeypatch):
    import datasets

    def load_dataset(*args, **kwargs):
        raise ConnectionError("no route")

    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    with pytest.raises(DataNotFound, match='tatsu-lab/alpaca.*no route.*data.name = "/absolute/path'):
        open_source("alpaca", rows="example", cache_dir=cache)


def save(folder, splits=("train",)):
    import datasets

    rows = datasets.Dataset.from_dict({"prompt": ["x"], "completion": ["y"]})
    if len(splits) == 1:
        rows.save_to_disk(folder)
    else:
        datasets.DatasetDict(dict.fromkeys(splits, rows)).save_to_disk(folder)
    return folder


def test_damage_inside_a_saved_dataset_is_named(tmp_path, cache):
    """Text whose second value ends before it begins: read without a check, it gives rows that are not there."""
    column = pa.StringArray.from_buffers(3, pa.py_buffer(np.array([0, 2, 1, 3], np.int32)), pa.py_buffer(b"abc"))
    table = pa.table({"prompt": ["x", "y", "z"], "completion": column})
    save(tmp_path / "saved")
    with pa.ipc.new_stream(str(tmp_path / "saved" / "data-00000-of-00001.arrow"), table.schema) as writer:
        writer.write_table(table)
    with pytest.raises(UnreadableFile, match="saved cannot be read as a saved dataset: .*offset"):
        open_source(str(tmp_path / "saved"), rows="example", cache_dir=cache)


@pytest.mark.parametrize("state", ["{oops", "[]", "{}"])
def test_a_damaged_description_of_a_saved_dataset_is_named(state, tmp_path, cache):
    (save(tmp_path / "saved") / "state.json").write_text(state)
    with pytest.raises(UnreadableFile, match="saved cannot be read as a saved dataset"):
        open_source(str(tmp_path / "saved"), rows="example", cache_dir=cache)
    (save(tmp_path / "splits", ("train", "test")) / "dataset_dict.json").write_text(state)
    with pytest.raises(UnreadableFile, match="dataset_dict.json is damaged"):
        open_source(str(tmp_path / "splits"), rows="example", cache_dir=cache)


def test_splits_beside_the_one_that_is_read_are_named(tmp_path):
    folder = str(save(tmp_path / "splits", ("train", "dev", "test")))
    assert locate(folder, "example", "", FOUND).left_out == ("split dev", "split test")
    assert locate(folder, "example", "dev", FOUND).left_out == ("split train", "split test")


def test_a_link_to_nowhere_is_named(tmp_path):
    (tmp_path / "set").mkdir()
    (tmp_path / "set" / "rows.jsonl").symlink_to(tmp_path / "gone.jsonl")
    with pytest.raises(UnreadableFile, match="rows.jsonl cannot be read: No such file"):
        locate(str(tmp_path / "set"), "example", "", FOUND)


def rewrite(path, content):
    """Change a file and leave its size and the time of its last change."""
    status = path.stat()
    path.write_bytes(content)
    assert path.stat().st_size == status.st_size
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))


def test_a_small_file_is_told_by_its_contents(tmp_path):
    path = tmp_path / "rows.jsonl"
    path.write_bytes(b"one")
    before = stamps([path])
    os.utime(path, ns=(1, 1))
    assert stamps([path]) == before
    rewrite(path, b"two")
    assert stamps([path]) != before


@pytest.mark.parametrize("place", [0, 777, 2047])
def test_a_large_file_is_told_by_pieces_and_by_the_time_of_its_inode(place, tmp_path, monkeypatch):
    """64 pieces of 4 bytes among 2,048 begin at 2,044 n / 63. The byte at 777 lies between those of n = 23, from 746
    on, and n = 24, from 778 on: only the time of the inode tells."""
    monkeypatch.setattr(origins, "_HASHED_WHOLE", 100)
    monkeypatch.setattr(origins, "_PIECE", 4)
    path = tmp_path / "rows.jsonl"
    path.write_bytes(bytes(2048))
    before = stamps([path])
    assert stamps([path]) == before
    changed = bytearray(2048)
    changed[place] = 1
    rewrite(path, bytes(changed))
    assert stamps([path]) != before


def test_rows_of_a_changed_file_are_not_taken_from_the_cache(tmp_path, cache):
    path = tmp_path / "rows.jsonl"

    def content(answer):
        return json.dumps({"prompt": "q", "completion": answer}).encode() + b"\n"

    path.write_bytes(content("a"))
    first = open_source(str(path), rows="example", cache_dir=cache)
    rewrite(path, content("b"))
    second = open_source(str(path), rows="example", cache_dir=cache)
    assert [next(source.examples([0])).completion for source in (first, second)] == ["a", "b"]
