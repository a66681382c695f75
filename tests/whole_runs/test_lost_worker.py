"""End to end in a simulation: the process of a client is killed in the middle of a round."""

import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import psutil
import pytest
from meanwhile import meanwhile
from places import ROOT

from fedllm_app.commands.run import exit_status, run_to_end
from fedllm_app.models.hardware import has_gpu_driver
from fedllm_app.runs.directory import read_result
from fedllm_app.runs.journal import read_journal

pytestmark = pytest.mark.slow


def training_workers() -> list[psutil.Process]:
    """Processes that serve a client: Ray names its workers after what they do just now."""
    found = []
    for process in psutil.Process().children(recursive=True):
        try:
            if process.name() == "fedllm-client" or "ClientAppActor.run" in " ".join(process.cmdline()):
                found.append(process)
        except psutil.Error:
            continue
    return found


def kill_one_in_round_1(progress: Path, over: Callable[[], bool]) -> None:
    """Once a client has done a step: both workers are at work then, which they are not when the round begins."""
    workers = []
    while not workers:
        assert not over(), "no worker was found at work"
        time.sleep(0.05)
        if any('"step": 2,' in file.read_text() for file in progress.glob("*.jsonl")):
            workers = training_workers()
    workers[0].kill()


@pytest.mark.parametrize(
    ("ray", "said"),
    [
        (False, "the process that served it was killed by SIGKILL while it worked on the message"),
        (True, "the worker process of the simulation that served it died"),
    ],
    ids=["forked", "ray"],
)
def test_a_killed_worker_costs_a_round_and_is_started_anew(
    ray, said, run_config, flower_home, app_home, tmp_path, console, monkeypatch
):
    """One of two workers dies in round 1: its client alone is refused with the reason, in round 2 all four train."""
    if not ray and has_gpu_driver():
        pytest.skip("on a machine with a driver for GPUs, Ray starts the clients")
    if ray:
        monkeypatch.setenv("FEDLLM_FORK_SERVER", "")
    directory = tmp_path / "run"
    flat = run_config | {"run.directory": str(directory), "train.local-steps": 60, "evaluate.every": 0}
    federation = "num-supernodes=4 client-resources-num-cpus=1"
    with meanwhile(partial(kill_one_in_round_1, app_home / "progress")):
        outcome = run_to_end(ROOT, flat, console, federation_config=federation)
    assert outcome, console.export_text()
    journal = read_journal(directory)
    refused = [event for event in journal if event["event"] == "refused"]
    assert [event["round"] for event in refused] == [1]
    assert said in refused[0]["reason"]
    lost = {event["client"] for event in refused}
    rounds = [event["clients"] for event in journal if event["event"] == "round"]
    assert rounds == [[client for client in range(4) if client not in lost], [0, 1, 2, 3]]
    parts = read_result(directory)["participation"]
    assert [line["took_part"] for line in parts] == [1 if client in lost else 2 for client in range(4)]
    assert exit_status(outcome) == 0
