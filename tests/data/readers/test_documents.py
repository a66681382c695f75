"""Text files as documents: which files of a folder, and what is read of each."""

import json

import pytest

from fedllm_app.data.errors import BadRow
from fedllm_app.data.examples import Document
from fedllm_app.data.readers.base import UnreadableFile
from fedllm_app.data.readers.documents import read_text_files, text_files
from fedllm_app.data.readers.folders import AmbiguousSplit
from fedllm_app.data.sources import Columns, TooManyBadRows, open_source


def write(folder, files):
    for name, content in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return folder


def names(folder, split=""):
    return [str(path.relative_to(folder)) for path in text_files(folder, split)]


def documents(path, tmp_path, **options):
    source = open_source(str(path), rows="document", cache_dir=tmp_path / "cache", **options)
    return [row.text for row in source.examples(range(len(source)))]


def test_a_file_is_a_document(tmp_path):
    """Text as it stands but for the byte order mark and the ends of lines; capitals in the ending do not matter."""
    write(tmp_path / "notes", {"B.MD": b"\xef\xbb\xbf# Titl\xc3\xa9\r\n\r\ntext\r", "a.txt": "one\n\n two "})
    assert documents(tmp_path / "notes", tmp_path) == ["# Titlé\n\ntext\n", "one\n\n two "]
    assert documents(tmp_path / "notes" / "a.txt", tmp_path) == ["one\n\n two "]


def test_folders_below_count_and_hidden_files_do_not(tmp_path):
    write(tmp_path, {"a.txt": "a", "deep/er/b.md": "b", ".git/c.txt": "c", ".d.txt": "d", "e.pdf": "e"})
    assert names(tmp_path) == ["a.txt", "deep/er/b.md"]


def test_a_training_split_is_preferred(tmp_path):
    """The test text that lies beside the training text is never trained on."""
    files = {"train.txt": "a", "test.txt": "b", "valid.txt": "c"}
    assert names(write(tmp_path / "files", files)) == ["train.txt"]
    assert names(tmp_path / "files", "test") == ["test.txt"]
    assert names(write(tmp_path / "folders", {"train/1.txt": "a", "dev/1.txt": "b"})) == ["train/1.txt"]
    with pytest.raises(UnreadableFile, match="no document of split 'eval', only of: test, train, valid"):
        text_files(tmp_path / "files", "eval")


def test_a_note_that_is_called_like_a_split_hides_no_others(tmp_path):
    """Nobody knows whether train-timetable.md is a split of its own: nothing is left out in silence."""
    write(tmp_path, {"train-timetable.md": "a", "a.md": "b", "b.md": "c"})
    told = r"splits train, and 2 files of none: name the split .* folder of their own"
    with pytest.raises(AmbiguousSplit, match=told):
        text_files(tmp_path, "")


def test_tables_are_read_as_tables(tmp_path):
    """A README beside them is not a document; other text is not left out in silence."""
    row = json.dumps({"text": "from the table"})
    write(tmp_path / "set", {"rows.jsonl": row, "README.md": "about", "LICENSE.txt": "free"})
    assert text_files(tmp_path / "set", "") == []
    assert documents(tmp_path / "set", tmp_path) == ["from the table"]
    write(tmp_path / "set", {"more.txt": "b"})
    with pytest.raises(UnreadableFile, match="holds tables and 1 text files, the first is more.txt"):
        documents(tmp_path / "set", tmp_path)


def test_a_column_of_text(tmp_path):
    """CSV and JSONL; a column of another name is read where it is named."""
    write(tmp_path, {"a.csv": 'id,text\n1,"one\ntwo"\n2,three\n', "b.jsonl": json.dumps({"body": "four", "id": 7})})
    assert documents(tmp_path / "a.csv", tmp_path) == ["one\ntwo", "three"]
    assert documents(tmp_path / "b.jsonl", tmp_path, columns=Columns(text="body")) == ["four"]


def test_nothing_to_read(tmp_path):
    with pytest.raises(UnreadableFile, match=r"no document and no table; readable are .txt, .md, .* .jsonl"):
        text_files(write(tmp_path, {"a.pdf": "x"}), "")


def test_one_file_has_no_splits(tmp_path):
    with pytest.raises(UnreadableFile, match="'test' cannot be chosen"):
        text_files(write(tmp_path, {"a.txt": "x"}) / "a.txt", "test")


def test_a_text_file_is_a_document_only(tmp_path):
    """For instruction tuning it is no data file."""
    write(tmp_path, {"a.txt": "x"})
    with pytest.raises(UnreadableFile, match="no ending that says how to read it"):
        open_source(str(tmp_path / "a.txt"), rows="example", cache_dir=tmp_path / "cache")


def test_bad_documents_are_counted_and_named_without_their_text(tmp_path):
    """One of UTF-16 and an empty one beside a good one."""
    write(tmp_path / "notes", {"a.txt": "good", "b.txt": b"line\n\xff\xfes\x00", "c.txt": " \n"})
    located = list(read_text_files(text_files(tmp_path / "notes", "")))
    assert located[0] == ("a.txt", {"text": "good"})
    assert located[1][0] == "b.txt"
    assert isinstance(located[1][1], BadRow)
    assert str(located[1][1]) == "broken UTF-8 in line 2; save it as UTF-8"
    with pytest.raises(TooManyBadRows) as told:
        documents(tmp_path / "notes", tmp_path)
    assert "2 of 3 rows" in str(told.value)
    assert "b.txt: broken UTF-8 in line 2" in str(told.value)
    assert "c.txt: column 'text' is empty" in str(told.value)
    assert documents(tmp_path / "notes", tmp_path, max_bad_share=0.7) == ["good"]


def test_a_changed_file_is_read_again(tmp_path):
    write(tmp_path / "notes", {"a.txt": "old"})
    assert documents(tmp_path / "notes", tmp_path) == ["old"]
    write(tmp_path / "notes", {"a.txt": "older", "b.txt": "new"})
    assert documents(tmp_path / "notes", tmp_path) == ["older", "new"]


def test_rows_are_documents(tmp_path):
    write(tmp_path, {"a.txt": "x"})
    source = open_source(str(tmp_path / "a.txt"), rows="document", cache_dir=tmp_path / "cache")
    assert list(source.examples([0])) == [Document("x")]
    assert source.schema == "text"
