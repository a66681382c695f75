"""The suite of a data file: rows become questions, answers become the five figures."""

import json
import math
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
from places import SHARED_DATA

from fedllm_app.data.errors import DataError
from fedllm_app.data.sources import TooManyBadRows
from fedllm_app.evaluation.own_file import METRICS, file_suite, trained_on
from fedllm_app.evaluation.set_rows import open_all
from fedllm_app.evaluation.suite import Answer, Means, Question, ScoreAnswer


def lines(path: Path, rows: list[dict]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def asked(path: Path) -> list[Question]:
    """The questions of the suite of a file."""
    suite = file_suite(str(path))
    (task,) = suite.tasks
    return task.questions(open_all(suite.tasks, None).rows[task.test.name], [])


@pytest.mark.parametrize(
    ("row", "expected"),
    [
        ({"instruction": "Add.", "input": "1, 2", "output": "3"}, Question("Add.\n\n1, 2", gold="3")),
        ({"question": "1 + 2?", "answer": "3"}, Question("1 + 2?", gold="3")),
        (
            {
                "messages": [
                    {"role": "system", "content": "Be brief."},
                    {"role": "user", "content": "Hi"},
                    {"role": "assistant", "content": "Hello"},
                    {"role": "user", "content": "1 + 2?"},
                    {"role": "assistant", "content": "3"},
                ]
            },
            Question(
                "1 + 2?",
                gold="3",
                turns=(("system", "Be brief."), ("user", "Hi"), ("assistant", "Hello")),
            ),
        ),
    ],
)
def test_every_schema_of_questions_and_answers(row, expected, tmp_path):
    assert asked(lines(tmp_path / "own.jsonl", [row])) == [expected]


def test_what_the_suite_says_of_the_file(tmp_path):
    suite = file_suite(str(lines(tmp_path / "own.jsonl", [{"question": "q", "answer": "a", "source": "web"}] * 3)))
    (task,) = suite.tasks
    assert suite.name == f"file:{tmp_path}/own.jsonl"
    assert (task.name, task.template, task.test.size, task.ask) == ("own", "run", 3, ScoreAnswer())
    assert "columns not read: source" in task.rule
    assert [metric.name for metric in task.metrics] == ["loss", "perplexity", "exact match", "token F1", "ROUGE-L"]


def test_of_a_folder_the_split_for_tests_is_read(tmp_path):
    """Training would read the other one."""
    lines(tmp_path / "set" / "train.jsonl", [{"question": "seen", "answer": "a"}])
    lines(tmp_path / "set" / "test.jsonl", [{"question": "new", "answer": "a"}])
    assert [question.text for question in asked(tmp_path / "set")] == ["new"]
    lines(tmp_path / "plain" / "rows.jsonl", [{"question": "any", "answer": "a"}])
    assert [question.text for question in asked(tmp_path / "plain")] == ["any"]


def test_of_a_saved_dataset_too(tmp_path):
    import datasets

    parts = {
        name: datasets.Dataset.from_list([{"question": name, "answer": "a"}])
        for name in ("train", "test", "validation")
    }
    datasets.DatasetDict(parts).save_to_disk(tmp_path / "set")
    assert [question.text for question in asked(tmp_path / "set")] == ["test"]
    assert [question.text for question in asked(tmp_path / "set" / "train")] == ["train"]


def test_a_damaged_row_is_an_error(tmp_path):
    path = lines(tmp_path / "own.jsonl", [{"question": "q", "answer": "a"}, {"question": "q", "answer": ""}])
    with pytest.raises(TooManyBadRows, match="own.jsonl line 2"):
        file_suite(str(path))


@pytest.mark.parametrize(
    ("name", "row", "message"),
    [
        (
            "own.jsonl",
            {"text": "A document."},
            "Or, as pairs of answers: .*Documents and rated answers cannot be asked",
        ),
        ("own.txt", {"text": "A document."}, "one text and no table of rows"),
    ],
)
def test_files_without_questions_are_refused(name, row, message, tmp_path):
    with pytest.raises(DataError, match=message):
        file_suite(str(lines(tmp_path / name, [row])))


def test_a_file_that_is_not_there():
    with pytest.raises(DataError, match="there is no file or folder /no/such.jsonl"):
        file_suite("/no/such.jsonl")


def test_the_five_figures_by_hand(tmp_path):
    """Two answers: 2 nats over 1 token, 4 nats over 5 tokens.

    Loss 6 / 6 = 1, not the mean of 2 and 0.8; perplexity e. Exact: " = 3\\n" is "= 3", "the big cat" is not "a cat":
    1/2. F1: 1, and tokens big, cat against cat: 2 · 1 / (2 + 1) = 2/3; mean 5/6. ROUGE-L: 1, and the, big, cat against
    a, cat: 2 · 1 / (3 + 2) = 2/5; mean 0.7.
    """
    (task,) = file_suite(str(lines(tmp_path / "own.jsonl", [{"question": "q", "answer": "a"}]))).tasks
    questions = [Question("1 + 2?", gold="= 3"), Question("Which?", gold="a cat")]
    answers = [Answer((" = 3\n",), (-2.0,), (1,)), Answer(("the big cat",), (-4.0,), (5,))]
    grades = task.grade(questions, answers, Means())
    figures = {
        metric.name: metric.statistic(grades)
        if metric.statistic
        else sum(grade.values[metric.key] for grade in grades) / 2
        for metric in METRICS
    }
    assert figures == pytest.approx(
        {"loss": 1.0, "perplexity": math.e, "exact match": 0.5, "token F1": 5 / 6, "ROUGE-L": 0.7}
    )
    assert [metric.name for metric in METRICS if metric.lower_is_better] == ["loss", "perplexity"]
    assert [metric.name for metric in METRICS if not metric.percent] == ["loss", "perplexity"]


def test_perplexity_may_be_infinite(tmp_path):
    """e^710 is no float."""
    (task,) = file_suite(str(lines(tmp_path / "own.jsonl", [{"question": "q", "answer": "a"}]))).tasks
    grades = task.grade([Question("q", gold="a")], [Answer(("",), (-710.0,), (1,))], Means())
    assert METRICS[1].statistic(grades) == math.inf


@pytest.mark.skipif(not (SHARED_DATA / "finance").is_dir(), reason="the shared data sets are not there")
def test_a_real_file():
    """The first row of fpb.jsonl, which has an instruction and an input."""
    first = asked(SHARED_DATA / "finance" / "fpb.jsonl")[0]
    instruction, _, text = first.text.partition("\n\n")
    assert instruction.startswith("What is the sentiment of this news?")
    assert (text.split()[0], first.gold) == ("L&T", "neutral")


def test_pairs_of_answers_become_a_preference_task(tmp_path, monkeypatch):
    """`sets.preferences` is replaced by one that shows the set it is given."""
    shown = SimpleNamespace(preference_task=lambda test: test)
    monkeypatch.setitem(sys.modules, "fedllm_app.evaluation.sets.preferences", shown)
    path = lines(tmp_path / "pairs.jsonl", [{"prompt": "Hi", "chosen": "Hello", "rejected": "Go"}])
    (test,) = file_suite(str(path)).tasks
    assert (test.name, test.size) == ("pairs", 1)
    assert test.rows() == [{"prompt": (("user", "Hi"),), "chosen": "Hello", "rejected": "Go"}]


def test_rows_that_were_trained_on_are_told(tmp_path, monkeypatch):
    """By the place of the file, however it is written; other files, other suites and names of sets are not."""
    monkeypatch.setenv("HOME", str(tmp_path))
    rows, other = tmp_path / "rows.csv", tmp_path / "other.csv"
    data = {"one": f"{other},{rows}", "two": str(other), "three": "builtin", "four": "~/rows.csv"}
    told = trained_on(f"file:{tmp_path}/x/../rows.csv", data)
    assert told.startswith(f"{rows} is also data.name of one, four:")
    assert trained_on("file:~/rows.csv", {"one": str(rows)})
    assert not trained_on(f"file:{rows}", {"two": str(other), "three": "builtin"})
    assert not trained_on("builtin", {"three": "builtin"})
