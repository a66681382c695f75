"""End to end on real Flower processes: a SuperLink and two SuperNodes, each site with a file and columns of its own."""

import os
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import pytest
from in_process import run_in_process
from meanwhile import meanwhile
from places import ROOT

from fedllm_app.client.worker import WorkerSupervisor
from fedllm_app.commands.flower import (
    end_process_tree,
    flower_command,
    flower_environment,
    free_port,
    wait_until_healthy,
)
from fedllm_app.commands.main import main
from fedllm_app.commands.run import run_to_end
from fedllm_app.runs.directory import read_journal

pytestmark = pytest.mark.slow

EXAMPLES = ROOT / "examples"
OWN = {
    "strategy.name": "own_strategy.ProductMean",
    "train.corrections": "own_correction.Centralized",
    "update.steps": "own_update.ClipNorm",
    "train.task": "own_task.SPEC",
}
POLICY = "[code]\nclass-paths = ['own_correction.Centralized', 'own_update.*', 'own_task.SPEC']\n"


@contextmanager
def flower_process(name: str, *options: str, home: Path) -> Iterator[subprocess.Popen]:
    """One of Flower's long-running commands on a machine of its own: FEDLLM_HOME and working directory are `home`."""
    home.mkdir()
    environment = flower_environment() | {"FEDLLM_HOME": str(home), "PYTHONPATH": str(EXAMPLES)}
    with open(home / "log", "wb") as log:
        process = subprocess.Popen(
            [flower_command(name), "--insecure", *options], cwd=home, env=environment, stdout=log, stderr=log
        )
    try:
        yield process
    finally:
        end_process_tree(process.pid)
        process.wait()


def worker_socket(folder: Path) -> Path:
    return folder / "madrid" / "worker" / "socket"


@contextmanager
def madrids_worker(folder: Path) -> Iterator[WorkerSupervisor]:
    """A worker beside Madrid's node, and one that has just been killed while it trained."""
    environment = flower_environment() | {"FEDLLM_HOME": str(folder / "madrid")}
    with (
        WorkerSupervisor(worker_socket(folder), environment=environment) as worker,
        meanwhile(partial(kill_once_it_trains, worker, folder / "madrid")),
    ):
        yield worker


def kill_once_it_trains(worker: WorkerSupervisor, home: Path, over: Callable[[], bool]) -> None:
    while not any((home / "progress").glob("*.jsonl")):
        assert not over(), "Madrid never trained"
        time.sleep(0.005)
    os.kill(worker.process, signal.SIGKILL)


@pytest.fixture
def sites(tmp_path, flower_home, tiny_model) -> Iterator[str]:
    """A connection to two sites: Berlin has a CSV file with German columns, Madrid JSON lines in a known schema. Both
    name the base model that a run may load; Madrid's policy allows the examples' classes, which can be imported
    everywhere."""
    policy = tmp_path / "policy.toml"
    policy.write_text(POLICY)
    policy.chmod(0o600)
    berlin, madrid = tmp_path / "notizen.csv", tmp_path / "notas.jsonl"
    berlin.write_text("frage,antwort\n" + "".join(f"was ist {n} + 1,{n + 1}\n" for n in range(20)))
    madrid.write_text("".join(f'{{"question": "y {n}", "answer": "{n}"}}\n' for n in range(12)))
    port = free_port()
    address = f"127.0.0.1:{port}"
    (flower_home / "config.toml").write_text(f'[superlink.sites]\naddress = "{address}"\ninsecure = true\n')
    closed = tmp_path / "berlin.toml"
    closed.write_text("[limits]\nlocal-steps = 100\n")
    closed.chmod(0o600)
    node_configs = {
        "madrid": f"site='madrid' data-path='{madrid}' models='{tiny_model}' worker='{worker_socket(tmp_path)}' "
        f"policy='{policy}'",
        "berlin": f"site='berlin' data-path='{berlin}' models='{tiny_model}' prompt-column='frage' policy='{closed}' "
        "completion-column='antwort'",
    }
    with flower_process("flower-superlink", "--port", str(port), home=tmp_path / "server") as superlink:
        wait_until_healthy(port, superlink, tmp_path / "server" / "log")
        nodes = [
            flower_process(
                "flower-supernode",
                "--superlink",
                address,
                "--port",
                str(free_port()),
                "--node-config",
                said,
                home=tmp_path / name,
            )
            for name, said in node_configs.items()
        ]
        with nodes[0], nodes[1]:
            yield "sites"


def as_one_set_a_client(folder: Path) -> dict[str, str]:
    """Keys that give the clients of a simulation the rows of the sites, in the order of the sites' names. Berlin's are
    written in a schema that is recognised, because a simulation has no columns for each client."""
    berlin = folder / "berlin.jsonl"
    berlin.write_text("".join(f'{{"question": "was ist {n} + 1", "answer": "{n + 1}"}}\n' for n in range(20)))
    return {"data.name": f"{berlin},{folder / 'notas.jsonl'}", "data.partition": "by-domain"}


def test_every_site_trains_on_its_own_file(sites, run_config, tmp_path, console, monkeypatch):
    """Berlin's 20 rows and Madrid's 12, 4 of each held out; clients are numbered by the names of the sites.

    Berlin finds a new process in every round, so SCAFFOLD's control variates come from its disk: none is reset. Madrid
    has a worker, which is killed while it trains in round 1: that round is repeated. A simulation of clients with the
    same rows ends with the same adapter, bit for bit. Then a strategy that would need both sites' rows in one place is
    refused before a round begins.
    """
    monkeypatch.syspath_prepend(str(EXAMPLES))  # for the checks before the run, and the run in one process
    flat = run_config | {"clients.number": 2, "evaluate.every": 0, "data.template": "none", "train.local-steps": 40}
    flat |= {"clients.minimum": 1.0}
    first, second = tmp_path / "scaffold", tmp_path / "centralized"
    scaffold = flat | {"strategy.name": "scaffold", "run.directory": str(first)}
    with madrids_worker(tmp_path):
        assert run_to_end(ROOT, scaffold, console, connection=sites)
    assert "run finished" in console.export_text()  # and forgotten, so that the next is the second run's alone
    journal = read_journal(first)
    held = {event["name"]: event for event in journal if event["event"] == "holds"}
    assert [(name, held[name]["client"], held[name]["examples"]) for name in sorted(held)] == [
        ("berlin", 0, 16),
        ("madrid", 1, 8),
    ]
    assert held["berlin"]["schema"] != held["madrid"]["schema"]
    trained = [event for event in journal if event["event"] == "client"]
    assert [(event["round"], event["name"], event["control_reset"]) for event in trained] == [
        (1, "berlin", 0),  # whose reply does not count without Madrid's
        (1, "berlin", 0),
        (1, "madrid", 0),
        (2, "berlin", 0),
        (2, "madrid", 0),
    ]
    refused = [(event["round"], event["client"], event["reason"]) for event in journal if event["event"] == "refused"]
    reason = (
        "client 1 (madrid): WorkerDied: the worker of this site was killed by SIGKILL while it worked on the message"
    )
    assert refused == [(1, 1, reason)]
    for site in ("berlin", "madrid"):
        assert list((tmp_path / site / "clients").rglob("*control*")), f"{site} keeps no control variate"
    assert not (tmp_path / "server" / "clients").exists()
    simulated = scaffold | as_one_set_a_client(tmp_path)
    assert run_in_process(simulated, tmp_path / "simulated") == final_bytes(first)

    check_own_code(sites, flat, tmp_path, console)

    centralized = flat | {"strategy.name": "centralized", "run.directory": str(second)}
    assert not run_to_end(ROOT, centralized, console, connection=sites)
    assert not [event for event in read_journal(second) if event["event"] == "round-started"]
    said = console.export_text()
    assert "2 of 2 clients cannot take part" in said
    assert "(berlin): SiteRefuses" in said
    assert "(madrid): SiteRefuses" in said


def check_own_code(sites: str, flat: dict, folder: Path, console) -> None:
    """A strategy, a correction, an update step and a task from outside the package, through real SuperNodes.

    Berlin has not allowed them: it says which line would, and the run does not start. Once it has, the adapter is that
    of the same run in one process.
    """
    flat = flat | OWN | {"train.rounds": 1, "train.local-steps": 2, "run.directory": str(folder / "refused")}
    assert not run_to_end(ROOT, flat, console, connection=sites)
    said = " ".join(console.export_text().split())
    assert "own_task.SPEC" in said and "class-paths" in said
    (folder / "berlin.toml").write_text(POLICY)
    flat |= {"run.directory": str(folder / "own")}
    assert run_to_end(ROOT, flat, console, connection=sites), console.export_text()
    trained = [event for event in read_journal(folder / "own") if event["event"] == "client"]
    assert [event["name"] for event in trained] == ["berlin", "madrid"]
    assert all({"centralized", "update_norm"} <= set(event) for event in trained)
    assert run_in_process(flat | as_one_set_a_client(folder), folder / "own-simulated") == final_bytes(folder / "own")


def final_bytes(directory: Path) -> bytes:
    return (directory / "adapter" / "adapter_model.safetensors").read_bytes()


def test_a_connection_that_is_not_configured(flower_home, capsys):
    """Flower's configuration names none: the command says so and ends with 2."""
    (flower_home / "config.toml").write_text('[superlink.sites]\naddress = "127.0.0.1:1"\ninsecure = true\n')
    assert main(["run", str(ROOT), "nowhere"]) == 2
    assert "'nowhere' not found" in capsys.readouterr().out.replace("\n", " ")
