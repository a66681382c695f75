"""Where the seconds go between `fedllm run` and its first training step, as one table.

    python benchmarks/start.py --data /absolute/path/of/gsm8k/train.jsonl
    python benchmarks/start.py --data ... --app . --dtype float32      # of a checkout, whose files are looked at first

The setting of `benchmarks/overhead.py` (SmolLM2-135M, 4 clients, 2 a round), one round of one step, three times: the
first run may find the libraries on disk only, the others find them in memory ("warm"). A moment is that when a process
of this name began, when an event stands in the journal, or when the first step of a client is done; each is given in
seconds after the command began.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import psutil

from fedllm_app.client.progress import STEPS_FILE

PROCESSES = {
    "flower-superlink": "the SuperLink begins",
    "flwr run": "`flwr run` begins",
    "flwr-simulation": "the simulation begins",
    "raylet": "Ray's node begins",
    "default_worker.py": "a worker begins",
    "ray::ClientAppActor": "a worker is a client",
}
EVENTS = {
    "settings": "the server runs",
    "connecting": "the server has waited for Ray",
    "describing": "the first adapter is drawn",
    "ready": "the clients have said what they hold",
    "finished": "the run is over",
}
OVERRIDES = (
    "model.name=smollm2-135m-instruct data.template=alpaca lora.target-modules=q_proj,v_proj "
    "lora.r=8 lora.alpha=16 clients.number=4 clients.per-round=2 train.rounds=1 train.local-steps=1 train.batch-size=4 "
    "train.max-length=256 evaluate.every=0"
)


def main() -> None:
    """Time the starts and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", required=True, help="absolute path of the data file")
    parser.add_argument("--app", type=Path, help="directory of an app, such as a checkout; the installed app without")
    parser.add_argument("--dtype", default="bfloat16", help="of the base")
    parser.add_argument("--runs", type=int, default=3)
    parsed = parser.parse_args()
    runs = [moments(Path(parsed.data), parsed.dtype, parsed.app) for _ in range(parsed.runs)]
    for name in sorted(runs[-1], key=runs[-1].get):
        print(f"{name:40}" + "".join(f"{run[name]:8.1f}" if name in run else "       -" for run in runs))


def moments(data: Path, dtype: str, app: Path | None) -> dict[str, float]:
    """One run: seconds after the command, by the name of the moment."""
    with tempfile.TemporaryDirectory() as scratch:
        directory = Path(scratch) / "run"
        command = [str(Path(sys.executable).parent / "fedllm"), "run", *([str(app.resolve())] if app else [])]
        own = [f"run.directory={directory}", f"data.name={data}", f"model.dtype={dtype}"]
        for override in [*OVERRIDES.split(), *own]:
            command += ["-c", override]
        began = time.time()
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL, cwd=scratch)
        marks: dict[str, float] = {}
        while process.poll() is None:
            _look_at_processes(process.pid, began, marks)
            time.sleep(0.05)
        if process.returncode:
            raise RuntimeError(f"the run failed with status {process.returncode}")
        marks["the command ends"] = time.time() - began
        for event in _lines(directory / "journal.jsonl"):
            if event["event"] in EVENTS:
                marks.setdefault(EVENTS[event["event"]], event["time"] - began)
        steps = _lines(directory / STEPS_FILE)
        marks["training begins"] = steps[0]["time"] - began
        marks["the first step is done"] = min(line["time"] for line in steps if line["step"]) - began
    return marks


def _look_at_processes(parent: int, began: float, marks: dict[str, float]) -> None:
    for process in psutil.Process(parent).children(recursive=True):
        try:
            words = " ".join(os.path.basename(word) for word in process.cmdline())
        except psutil.Error:
            continue
        for name, moment in PROCESSES.items():
            if name in words:
                seen = time.time() if name.startswith("ray::") else process.create_time()
                marks.setdefault(moment, seen - began)


def _lines(file: Path) -> list[dict]:
    return [json.loads(line) for line in file.read_text().splitlines()]


if __name__ == "__main__":
    main()
