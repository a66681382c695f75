"""Which files of a folder are read, and that the others are named."""

import os

import pytest

from fedllm_app.data.readers.base import UnreadableFile
from fedllm_app.data.readers.folders import AmbiguousSplit, files_of


@pytest.fixture
def folder(tmp_path):
    """A function that makes a folder of empty files."""

    def made(*names):
        for name in names:
            path = tmp_path / "set" / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.touch()
        return tmp_path / "set"

    return made


def chosen(folder, split=""):
    files = files_of(folder, split)
    return [str(path.relative_to(folder)) for path in files.read], files.left_out


@pytest.mark.parametrize(
    ("train", "others"),
    [
        (["my_train.jsonl"], ["my_test.jsonl"]),
        (["alpaca-train-v2.csv"], ["alpaca-dev-v2.csv", "alpaca-eval-v2.csv"]),
        (["data.training.jsonl"], ["data.validation.jsonl", "data.testing.jsonl"]),
        (["MY TRAIN.CSV"], ["MY TEST.CSV"]),
        (["x_train1.jsonl", "x_train2.jsonl"], ["x_test1.jsonl"]),
        (["trainset.jsonl"], ["testset.jsonl", "holdout.jsonl"]),
        (["en/training data/a.jsonl"], ["en/test data/a.jsonl"]),
        (["train/a.jsonl", "train/b.parquet"], ["TEST/a.jsonl"]),
        (["train-00000-of-00001.parquet"], ["data.jsonl"]),
        (["train.jsonl"], ["notes.xlsx", "more.parquet.gz"]),
    ],
)
def test_the_training_split_by_the_words_of_the_hub(train, others, folder):
    """Between any characters that are no letters, in file names and folder names, in capitals too."""
    assert chosen(folder(*train, *others)) == (train, sorted(others))


@pytest.mark.parametrize("name", ["contest.jsonl", "latest.jsonl", "constraint.jsonl", "evaluate.jsonl", "a.jsonl"])
def test_words_inside_words_are_no_split(name, folder):
    assert chosen(folder(name, "b.csv")) == (sorted([name, "b.csv"]), [])


@pytest.mark.parametrize(
    ("names", "told"),
    [
        (["my_test.jsonl", "my_dev.jsonl"], "the splits dev, test: name the one to read"),
        (["train_sft.jsonl", "train_prefs.jsonl"], "the splits train_prefs, train_sft"),
        (["train_test_mix.jsonl"], "train_test_mix.jsonl"),  # says two things
        (["test/train.jsonl"], "test/train.jsonl"),
        (["test.jsonl", "data.jsonl"], "the splits test and 1 files of none"),
    ],
)
def test_nothing_is_guessed_where_names_leave_it_open(names, told, folder):
    with pytest.raises(AmbiguousSplit, match=told):
        chosen(folder(*names))


@pytest.mark.parametrize(
    ("split", "read"),
    [
        ("test", ["my_test.jsonl"]),
        ("validation", ["my_dev.jsonl"]),  # the same split by another name
        ("dev", ["my_dev.jsonl"]),
        ("train", ["my_train.jsonl"]),
    ],
)
def test_a_split_that_is_named(split, read, folder):
    names = ["my_train.jsonl", "my_test.jsonl", "my_dev.jsonl"]
    assert chosen(folder(*names), split) == (read, sorted(set(names) - set(read)))


def test_a_file_that_says_two_things_is_read_by_its_name(folder):
    made = folder("train_test_mix.jsonl", "train.jsonl")
    assert chosen(made) == (["train.jsonl"], ["train_test_mix.jsonl"])
    assert chosen(made, "train_test_mix")[0] == ["train_test_mix.jsonl"]


def test_what_holds_no_rows_is_neither_read_nor_named(folder):
    """Descriptions that the Hub keeps beside the rows, among them JSON files, and what is hidden."""
    names = [
        "README.md",
        "dataset_info.json",
        "dataset_infos.json",
        "config.json",
        "LICENSE",
        ".cache/a.jsonl",
        ".b.csv",
    ]
    assert chosen(folder(*names, "a.jsonl", "cache-0123.arrow")) == (["a.jsonl"], [])


def test_a_folder_without_rows_says_what_it_holds(folder):
    with pytest.raises(UnreadableFile, match="no data file.* it holds notes.xlsx"):
        chosen(folder("notes.xlsx"))
    with pytest.raises(UnreadableFile, match="no files of split 'gold', only of: train"):
        chosen(folder("train.csv"), "gold")


def test_linked_folders_are_read_once(folder, tmp_path):
    made = folder("a/rows.jsonl")
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere" / "more.jsonl").touch()
    (made / "b").symlink_to(tmp_path / "elsewhere")
    (made / "a" / "round").symlink_to(made)
    assert chosen(made) == (["a/rows.jsonl", "b/more.jsonl"], [])


def test_a_folder_that_may_not_be_looked_into_is_not_passed_over(folder, monkeypatch):
    made, look = folder("a.jsonl", "secret/b.jsonl"), os.scandir

    def scandir(path):
        if str(path).endswith("secret"):
            raise PermissionError(13, "Permission denied", str(path))
        return look(path)

    monkeypatch.setattr(os, "scandir", scandir)
    with pytest.raises(UnreadableFile, match="secret cannot be looked into: Permission denied"):
        chosen(made)
