"""What a checkpoint after every round costs, and how long a run takes to go on, as one JSON line.

    python benchmarks/resume.py --data /absolute/path/of/gsm8k/train.jsonl

The setting of `benchmarks/overhead.py`: SmolLM2-135M, 4 clients, 2 a round, rounds of 5 steps, batch 4, length 256,
LoRA r=8 on q_proj and v_proj, bfloat16; `run.checkpoint-every` = 1. For each strategy, a run of two rounds goes to its
end and is then resumed with four. `checkpoint_share` is the time of writing a checkpoint over that of a round, means of
four rounds. `start_seconds` are those from the command to the beginning of the first round, when the run is new and
when it is resumed.
"""

import argparse
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from statistics import mean

from fedllm_app.runs.journal import read_journal

ROOT = Path(__file__).resolve().parents[1]
STRATEGIES = ("fedavg", "scaffold", "fedadam")  # with no state, that of 4 clients, and two vectors


def main() -> None:
    """Print a line for each strategy."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", required=True, help="absolute path of the data file")
    data = parser.parse_args().data
    for strategy in STRATEGIES:
        with tempfile.TemporaryDirectory(prefix="fedllm-resume-") as scratch:
            print(json.dumps({"benchmark": "resume", **measure(strategy, data, Path(scratch) / "run")}), flush=True)


def measure(strategy: str, data: str, directory: Path) -> dict:
    """One run that goes on after its end."""
    config = (
        f"strategy.name='{strategy}' run.directory='{directory}' run.checkpoint-every=1 data.name='{data}' "
        "data.template='alpaca' model.name='smollm2-135m-instruct' model.dtype='bfloat16' "
        "lora.target-modules='q_proj,v_proj' evaluate.every=0 clients.number=4 clients.per-round=2 train.rounds=2 "
        "train.local-steps=5 train.batch-size=4 train.max-length=256"
    )
    began = {"new": run("-c", config), "resumed": run("--resume", str(directory), "-c", "train.rounds=4")}
    journal = read_journal(directory, everything=True)
    starts = [event["time"] for event in journal if event["event"] == "round-started" and event["round"] in (1, 3)]
    seconds = {
        kind: [event["seconds"] for event in journal if event["event"] == kind] for kind in ("round", "checkpoint")
    }
    newest = directory / "checkpoints" / "round-4"
    return {
        "strategy": strategy,
        "round_seconds": round(mean(seconds["round"]), 2),
        "checkpoint_seconds": round(mean(seconds["checkpoint"]), 3),
        "checkpoint_share": round(mean(seconds["checkpoint"]) / mean(seconds["round"]), 4),
        "checkpoint_mb": round(sum(file.stat().st_size for file in newest.rglob("*") if file.is_file()) / 1e6, 2),
        "start_seconds": {
            kind: round(start - began[kind], 1) for kind, start in zip(("new", "resumed"), starts, strict=True)
        },
    }


def run(*options: str) -> float:
    """`fedllm run` with these options; when it was started."""
    began = time.time()
    done = subprocess.run(
        [str(Path(sys.executable).parent / "fedllm"), "run", str(ROOT), *options],
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        raise SystemExit(done.stdout + done.stderr)
    return began


if __name__ == "__main__":
    main()
