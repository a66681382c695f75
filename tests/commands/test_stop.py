"""`fedllm stop` says that a run has stopped once it has."""

import pytest

from fedllm_app.commands import attach, stop
from fedllm_app.commands.flower import LaunchError
from fedllm_app.commands.main import main


@pytest.fixture
def flower(monkeypatch):
    """What Flower answers when it is asked for a run's state, look by look; what it was asked to stop."""
    said: list[str] = []
    stopped: list[tuple] = []
    monkeypatch.setattr(attach, "is_local", lambda connection: connection is None)
    monkeypatch.setattr(stop, "run_status", lambda *_: (said.pop(0), ""))
    monkeypatch.setattr(stop, "stop_run", lambda run, connection, _: stopped.append((run, connection)))
    monkeypatch.setattr(stop, "_LOOK_EVERY", 0.0)
    return said, stopped


def test_a_run_is_stopped_and_waited_for(flower, capsys):
    said, stopped = flower
    said += ["running", "running", "running", "finished:stopped"]
    assert main(["stop", "7", "sites"]) == 0
    assert stopped == [(7, "sites")]
    assert said == []
    assert "run 7 has stopped (finished:stopped)" in capsys.readouterr().out.replace("\n", " ")


def test_a_run_that_has_ended_is_left_alone(flower, capsys):
    said, stopped = flower
    said += ["finished:completed"]
    assert main(["stop", "7", "sites"]) == 0
    assert stopped == []
    assert "had ended before: finished:completed" in capsys.readouterr().out


def test_a_run_that_does_not_stop_is_told(flower, capsys, monkeypatch):
    said, _ = flower
    said += ["running"] * 3
    monkeypatch.setattr(stop, "_TIMEOUT", -1.0)
    assert main(["stop", "7", "sites"]) == 2
    assert "still running" in capsys.readouterr().out


def test_what_flower_refuses_is_said(flower, capsys, monkeypatch):
    said, _ = flower
    said += ["running"]

    def refuse(*_):
        raise LaunchError("flwr stop failed: no such run")

    monkeypatch.setattr(stop, "stop_run", refuse)
    assert main(["stop", "7", "sites"]) == 2
    assert "no such run" in capsys.readouterr().out


@pytest.mark.parametrize("command", ["stop", "watch"])
def test_a_local_run_is_its_commands(flower, capsys, command):
    assert main([command, "7"]) == 2
    assert "belongs to the command that started it" in capsys.readouterr().out.replace("\n", " ")
