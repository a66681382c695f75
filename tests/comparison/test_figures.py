"""Means over seeds and clients, deviations and paired tests, by hand."""

import io
import math

import pytest
from rich.console import Console

from fedllm_app.comparison.cell import Costs
from fedllm_app.comparison.figures import Line, Value, headline, measures, shares, values
from fedllm_app.comparison.table import Table, cell, csv_text, difference, markdown, narrowed, short_rows, show
from fedllm_app.evaluation.results import TaskResult
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
from fedllm_app.evaluation.tables import json_text

ACCURACY = Metric("accuracy", "share", "right")
WORDS = Metric("words", "mean", "words", percent=False, lower_is_better=True)


def task(name, metrics=(ACCURACY,)):
    test = TestSet(name, "", "test", 4, "CC0", rows=list)
    return EvaluationTask(name, test, lambda rows, shots: [], Generate(1), each(lambda q, a: Grade()), metrics, "")


def result(of, **rights):
    """Each model's questions: 1 right, 0 wrong, None without a grade."""
    count = len(next(iter(rights.values())))
    grades = {
        name.replace("_", " "): [
            Grade(missing="not judged") if one is None else Grade({"right": float(one), "words": 2.0 + one})
            for one in those
        ]
        for name, those in rights.items()
    }
    answers = {name: [Answer(("x",))] * count for name in grades}
    return TaskResult(of, [Question(str(n)) for n in range(count)], answers, grades, "plain", (), {}, 0)


FIRST = Line("first", {1: ("first 1",), 2: ("first 2",)})
OTHER = Line("other", {1: ("other 1",), 2: ("other 2",)})


def test_mean_and_deviation_over_seeds():
    """first: 2/4 and 1/4, mean 3/8, deviation |1/2 − 1/4| / √2. other: 4/4 twice, deviation 0. Difference 5/8."""
    suite = Suite("s", "", (task("a"),))
    found = result(suite.tasks[0], first_1=[1, 1, 0, 0], first_2=[0, 1, 0, 0], other_1=[1] * 4, other_2=[1] * 4)
    one, two = values(measures(suite, [found]), [FIRST, OTHER], [1, 2], "first")
    assert (one.value, one.p, one.difference) == (0.375, None, None)
    assert one.deviation == pytest.approx(0.25 / math.sqrt(2))
    assert one.by_seed == {1: 0.5, 2: 0.25}
    assert (two.value, two.deviation, two.difference, two.n) == (1.0, 0.0, 0.625, 4)
    assert two.low <= 0.625 <= two.high
    assert two.p >= 2.0**-3  # four questions: no p below 2^(1 - 4)


def test_clients_alone_count_by_their_mean():
    """Two clients have 4/4 and 0/4, under the other seed 2/4 and 0/4: seeds 1/2 and 1/4."""
    suite = Suite("s", "", (task("a"),))
    line = Line("local", {1: ("c0 1", "c1 1"), 2: ("c0 2", "c1 2")})
    found = result(suite.tasks[0], c0_1=[1] * 4, c1_1=[0] * 4, c0_2=[1, 1, 0, 0], c1_2=[0] * 4)
    (value,) = values(measures(suite, [found]), [line], [1, 2], "local")
    assert value.by_seed == {1: 0.5, 2: 0.25}


def test_the_base_has_no_seed_and_is_held_against_all_seeds_of_the_first():
    """Base 0, first 3/8 on average: −3/8."""
    suite = Suite("s", "", (task("a"),))
    base = Line("base", fixed="base")
    found = result(suite.tasks[0], base=[0] * 4, first_1=[1, 1, 0, 0], first_2=[0, 1, 0, 0])
    value, _ = values(measures(suite, [found]), [base, FIRST], [1, 2], "first")
    assert (value.value, value.deviation, value.difference) == (0.0, None, -0.375)


def test_pairs_are_of_seeds_and_questions_that_both_have():
    """Other lacks seed 2, and its first question has no grade: on the other three, first 1/3, other 3/3 (seed 1)."""
    suite = Suite("s", "", (task("a"),))
    other = Line("other", {1: ("other 1",)}, failed={2: "why"})
    found = result(suite.tasks[0], first_1=[1, 1, 0, 0], first_2=[0] * 4, other_1=[None, 1, 1, 1])
    _, value = values(measures(suite, [found]), [FIRST, other], [1, 2], "first")
    assert (value.value, value.n) == (1.0, 3)
    assert value.difference == pytest.approx(2 / 3)


def test_a_seed_that_the_first_line_lacks_is_no_pair():
    """first 2/4 under seed 1 alone, other 4/4 and 0/4: its mean is 1/2, and the difference that of seed 1, 1/2."""
    suite = Suite("s", "", (task("a"),))
    first = Line("first", {1: ("first 1",)}, failed={2: "why"})
    found = result(suite.tasks[0], first_1=[1, 1, 0, 0], other_1=[1] * 4, other_2=[0] * 4)
    _, value = values(measures(suite, [found]), [first, OTHER], [1, 2], "first")
    assert (value.value, value.difference, value.n) == (0.5, 0.5, 4)


def test_a_difference_of_the_seeds_alone_is_not_certain():
    """40 questions, other is right everywhere, first under seed 1 everywhere and under seed 2 nowhere. Mean difference
    1/2; a quarter of the resamples draws seed 1 twice, difference 0: p is about 2 · 1/4, far from significant. Under
    seed 2 alone the difference is 1 in every resample.
    """
    suite = Suite("s", "", (task("a"),))
    found = result(suite.tasks[0], first_1=[1] * 40, first_2=[0] * 40, other_1=[1] * 40, other_2=[1] * 40)
    of = measures(suite, [found])
    _, both = values(of, [FIRST, OTHER], [1, 2], "first")
    assert both.difference == 0.5
    assert both.p == pytest.approx(0.5, abs=0.1)
    _, alone = values(of, [FIRST, OTHER], [2], "first")
    assert alone.p < 0.01


def test_averages_are_means_of_sets():
    """first: a 1/2, b 0 of two: average 1/4; other: a 1, b 1/2: 3/4."""
    suite = Suite("s", "", (task("a"), task("b")), (Average("accuracy", (("a", "accuracy"), ("b", "accuracy"))),))
    sets = [
        result(suite.tasks[0], first_1=[1, 1, 0, 0], other_1=[1] * 4),
        result(suite.tasks[1], first_1=[0, 0], other_1=[1, 0]),
    ]
    lines = [Line("first", {1: ("first 1",)}), Line("other", {1: ("other 1",)})]
    found = {(v.line, v.task): v for v in values(measures(suite, sets), lines, [1], "first")}
    assert (found["first", "average"].value, found["other", "average"].value) == (0.25, 0.75)
    assert (found["other", "average"].difference, found["other", "average"].n) == (0.5, 6)
    assert found["other", "average"].deviation is None


def test_what_part_of_a_line_others_reach():
    """first 3/8 of other's 1: 37.5 %. Of a metric of which less is better there is no such part."""
    suite = Suite("s", "", (task("a", (ACCURACY, WORDS)),))
    found = result(suite.tasks[0], first_1=[1, 1, 0, 0], first_2=[0, 1, 0, 0], other_1=[1] * 4, other_2=[1] * 4)
    made = values(measures(suite, [found]), [FIRST, OTHER], [1, 2], "first")
    assert [(line, value.metric, part) for line, value, part in shares(made, "other")] == [("first", "accuracy", 0.375)]


def test_the_headline_is_a_share_or_its_averages():
    loss = Metric("loss", "mean", "words")
    own = task("a", (loss, ACCURACY))
    assert headline(Suite("s", "", (own,))) == [("a", "accuracy")]
    assert headline(Suite("s", "", (task("a", (loss,)),))) == [("a", "loss")]
    averages = (Average("all", (("a", "accuracy"),)), Average("loss", (("a", "loss"),)))
    assert headline(Suite("s", "", (own,), averages)) == [("average", "all")]


def test_the_table_in_all_forms():
    """Two of two seeds, one of two, and the base; examples and steps of one model."""
    suite = Suite("s", "", (task("a", (ACCURACY, WORDS)),))
    seen = {1: Costs(1, 240, 30, 10.0, 4.0), 2: Costs(1, 240, 30, 12.0, 4.0)}
    first = Line("first", FIRST.models, costs=seen)
    other = Line("other", {1: ("other 1",)}, costs={1: Costs(2, 120, 15, 5.0, 2.0)}, failed={2: "no room"})
    found = result(suite.tasks[0], base=[0] * 4, first_1=[1, 1, 0, 0], first_2=[0, 1, 0, 0], other_1=[1] * 4)
    lines = [Line("base", fixed="base"), first, other]
    table = Table("s", lines, values(measures(suite, [found]), lines, [1, 2], "first"), headline(suite), "first")
    columns, rows = short_rows(table)
    assert columns == ["", "seeds", "a, accuracy (%)", "minus first", "examples", "steps", "seconds", "MB"]
    assert rows[1][:3] == ["first", "2", "37.5 ± 17.7"]
    assert rows[1][4:] == ["240", "30", "11", "4"]
    assert rows[2][:2] == ["other", "1 of 2"]
    assert rows[2][4:] == ["120 each", "15 each", "5", "2"]
    assert rows[0][:3] == ["base", "", "0.0"]
    assert cell(table.of("other", "a", "words")) == "3"
    text = csv_text(table).splitlines()
    assert text[0].startswith("line,seed,set,metric,value,deviation")
    assert "first,1,a,accuracy,0.5,,,,,,4,240,30,10.0,4.0" in text
    assert '"first 1"' in json_text(table)
    assert "| first | 2 | 37.5 ± 17.7 |" in markdown(table)
    console = Console(width=60, file=io.StringIO())
    show(table, console)
    printed = console.file.getvalue()
    assert "The terminal has no room for steps, seconds, MB; the Markdown file has them." in " ".join(printed.split())
    assert "│ first " in printed and "37.5 ± 17.7" in printed


@pytest.mark.parametrize(
    ("remarks", "told"),
    [
        (["a: cut"], "1 remark on how a single set was asked is in the Markdown file"),
        (["a: cut", "b: cut"], "2 remarks on how single sets were asked are in the Markdown file"),
    ],
)
def test_remarks_are_counted_in_words(remarks, told):
    suite = Suite("s", "", (task("a"),))
    found = result(suite.tasks[0], first_1=[1] * 4)
    line = Line("first", {1: ("first 1",)})
    measured = values(measures(suite, [found]), [line], [1], "first")
    console = Console(width=120, file=io.StringIO())
    show(Table("s", [line], measured, headline(suite), "first", remarks=remarks), console)
    assert told in console.file.getvalue().splitlines()


@pytest.mark.parametrize(("width", "left_out"), [(80, ["seconds", "MB"]), (160, [])])
def test_a_narrow_terminal_shows_names_whole_and_fewer_columns(width, left_out):
    """A column takes its longest cell and three letters for its borders, and the table one more: the name 22, seeds 5,
    accuracy 11, the longest word of the difference 7, examples 8: 53 + 15 + 1 = 69; with steps (7 and 3) it is 79, and
    with seconds (7 and 3) 89. What goes beyond 80 is left out."""
    columns = ["", "seeds", "accuracy", "minus x", "examples", "steps", "seconds", "MB"]
    rows = [
        ["base, 3 examples shown", "3", "49.6 ± 4.1*", "-25.8 [-33.2, -18.5], p = 0.001", "240", "30", "242", "742"],
        ["x", "3", "49.6 ± 4.1*", "", "240 each", "30 each", "150", "742"],
    ]
    kept, cells, gone = narrowed(columns, rows, width)
    assert gone == left_out
    assert kept + gone == columns
    assert [len(row) for row in cells] == [len(kept)] * 2


@pytest.mark.parametrize(
    ("mean", "deviation", "text"),
    [
        (1.031234, 0.01121, "1.031 ± 0.011"),
        (1.031234, 0.0996, "1.03 ± 0.10"),
        (1.0, 0.0, "1 ± 0"),
        (1234.5, 345.6, "1230 ± 350"),
        (-0.0001, 0.012, "0.000 ± 0.012"),
        (2.0, math.nan, "2 ± nan"),
        (2.0, 1e-12, "2 ± 1e-12"),
    ],
)
def test_a_loss_has_as_many_digits_as_its_deviation_allows(mean, deviation, text):
    """Two significant digits of the deviation, and the mean to the same place: 0.0996 is 0.10, so two decimals."""
    value = Value("x", "held-out rows", "loss", mean, deviation, {1: mean}, 0, False, True)
    assert cell(value) == text


def test_a_difference_of_losses_is_rounded_by_its_interval_and_a_csv_keeps_all():
    """Half of [-0.0623, 0.0187] is 0.0405: two digits of it are three decimals. Without an interval, the deviation."""
    value = Value("x", "a", "loss", 1.03123456, 0.01121, {}, 9, False, True, -0.02189, -0.0623, 0.0187)
    assert difference(value) == "-0.022 [-0.062, 0.019]"
    alone = Value("x", "a", "loss", 1.03123456, 0.01121, {}, 9, False, True, -0.02189)
    assert difference(alone) == "-0.022"
    table = Table("s", [Line("x", {1: ("x 1",)})], [value], [("a", "loss")], "first")
    assert "x,,a,loss,1.03123456,0.01121,-0.02189,-0.0623,0.0187" in csv_text(table)
    assert "| 1.031 ± 0.011 | -0.022 [-0.062, 0.019] |" in markdown(table)
