"""From grades to figures, and what tables and files make of them. Two models, four questions, made by hand."""

import csv
import io
import json
import math
from dataclasses import replace

import pytest

from fedllm_app.evaluation.contestants import Contestant
from fedllm_app.evaluation.figures import TaskFigures, average_pairs, averages_of, over_seeds
from fedllm_app.evaluation.own_file import METRICS as OWN_METRICS
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
        "federated": [Answer(("[red]yes\x1b[2J\u2028",)) for _ in range(4)],
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
    # Differences -1, -3, -5: 2 of the 2³ ways to choose their signs are as far from zero.
    assert pairs["length"].p == 0.25


def first_question(grades):
    whole = result()
    return replace(whole, questions=whole.questions[:1], grades={name: [grade] for name, grade in grades.items()})


def test_one_question_has_no_bootstrap_interval_and_proves_nothing():
    """Lengths 2 and 1: the difference is -1, and p is 1. Wilson's interval says itself how wide it is."""
    sets = TaskFigures(first_question({"base": BASE[0], "federated": TRAINED[0]}))
    found, pairs = by_name(sets.figures()), {pair.metric: pair for pair in sets.paired()}
    assert (found["length", "base"].value, found["length", "base"].low, found["length", "base"].high) == (2, None, None)
    assert found["accuracy", "base"].low == pytest.approx(0.2065, abs=1e-4)  # 1 of 1: 1/(1 + 3.8415)
    assert [(pairs[name].difference, pairs[name].low, pairs[name].p) for name in ("length", "longest")] == [
        (-1.0, None, 1.0),
        (-1.0, None, 1.0),
    ]
    mean = averages_of([Average("mean", (("set", "length"),))], [sets])
    assert [(figure.value, figure.low) for figure in mean] == [(2.0, None), (1.0, None)]
    lines = markdown(report_of(Suite("tiny", "", ()), [sets.result], CONTESTANTS, {})).splitlines()
    assert "| set | length | 1 | 2 | **1** |" in lines
    assert "| set | length | federated - base | -1 | - | 1 | paired bootstrap | 1 |" in lines


def test_two_infinite_losses_do_not_differ():
    endless = [Grade({"correct": 1.0, "length": math.inf, "unparsed": 0.0})] * 4
    pairs = {pair.metric: pair for pair in TaskFigures(result(base=endless, trained=endless)).paired()}
    assert pairs["length"].p == pairs["longest"].p == 1.0


def test_an_average_is_the_plain_mean_and_missing_if_a_part_is():
    """Sets of 1/3 and 1: (1/3 + 1)/2 = 2/3; the other set of nothing graded: none, and the reason."""
    mean = Average("both", (("one", "accuracy"), ("two", "accuracy")))
    sets = [TaskFigures(result("one")), TaskFigures(result("two", base=TRAINED))]
    assert by_name(averages_of([mean], sets))["both", "base"].value == pytest.approx(2 / 3)
    sets[1] = TaskFigures(result("two", base=[Grade(missing="not judged")] * 4))
    found = by_name(averages_of([mean], sets))
    assert (found["both", "base"].value, found["both", "base"].missing) == (None, {"two: not judged": 1})
    assert found["both", "federated"].value == 1.0


def test_models_are_compared_on_averages():
    """Two sets of three shared questions, 1/3 against 1 and 1 against 1: a difference of (2/3 + 0)/2 = 1/3 on 6. Of a
    set that one model has no grade for, nothing is compared."""
    mean = Average("both", (("one", "accuracy"), ("two", "accuracy")))
    sets = [TaskFigures(result("one")), TaskFigures(result("two", base=[*TRAINED[:3], Grade(missing="not judged")]))]
    (pair,) = average_pairs([mean], sets)
    assert (pair.task, pair.first, pair.second, pair.n) == ("average", "base", "federated", 6)
    assert pair.difference == pytest.approx(1 / 3)
    assert pair.low <= pair.difference <= pair.high
    sets[1] = TaskFigures(result("two", base=[Grade(missing="not judged")] * 4))
    assert average_pairs([mean], sets) == []


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
    assert [(one.seed, one.value) for one in found.by_seed] == [(0, pytest.approx(1 / 3)), (1, 1.0)]


def test_what_is_missing_with_any_seed_is_counted():
    """Nothing is missing with seed 0, one answer with seed 1, all four with seed 2, which leaves no mean."""
    unjudged = [Grade(missing="not run")] * 4
    bases = (TRAINED, BASE, unjudged)
    figures = [f for seed, base in enumerate(bases) for f in TaskFigures(result(seed=seed, base=base)).figures()]
    two = by_name(over_seeds([figure for figure in figures if figure.seed < 2]))["accuracy", "base"]
    assert two.missing == {"not judged": 1}
    three = by_name(over_seeds(figures))["accuracy", "base"]
    assert (three.value, three.low, three.n) == (None, None, 7)
    assert three.missing == {"not judged": 1, "not run": 4, "no value with seed 2": 1}


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
        "| set | length | 3 to 4 | 4.0 [2.0, 6.0] (not judged) | **1 [1, 1]** |",
        "| set | longest | 3 to 4 | **6.0 [2.0, 6.0] (not judged)** | 1 [1, 1] |",
        "| set | unparsed | 3 to 4 | 2 | 0 |",
        "| average | mean | 3 to 4 | 33.3 [0.0, 100.0] | **100.0 [100.0, 100.0]** |",
    ]
    assert "| set | accuracy | federated - base | 66.7 | [0.0, 100.0] | 0.5 | McNemar, exact | 3 |" in lines


CONTESTANTS = [Contestant("base", None), Contestant("federated", None)]


def eight(base, trained, seed=0):
    """Eight questions, of which each model has this many right."""
    grades = {
        name: [Grade({"correct": float(place < right), "unparsed": float(place >= right)}) for place in range(8)]
        for name, right in (("base", base), ("federated", trained))
    }
    whole = result(seed=seed)
    task = replace(whole.task, metrics=(METRICS[0], METRICS[4]))
    return replace(whole, task=task, questions=QUESTIONS * 2, grades=grades)


def table_of(results):
    lines = markdown(report_of(Suite("tiny", "", ()), results, CONTESTANTS, {})).splitlines()
    return [line for line in lines if line.startswith(("| set | accuracy", "| set | unparsed"))]


def test_a_model_that_differs_is_marked():
    """0 and 8 of 8: p = 2/2⁸ = 0.0078. 2 and 7: five only federated gets, p = 2/2⁵ = 0.0625. Wilson of 0 and 8 of 8:
    3.8415/11.8415 = 0.324 from the end."""
    marked = table_of([eight(0, 8)])
    assert marked[0] == "| set | accuracy | 8 | 0.0 [0.0, 32.4] | **100.0 [67.6, 100.0]*** |"
    assert marked[2] == (
        "| set | accuracy | federated - base | 100.0 | [100.0, 100.0] | 0.00781 | McNemar, exact | 8 |"
    )
    unmarked = table_of([eight(2, 7)])
    assert "***" not in unmarked[0]
    assert "| 0.0625 |" in unmarked[2]


def test_a_mark_needs_every_seed():
    """p = 0.0078 with seed 0, 0.0625 with seed 1. Mean (8/8 + 7/8)/2, spread 0.125/√2. Unparsed: what is
    not right, base 8 and 6, federated 0 and 1; a count is never the best."""
    table = table_of([eight(0, 8), eight(2, 7, seed=1)])
    assert table[:2] == [
        "| set | accuracy | 16 | 12.5 ± 17.7 | **93.8 ± 8.8** |",
        "| set | unparsed | 16 | 7 ± 1.414 | 0.5 ± 0.7071 |",
    ]


def test_csv_and_json_keep_the_figures_of_every_seed():
    report = report_of(Suite("tiny", "", ()), [eight(0, 8), eight(2, 7, seed=1)], CONTESTANTS, {})
    rows = [row for row in csv.reader(io.StringIO(csv_text(report))) if row[2:4] == ["accuracy", "federated"]]
    assert [row[4:6] for row in rows] == [["", "0.9375"], ["0", "1.0"], ["1", "0.875"]]
    first = json.loads(json_text(report))["figures"][0]
    assert (first["seed"], [one["value"] for one in first["by_seed"]]) == (None, [0.0, 0.25])


def test_csv_and_json_have_every_figure(report):
    rows = list(csv.DictReader(io.StringIO(csv_text(report))))
    assert len(rows) == len(report.figures) == 12
    assert (rows[0]["model"], float(rows[0]["value"]), rows[0]["missing"]) == (
        "base",
        pytest.approx(1 / 3),
        "not judged",
    )
    read = json.loads(json_text(report))
    assert (read["suite"], len(read["paired"]), read["settings"]) == ("tiny", 5, {"limit": 4})


def test_the_table_in_the_terminal(report, console):
    terminal(report, console)
    text = console.export_text()
    assert "100.0 [51.0, 100.0]" in text
    assert "not judged" in text
    assert "federated - base" in text and "McNemar, exact" in text


def test_names_in_the_terminal_are_no_markup(console):
    """Of three models, the pairs with the first are printed and the other is counted, once for each of four metrics."""
    whole = result()
    names = ("base", "[bold]run", "a:dog:b")
    grades = dict(zip(names, (BASE, TRAINED, TRAINED), strict=True))
    report = report_of(Suite("tiny", "", ()), [replace(whole, grades=grades)], [Contestant(n, None) for n in names], {})
    terminal(report, console)
    text = console.export_text()
    assert "[bold]run - base" in text and "a:dog:b - base" in text
    assert "a:dog:b - [bold]run" not in text and "4 more in the report" in text
    assert text.count("[bold]run") == text.count("a:dog:b") == 1 + 4  # the column, and four pairs


def test_what_is_no_number_is_not_the_best():
    """Of the lengths nan, 2 and 1, the last is the lowest."""
    lengths = {"none": math.nan, "two": 2.0, "one": 1.0}
    grades = {n: [Grade({"correct": 1.0, "length": v, "unparsed": 0.0})] * 4 for n, v in lengths.items()}
    contestants = [Contestant(name, None) for name in lengths]
    report = report_of(Suite("tiny", "", ()), [replace(result(), grades=grades)], contestants, {})
    assert "| set | length | 4 | nan [nan, nan] | 2 [2, 2] | **1 [1, 1]** |" in markdown(report)


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


@pytest.mark.parametrize("earlier", [False, True])
def test_answers_are_right_by_the_exact_match_where_a_loss_comes_first(report, tmp_path, earlier):
    """As of rows of the user's own. A report of an earlier version names no value to grade by."""
    grades = [Grade({"nats": 1.0, "exact match": float(number == 0)}) for number in range(4)]
    own = result(base=grades, trained=grades)
    save(report, [replace(own, task=replace(own.task, metrics=OWN_METRICS))], tmp_path / "out")
    if earlier:
        file = tmp_path / "out" / "examples" / "set.jsonl"
        text = file.read_text().replace('"headline": "exact match"', '"headline": ""')
        assert text != file.read_text()
        file.write_text(text)
    assert [seen.right["base"] for seen in examples(tmp_path / "out")] == [True, False, False, False]


def test_a_report_is_never_written_over(report, tmp_path):
    save(report, [result()], tmp_path / "out")
    with pytest.raises(ReportError, match="not empty"):
        save(report, [result()], tmp_path / "out")
    with pytest.raises(ReportError, match="no report"):
        list(examples(tmp_path / "elsewhere"))
