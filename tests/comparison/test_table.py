"""What stands beside the figures of a comparison."""

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
    assert "those of its own client alone" in " ".join(notes([], alone, {}, [], own_rows=True))
    told = " ".join(notes([], alone, {}, [], own_rows=False))
    assert "local: the mean of the clients' models" in told and "its own client alone" not in told
