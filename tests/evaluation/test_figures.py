"""From grades to figures, and what tables and files make of them. Two models, four questions, made by hand."""

import csv
import io
import json

import pytest

from fedllm_app.evaluation.contestants import Contestant
from fedllm_app.evaluation.figures import TaskFigures, averages_of, over_seeds
from fedllm_app.evaluation.results import TaskResult
from fedllm_app.evaluation.saved import ReportError, examples, save, show
from fedllm_app.evaluation.session import report_of
from fedllm_app.evaluation.suite import (
    Answer,
    Average,
    EvaluationTask,
    Generate,
    Grade,
    Metric,
    Question,
    Suite,
    TestSet,
    each,
)
from fedllm_app.evaluation.tables import csv_text, json_text, markdown, terminal


def largest(grades):
    return max(grade.values["length"] for grade in grades)


METRICS = (
    Metric("accuracy", "share", "correct"),
    Metric("of a", "share", "correct", group="a"),
    Metric("length", "mean", "length", percent=False, lower_is_better=True),
    Metric("longest", "statistic", statistic=largest, percent=False),
    Metric("unparsed", "count", "unparsed"),
)
QUESTIONS = [Question(f"q{number}", gold="yes", group="ab"[number % 2]) for number in range(4)]
BASE = [
    Grade({"correct": 1.0, "length": 2.0, "unparsed": 0.0}),
    Grade({"correct": 0.0, "length": 4.0, "unparsed": 1.0}),
    Grade({"correct": 0.0, "length": 6.0, "unparsed": 1.0}),
    Grade(missing="not judged"),
]
TRAINED = [Grade({"correct": 1.0, "length": 1.0, "unparsed": 0.0}) for _ in range(4)]


def result(name="set", seed=0, base=BASE, trained=TRAINED):
    task = EvaluationTask(
        name=name,
        test=TestSet(name, "", "", 4, "none"),
        questions=lambda rows, shots: [],
        ask=Generate(1),
        grade=each(lambda question, answer: Grade()),
        metrics=METRICS,
        rule="",
    )
    answers = {
        "base": [Answer((f"b{n}",)) for n in range(4)],
        "federated": [Answer(("[red]yes\x1b[2J",)) for _ in range(4)],
    }
    return TaskResult(task, QUESTIONS, answers, {"base": base, "federated": trained}, "vicuna", (), {"base": 1.0}, seed)


def by_name(figures):
    return {(figure.metric, figure.model): figure for figure in figures}


def test_what_has_no_grade_counts_in_no_figure_and_is_counted_itself():
    """Base: one right of three graded, 1/3; lengths 2, 4 and 6, mean 4, longest 6; two unparsed."""
    found = by_name(TaskFigures(result()).figures())
    assert {metric: found[metric, "base"].value for metric, _ in found} == {
        "accuracy": pytest.approx(1 / 3),
        "of a": 0.5,
        "length": 4.0,
        "longest": 6.0,
        "unparsed": 2.0,
    }
    assert (found["accuracy", "base"].n, found["accuracy", "base"].missing) == (3, {"not judged": 1})
    # Question 3, which is not graded, is of group b.
    assert (found["of a", "base"].n, found["of a", "base"].missing) == (2, {})
    assert (found["unparsed", "base"].low, found["accuracy", "federated"].value) == (None, 1.0)


def test_models_are_compared_on_the_questions_that_both_have():
    """Of the three, base gets one right and federated all: two only federated gets, p = 2 · (1/2)² = 0.5."""
    pairs = {pair.metric: pair for pair in TaskFigures(result()).paired()}
    assert set(pairs) == {"accuracy", "of a", "length", "longest"}
    accuracy = pairs["accuracy"]
    assert (accuracy.first, accuracy.second, accuracy.n, accuracy.p) == ("base", "federated", 3, 0.5)
    assert accuracy.difference == pytest.approx(2 / 3)
    assert pairs["length"].difference == -3.0
    # Every resampled mean of 2, 4 and 6 is above 1: p is the smallest there is, 2/2001.
    assert pairs["length"].p == pytest.approx(2 / 2001)


def test_an_average_is_the_plain_mean_and_missing_if_a_part_is():
    """Sets of 1/3 and 1: (1/3 + 1)/2 = 2/3; the other set of nothing graded: none, and the reason."""
    mean = Average("both", (("one", "accuracy"), ("two", "accuracy")))
    sets = [TaskFigures(result("one")), TaskFigures(result("two", base=TRAINED))]
    assert by_name(averages_of([mean], sets))["both", "base"].value == pytest.approx(2 / 3)
    sets[1] = TaskFigures(result("two", base=[Grade(missing="not judged")] * 4))
    found = by_name(averages_of([mean], sets))
    assert (found["both", "base"].value, found["both", "base"].missing) == (None, {"two: not judged": 1})
    assert found["both", "federated"].value == 1.0


def test_seeds_are_combined():
    """1/3 and 1: mean 2/3, standard deviation √((1/3)² + (1/3)²) = 0.4714."""
    figures = [
        figure
        for seed, base in ((0, BASE), (1, TRAINED))
        for figure in TaskFigures(result(seed=seed, base=base)).figures()
    ]
    found = by_name(over_seeds(figures))["accuracy", "base"]
    assert (found.value, found.high - found.value, found.n, found.seed) == (
        pytest.approx(2 / 3),
        pytest.approx(0.4714, abs=1e-4),
        7,
        None,
    )


@pytest.fixture
def report():
    suite = Suite("tiny", "", (), (Average("mean", (("set", "accuracy"),)),))
    return report_of(suite, [result()], [Contestant("base", None), Contestant("federated", None)], {"limit": 4})


def test_the_table_in_markdown(report):
    """Best of a row in bold, marks for significant differences, counts without interval, reasons with the figure."""
    lines = markdown(report).splitlines()
    start = lines.index("| set | metric | n | base | federated |")
    assert lines[start + 2 : start + 8] == [
        "| set | accuracy | 3 to 4 | 33.3 [6.1, 79.2] (not judged) | **100.0 [51.0, 100.0]** |",
        "| set | of a | 2 | 50.0 [9.5, 90.5] | **100.0 [34.2, 100.0]** |",
        "| set | length | 3 to 4 | 4 [2, 6] (not judged) | **1 [1, 1]*** |",
        "| set | longest | 3 to 4 | **6 [2, 6] (not judged)** | 1 [1, 1]* |",
        "| set | unparsed | 3 to 4 | 2 | 0 |",
        "| average | mean | 3 to 4 | 33.3 [0.0, 100.0] | **100.0 [100.0, 100.0]** |",
    ]
    assert "| set | accuracy | federated - base | 66.7 | [0.0, 100.0] | 0.5 | McNemar, exact | 3 |" in lines


def test_csv_and_json_have_every_figure(report):
    rows = list(csv.DictReader(io.StringIO(csv_text(report))))
    assert len(rows) == len(report.figures) == 12
    assert (rows[0]["model"], float(rows[0]["value"]), rows[0]["missing"]) == (
        "base",
        pytest.approx(1 / 3),
        "not judged",
    )
    read = json.loads(json_text(report))
    assert (read["suite"], len(read["paired"]), read["settings"]) == ("tiny", 4, {"limit": 4})


def test_the_table_in_the_terminal(report, console):
    terminal(report, console)
    text = console.export_text()
    assert "100.0 [51.0, 100.0]" in text
    assert "not judged" in text


def test_answers_are_saved_and_shown(report, tmp_path, console):
    """The last model is right everywhere, so nothing is wrong; the two differ in three questions, one not graded."""
    save(report, [result()], tmp_path / "out")
    assert {file.name for file in (tmp_path / "out").iterdir()} == {
        "report.md",
        "report.csv",
        "report.json",
        "examples",
    }
    shown = {
        which: sum(seen.is_shown(which) for seen in examples(tmp_path / "out"))
        for which in ("wrong", "right", "differ", "missing", "all")
    }
    assert shown == {"wrong": 0, "right": 4, "differ": 3, "missing": 1, "all": 4}
    show(tmp_path / "out", "differ", 2, console)
    text = console.export_text()
    assert "base (wrong): b1" in text
    assert "federated (right): [red]yes\N{REPLACEMENT CHARACTER}[2J" in text
    assert "set: 3 differ, 2 shown" in text


def test_a_report_is_never_written_over(report, tmp_path):
    save(report, [result()], tmp_path / "out")
    with pytest.raises(ReportError, match="not empty"):
        save(report, [result()], tmp_path / "out")
    with pytest.raises(ReportError, match="no report"):
        list(examples(tmp_path / "elsewhere"))
