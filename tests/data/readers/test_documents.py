"""Text files as documents: which files of a folder, and what is read of each."""

import gzip
import json

import pytest

from fedllm_app.data.examples import Document
from fedllm_app.data.origins import DataNotFound
from fedllm_app.data.readers.base import TextFormat, UnreadableFile
from fedllm_app.data.readers.folders import AmbiguousSplit, documents_of
from fedllm_app.data.schemas import Columns
from fedllm_app.data.sources import TooManyBadRows, open_source


def write(folder, files):
    for name, content in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return folder


def chosen(folder, split=""):
    files = documents_of(folder, split)
    return [str(path.relative_to(folder)) for path in files.read], files.left_out


def opened(path, tmp_path, **options):
    return open_source(str(path), rows="document", cache_dir=tmp_path / "cache", **options)


def documents(path, tmp_path, **options):
    source = opened(path, tmp_path, **options)
    return [row.text for row in source.examples(range(len(source)))]


def test_a_file_is_a_document(tmp_path):
    """Text as it stands but for the byte order mark and the ends of lines; capitals in the ending do not matter."""
    write(tmp_path / "notes", {"B.MD": b"\xef\xbb\xbf# Titl\xc3\xa9\r\n\r\ntext\r", "a.txt": "one\n\n two "})
    assert documents(tmp_path / "notes", tmp_path) == ["# Titlé\n\ntext\n", "one\n\n two "]
    source = opened(tmp_path / "notes" / "a.txt", tmp_path)
    assert list(source.examples([0])) == [Document("one\n\n two ")]
    assert source.schema == "text"
    assert "columns read: text as text" in source.notes()


def test_other_encodings_and_compressed_files(tmp_path):
    """UTF-16 by its mark, cp1252 where that makes text of it, what is named; the notes say which it was."""
    write(tmp_path, {"a.txt": "Größe".encode("utf-16"), "b.txt": b"Gr\xf6\xdfe", "c.txt.gz": gzip.compress(b"packed")})
    assert [documents(tmp_path / name, tmp_path) for name in ("a.txt", "b.txt", "c.txt.gz")] == [
        ["Größe"],
        ["Größe"],
        ["packed"],
    ]
    assert "b.txt: a document, cp1252" in opened(tmp_path / "b.txt", tmp_path).notes()
    write(tmp_path, {"d.txt": "Größe".encode("cp437")})
    assert documents(tmp_path / "d.txt", tmp_path, text_format=TextFormat(encoding="cp437")) == ["Größe"]


def test_folders_below_count_and_other_files_are_named(tmp_path):
    write(tmp_path, {"a.txt": "a", "deep/er/b.md": "b", ".git/c.txt": "c", ".d.txt": "d", "e.pdf": "e"})
    assert chosen(tmp_path) == (["a.txt", "deep/er/b.md"], ["e.pdf"])


@pytest.mark.parametrize(
    ("train", "others"),
    [
        (["train.txt"], ["test.txt", "valid.txt"]),
        (["wiki.train.md"], ["wiki.test.md", "wiki.valid.md"]),
        (["train-00000-of-00002.txt", "train-00001-of-00002.txt"], ["test-00000-of-00001.txt"]),
        (["train/1.txt", "train/test-plan.txt"], ["dev/1.txt"]),
    ],
)
def test_a_training_split_is_preferred_and_the_others_are_named(tmp_path, train, others):
    """The test text that lies beside the training text is never trained on."""
    write(tmp_path, dict.fromkeys([*train, *others], "text"))
    assert chosen(tmp_path) == (sorted(train), sorted(others))


def test_a_split_is_chosen(tmp_path):
    write(tmp_path, {"train.txt": "a", "test.txt": "b"})
    assert chosen(tmp_path, "test") == (["test.txt"], ["train.txt"])
    with pytest.raises(UnreadableFile, match="no files of split 'dev', only of: test, train"):
        documents_of(tmp_path, "dev")


def test_notes_about_tests_and_training_are_documents(tmp_path):
    """Only a whole part of a name is a split."""
    names = ["a.md", "my training.md", "test results 2025.txt", "test-plan.md", "trainer.txt"]
    write(tmp_path, dict.fromkeys(names, "text"))
    assert chosen(tmp_path) == (names, [])


def test_a_note_that_is_called_like_a_split_hides_no_others(tmp_path):
    """Of train.md, a.md and b.md nobody knows whether the first is a split: nothing is chosen in silence."""
    write(tmp_path, {"train.md": "a", "a.md": "b", "b.md": "c"})
    with pytest.raises(AmbiguousSplit, match=r"splits train and 2 of none: name the split .* folder of their own"):
        documents_of(tmp_path, "")


def test_tables_are_read_as_tables(tmp_path):
    """Text beside them is named as not read; a README is expected there."""
    row = json.dumps({"text": "from the table"})
    write(tmp_path / "set", {"rows.jsonl": row, "README.md": "about", "LICENSE.txt": "free", "a.txt": "b", "c.md": "d"})
    assert documents(tmp_path / "set", tmp_path) == ["from the table"]
    assert "files not read: a.txt, c.md" in opened(tmp_path / "set", tmp_path).notes()


def test_a_column_of_text(tmp_path):
    """CSV and JSONL; a column of another name is read where it is named."""
    write(tmp_path, {"a.csv": 'id,text\n1,"one\ntwo"\n2,three\n', "b.jsonl": json.dumps({"body": "four", "id": 7})})
    assert documents(tmp_path / "a.csv", tmp_path) == ["one\ntwo", "three"]
    assert documents(tmp_path / "b.jsonl", tmp_path, columns=Columns(text="body")) == ["four"]


def test_nothing_to_read(tmp_path):
    write(tmp_path, {"a.pdf": "x"})
    with pytest.raises(
        UnreadableFile, match=r"holds no document \(.txt, .md\) and no table \(.json, .*; it holds a.pdf"
    ):
        documents_of(tmp_path, "")
    with pytest.raises(UnreadableFile, match=r"no ending that says how to read it; .* documents: .txt, .md"):
        opened(tmp_path / "a.pdf", tmp_path)


def test_one_file_has_no_splits(tmp_path):
    write(tmp_path, {"a.txt": "x"})
    with pytest.raises(DataNotFound, match="'test' cannot be chosen"):
        opened(tmp_path / "a.txt", tmp_path, split="test")


def test_a_relative_path_is_told_as_one(tmp_path):
    with pytest.raises(DataNotFound, match="'notes.md' is a relative path"):
        opened("notes.md", tmp_path)


def test_a_text_file_is_a_document_only(tmp_path):
    """For instruction tuning it is no data file, and in a folder of tables it is named as not read."""
    write(tmp_path, {"a.txt": "x"})
    with pytest.raises(UnreadableFile, match="one text and no table of rows; train.task = 'text'"):
        open_source(str(tmp_path / "a.txt"), rows="example", cache_dir=tmp_path / "cache")


def test_bad_documents_are_counted_and_named_without_their_text(tmp_path):
    """One with a broken byte, one that is no text in any encoding and an empty one, beside a good one."""
    broken, binary = "schön\n".encode() + b"secret \xff", bytes(range(256))
    write(tmp_path / "notes", {"a.txt": "good", "b.txt": broken, "c.txt": binary, "d.txt": " \n"})
    with pytest.raises(TooManyBadRows) as told:
        documents(tmp_path / "notes", tmp_path)
    assert "3 of 4 rows" in str(told.value)
    for line in (
        "b.txt: broken UTF-8: byte 0xff at position 14",
        "c.txt: ",
        "d.txt: column 'text' is empty",
    ):
        assert line in str(told.value)
    assert "secret" not in str(told.value)
    assert documents(tmp_path / "notes", tmp_path, max_bad_share=0.8) == ["good"]


def test_a_changed_file_is_read_again(tmp_path):
    write(tmp_path / "notes", {"a.txt": "old"})
    assert documents(tmp_path / "notes", tmp_path) == ["old"]
    write(tmp_path / "notes", {"a.txt": "older", "b.txt": "new"})
    assert documents(tmp_path / "notes", tmp_path) == ["older", "new"]
