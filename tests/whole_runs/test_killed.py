"""Flower's processes are killed (kill -9) in real runs, which go on and end with the bytes of an undisturbed one."""

import json
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import contextmanager
from pathlib import Path

import psutil
import pytest
from flower_sites import CONNECTION, Sites
from in_process import run_in_process
from places import ROOT

from fedllm_app.runs.journal import read_journal

pytestmark = pytest.mark.slow


@pytest.fixture
def flat(run_config):
    """Rounds that are long enough to be interrupted, a strategy with state on both sides, a checkpoint a round."""
    return run_config | {
        "clients.number": 2,
        "data.template": "none",
        "evaluate.every": 0,
        "run.checkpoint-every": 1,
        "strategy.name": "scaffold",
        "train.local-steps": 30,
        "train.rounds": 4,
        "update.compress": "int8",
    }


@contextmanager
def command(tmp_path: Path, *options: str):
    """`fedllm run` with these options, in a process of its own; ended at the end."""
    arguments = [sys.executable, "-m", "fedllm_app.commands.main", "run", str(ROOT), *options]
    with open(tmp_path / "terminal", "a") as terminal:
        process = subprocess.Popen(arguments, cwd=tmp_path, stdout=terminal, stderr=terminal)
    try:
        yield process
    finally:
        process.terminate()
        process.wait(timeout=60)


def config_file(tmp_path: Path, flat: dict) -> str:
    file = tmp_path / "run.toml"
    file.write_text("".join(f'"{key}" = {json.dumps(value)}\n' for key, value in flat.items() if value != ""))
    return str(file)


def wait_for(what: Callable[[], object], seconds: float = 240.0) -> object:
    """The first true value. No test waits that long unless something is broken."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if value := what():
            return value
        time.sleep(0.05)
    raise AssertionError("it did not happen")


def begun(directory: Path, server_round: int) -> bool:
    """Whether a round has begun."""
    if not (directory / "journal.jsonl").exists():
        return False
    return ("round-started", server_round) in [
        (event["event"], event.get("round")) for event in read_journal(directory, everything=True)
    ]


def kill(command_name: str, below: int) -> None:
    """Kill -9 the processes with this name below a process."""
    found = [
        process
        for process in psutil.Process(below).children(recursive=True)
        if any(command_name in word for word in process.cmdline()[:3])
    ]
    assert found, f"{command_name} does not run"
    for process in found:
        process.kill()


def final_adapter(directory: Path) -> bytes:
    return (directory / "adapter" / "adapter_model.safetensors").read_bytes()


def test_a_simulation(flat, tmp_path, flower_home):
    """flwr-simulation, which is server and clients, dies in round 2. The command says so and ends with 1."""
    whole = run_in_process(flat, tmp_path / "whole")
    directory = tmp_path / "run"
    given = config_file(tmp_path, flat | {"run.directory": str(directory)})
    with command(tmp_path, "-c", given) as process:
        wait_for(lambda: begun(directory, 2))
        kill("flwr-simulation", process.pid)
        assert process.wait(timeout=120) == 1
    said = (tmp_path / "terminal").read_text()
    assert "(flwr-simulation) was ended before the run was over" in said
    assert f"goes on after its last checkpoint with: fedllm run --resume {directory}" in said
    assert read_journal(directory)[-1]["event"] == "failed"
    with command(tmp_path, "--resume", str(directory)) as process:
        assert process.wait(timeout=240) == 0
    assert final_adapter(directory) == whole


def test_a_deployment(flat, tmp_path, flower_home, tiny_model):
    """The ServerApp dies in round 2; then, of the run that goes on, the SuperLink in round 3."""
    directory = tmp_path / "run"
    given = config_file(tmp_path, flat | {"run.directory": str(directory)})
    with Sites(tmp_path, flower_home, {"athens": 20, "berlin": 20}, tiny_model) as sites:
        whole = run_in_process(flat | as_sites(tmp_path), tmp_path / "whole")
        with command(tmp_path, CONNECTION, "-c", given) as process:
            wait_for(lambda: begun(directory, 2))
            kill("flwr-serverapp", sites.processes["server"].pid)
            assert process.wait(timeout=240) == 1
        with command(tmp_path, CONNECTION, "--resume", str(directory)):
            wait_for(lambda: begun(directory, 3))
            sites.kill("server")
            sites.server()
        with command(tmp_path, CONNECTION, "--resume", str(directory)) as process:
            assert process.wait(timeout=240) == 0
    assert final_adapter(directory) == whole
    resumed = [event["round"] for event in read_journal(directory, everything=True) if event["event"] == "resumed"]
    assert resumed == [1, 2]


def as_sites(folder: Path) -> dict[str, str]:
    """Keys that give the clients of a simulation the rows that the sites will have."""
    return {"data.name": f"{folder / 'athens.jsonl'},{folder / 'berlin.jsonl'}", "data.partition": "by-domain"}
