"""A federation with TLS, node keys and approved code on real processes: `up`, a run, foreign code, refusals, `down`."""

import io
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager, suppress
from datetime import datetime, timedelta
from pathlib import Path

import psutil
import pytest
from places import ROOT
from rich.console import Console

from fedllm_app.commands import trial
from fedllm_app.commands.flower import flower_environment
from fedllm_app.commands.main import main
from fedllm_app.commands.run import run_to_end
from fedllm_app.runs.directory import read_journal, read_result
from fedllm_app.sites import keys
from fedllm_app.sites.connection_checks import check_server
from fedllm_app.sites.control import control, nodes
from fedllm_app.sites.site_file import read_site

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def started(tmp_path_factory, tiny_model):
    """A federation of two sites for all tests of this file, their files in a folder with a blank in its name."""
    place = tmp_path_factory.mktemp("federation")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("FEDLLM_HOME", str(place / "home"))
        patch.setenv("FLWR_HOME", str(place / "flwr"))
        options = []
        for name in ("berlin", "rome"):
            file = place / "the data" / f"{name}.jsonl"
            file.parent.mkdir(exist_ok=True)
            file.write_text("".join(f'{{"question": "{name} {n}", "answer": "{n}"}}\n' for n in range(12)))
            options += ["--data", str(file)]
        assert main(["federation", "up", "--name", "t", *options, "--model", str(tiny_model)]) == 0
        made = trial.read("t")
        alive = [psutil.Process(process.pid) for process in made.processes]
        alive += [child for process in alive for child in process.children(recursive=True)]
        yield made, place
        patch.setenv("FEDLLM_HOME", str(place / "home"))  # a test's own homes came after this one's
        patch.setenv("FLWR_HOME", str(place / "flwr"))
        assert main(["federation", "down", "--name", "t"]) == 0
        assert not psutil.wait_procs(alive, timeout=10)[1]
        assert "superlink.t" not in (place / "flwr" / "config.toml").read_text()


@pytest.fixture
def federation(started, monkeypatch):
    """It, with its homes in the environment instead of those of the test."""
    made, place = started
    monkeypatch.setenv("FEDLLM_HOME", str(place / "home"))
    monkeypatch.setenv("FLWR_HOME", str(place / "flwr"))
    return made


@pytest.fixture
def short(run_config) -> dict:
    return run_config | {
        "clients.number": 2,
        "evaluate.every": 0,
        "data.template": "none",
        "train.local-steps": 1,
        "train.rounds": 1,
    }


def test_a_run_over_tls_with_node_keys(federation, short, tmp_path, console):
    directory = tmp_path / "run"
    assert run_to_end(ROOT, short | {"run.directory": str(directory)}, console, connection="t")
    assert read_result(directory)["refused_replies"] == 0
    assert [event["name"] for event in read_journal(directory) if event["event"] == "client"] == ["berlin", "rome"]
    assert set(trial.connected(federation).values()) == {"online"}


def test_foreign_code_is_refused_and_never_runs(federation, short, tmp_path, console):
    """Whoever can start runs submits the app with one line more, which writes a file as the site's user."""
    changed, written = tmp_path / "changed", tmp_path / "written"
    leave_out = shutil.ignore_patterns(".git", ".venv", "__pycache__")
    shutil.copytree(ROOT, changed, ignore=leave_out)
    with open(changed / "fedllm_app" / "client_app.py", "a") as file:
        file.write(f"open({str(written)!r}, 'w').close()\n")
    assert not run_to_end(changed, short | {"run.directory": str(tmp_path / "run")}, console, connection="t")
    said = console.export_text().replace("\n", " ")
    assert "this site refuses the app of the run" in said
    assert "fedllm_app/client_app.py" in said
    assert not written.exists()
    apps = [
        path for site in ("berlin", "rome") for path in (federation.directory / "homes" / site / "flwr").rglob("*.py")
    ]
    assert apps == []  # not even unpacked


def test_strangers_are_not_let_in(federation, tmp_path):
    """A key that is not registered, no TLS, another authority. Flower ends the first and the last (exit code 305), and
    lets the second try for ever. None of them is seen by the server, and the check names no fault of a real site."""
    berlin = read_site(federation.directory / "sites" / "berlin")
    assert {finding.level for finding in check_server(berlin)} == {"ok"}
    key, other = tmp_path / "other.key", tmp_path / "other"
    keys.make_node_key(key)
    keys.make_authority(other, "other")
    strangers = {
        "unregistered": ["--root-certificates", federation.authority, "--auth-supernode-private-key", key],
        "plain": ["--insecure"],
        "other": ["--root-certificates", other / "ca.crt"],
    }
    with control(federation.address, federation.authority) as client:
        before = {node.node_id for node in nodes(client)}
    with ExitStack() as stack:
        logs = {
            name: stack.enter_context(supernode(federation, tmp_path / f"{name}.log", o))
            for name, o in strangers.items()
        }
        deadline = time.monotonic() + 200
        while time.monotonic() < deadline and not all(map(was_refused, logs.values())):
            time.sleep(0.5)
        assert all(map(was_refused, logs.values())), {name: log.read_text() for name, log in logs.items()}
        with control(federation.address, federation.authority) as client:
            assert {node.node_id for node in nodes(client)} == before
    assert "Exit Code: 305" in logs["unregistered"].read_text()


@contextmanager
def supernode(federation: trial.Trial, log: Path, options: list) -> Iterator[Path]:
    """A SuperNode of Flower's, whose log this gives; its children outlive it, so all of them are ended."""
    command = [Path(sys.executable).parent / "flower-supernode", "--superlink", federation.address]
    with open(log, "w") as file:
        process = subprocess.Popen(
            [*map(str, [*command, "--port", trial.free_port(), *options])],
            env=flower_environment(),
            stdout=file,
            stderr=file,
            start_new_session=True,
        )
    try:
        yield log
    finally:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def was_refused(log: Path) -> bool:
    """Whether a SuperNode has said that it could not connect, at last or several times."""
    text = log.read_text()
    return "Exit Code: 305" in text or text.count("Connection attempt failed") > 3


def test_a_clock_that_is_an_hour_ahead_is_named(federation, capsys, monkeypatch):
    """Flower refuses every message of such a node, whose signature has the time. The check says what to do."""

    class Ahead(datetime):
        @classmethod
        def now(cls, tz=None):
            return datetime.now(tz) + timedelta(hours=1)

    monkeypatch.setattr("fedllm_app.sites.connection_checks.datetime", Ahead)
    assert main(["site", "check", str(federation.directory / "sites" / "berlin")]) == 1
    said = " ".join(capsys.readouterr().out.split())
    assert re.search(r"this machine is 3[56]\d\d s ahead of the server", said), said


def test_two_runs_at_once(federation, short, tmp_path):
    """Both have both sites, whose workers serve one message after the other; each ends as it would alone."""
    directories = [tmp_path / "first", tmp_path / "second", tmp_path / "alone"]

    def run(directory: Path) -> bool:
        return bool(run_to_end(ROOT, short | {"run.directory": str(directory)}, quiet(), connection="t"))

    with ThreadPoolExecutor(2) as pool:
        assert list(pool.map(run, directories[:2])) == [True, True]
    assert run(directories[2])
    adapters = {(path / "adapter" / "adapter_model.safetensors").read_bytes() for path in directories}
    assert len(adapters) == 1
    assert [read_result(path)["refused_replies"] for path in directories] == [0, 0, 0]


def quiet() -> Console:
    return Console(file=io.StringIO(), width=160)


def test_sigterm_ends_a_site_and_all_that_it_started(federation):
    (rome,) = [process for process in federation.processes if process.name == "rome"]
    process = psutil.Process(rome.pid)
    below = process.children(recursive=True)
    assert {"node", "flower-superexec"} <= {word for child in below for word in words(child)}
    process.terminate()
    assert not psutil.wait_procs([process, *below], timeout=60)[1]


def words(process: psutil.Process) -> list[str]:
    """What a process is, as its command line says; of one that has ended, nothing."""
    if process.status() == psutil.STATUS_ZOMBIE:
        return []
    return [part for word in process.cmdline() for part in re.split(r"[/._ ]", word)] + process.cmdline()


def test_ctrl_c_ends_the_server_and_all_that_it_started(tmp_path, flower_home):
    """`fedllm federation serve` with a certificate of its own."""
    folder, port = tmp_path / "server", trial.free_port()
    assert main(["federation", "certificates", str(folder), "--host", "localhost"]) == 0
    command = [sys.executable, "-m", "fedllm_app.commands.main", "federation", "serve", str(folder)]
    with open(tmp_path / "log", "w") as log:
        process = subprocess.Popen([*command, "--port", str(port)], stdout=log, stderr=log)
    deadline = time.monotonic() + 90
    while not trial.is_healthy(f"localhost:{port}", folder / keys.AUTHORITY):
        assert process.poll() is None and time.monotonic() < deadline, (tmp_path / "log").read_text()
        time.sleep(0.2)
    below = psutil.Process(process.pid).children(recursive=True)
    assert below
    process.send_signal(signal.SIGINT)
    assert process.wait(timeout=60) == 130
    assert not psutil.wait_procs(below, timeout=10)[1]


def test_a_dead_superlink_is_told(federation, capsys):
    """The last test: from here on `down` finds one process that is gone."""
    superlink = psutil.Process(federation.processes[0].pid)
    superlink.kill()
    superlink.wait(timeout=10)
    assert main(["federation", "status", "--name", "t"]) == 1
    said = capsys.readouterr().out
    assert "ended" in said and "does not answer" in said.replace("\n", " ")
