"""How long it takes to notice that something died, as one JSON line a fault.

    python benchmarks/faults.py                  # all
    python benchmarks/faults.py worker site app late

A tiny model, two rounds, real Flower processes on this machine. In round 1 something is killed (kill -9) while it
trains:

worker   the Ray worker of a simulation that serves a client
site     a SuperNode and all its processes
app      the ClientApp process of a SuperNode
late     nothing is killed: the clients of a simulation need longer than run.round-timeout, 15 s, and the run fails

`noticed` are the seconds from there to the journal's line that refuses the client for the round, `refused` is its
reason, `rounds` are the clients whose updates each round used. A killed site is started again at once. Nothing closes a
round early (clients.enough = 1), so these are the times of Flower and Ray.
"""

import argparse
import contextlib
import json
import os
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path

import psutil

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "tests"))
FAULTS = ("worker", "site", "app", "late")


def main() -> None:
    """Run the faults that are named and print a line for each."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("faults", nargs="*", default=FAULTS, help=", ".join(FAULTS))
    for fault in parser.parse_args().faults:
        with tempfile.TemporaryDirectory(prefix="fedllm-faults-") as scratch:
            print(json.dumps({"fault": fault, **measure(fault, Path(scratch))}), flush=True)


def measure(fault: str, folder: Path) -> dict:
    """One run with one fault."""
    from conftest import save_llama

    from fedllm_app.runs.directory import read_journal

    (folder / "flwr").mkdir()
    os.environ.update(FLWR_HOME=str(folder / "flwr"), FEDLLM_HOME=str(folder / "home"))
    model = folder / "model"
    model.mkdir()
    save_llama(model, 32, 64, 0.2)
    killed: list[float] = []
    {"worker": simulation, "late": late}.get(fault, deployment)(fault, folder, model, killed)
    journal = read_journal(folder / "run")
    began = next(event["time"] for event in journal if event["event"] == "round-started")
    refused = next(event for event in journal if event["event"] == "refused")
    return {
        "noticed": round(refused["time"] - (killed[0] if killed else began), 1),
        "refused": refused["reason"],
        "rounds": [event["clients"] for event in journal if event["event"] == "round"],
    }


def simulation(_fault: str, folder: Path, model: Path, killed: list[float]) -> None:
    """Four clients on two processes, of which one is killed once a step is done: the fork server's, or Ray's."""

    def kill() -> bool:
        files = (folder / "home" / "progress").glob("*.jsonl")
        if not any('"step": 1,' in file.read_text(encoding="utf-8") for file in files):
            return False
        forked = [process for process in below(os.getpid(), "fork_server") if process.name() == "fedllm-client"]
        workers = forked or below(os.getpid(), "ClientAppActor.run")
        for worker in workers[:1]:
            worker.kill()
        return bool(workers)

    conduct(kill, killed)
    run(folder, model, 4, federation_config="num-supernodes=4 client-resources-num-cpus=1")


def late(_fault: str, folder: Path, model: Path, _killed: list[float]) -> None:
    """Two clients that would train for hours."""
    keys = {"train.local-steps": 1_000_000, "run.round-timeout": 15.0, "clients.retries": 0}
    with contextlib.suppress(SystemExit):
        run(folder, model, 2, keys, federation_config="num-supernodes=2 client-resources-num-cpus=1")


def deployment(fault: str, folder: Path, model: Path, killed: list[float]) -> None:
    """Two sites, of which one loses its SuperNode or its ClientApp."""
    from flower_sites import CONNECTION, Sites

    with Sites(folder, folder / "flwr", {"athens": 20, "berlin": 20}, model) as sites:

        def kill() -> bool:
            if not sites.trains("berlin"):
                return False
            if fault == "site":
                sites.kill("berlin")
                sites.node("berlin")
                return True
            apps = below(sites.processes["berlin"].pid, "flwr-clientapp")
            for app in apps:
                app.kill()
            return bool(apps)

        conduct(kill, killed)
        run(folder, model, 2, connection=CONNECTION)


def run(folder: Path, model: Path, clients: int, keys: dict | None = None, **where: str) -> None:
    """The run itself; what the terminal would show goes into a file."""
    from rich.console import Console

    from fedllm_app.commands.run import run_to_end
    from fedllm_app.config.parse import default_run_config

    flat = default_run_config(ROOT) | {
        "run.directory": str(folder / "run"),
        "run.threads": 1,
        "model.name": str(model),
        "model.dtype": "float32",
        "data.template": "none",
        "data.held-out-examples": 4,
        "evaluate.every": 0,
        "clients.number": clients,
        "train.rounds": 2,
        "train.local-steps": 150,
        "train.batch-size": 2,
        **(keys or {}),
    }
    with open(folder / "terminal", "w", encoding="utf-8") as file:
        console = Console(file=file, width=160)
        if not run_to_end(ROOT, flat, console, **where):
            raise SystemExit(f"the run failed:\n{(folder / 'terminal').read_text(encoding='utf-8')}")


def conduct(kill: Callable[[], bool], killed: list[float]) -> None:
    """Try to kill, in a thread, until it worked; note when."""

    def wait() -> None:
        while not kill():
            time.sleep(0.05)
        killed.append(time.time())

    threading.Thread(target=wait, daemon=True).start()


def started(folder: Path) -> bool:
    """Whether round 1 has begun."""
    journal = folder / "run" / "journal.jsonl"
    return journal.exists() and '"round-started"' in journal.read_text(encoding="utf-8")


def below(pid: int, word: str) -> list[psutil.Process]:
    """The processes that a process has started, directly or not, whose command contains a word."""
    found = []
    for process in psutil.Process(pid).children(recursive=True):
        try:
            if word in " ".join(process.cmdline()):
                found.append(process)
        except psutil.Error:
            continue
    return found


if __name__ == "__main__":
    main()
