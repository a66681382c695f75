"""How long `fedllm fetch` takes, as one JSON line for each size of the adapter.

    python benchmarks/fetch.py

A tiny model with LoRA of rank 1,024 and 4,096, one site and its SuperLink on this machine. `seconds` are those of the
whole command: it starts a run of its own, whose ServerApp sends the files through Flower's log.
"""

import json
import os
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "tests"))
RANKS = (1024, 4096)


def main() -> None:
    """Print a line for each size."""
    with tempfile.TemporaryDirectory(prefix="fedllm-fetch-") as scratch:
        folder = Path(scratch)
        (folder / "flwr").mkdir()
        os.environ.update(FLWR_HOME=str(folder / "flwr"), FEDLLM_HOME=str(folder / "home"))
        measure(folder)


def measure(folder: Path) -> None:
    """A run and a fetch for each size, on one SuperLink."""
    from conftest import save_llama
    from flower_sites import Sites

    model = folder / "model"
    model.mkdir()
    save_llama(model, 32, 64, 0.2)
    with Sites(folder, folder / "flwr", {"oslo": 20}, model):
        for rank in RANKS:
            directory, out = folder / f"run-{rank}", folder / f"fetched-{rank}"
            run(folder, model, directory, rank)
            began = time.monotonic()
            fetch(folder, directory, out)
            seconds = time.monotonic() - began
            size = sum(file.stat().st_size for file in out.rglob("*") if file.is_file())
            told = {"rank": rank, "mb": round(size / 1e6, 2), "seconds": round(seconds, 1)}
            print(json.dumps({"benchmark": "fetch", **told}), flush=True)


def run(folder: Path, model: Path, directory: Path, rank: int) -> None:
    """One round."""
    from flower_sites import CONNECTION
    from rich.console import Console

    from fedllm_app.commands.run import run_to_end
    from fedllm_app.config.parse import default_run_config

    flat = default_run_config(ROOT) | {
        "run.directory": str(directory),
        "run.threads": 1,
        "clients.number": 1,
        "model.name": str(model),
        "model.dtype": "float32",
        "data.template": "none",
        "lora.r": rank,
        "train.rounds": 1,
        "train.local-steps": 1,
        "evaluate.every": 0,
    }
    with open(folder / "terminal", "a") as file:
        if not run_to_end(ROOT, flat, Console(file=file), connection=CONNECTION):
            raise SystemExit((folder / "terminal").read_text()[-3000:])


def fetch(folder: Path, directory: Path, out: Path) -> None:
    """The command, in this process; what it prints goes into a file."""
    from contextlib import redirect_stdout

    from flower_sites import CONNECTION

    from fedllm_app.commands.main import main as fedllm

    with open(folder / "terminal", "a") as file, redirect_stdout(file):
        status = fedllm(["fetch", str(directory), CONNECTION, "--out", str(out), "--app", str(ROOT)])
    if status:
        raise SystemExit((folder / "terminal").read_text()[-3000:])


if __name__ == "__main__":
    main()
