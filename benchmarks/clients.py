"""What a simulation costs with 10 to 10,000 registered clients, of which some train in a round.

    python benchmarks/clients.py                                   # 100 of 10 to 1,000: a few minutes on two cores
    python benchmarks/clients.py --registered 10000 --drawn 100 --strategy scaffold

A random model of 37,792 parameters, four rows a client from a file, one local step, two rounds, no evaluation: what is
seen is the house, not the training. One JSON line a run: seconds until the first round, of each round, and of the whole
process; peak memory by kind of process (MB; of a page that several processes share, each has a part); files and MB of
the run and of the clients' state.
"""

import argparse
import json
import os
import sys
import tempfile
import threading
import time
from collections import Counter
from pathlib import Path

import psutil
from rich.console import Console

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "tests"))
ROWS = 4  # of a client
KINDS = {  # in this order, by a part of the name or the command line
    "fedllm-client": "workers",
    "ray::": "workers",
    "fork_server": "fork server",
    "raylet": "ray",
    "gcs_server": "ray",
    "dashboard": "ray",
    "runtime_env": "ray",
    "log_monitor": "ray",
    "superlink": "superlink",
    "simulation": "simulation",
    "serverapp": "server app",
}


def main() -> None:
    """One run for every number of registered clients."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--registered", default="10,100,1000")
    parser.add_argument("--drawn", type=int, default=100)
    parser.add_argument("--strategy", default="fedavg")
    parser.add_argument("-c", "--run-config", action="append", default=[], help="overrides of every run")
    parsed = parser.parse_args()
    for registered in map(int, parsed.registered.split(",")):
        print(json.dumps(measured(registered, min(registered, parsed.drawn), parsed)), flush=True)


def measured(registered: int, drawn: int, parsed: argparse.Namespace) -> dict[str, object]:
    """One run through Flower."""
    with tempfile.TemporaryDirectory() as scratch:
        os.environ |= {"FEDLLM_HOME": f"{scratch}/home", "FLWR_HOME": f"{scratch}/flwr"}
        from conftest import save_llama

        from fedllm_app.commands.overrides import read_overrides
        from fedllm_app.commands.run import run_to_end
        from fedllm_app.config.parse import default_run_config
        from fedllm_app.runs.directory import read_journal

        (Path(scratch) / "model").mkdir()
        save_llama(Path(scratch) / "model", 32, 64, 0.2)
        rows = Path(scratch) / "rows.jsonl"
        rows.write_text("".join(f'{{"prompt": "Say {i}.", "completion": "{i}."}}\n' for i in range(ROWS * registered)))
        directory = Path(scratch) / "run"
        flat = default_run_config(ROOT) | {
            "model.name": str(Path(scratch) / "model"),
            "model.dtype": "float32",
            "data.name": str(rows),
            "data.held-out-share": 0.0,
            "train.max-length": 64,
            "train.batch-size": 4,
            "train.local-steps": 1,
            "train.rounds": 2,
            "evaluate.every": 0,
            "run.checkpoint-every": 0,
            "run.threads": 1,
            "run.round-timeout": 3600.0,
            "clients.number": registered,
            "clients.per-round": drawn,
            "strategy.name": parsed.strategy,
            "run.directory": str(directory),
        }
        flat |= read_overrides(parsed.run_config, flat)
        watch = Watch(scratch)
        began = time.time()
        with watch:
            if not run_to_end(ROOT, flat, Console(quiet=True)):
                raise RuntimeError(f"the run failed: {(directory / 'flower.log').read_text()[-3000:]}")
        events = read_journal(directory)
        ready = next(event for event in events if event["event"] == "ready")
        line = {"benchmark": "clients", "registered": registered, "drawn": drawn, "strategy": parsed.strategy}
        line |= {
            "first_round_after": round(ready["time"] - began, 1),
            "describe_seconds": round(ready["describe_seconds"], 1),
            "round_seconds": [round(event["seconds"], 1) for event in events if event["event"] == "round"],
            "process_seconds": round(time.time() - began, 1),
            "memory_mb": watch.peaks(),
        }
        for name, folder in (("run", directory), ("state", Path(scratch) / "home" / "clients")):
            files = [file for file in folder.rglob("*") if file.is_file()]
            line |= {f"{name}_files": len(files), f"{name}_mb": round(sum(f.stat().st_size for f in files) / 1e6, 2)}
        return line


class Watch:
    """Looks at the memory of the processes of a run twice a second, by kind."""

    def __init__(self, home: str) -> None:
        self._home = home
        self._highest: dict[str, int] = {}
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._look, daemon=True)

    def __enter__(self) -> "Watch":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join()

    def peaks(self) -> dict[str, int]:
        """The highest sum of each kind, and of all at one time."""
        return {kind: round(size / 1e6) for kind, size in sorted(self._highest.items())}

    def _look(self) -> None:
        while not self._over.wait(0.5):
            sizes: Counter[str] = Counter()
            ours = {process.pid for process in psutil.Process().children(recursive=True)}
            for process in psutil.process_iter():
                try:
                    if process.pid not in ours and self._home not in process.environ().get("FEDLLM_HOME", ""):
                        continue
                    command = " ".join([process.name(), *process.cmdline()])
                    kind = next((kind for part, kind in KINDS.items() if part in command), "others")
                    sizes[kind] += process.memory_full_info().pss
                except (psutil.NoSuchProcess, psutil.AccessDenied, psutil.ZombieProcess):
                    continue
            sizes["all"] = sum(sizes.values())
            for kind, size in sizes.items():
                self._highest[kind] = max(self._highest.get(kind, 0), size)


if __name__ == "__main__":
    main()
