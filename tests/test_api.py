"""The app from Python: `fedllm_app.run`."""

import io
import json
import subprocess
import sys

import pytest
from in_process import run_in_process
from places import ROOT
from rich.console import Console

import fedllm_app
from fedllm_app import in_process
from fedllm_app.api import RunError
from fedllm_app.commands import placement
from fedllm_app.config.sections import ConfigError
from fedllm_app.errors import UserError
from fedllm_app.paths import home
from fedllm_app.runs.directory import NotResumable, read_journal


@pytest.fixture
def small(run_config):
    """Two clients, two rounds of one step, nothing evaluated."""
    return run_config | {"clients.number": 2, "train.local-steps": 1, "evaluate.every": 0}


@pytest.fixture
def quiet():
    return Console(file=io.StringIO(), width=160)


def adapter_bytes(run: fedllm_app.Run) -> bytes:
    return (run.adapter / "adapter_model.safetensors").read_bytes()


def test_a_run_in_this_process(small, tmp_path, monkeypatch, quiet):
    """Keys are laid over the defaults; the run gets a directory of its own below the working directory's runs/."""
    monkeypatch.chdir(tmp_path)
    result = fedllm_app.run(small | {"strategy.name": "scaffold"}, engine="in-process", console=quiet)
    assert result.directory.parent == tmp_path / "runs" and result.directory.name.endswith("-scaffold")
    assert result.result["strategy"] == "scaffold"
    rounds = result.journal("round")
    assert list(rounds["round"]) == [1, 2]
    assert "event" in result.journal().columns and len(result.journal()) > len(rounds)
    assert "round 2/2: training loss" in quiet.file.getvalue()
    assert adapter_bytes(result) == run_in_process(small | {"strategy.name": "scaffold"}, tmp_path / "other")


def test_the_loss_of_every_step_is_kept(small, tmp_path, quiet):
    """Two rounds of two clients, one step each, and a line before each round's first; nothing stays elsewhere."""
    flat = small | {"run.directory": str(tmp_path / "run")}
    result = fedllm_app.run(flat, engine="in-process", console=quiet)
    lines = [json.loads(line) for line in (result.directory / "steps.jsonl").read_text().splitlines()]
    taken = [(line["round"], line["client"], line["step"]) for line in lines if line["loss"] is not None]
    assert taken == [(1, 0, 1), (1, 1, 1), (2, 0, 1), (2, 1, 1)]
    losses = list(result.journal("client")["train_loss"])
    assert [line["loss"] for line in lines if line["loss"] is not None] == pytest.approx(losses)
    assert list((home() / "progress").iterdir()) == []


def test_evaluations_are_shown_by_the_metrics_of_the_task(small, tmp_path, quiet):
    flat = small | {"run.directory": str(tmp_path / "run"), "evaluate.every": 1, "train.rounds": 1}
    result = fedllm_app.run(flat, engine="in-process", console=quiet)
    loss = result.journal("evaluation")["eval_loss"].iloc[-1]
    assert f"held-out after round 1: loss {loss:.3f}, exact match" in quiet.file.getvalue()


def test_the_figure(small, tmp_path, quiet):
    result = fedllm_app.run(small | {"run.directory": str(tmp_path / "run")}, engine="in-process", console=quiet)
    figure = result.figure()
    assert figure.axes and figure.axes[0].lines


def test_threads_are_those_of_a_simulation(small, tmp_path, monkeypatch, quiet):
    """Without a number of threads, two clients on eight cores have four each."""
    monkeypatch.setattr(placement, "cores", lambda: 8)
    given = {}

    def run_nothing(flat: dict, _tell: object) -> None:
        given.update(flat)

    monkeypatch.setattr(in_process, "run_in_process", run_nothing)
    free = small | {"run.threads": 0, "run.directory": str(tmp_path / "run")}
    fedllm_app.run(free, engine="in-process", console=quiet)
    assert given["run.threads"] == 4


def test_a_run_goes_on(small, tmp_path, quiet):
    """Two rounds and then two more end where four end that keep the same rate."""
    flat = small | {"run.checkpoint-every": 1, "train.min-learning-rate": 3e-3, "train.learning-rate": 3e-3}
    first = fedllm_app.run(flat | {"run.directory": str(tmp_path / "run")}, engine="in-process", console=quiet)
    second = fedllm_app.run({"train.rounds": 4}, engine="in-process", resume=first.directory, console=quiet)
    assert second.directory == first.directory
    assert adapter_bytes(second) == run_in_process(flat | {"train.rounds": 4}, tmp_path / "whole")
    with pytest.raises(NotResumable, match="has finished its 4 rounds"):
        fedllm_app.run(engine="in-process", resume=first.directory, console=quiet)


def test_errors_are_exceptions_and_nothing_is_left(small, tmp_path, monkeypatch, quiet):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ConfigError, match="did you mean train.rounds"):
        fedllm_app.run(small | {"train.round": 3}, engine="in-process", console=quiet)
    with pytest.raises(RunError, match="must be one of 'simulation', 'in-process'"):
        fedllm_app.run(small, engine="ray", console=quiet)
    with pytest.raises(UserError, match="there is no such directory"):
        fedllm_app.run(small, app=tmp_path / "nowhere", console=quiet)
    assert list(tmp_path.iterdir()) == []


def test_a_run_that_fails_raises_the_reason(small, tmp_path, quiet):
    """Rows that are too long once they are tokens: every client says so before round 1."""
    (tmp_path / "rows.jsonl").write_text(f'{{"question": "{"a" * 500}", "answer": "b"}}\n' * 8)
    flat = small | {"data.name": str(tmp_path / "rows.jsonl"), "train.max-length": 64}
    with pytest.raises(UserError, match="leave no room for a completion"):
        fedllm_app.run(flat | {"run.directory": str(tmp_path / "run")}, engine="in-process", console=quiet)
    assert read_journal(tmp_path / "run")[-1]["event"] == "failed"


def test_rows_that_cannot_be_divided_begin_no_run(small, tmp_path, quiet):
    (tmp_path / "rows.jsonl").write_text('{"question": "a", "answer": "b"}\n' * 2)
    flat = small | {"data.name": str(tmp_path / "rows.jsonl"), "data.minimum-rows": 5}
    with pytest.raises(UserError, match="minimum-rows"):
        fedllm_app.run(flat | {"run.directory": str(tmp_path / "run")}, engine="in-process", console=quiet)
    assert not (tmp_path / "run" / "journal.jsonl").exists()


def test_an_interrupted_run_says_so(small, tmp_path, monkeypatch, quiet):
    """Ctrl-C, or a notebook's stop button, while a client trains."""

    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("fedllm_app.client.local_client.LocalClient.train", interrupt)
    with pytest.raises(KeyboardInterrupt):
        fedllm_app.run(small | {"run.directory": str(tmp_path / "run")}, engine="in-process", console=quiet)
    last = read_journal(tmp_path / "run")[-1]
    assert (last["event"], last["reason"].partition(":")[0]) == ("failed", "stopped")


def test_an_evaluation(small, tmp_path, quiet):
    """Base and adapter are asked; a second report does not overwrite the first."""
    result = fedllm_app.run(small | {"run.directory": str(tmp_path / "run")}, engine="in-process", console=quiet)
    first, second = (result.evaluate("builtin", limit=2, only="math", threads=1) for _ in range(2))
    assert [path.name for path in (first, second)] == ["evaluation", "evaluation-2"]
    assert (first / "report.json").is_file()
    with pytest.raises(RunError, match="wrong options"):
        result.evaluate("builtin", nothing=3)
    with pytest.raises(UserError, match="there is no suite 'bultin'. Did you mean 'builtin'"):
        result.evaluate("bultin")
    assert not (tmp_path / "run" / "evaluation-3").exists()


def test_importing_the_package_imports_nothing_heavy():
    """Flower imports it in processes that need little of it."""
    code = "import sys, fedllm_app; print([name for name in ('torch', 'rich', 'flwr') if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
