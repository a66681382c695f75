"""What a cell cost, by its journal; how its run goes on; and the curves over rounds."""

import json
from pathlib import Path

import pytest

from fedllm_app.comparison.cell import configuration, costs, failure, is_finished, run_cell, time_left
from fedllm_app.comparison.curves import curves, draw_curves, plot_curves
from fedllm_app.comparison.grid import Cell
from fedllm_app.runs.directory import RunDirectory

FLAT = {"train.rounds": 2, "train.batch-size": 4, "train.gradient-accumulation": 2, "strategy.name": "fedavg"}


@pytest.fixture
def make_cell(tmp_path):
    """A cell whose directory has a journal of these events; `bytes` finishes its run."""

    def make(events=(), line="fedavg", seed=1, size=None, began=True):
        cell = Cell(line, seed, tmp_path / f"{line}-{seed}", FLAT)
        directory = RunDirectory(cell.directory)
        directory.create(FLAT)
        directory.journal("started", run_id=1, run="a" * 32)
        if began:
            directory.journal("ready", seconds=1.0)
        for event in events:
            directory.journal(event.pop("event"), **event)
        if size is not None:
            directory.result_file.write_text(json.dumps({"rounds": 2, "bytes_down": size, "bytes_up": 2 * size}))
        return cell

    return make


def client(number, of, steps):
    return {"event": "client", "round": number, "client": of, "steps": steps}


def ended(number, clients, seconds):
    return {"event": "round", "round": number, "clients": clients, "seconds": seconds}


def test_costs_are_those_of_the_replies_that_entered_the_model(make_cell):
    """Round 1 was repeated, and client 1 answered its first attempt alone; round 2 has both. Accepted: 5 + 5 + 5 steps
    of 4 x 2 rows, 120 examples; 3 + 4 seconds; 1 + 2 million bytes.
    """
    events = [client(1, 0, 5), client(1, 1, 5), client(1, 0, 5), ended(1, [0], 3.0)]
    events += [client(2, 0, 5), client(2, 1, 5), ended(2, [0, 1], 4.0)]
    found = costs(make_cell(events, size=1_000_000))
    assert (found.models, found.steps, found.examples) == (1, 15, 120)
    assert (found.seconds, found.megabytes) == (7.0, 3.0)


def test_costs_of_clients_alone_are_those_of_one_of_them(make_cell):
    """Two clients of 10 and 5 steps: 7.5 each, of 8 rows."""
    cell = make_cell(
        [client(1, 0, 5), client(1, 1, 5), ended(1, [0, 1], 1.0), client(2, 0, 5), ended(2, [0], 1.0)], size=1
    )
    for number in range(2):
        (cell.directory / "adapters" / f"client-{number}").mkdir(parents=True)
    found = costs(cell)
    assert (found.models, found.steps, found.examples) == (2, 7.5, 60)


def test_a_run_begins_goes_on_or_is_finished(make_cell, tmp_path):
    new = Cell("fedavg", 9, tmp_path / "new", FLAT)
    assert configuration(new)["run.resume"] == ""
    assert configuration(new)["run.directory"] == str(tmp_path / "new")
    assert configuration(make_cell(seed=1, began=False))["run.resume"] == ""
    broken = make_cell(seed=2)
    assert configuration(broken)["run.resume"] == str(broken.directory)
    assert not is_finished(broken)
    assert is_finished(make_cell(seed=3, size=1))


def test_the_reason_of_a_failure_is_the_journals(make_cell, tmp_path, console):
    """The last one; where there is none, the log is named. A directory of another run is told, and not touched."""
    cell = make_cell([{"event": "failed", "reason": "first"}, {"event": "failed", "reason": "second"}])
    assert run_cell(cell, lambda _flat: False, console) == "second"
    assert failure(tmp_path / "nowhere").endswith("flower.log")
    other = Cell("fedavg", 1, cell.directory, FLAT | {"train.batch-size": 5})
    told = run_cell(other, lambda _flat: pytest.fail("it was run"), console)
    assert "holds another run: train.batch-size = 5" in told


def held_out(*losses):
    return [{"event": "evaluation", "round": n, "eval_loss": loss} for n, loss in enumerate(losses)]


def test_curves_are_means_over_seeds(make_cell, tmp_path):
    """Rounds 0 and 1 of both seeds: means 3 and 1, deviations |4 − 2| / √2 and 0; round 2 has one seed only."""
    cells = [make_cell(held_out(2.0, 1.0, 0.5), seed=1), make_cell(held_out(4.0, 1.0), seed=2)]
    cells.append(make_cell(held_out(6.0), line="local", seed=1))
    assert curves(cells, "eval_loss") == {
        "fedavg": [(0, 3.0, pytest.approx(2**0.5)), (1, 1.0, 0.0)],
        "local": [(0, 6.0, 0.0)],
    }
    assert curves(cells, "exact_match") == {}
    assert plot_curves(cells, {"eval_loss": "loss", "exact_match": "exact match"}, tmp_path / "a.png")
    assert (tmp_path / "a.png").read_bytes().startswith(b"\x89PNG")
    assert not plot_curves(cells, {"exact_match": "exact match"}, Path(tmp_path / "b.png"))
    assert not (tmp_path / "b.png").exists()


def test_lines_that_lie_on_each_other_are_told_apart(make_cell):
    """Three lines with the same values lie where the rounds are: no two have the same dashes and marks, and none of
    their bars cover another."""
    cells = [
        make_cell(held_out(2.0 + seed, 1.0 + seed), line=line, seed=seed) for line in ("a", "b", "c") for seed in (1, 2)
    ]
    figure = draw_curves(cells, {"eval_loss": "loss"})
    axes = figure.axes[0]
    drawn = [line for line in axes.lines if line.get_label().startswith(" ")]
    assert [(list(line.get_xdata()), list(line.get_ydata())) for line in drawn] == [([0, 1], [3.5, 2.5])] * 3
    assert len({(line.get_marker(), str(line._dash_pattern)) for line in drawn}) == 3
    bars = [container.lines[2][0].get_segments()[0][0][0] for container in axes.containers]
    assert bars == pytest.approx([-0.06, 0.0, 0.06])
    assert [text.get_text() for text in figure.legends[0].get_texts()] == [" a", " b", " c"]


def test_shares_are_drawn_in_percent_from_zero(make_cell):
    """Nothing is right: the axis ends just below 0 %, and not at -5 %."""
    nothing = [{"event": "evaluation", "round": n, "exact_match": 0.0} for n in (0, 1)]
    axes = draw_curves([make_cell(nothing)], {"exact_match": "accuracy"}).axes[0]
    assert -0.01 < axes.get_ylim()[0] < 0
    assert axes.yaxis.get_major_formatter()(0.5) == "50.0%"


@pytest.mark.parametrize(
    ("took", "to_come", "said"),
    [
        ([], 5, ""),
        ([60.0], 0, ""),
        ([10.0, 20.0], 2, ", less than a minute left"),
        ([60.0, 120.0], 6, ", about 9 min left"),
        ([3600.0], 2, ", about 2 h left"),
    ],
)
def test_how_long_the_other_runs_may_take(took, to_come, said):
    """Their mean for each: 15 s · 2, 90 s · 6 = 9 min, an hour · 2."""
    assert time_left(took, to_come) == said
