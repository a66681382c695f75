"""Peak memory and seconds of a client on a CPU: as the app trains, and without each of its savings.

    python benchmarks/client_memory.py                              # 8 rows of 160 tokens: some minutes on two cores
    python benchmarks/client_memory.py --rows 4 --length 512

SmolLM2-135M with adapters on all linear layers, one thread, one client beside the server in one process, a new one for
each line and figure. `plan_mb` is what `fedllm plan` says of the memory. `as it is`: all savings. `peft layers`: PEFT's
own LoRA layers, the model's own norms and MLPs (`training/lean_lora.py`, `training/lean_layers.py`). `glibc alone`:
neither huge pages nor the smaller threshold (`training/allocator.py`). `neither`: both are off. `small blocks`: every
block of a MB goes back.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
PLAIN = {"THP_MEM_ALLOC_ENABLE": "0", "MALLOC_MMAP_THRESHOLD_": "0"}
CASES = {
    "as it is": ({}, True),
    "peft layers": ({}, False),
    "glibc alone": (PLAIN, True),
    "neither": (PLAIN, False),
    "small blocks": ({"MALLOC_MMAP_THRESHOLD_": "1048576"}, True),
}


def main() -> None:
    """Measure every case."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=8)
    parser.add_argument("--length", type=int, default=160)
    parser.add_argument("--steps", type=int, default=4)
    parser.add_argument("--dtype", default="auto", help="of the base: bfloat16, float32 or what suits the machine")
    parser.add_argument("--case", choices=CASES, help=argparse.SUPPRESS)
    parser.add_argument("--plan", action="store_true", help=argparse.SUPPRESS)
    parsed = parser.parse_args()
    if parsed.case:
        print(json.dumps(_planned(parsed) if parsed.plan else _measured(parsed)))
        return
    for case, (environment, _) in CASES.items():
        line = {"benchmark": "client-memory", "case": case, "rows": parsed.rows, "length": parsed.length}
        for plan in ([], ["--plan"]):  # each in a process of its own: what one leaves would be counted in the other
            options = [f"--{name}={getattr(parsed, name)}" for name in ("rows", "length", "steps", "dtype")]
            command = [sys.executable, __file__, *options, "--case", case, *plan]
            done = subprocess.run(command, capture_output=True, text=True, env=os.environ | environment, check=False)
            if done.returncode:
                raise RuntimeError(done.stderr[-3000:])
            line |= json.loads(done.stdout.splitlines()[-1])
        print(json.dumps(line), flush=True)


def _measured(parsed: argparse.Namespace) -> dict[str, float]:
    from fedllm_app import run

    _leave_out_savings(parsed.case)
    with tempfile.TemporaryDirectory() as scratch:
        settings = _settings(parsed, Path(scratch))
        found = run(settings, engine="in-process")
        events = [json.loads(line) for line in (Path(scratch) / "run" / "journal.jsonl").read_text().splitlines()]
        client = next(event for event in events if event["event"] == "client")
    assert found.adapter is not None
    return {
        "memory_mb": round(client["peak_memory_mb"]),
        "seconds": round(client["seconds"], 1),
        "loss": round(client["train_loss"], 4),
    }


def _planned(parsed: argparse.Namespace) -> dict[str, float]:
    from fedllm_app.commands.costs import make_plan
    from fedllm_app.config.parse import default_run_config

    _leave_out_savings(parsed.case)
    with tempfile.TemporaryDirectory() as scratch:
        plan = make_plan(default_run_config(ROOT) | _settings(parsed, Path(scratch)))
    return {"plan_mb": round(plan.client_memory / 2**20)}


def _leave_out_savings(case: str) -> None:
    from fedllm_app.commands import costs
    from fedllm_app.training import lean_layers, lean_lora

    if not CASES[case][1]:
        lean_lora.install_lean_lora = lean_layers.install_lean_layers = lambda _: None
        costs.install_lean_lora = costs.install_lean_layers = lambda _: None


def _settings(parsed: argparse.Namespace, scratch: Path) -> dict:
    rows = scratch / "rows.jsonl"
    long = " ".join(str(i * 7919 % 997) for i in range(parsed.length))
    lines = (json.dumps({"prompt": f"Say {i}.", "completion": f"{i} {long}"}) for i in range(64))
    rows.write_text("\n".join(lines) + "\n")
    return {
        "model.name": "smollm2-135m-instruct",
        "model.dtype": parsed.dtype,
        "lora.target-modules": "all-linear",
        "data.name": str(rows),
        "data.held-out-share": 0.0,
        "train.max-length": parsed.length,
        "train.batch-size": parsed.rows,
        "train.local-steps": parsed.steps,
        "train.rounds": 1,
        "evaluate.every": 0,
        "run.checkpoint-every": 0,
        "run.threads": 1,
        "clients.number": 1,
        "run.directory": f"{scratch}/run",
    }


if __name__ == "__main__":
    main()
