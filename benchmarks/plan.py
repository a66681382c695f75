"""`fedllm plan` against what runs then need: bytes, the peak memory of a client and the seconds that clients train,
one JSON line a configuration.

    python benchmarks/plan.py --data /absolute/path/of/gsm8k/train.jsonl --pairs
    /absolute/path/of/hh-rlhf/harmless.jsonl

Every configuration is planned in a process of its own, as a user would, and then run for one round.
"""

import argparse
import json
import subprocess
import sys
import tempfile
from pathlib import Path

from rich.console import Console

from fedllm_app.commands.run import run_to_end
from fedllm_app.config.parse import default_run_config
from fedllm_app.runs.directory import read_result
from fedllm_app.runs.journal import read_journal

ROOT = Path(__file__).resolve().parents[1]


def main() -> None:
    """Plan, run and compare every configuration."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", required=True, help="absolute path of rows for instruction tuning")
    parser.add_argument("--pairs", required=True, help="absolute path of preference pairs")
    parser.add_argument("--only", choices=configurations("", ""), help="one configuration")
    parser.add_argument("--plan", help=argparse.SUPPRESS)
    parsed = parser.parse_args()
    if parsed.plan:
        print(json.dumps(planned(json.loads(parsed.plan))))
        return
    for name, overrides in configurations(parsed.data, parsed.pairs).items():
        if parsed.only not in (None, name):
            continue
        print(json.dumps({"benchmark": "plan", "configuration": name, **compare(overrides)}), flush=True)


def configurations(data: str, pairs: str) -> dict[str, dict]:
    """What is compared: the defaults, longer rows, float32, checkpointing, SCAFFOLD, value alignment."""
    long = {"data.name": data, "data.template": "alpaca", "train.max-length": 256, "train.batch-size": 4}
    return {
        "defaults": {},
        "256 tokens": long,
        "256 tokens, float32": long | {"model.dtype": "float32"},
        "256 tokens, checkpointing": long | {"train.gradient-checkpointing": True, "train.batch-size": 8},
        "256 tokens, scaffold": long | {"strategy.name": "scaffold"},
        "pairs of 128 tokens": {
            "train.task": "dpo",
            "data.name": pairs,
            "data.template": "alpaca",
            "train.max-length": 128,
            "train.batch-size": 4,
        },
    }


def compare(overrides: dict) -> dict:
    """Predicted and measured figures of one configuration, and the ratio of the two for memory."""
    flat = default_run_config(ROOT) | {"train.rounds": 1, "train.local-steps": 20, "evaluate.every": 0} | overrides
    command = [sys.executable, __file__, "--data", "", "--pairs", "", "--plan", json.dumps(flat)]
    plan = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout.splitlines()[-1])
    with tempfile.TemporaryDirectory() as scratch:
        directory = Path(scratch) / "run"
        if not run_to_end(ROOT, flat | {"run.directory": str(directory)}, Console(quiet=True)):
            raise RuntimeError(f"the run failed: {(directory / 'flower.log').read_text()[-2000:]}")
        result, journal = read_result(directory), read_journal(directory)
    rounds = sum(event["seconds"] for event in journal if event["event"] == "round")
    measured = result["peak_client_memory_mb"]
    return {
        "bytes_planned": plan["bytes"],
        "bytes_measured": [result["bytes_down"], result["bytes_up"]],
        "memory_planned_mb": round(plan["memory_mb"]),
        "memory_measured_mb": round(measured),
        "memory_ratio": round(plan["memory_mb"] / measured, 3),
        "training_planned_s": round(plan["training_s"], 1),
        "rounds_measured_s": round(rounds, 1),
        "time_ratio": round(plan["training_s"] / rounds, 3),
    }


def planned(flat: dict) -> dict:
    """The plan of a configuration, in a process that does nothing else."""
    from fedllm_app.commands.costs import make_plan
    from fedllm_app.commands.pace import measure

    plan = make_plan(flat)
    training = measure(flat, plan.steps).training
    return {
        "bytes": [plan.traffic.down, plan.traffic.up],
        "memory_mb": plan.client_memory / 2**20,
        "training_s": training,
    }


if __name__ == "__main__":
    main()
