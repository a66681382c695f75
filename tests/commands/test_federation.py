"""`fedllm federation`: what is refused before anything starts, and what is ended."""

import os
import socket
import stat
import subprocess

import psutil
import pytest
from flwr.cli.flower_config import read_superlink_connection

from fedllm_app.commands import trial
from fedllm_app.commands.connections import add_connection
from fedllm_app.commands.main import main
from fedllm_app.commands.trial import Process, Trial
from fedllm_app.sites.keys import make_authority


def printed(capsys) -> str:
    """What was printed, wherever the terminal broke its lines."""
    return " ".join(capsys.readouterr().out.split())


@pytest.fixture(autouse=True)
def nothing_starts(flower_home, monkeypatch):
    def refuse(*_arguments: object) -> None:
        raise AssertionError("a process was started")

    monkeypatch.setattr(trial, "_launch", refuse)


def test_a_missing_file_is_said_before_anything_starts(tmp_path, capsys):
    (tmp_path / "a.csv").write_text("q,a\n1,2\n")
    assert main(["federation", "up", "--data", str(tmp_path / "a.csv"), "--data", "nowhere.csv"]) == 2
    assert "no such file: nowhere.csv" in printed(capsys)


def test_a_port_that_is_taken(capsys):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        assert main(["federation", "up", "--port", str(taken.getsockname()[1])]) == 2
    assert "another program listens there" in printed(capsys)


@pytest.mark.parametrize("name", ["", "../x", "a b", "a/b"])
def test_a_name_that_is_none(name, capsys):
    assert main(["federation", "up", "--name", name]) == 2
    assert "letters, digits" in printed(capsys)


def test_sites_are_named_by_their_files(tmp_path):
    files = [tmp_path / name for name in ("berlin.csv", "x/berlin.csv", "Rom a.jsonl", "berlin-2.csv")]
    for file in files:
        file.parent.mkdir(exist_ok=True)
        file.touch()
    assert list(trial._data_files(files)) == ["berlin", "berlin-2", "Rom-a", "berlin-2-2"]


def sleeping() -> subprocess.Popen:
    return subprocess.Popen(["sleep", "60"])


def test_down_ends_what_it_started_and_nothing_that_has_the_same_number(flower_home, capsys):
    """Ids of processes come again: one that began at another time is another process."""
    ours, other = sleeping(), sleeping()
    try:
        began = psutil.Process(ours.pid).create_time()
        trial_ = Trial("t", 1, [Process("superlink", ours.pid, began), Process("a", other.pid, began - 3600)], {"a": 7})
        (trial_.directory / "server").mkdir(parents=True)
        (trial_.directory / "homes" / "server" / "runs").mkdir(parents=True)
        trial_.save()
        add_connection("t", "127.0.0.1:1", trial_.authority)
        assert main(["federation", "down", "--name", "t"]) == 0
        assert "ended 1 processes" in printed(capsys)
        assert ours.wait(timeout=10) is not None
        assert other.poll() is None
        assert sorted(os.listdir(trial_.directory)) == ["homes"]
        assert "superlink.t" not in (flower_home / "config.toml").read_text()
    finally:
        for process in (ours, other):
            process.kill()
            process.wait()
    assert main(["federation", "down", "--name", "t"]) == 2


def test_a_second_up_of_the_same_name_is_refused_while_it_lives(capsys):
    process = sleeping()
    try:
        began = psutil.Process(process.pid).create_time()
        kept = Trial("trial", 1, [Process("superlink", process.pid, began)])
        (kept.directory / "server").mkdir(parents=True)
        make_authority(kept.directory / "server", "trial")
        kept.save()
        assert main(["federation", "up"]) == 2
        assert "is up; end it with" in printed(capsys)
        assert main(["federation", "status"]) == 1  # its SuperLink does not answer
        assert "does not answer" in printed(capsys)
    finally:
        process.kill()
        process.wait()


def test_certificates_again_keep_the_authority(tmp_path, capsys):
    """A new certificate of the server needs nothing new at the sites."""
    directory = tmp_path / "the server"
    arguments = ["federation", "certificates", str(directory), "--host", "fl.example.org"]
    assert main(arguments) == 0
    authority, first = (directory / "ca.crt").read_bytes(), (directory / "server.crt").read_bytes()
    assert main([*arguments, "--days", "30"]) == 0
    assert ((directory / "ca.crt").read_bytes() == authority, (directory / "server.crt").read_bytes() == first) == (
        True,
        False,
    )
    assert f'serve "{directory}"' in (directory / "fedllm-federation.service").read_text()
    assert stat.S_IMODE((directory / "ca.key").stat().st_mode) == 0o600


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ([], "certificates` makes it"),
        (["--runs-from", "example.org"], "--runs-from"),
        (["--port", "TAKEN"], "cannot listen there"),
    ],
)
def test_serve_says_what_is_wrong(tmp_path, capsys, options, said):
    if options:
        assert main(["federation", "certificates", str(tmp_path), "--host", "a"]) == 0
    with socket.create_server(("127.0.0.1", 0)) as taken:
        options = [str(taken.getsockname()[1]) if option == "TAKEN" else option for option in options]
        assert main(["federation", "serve", str(tmp_path), "--host", "127.0.0.1", *options]) == 2
    assert said in printed(capsys)


def test_connect_adds_a_connection(tmp_path, flower_home):
    make_authority(tmp_path, "a")
    arguments = [
        "federation",
        "connect",
        "sites",
        "--superlink",
        "fl.example.org:8000",
        "--ca",
        str(tmp_path / "ca.crt"),
    ]
    assert main(arguments) == 0
    assert main(arguments) == 0  # again: it is replaced
    assert read_superlink_connection("sites").address == "fl.example.org:8000"
    assert main([*arguments[:2], "no.name", *arguments[3:]]) == 2
    assert main([*arguments, "--superlink", "fl.example.org"]) == 2
