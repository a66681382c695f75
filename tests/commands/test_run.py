"""Following a run to its end: whose journal is believed, and what an interrupted command says."""

import argparse
import io
import json

import pytest
from places import ROOT
from rich.console import Console

from fedllm_app.commands import attach, follow, run
from fedllm_app.commands.main import main
from fedllm_app.commands.resumed import resumed_config
from fedllm_app.commands.run import run_to_end
from fedllm_app.config.parse import parse_run_config
from fedllm_app.config.sections import ConfigError
from fedllm_app.federation.participation import Participation
from fedllm_app.paths import write_text
from fedllm_app.runs.directory import NotResumable, RunDirectory


@pytest.fixture
def console():
    return Console(file=io.StringIO(), width=300)


@pytest.fixture
def connection(monkeypatch):
    """A connection that takes every run, with the id 7, and on which `during(directory)` happens once a look."""
    monkeypatch.setattr(run, "is_local", lambda name: False)
    monkeypatch.setattr(run, "submit_run", lambda *_: 7)

    monkeypatch.setattr(attach, "LogStream", NoLog)

    def set_during(during):
        monkeypatch.setattr(follow.time, "sleep", lambda _: during())

    return set_during


class NoLog:
    """A log that cannot be read."""

    complete = False

    def __init__(self, *_):
        pass

    def lines(self) -> list[str]:
        return []

    def close(self) -> None:
        pass


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
    assert (
        "run 7 goes on. To see it again: fedllm watch 7 sites. To stop it: fedllm stop 7 sites"
        in console.file.getvalue()
    )


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
        parts.know({0: "rome", 1: "oslo"})
        parts.drawn([0, 1])
        parts.took_part([0, 1][: 1 + took_part])
        write_text(
            directory.result_file,
            json.dumps({"strategy": "fedavg", "rounds": 1, **totals, **peaks, "participation": parts.lines()}),
        )

    connection(serve)
    assert main(["run", str(ROOT), "sites", "-c", f"run.directory='{directory.path}'"]) == status
    assert said in capsys.readouterr().out


@pytest.fixture
def stopped_run(run_config, tmp_path):
    """A run directory whose run was killed."""
    directory = RunDirectory(tmp_path / "one")
    directory.create(run_config | {"strategy.name": "fedadam", "run.directory": str(directory.path)})
    directory.journal("started", run_id=3, run="a" * 32)
    directory.journal("ready", seconds=1.0)
    return directory


def resumed(directory, *given, app=ROOT, local=True):
    parsed = argparse.Namespace(resume=str(directory), run_config=list(given), app=str(app))
    return resumed_config(parsed, local)


def test_resuming_takes_the_recorded_configuration(stopped_run):
    flat = resumed(stopped_run.path, "train.rounds=9")
    assert (flat["strategy.name"], flat["train.rounds"]) == ("fedadam", 9)
    assert flat["run.resume"] == flat["run.directory"] == str(stopped_run.path)
    parse_run_config(flat)
    with pytest.raises(ConfigError, match="lora.r = 3: the run that is resumed has 8"):
        resumed(stopped_run.path, "lora.r=3")


def test_resuming_what_is_no_run(tmp_path):
    """On this machine at once; a directory of the server's cannot be looked at, and -c gives the configuration."""
    with pytest.raises(NotResumable, match="holds no run"):
        resumed(tmp_path)
    with pytest.raises(NotResumable, match="absolute path of the server"):
        resumed("runs/first", local=False)
    flat = resumed("/srv/elsewhere", "strategy.name=fedyogi", local=False)
    assert (flat["run.resume"], flat["strategy.name"]) == ("/srv/elsewhere", "fedyogi")


def test_a_resumed_run_is_followed_from_where_it_goes_on(run_config, stopped_run, connection, console):
    """What the killed attempt left in the journal is not this attempt's."""
    stopped_run.journal("failed", reason="the first attempt's reason")

    def serve():
        stopped_run.journal("resumed", run_id=7, round=0, rounds=2, again=0, strategy="fedadam")
        stopped_run.journal("failed", reason="the second attempt's reason")

    connection(serve)
    assert not run_to_end(ROOT, resumed(stopped_run.path), console, connection="sites")
    said = console.file.getvalue()
    assert "goes on after round 0 of 2" in said
    assert "the second attempt's reason" in said
    assert "the first attempt's" not in said


@pytest.mark.parametrize(
    ("checkpoint", "said"),
    [("checkpoints/round-2", "goes on with: fedllm run --resume"), (None, "has no checkpoint yet")],
)
def test_a_local_run_that_is_stopped_says_how_it_goes_on(checkpoint, said, tmp_path, console, monkeypatch):
    found = tmp_path / checkpoint if checkpoint else None
    monkeypatch.setattr(run, "newest_checkpoint", lambda _: (found, []))
    with pytest.raises(KeyboardInterrupt), run._told_how_to_go_on(tmp_path, console):
        raise KeyboardInterrupt
    assert not console.file.getvalue()  # there is no run yet
    directory = RunDirectory(tmp_path)
    directory.create({})
    directory.journal("started", run_id=7, rounds=1, strategy="fedavg")
    with pytest.raises(KeyboardInterrupt), run._told_how_to_go_on(tmp_path, console):
        raise KeyboardInterrupt
    told = " ".join(console.file.getvalue().split())
    assert said in told and f"--resume {tmp_path}" in told
