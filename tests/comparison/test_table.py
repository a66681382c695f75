"""What stands beside the figures of a comparison."""

import io
from dataclasses import replace

import pytest
from rich.console import Console

from fedllm_app.comparison.cell import Costs
from fedllm_app.comparison.figures import Line, Value
from fedllm_app.comparison.notes import notes
from fedllm_app.comparison.table import Table, legend, show

LINES = [Line("fedavg", {1: ("a",), 2: ("b",)}), Line("local", {1: ("c",), 2: ("d",)})]


def table(low=None, remarks=()) -> Table:
    """Two lines of two seeds, the second against the first, tested where there is an interval."""
    test = {} if low is None else {"low": low, "high": 1.0, "p": 0.01}
    values = [
        Value("fedavg", "t", "m", 0.5, 0.1, {1: 0.4, 2: 0.6}, 4, True, False),
        Value("local", "t", "m", 0.3, 0.1, {1: 0.2, 2: 0.4}, 4, True, False, -0.2, **test),
    ]
    return Table("suite", LINES, values, [("t", "m")], "fedavg", remarks=remarks)


def test_the_legend_speaks_of_tests_only_where_there_are_some():
    """Clients' own metrics have no single questions, so there is nothing to pair."""
    assert "paired bootstrap" in legend(table(low=-0.5)) and "Nothing is tested" not in legend(table(low=-0.5))
    told = legend(table())
    assert "Nothing is tested" in told and "--suite" in told
    assert "bootstrap" not in told and "p <" not in told


@pytest.mark.parametrize("width", [80, 90, 100, 120, 160])
def test_no_line_is_wider_than_the_terminal_and_names_stay_whole(width):
    """With the longest name that a comparison gives itself, and differences with intervals."""
    named = [Line("base, 3 examples shown", fixed="shown"), *LINES]
    costs = Costs(models=1, examples=240, steps=30, seconds=242.0, megabytes=742.0)
    lines = [replace(line, costs={} if line.fixed else {1: costs, 2: costs}) for line in named]
    wide = Value("base, 3 examples shown", "t", "m", 0.188, None, {}, 4, True, False, -0.258, -0.332, -0.185, 0.001)
    filled = replace(table(low=-0.5), lines=lines)
    filled = replace(filled, values=[wide, *filled.values])
    console = Console(width=width, file=io.StringIO())
    show(filled, console)
    printed = console.file.getvalue()
    assert max(map(len, printed.splitlines())) <= width
    assert "│ base, 3 examples shown │" in printed and "┃ seeds ┃" in printed
    assert "a paired bootstrap over questions and seeds" in " ".join(printed.split())
    assert "t, m (%)" in " ".join(printed.split())


@pytest.mark.parametrize(
    ("remarks", "told"),
    [(("a",), "1 remark on how a single set was asked is in"), (("a", "b"), "2 remarks on how single sets")],
)
def test_remarks_are_counted(remarks, told):
    console = Console(record=True, width=120)
    show(table(remarks=remarks), console)
    assert told in console.export_text()


def test_own_rows_are_spoken_of_only_where_they_are_asked(monkeypatch):
    """A suite of other questions asks every client's model all of them."""
    monkeypatch.setattr("fedllm_app.comparison.notes._seeds", lambda _: [])
    costs = Costs(models=2, examples=64, steps=8, seconds=10.0, megabytes=1.0)
    alone = [Line("local", {1: ("c", "d")}, costs={1: costs})]
    assert "the held-out rows of its own client, and of no other" in " ".join(notes([], alone, {}, [], own_rows=True))
    told = " ".join(notes([], alone, {}, [], own_rows=False))
    assert "local: the mean of the clients' models" in told and "of its own client" not in told
