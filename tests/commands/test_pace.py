"""`fedllm plan --measure`: how long the training of a run takes here."""

import json
import math

import pytest
from places import ROOT

from fedllm_app.commands import pace
from fedllm_app.commands.main import main
from fedllm_app.commands.pace import in_a_row, mean_step, measure
from fedllm_app.commands.placement import Gpu, Machine
from fedllm_app.config.sections import ConfigError
from fedllm_app.errors import UserError
from fedllm_app.in_process import run_in_process

SMALL = {"clients.number": 4, "data.examples-per-client": 6, "data.held-out-examples": 2, "evaluate.every": 2}


def test_the_mean_is_over_the_steps_of_each_client_but_the_first(tmp_path):
    """Client 0: 2 and 4 s after its first step's end; client 1: 3 s. Mean (2 + 4 + 3) / 3 = 3. The lines at step 0,
    before the model is loaded, and the 90 s between the clients count nowhere."""
    lines = [(0, 0, 0.0), (0, 1, 50.0), (0, 2, 52.0), (0, 3, 56.0), (1, 0, 60.0), (1, 1, 146.0), (1, 2, 149.0)]
    file = tmp_path / "steps.jsonl"
    file.write_text("".join(json.dumps({"client": c, "step": s, "time": t}) + "\n" for c, s, t in lines))
    assert mean_step(file) == 3.0


@pytest.mark.parametrize("steps", [None, [], [1], [4, 1]], ids=["no file", "none", "one", "a round again"])
def test_without_two_steps_of_a_client_there_is_no_mean(tmp_path, steps):
    file = tmp_path / "steps.jsonl"
    if steps is not None:
        file.write_text(
            "".join(json.dumps({"client": 0, "step": s, "time": 9.0 * i}) + "\n" for i, s in enumerate(steps))
        )
    with pytest.raises(UserError, match="reported no steps"):
        mean_step(file)


@pytest.mark.parametrize(
    ("steps", "clients", "at_once", "expected"),
    [
        (120, 4, 2, 60),  # 30 steps a client in all, two turns
        (120, 4, 3, 60),  # the fourth client has a turn of its own
        (120, 4, 4, 30),
        (120, 1, 1, 120),  # one model for all
    ],
)
def test_clients_that_do_not_fit_at_once_take_turns(steps, clients, at_once, expected):
    assert in_a_row(steps, clients, at_once) == expected


@pytest.mark.parametrize(
    ("machine", "at_once"),
    [
        (Machine(2), 2),
        (Machine(1), 1),
        (Machine(64), 3),  # no more than a round has
        (Machine(64, (Gpu("a", 1, 1),) * 2), 2),  # who share a GPU do not get through more together
    ],
)
def test_what_is_measured_is_one_round_without_the_rest(run_config, tmp_path, monkeypatch, machine, at_once):
    """Three of four clients train four steps each; nothing is evaluated, and nothing of it stays."""
    seen = {}

    def kept(flat):
        seen["flat"] = flat
        seen["directory"] = run_in_process(flat)
        return seen["directory"]

    monkeypatch.setattr("fedllm_app.in_process.run_in_process", kept)
    monkeypatch.setattr(pace, "this_machine", lambda: machine)
    monkeypatch.setattr(pace, "mean_step", lambda file: seen.update(lines=file.read_text()) or 2.0)
    flat = run_config | SMALL | {"strategy.name": "scaffold", "clients.per-round": 3, "train.rounds": 50}
    found = measure(flat, 300)
    assert (found.step, found.at_once) == (2.0, at_once)
    assert found.training == 300 / 3 * math.ceil(3 / at_once) * 2.0
    steps = [line for line in map(json.loads, seen["lines"].splitlines()) if line["step"]]
    assert sorted(line["step"] for line in steps) == [1, 1, 1, 2, 2, 2, 3, 3, 3, 4, 4, 4]
    assert seen["flat"]["strategy.name"] == "scaffold"
    assert not seen["directory"].path.exists()


def test_the_state_of_other_runs_is_left_alone(run_config, app_home):
    """SCAFFOLD keeps a control variate a client, and of ended runs the last four keep theirs."""
    for number in range(5):
        (app_home / "clients" / f"run-{number}").mkdir(parents=True)
        (app_home / "clients" / f"run-{number}" / "ended").touch()
    before = sorted((app_home / "clients").rglob("*"))
    measure(run_config | SMALL | {"strategy.name": "scaffold"}, 10)
    assert sorted((app_home / "clients").rglob("*")) == before


def test_clients_with_more_threads_than_cores_wait_for_each_other(run_config, monkeypatch):
    """Two at a time with two threads each on two cores: each step takes twice what it takes alone."""
    monkeypatch.setattr(pace, "this_machine", lambda: Machine(2))
    monkeypatch.setattr(pace, "mean_step", lambda file: 2.0)
    flat = run_config | SMALL
    assert measure(flat | {"run.threads": 1}, 40).training == 40 / 4 * 2 * 2.0
    assert measure(flat | {"run.threads": 2}, 40).training == 40 / 4 * 2 * 2.0 * 2


def test_the_plan_says_it(tiny_model, capsys, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    given = [f"model.name={tiny_model}", *(f"{key}={value}" for key, value in SMALL.items())]
    assert main(["plan", str(ROOT), "-c", *given]) == 0
    assert "measured" not in capsys.readouterr().out
    monkeypatch.setattr(pace, "measure", lambda flat, steps: pace.Pace(1.5, 2, float(steps * 60)))
    assert main(["plan", str(ROOT), "-c", *given, "--measure"]) == 0
    said = capsys.readouterr().out
    assert "a step of a client, measured" in said
    assert "1.50 s" in said
    assert "training of the run here, 2 at a time, about" in said
    assert "2 h 00 min" in said  # 120 steps of a minute
    assert list(tmp_path.iterdir()) == []


def test_what_a_run_refuses_is_refused(run_config):
    with pytest.raises(ConfigError, match="train\\.batch-size"):
        measure(run_config | {"train.batch-size": 0}, 10)
