"""Following a run to its end: whose journal is believed, and what an interrupted command says."""

import io
import json

import pytest
from places import ROOT
from rich.console import Console

from fedllm_app.commands import run
from fedllm_app.commands.main import main
from fedllm_app.commands.run import run_to_end
from fedllm_app.federation.participation import Participation
from fedllm_app.paths import write_text
from fedllm_app.runs.directory import RunDirectory


@pytest.fixture
def console():
    return Console(file=io.StringIO(), width=300)


@pytest.fixture
def connection(monkeypatch):
    """A connection that takes every run, with the id 7, and on which `during(directory)` happens once a look."""
    monkeypatch.setattr(run, "is_local", lambda name: False)
    monkeypatch.setattr(run, "submit_run", lambda *_: 7)

    def set_during(during):
        monkeypatch.setattr(run.time, "sleep", lambda _: during())

    return set_during


def test_the_failure_of_an_earlier_run_is_not_this_ones(run_config, tmp_path, connection, console):
    """Run 3 failed at its start. The server puts its journal aside for run 7, which finishes."""
    directory = RunDirectory(tmp_path / "one")
    directory.create({})
    directory.journal("started", run_id=3, rounds=1, strategy="fedavg")
    directory.journal("failed", reason="run three's reason")

    def serve():
        again = RunDirectory(directory.path)
        again.create({})
        again.journal("started", run_id=7, rounds=1, strategy="fedavg")
        again.journal("failed", reason="run seven's reason")

    connection(serve)
    flat = run_config | {"run.directory": str(directory.path)}
    assert not run_to_end(ROOT, flat, console, connection="sites")
    said = console.file.getvalue()
    assert "run seven's reason" in said
    assert "run three's reason" not in said


def test_an_interrupted_command_says_that_the_run_goes_on(run_config, tmp_path, connection, console):
    def interrupt():
        raise KeyboardInterrupt

    connection(interrupt)
    with pytest.raises(SystemExit) as ended:
        run_to_end(ROOT, run_config | {"run.directory": str(tmp_path / "one")}, console, connection="sites")
    assert ended.value.code == 130
    assert "run 7 goes on. To stop it: flwr stop 7 sites" in console.file.getvalue()


@pytest.mark.parametrize(
    ("took_part", "status", "said"),
    [(1, 0, "run finished"), (0, 3, "never contributed: 1 (oslo)"), (None, 1, "failed")],
)
def test_the_exit_status_tells_whether_all_that_were_drawn_contributed(
    tmp_path, connection, capsys, took_part, status, said
):
    """Client 1 of two took part in one round, in none, or the run failed."""
    directory = RunDirectory(tmp_path / "one")
    totals = dict.fromkeys(("seconds", "seconds_of_rounds", "bytes_down", "bytes_up", "refused_replies"), 1)
    peaks = {"peak_client_memory_mb": 1.0, "peak_client_gpu_memory_mb": 0.0}

    def serve():
        directory.create({})
        directory.journal("started", run_id=7, rounds=1, strategy="fedavg")
        if took_part is None:
            directory.journal("failed", reason="nobody answered")
            return
        parts = Participation()
        parts.begin({0: "rome", 1: "oslo"})
        parts.drawn([0, 1])
        parts.took_part([0, 1][: 1 + took_part])
        write_text(
            directory.result_file,
            json.dumps({"strategy": "fedavg", "rounds": 1, **totals, **peaks, "participation": parts.lines()}),
        )

    connection(serve)
    assert main(["run", str(ROOT), "sites", "-c", f"run.directory='{directory.path}'"]) == status
    assert said in capsys.readouterr().out
