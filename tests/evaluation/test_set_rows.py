"""Where the rows of test sets are found and how they are read, from small files in every layout."""

import bz2
import csv
import gzip
import json
import time
from dataclasses import replace
from pathlib import Path

import pytest
from places import SHARED_DATA

from fedllm_app.data.errors import DataError
from fedllm_app.errors import UserError
from fedllm_app.evaluation import hub_rows
from fedllm_app.evaluation.set_rows import MissingSets, SetNotFound, find_files, open_all, open_rows
from fedllm_app.evaluation.suite import EvaluationTask, Generate, TestSet, each

MMLU = TestSet("mmlu", "cais/mmlu", "test", 4, "MIT")


@pytest.fixture(autouse=True)
def no_hub(monkeypatch):
    """HF_HUB_OFFLINE, and a cache that holds nothing."""
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)


@pytest.fixture
def write(tmp_path):
    """Write files below `tmp_path`, by path: rows as the ending says, or bytes."""

    def put(files: dict[str, list[dict] | bytes | str]) -> Path:
        for name, rows in files.items():
            path = tmp_path / name
            path.parent.mkdir(parents=True, exist_ok=True)
            _write(path, rows)
        return tmp_path

    return put


def _write(path: Path, rows) -> None:
    if isinstance(rows, bytes):
        path.write_bytes(rows)
    elif isinstance(rows, str):
        path.write_text(rows, encoding="utf-8")
    elif path.suffix == ".parquet":
        import pyarrow as pa
        import pyarrow.parquet as pq

        pq.write_table(pa.Table.from_pylist(rows), path)
    elif path.suffix == ".csv":
        with open(path, "w", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, list(rows[0]))
            writer.writeheader()
            writer.writerows(rows)
    else:
        path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")


def task(test: TestSet, shots: TestSet | None = None, name: str = "") -> EvaluationTask:
    return EvaluationTask(
        name or test.name, test, lambda rows, _shots: [], Generate(1), each(None), (), "no rule", shots=shots
    )


def subsets(test: TestSet, folder: Path) -> list[tuple[str, str]]:
    """What each row asks, and its subset."""
    return [(row["q"], row["subset"]) for row in open_rows(test, folder)]


A, B, OTHER = [{"q": "a"}], [{"q": "b"}], [{"q": "not asked"}]


@pytest.mark.parametrize(
    ("files", "expected"),
    [
        ({"mmlu/test.jsonl": A, "mmlu/train.jsonl": OTHER, "mmlu/dev.jsonl": OTHER}, [("a", "")]),
        ({"mmlu/test-00000-of-00002.parquet": A, "mmlu/test-00001-of-00002.parquet": B}, [("a", ""), ("b", "")]),
        ({"mmlu/data/test-00000-of-00001.parquet": A, "mmlu/data/train-00000-of-00001.parquet": OTHER}, [("a", "")]),
        (
            {"mmlu/anatomy_test.csv": A, "mmlu/law_test.csv": B, "mmlu/law_dev.csv": OTHER},
            [("a", "anatomy"), ("b", "law")],
        ),
        (
            {"mmlu/test/anatomy.csv": A, "mmlu/test/law.csv": B, "mmlu/val/law.csv": OTHER},
            [("a", "anatomy"), ("b", "law")],
        ),
        ({"mmlu/test/anatomy_test.csv": A, "mmlu/dev/anatomy_dev.csv": OTHER}, [("a", "anatomy")]),
        ({"mmlu/anatomy/test-00000-of-00001.parquet": A, "mmlu/law/test.jsonl": B}, [("a", "anatomy"), ("b", "law")]),
        ({"mmlu/anatomy.jsonl": A, "mmlu/law.jsonl": B}, [("a", "anatomy"), ("b", "law")]),
        ({"MMLU/questions.jsonl": A}, [("a", "questions")]),
        ({"mmlu.jsonl": A}, [("a", "")]),
        ({"Mmlu.jsonl.gz": gzip.compress(b'{"q": "a"}\n')}, [("a", "")]),
        ({"mmlu.csv.bz2": bz2.compress(b"q\na\n")}, [("a", "")]),
        ({"mmlu/test.jsonl": A, "mmlu.jsonl": OTHER}, [("a", "")]),  # the folder comes before the file
    ],
)
def test_every_layout_by_the_name_of_the_set(files, expected, write):
    assert subsets(MMLU, write(files)) == expected


def test_names_compare_without_capitals_and_hyphens_are_underscores(write):
    folder = write({"HH_RLHF/Test.jsonl": A})
    assert [path.name for path in find_files(replace(MMLU, name="hh-rlhf"), folder)] == ["Test.jsonl"]


def test_a_validation_split_has_its_other_names(write):
    """MedMCQA is published as dev.json; the split on the Hub is called validation."""
    folder = write({"mmlu/dev.jsonl": A, "mmlu/test.jsonl": OTHER})
    assert subsets(replace(MMLU, split="validation"), folder) == [("a", "")]


def test_joined_splits_are_the_files_of_each(write):
    folder = write({"mmlu/test.jsonl": B, "mmlu/train.jsonl": A})
    assert subsets(replace(MMLU, split="train+test"), folder) == [("a", ""), ("b", "")]


def test_files_of_another_split_are_not_taken(write):
    """A folder of training rows only is no test set, and the error says what it holds."""
    folder = write({"mmlu/train.jsonl": OTHER, "mmlu/extra.jsonl": OTHER})
    assert find_files(MMLU, folder) == []
    with pytest.raises(SetNotFound, match="no files of split 'test', only of: train"):
        open_rows(MMLU, folder)
    with pytest.raises(SetNotFound):
        open_rows(MMLU, write({"mmlu/validation.jsonl": OTHER, "mmlu/train.jsonl": OTHER}))


def test_patterns_come_first_and_the_first_that_fits_counts(write):
    test = replace(MMLU, files=("finance/no.jsonl", "finance/fpb.jsonl", "fpb.jsonl"))
    folder = write({"Finance/FPB.jsonl": A, "fpb.jsonl": OTHER, "mmlu/test.jsonl": OTHER})
    assert subsets(test, folder) == [("a", "FPB")]
    assert subsets(replace(test, name="fpb"), folder) == [("a", "")]


def test_a_pattern_with_wild_cards_tells_subsets_and_a_folder_is_read_as_one(write):
    folder = write({"hendrycks/law/test.jsonl": B, "hendrycks/anatomy/test.jsonl": A, "hendrycks/law/dev.jsonl": OTHER})
    expected = [("a", "anatomy"), ("b", "law")]
    assert subsets(replace(MMLU, files=("hendrycks/*/test.jsonl",)), folder) == expected
    assert subsets(replace(MMLU, files=("hendrycks",)), folder) == expected


def test_of_subsets_those_of_the_configurations_are_read_in_their_order(write):
    """As the Hub gives them; "all" lies beside them in MMLU's repository and would ask everything twice."""
    folder = write({f"mmlu/{name}/test.jsonl": [{"q": name}] for name in ("all", "anatomy", "high_school_law", "z")})
    test = replace(MMLU, configs=("high-school-law", "anatomy"))
    assert subsets(test, folder) == [("high_school_law", "high_school_law"), ("anatomy", "anatomy")]


def test_saved_datasets_are_read_whole_or_by_split(tmp_path):
    import datasets

    parts = {"test": datasets.Dataset.from_list(A + B), "train": datasets.Dataset.from_list(OTHER)}
    datasets.DatasetDict(parts).save_to_disk(tmp_path / "dict" / "mmlu")
    parts["test"].save_to_disk(tmp_path / "one" / "mmlu")
    datasets.DatasetDict(parts).save_to_disk(tmp_path / "configs" / "mmlu" / "law")
    assert subsets(MMLU, tmp_path / "dict") == subsets(MMLU, tmp_path / "one") == [("a", ""), ("b", "")]
    assert subsets(MMLU, tmp_path / "configs") == [("a", "law"), ("b", "law")]


def test_json_objects_of_rows_by_id_and_below_examples(write):
    """As PubMedQA and BIG-Bench Hard are published."""
    folder = write(
        {
            "pubmedqa/ori_pqal.json": json.dumps({"11": {"q": "a"}, "12": {"q": "b"}}, indent=1),
            "bbh/snarks.json": json.dumps({"canary": "x", "examples": A + B}),
        }
    )
    assert open_rows(replace(MMLU, name="pubmedqa", files=("pubmedqa/ori_pqal.json",)), folder) == [
        {"id": "11", "q": "a", "subset": "ori_pqal"},
        {"id": "12", "q": "b", "subset": "ori_pqal"},
    ]
    assert subsets(replace(MMLU, name="bbh"), folder) == [("a", "snarks"), ("b", "snarks")]


def test_a_subset_that_rows_have_stays(write):
    """All subjects in one file of JSON lines."""
    folder = write({"mmlu/test.jsonl": [{"q": "a", "subset": "law"}, {"q": "b", "subset": ""}]})
    assert subsets(MMLU, folder) == [("a", "law"), ("b", "")]


def test_a_format_of_its_own_is_read_by_the_set(write):
    """MMLU's own CSV files have no line of column names."""

    def read(path: Path) -> list[dict]:
        return [{"q": cells[0], "a": cells[1]} for cells in csv.reader(path.read_text().splitlines())]

    folder = write({"mmlu/test/anatomy_test.csv": "a,1\nb,2\n"})
    assert open_rows(replace(MMLU, read=read), folder) == [
        {"q": "a", "a": "1", "subset": "anatomy"},
        {"q": "b", "a": "2", "subset": "anatomy"},
    ]
    write({"mmlu/test/anatomy_test.csv": "only\n"})
    with pytest.raises(DataError, match=r"mmlu: .*anatomy_test.csv is not in the format of this set \(IndexError"):
        open_rows(replace(MMLU, read=read), folder)


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ({"mmlu.jsonl": b'{"q": "a"}\n{"q": \n'}, "mmlu: mmlu.jsonl line 2: broken JSON"),
        ({"mmlu/test.csv": A, "mmlu/test.jsonl": A}, "the same rows in two formats"),
        ({"mmlu.csv": A, "mmlu.jsonl": A}, "the same rows in two formats"),
        ({"mmlu.jsonl": b""}, "mmlu: no row in /.*mmlu.jsonl"),
        ({"mmlu.parquet": b"no table"}, "mmlu.parquet cannot be read"),
    ],
)
def test_a_set_is_asked_whole_or_not_at_all(files, message, write):
    with pytest.raises(DataError, match=message):
        open_rows(MMLU, write(files))


def test_rows_that_the_app_makes_are_looked_for_nowhere(write):
    test = replace(MMLU, rows=lambda: [{"q": "made"}])
    assert open_rows(test, write({"mmlu.jsonl": OTHER})) == [{"q": "made"}]
    assert open_rows(test, None) == [{"q": "made"}]


def test_all_that_is_missing_or_damaged_is_named_at_once(write):
    """Two are missing, one is damaged, one is there; what is damaged is not told as missing."""
    folder = write({"mmlu.jsonl": A, "broken.jsonl": b"{\n"})
    hub = TestSet(
        "drop",
        "ucinlp/drop",
        "validation",
        9,
        "CC",
        configs=("one", "two"),
        files=("drop/a_name_longer_than_what_an_error_shows_of_values.json",),
    )
    site = TestSet("crass", "", "", 9, "Apache-2.0", url="https://example.org/crass.csv")
    with pytest.raises(MissingSets) as error:
        open_all([task(MMLU), task(hub), task(site), task(replace(MMLU, name="broken"))], folder)
    text = str(error.value)
    assert text.startswith("3 test sets cannot be opened:")
    for part in (
        f"drop: not in {folder} (drop/a_name_longer_than_what_an_error_shows_of_values.json, drop/, drop.<ending>)",
        "get it from https://huggingface.co/datasets/ucinlp/drop, configurations one, two, split validation",
        "the Hub cannot be reached, and its cache does not hold it",
        f"crass: not in {folder} (crass/, crass.<ending>); it is not on the Hub; get it from https://example.org/crass",
        "broken: broken.jsonl line 1: broken JSON",
        "Readable: .json, ",
    ):
        assert part in text
    assert "mmlu:" not in text
    with pytest.raises(MissingSets, match="1 test set cannot be opened:\n  crass: without --data-dir"):
        open_all([task(site)], None)


def test_a_folder_that_is_not_there_is_an_error_of_its_own(tmp_path):
    with pytest.raises(UserError, match="--data-dir .*nowhere: there is no such folder"):
        open_all([task(MMLU)], tmp_path / "nowhere")


def test_missing_shots_are_a_note_and_damaged_ones_an_error(write):
    """Notes also say what a local copy lacks: 1 of 4 rows."""
    shots = replace(MMLU, name="mmlu-dev")
    folder = write({"mmlu.jsonl": A})
    opened = open_all([task(MMLU, shots)], folder)
    assert opened.rows == {"mmlu": [{"q": "a", "subset": ""}]}
    assert opened.notes == {"mmlu": "mmlu: 1 of the 4 published rows; asked without 'mmlu-dev', which was not found"}
    assert opened.sources == {"mmlu": "mmlu.jsonl"}
    write({"mmlu_dev.jsonl": B})
    assert open_all([task(replace(MMLU, size=1), replace(shots, size=1))], folder).notes == {}
    write({"mmlu_dev.jsonl": b"{"})
    with pytest.raises(MissingSets, match="mmlu-dev: mmlu_dev.jsonl line 1"):
        open_all([task(MMLU, shots)], folder)


def test_a_copy_without_some_configurations_says_which(write):
    folder = write({"mmlu/law.jsonl": A})
    test = replace(MMLU, size=1, configs=("law", "anatomy"))
    assert open_all([task(test)], folder).notes == {"mmlu": "mmlu: without anatomy"}


def test_of_many_files_the_first_are_named(write):
    folder = write({f"mmlu/{name}.jsonl": A for name in "abcde"})
    assert open_all([task(MMLU)], folder).sources == {"mmlu": "mmlu/a.jsonl, mmlu/b.jsonl, mmlu/c.jsonl and 2 more"}


def test_a_set_that_several_tasks_ask_is_read_once(write):
    reads = []
    test = replace(MMLU, size=0, read=lambda path: reads.append(path) or [{"q": "a"}])
    opened = open_all([task(test, name="one"), task(test, test, name="two")], write({"mmlu.txt": "a"}))
    assert len(reads) == 1
    assert list(opened.rows) == ["mmlu"]


def test_the_hub_gives_its_configurations_as_subsets(monkeypatch):
    """`datasets.load_dataset` is replaced; a class label stays the number that the Hub stores."""
    import datasets

    asked = []

    def load(hub_id, config, *, split):
        asked.append((hub_id, config, split))
        return datasets.Dataset.from_list([{"q": f"of {config}"}])

    monkeypatch.setattr(datasets, "load_dataset", load)
    test = replace(MMLU, configs=("law", "anatomy"))
    assert subsets(test, None) == [("of law", "law"), ("of anatomy", "anatomy")]
    assert asked == [("cais/mmlu", "law", "test"), ("cais/mmlu", "anatomy", "test")]
    assert subsets(MMLU, None) == [("of None", "")]


def test_a_hub_that_does_not_answer_is_asked_once_and_then_only_the_cache(monkeypatch):
    """No address answers: port 9 of this machine. Without the question, each load tries again for 23 seconds."""
    from huggingface_hub import constants
    from huggingface_hub.utils import get_session

    heads = []
    session = get_session()
    head = session.head
    monkeypatch.setattr(session, "head", lambda *args, **more: heads.append(args) or head(*args, **more))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")
    began = time.monotonic()
    with pytest.raises(MissingSets, match="2 test sets.*\n.*the Hub cannot be reached.*\n.*the Hub cannot be reached"):
        open_all([task(MMLU), task(replace(MMLU, name="other", hub_id="a/b"))], None)
    assert time.monotonic() - began < 2 * hub_rows._PATIENCE
    assert len(heads) == 1
    assert not constants.HF_HUB_OFFLINE


@pytest.mark.parametrize(
    ("name", "files", "rows", "columns"),
    [
        ("fpb", ("finance/fpb.jsonl",), 606, {"instruction", "input", "output"}),
        ("humaneval", ("humaneval/human_eval.jsonl",), 164, {"prompt", "test"}),
        ("mbpp", (), 974, {"text", "code"}),
        ("advbench", (), 260, {"goal", "target"}),
        ("gsm8k", (), 1319, {"question", "answer"}),
        ("bbh", (), 6511, {"input", "target"}),
        ("hh-rlhf", (), 600, {"chosen", "rejected"}),
        ("pubmedqa", ("pubmedqa/ori_pqal.json",), 1000, {"id", "QUESTION", "CONTEXTS", "final_decision"}),
        ("mt-bench", ("mt-bench/question.jsonl",), 80, {"question_id", "turns"}),
        ("vicuna-bench", (), 80, {"question_id", "turns"}),
    ],
)
@pytest.mark.skipif(not SHARED_DATA.is_dir(), reason="the shared data sets are not there")
def test_the_real_files_are_found_under_their_own_names(name, files, rows, columns):
    """Whole sets, but for fpb, advbench and hh-rlhf, of which these files hold a part; gsm8k's train.jsonl lies beside
    its test.jsonl."""
    found = open_rows(TestSet(name, "", "test", 0, "", files=files), SHARED_DATA)
    assert (len(found), columns - found[0].keys()) == (rows, set())
    if name == "bbh":
        assert len({row["subset"] for row in found}) == 27
