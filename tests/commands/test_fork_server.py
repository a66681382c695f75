"""The fork server of a command: when there is one, and when another one."""

import os
import time

import psutil
import pytest
from places import ROOT

from fedllm_app.commands import fork_server
from fedllm_app.commands.fork_server import fork_server_environment


@pytest.fixture
def running(monkeypatch):
    """No server of another test; those of this one end with it."""
    servers = []
    monkeypatch.setattr(fork_server, "has_gpu_driver", lambda: False)
    monkeypatch.delenv("FEDLLM_FORK_SERVER", raising=False)
    monkeypatch.setattr(fork_server, "_running", servers)
    monkeypatch.setattr(fork_server, "APP", "json")  # it ends at once for want of an identity, and imports little
    yield servers
    fork_server._close_all()


class Standing(fork_server.RunningForkServer):
    """One that serves until it is closed, though its process has ended."""

    lives = True


def test_one_serves_all_simulations_of_a_command(running, monkeypatch):
    monkeypatch.setattr(fork_server, "RunningForkServer", Standing)
    environment = dict(os.environ)
    first = fork_server_environment(environment)
    assert first.keys() - environment.keys() == {"FEDLLM_FORK_SERVER"}
    assert (
        fork_server_environment(environment | {"FEDLLM_HOME": "/another"})["FEDLLM_FORK_SERVER"]
        == (first["FEDLLM_FORK_SERVER"])
    )
    [server] = running
    assert str(server.socket) == first["FEDLLM_FORK_SERVER"]
    fork_server._close_all()
    assert not server.socket.parent.exists()
    assert not psutil.pid_exists(server._process.pid)


def test_libraries_that_would_be_imported_otherwise_need_another(running, monkeypatch):
    monkeypatch.setattr(fork_server, "RunningForkServer", Standing)
    first = fork_server_environment(dict(os.environ))["FEDLLM_FORK_SERVER"]
    second = fork_server_environment(os.environ | {"HF_HUB_OFFLINE": "maybe"})["FEDLLM_FORK_SERVER"]
    assert first != second
    assert [str(server.socket) for server in running] == [second]


def test_one_that_has_ended_is_replaced(running):
    first = fork_server_environment(dict(os.environ))["FEDLLM_FORK_SERVER"]
    running[0]._process.wait(timeout=60)
    assert fork_server_environment(dict(os.environ))["FEDLLM_FORK_SERVER"] != first


def test_a_run_does_without_one_that_cannot_be_started(running, monkeypatch, tmp_path, caplog):
    """Here the path of its socket would be too long. Ray serves then, and nothing is left."""
    place = tmp_path / ("x" * 100)
    place.mkdir()
    monkeypatch.setattr(fork_server.tempfile, "tempdir", str(place))
    environment = dict(os.environ)
    assert fork_server_environment(environment) is environment
    assert "no fork server can be started" in caplog.text
    assert list(place.iterdir()) == []


def test_one_that_still_imports_is_ended_at_once(running, monkeypatch, tmp_path):
    """Before it looks at its standard input."""
    (tmp_path / "slow_app.py").write_text("import time\ntime.sleep(60)\n")
    monkeypatch.setattr(fork_server, "APP", "slow_app")
    fork_server_environment(os.environ | {"PYTHONPATH": f"{ROOT}{os.pathsep}{tmp_path}"})
    [server] = running
    began = time.monotonic()
    fork_server._close_all()
    assert server._process.returncode == -9
    assert time.monotonic() - began < 30, "it waited for the import"


@pytest.mark.parametrize("why", ["gpu", "asked", "system"])
def test_where_there_is_none(running, monkeypatch, why):
    """A driver of GPUs must not be asked before a fork; the user may say no; outside of Linux forks are not safe."""
    environment = dict(os.environ)
    if why == "gpu":
        monkeypatch.setattr(fork_server, "has_gpu_driver", lambda: True)
    elif why == "asked":
        environment["FEDLLM_FORK_SERVER"] = ""
    else:
        monkeypatch.setattr(fork_server.sys, "platform", "darwin")
    assert fork_server_environment(environment) is environment
    assert running == []
