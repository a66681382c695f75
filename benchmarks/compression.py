"""What int8 updates cost in held-out loss: `fedllm run` with its defaults, with and without, seed by seed.

    python benchmarks/compression.py                      # six runs of three seeds: a quarter of an hour on two cores
    python benchmarks/compression.py --seeds 42 -c "strategy.name='scaffold'"

The metric is the mean loss of the clients' held-out rows, 48 of each domain of the built-in corpus, after the last
round.
Megabytes are what the clients sent. Every run is printed as one JSON line, then the table as Markdown.
"""

import argparse
import json
import tempfile
from pathlib import Path
from statistics import mean

from rich.console import Console

from fedllm_app.commands.overrides import read_overrides
from fedllm_app.commands.run import run_to_end
from fedllm_app.config.parse import default_run_config
from fedllm_app.runs.directory import read_journal, read_result

ROOT = Path(__file__).resolve().parents[1]
KINDS = ("none", "int8")


def main() -> None:
    """Run every seed both ways and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", nargs="+", type=int, default=[42, 43, 44])
    parser.add_argument("-c", "--run-config", action="append", default=[], help="overrides of every run")
    parsed = parser.parse_args()
    flat = default_run_config(ROOT) | {
        "run.checkpoint-every": 0,
        "evaluate.examples": 48,
        "data.held-out-examples": 48,
    }
    flat |= {"evaluate.every": flat["train.rounds"]} | read_overrides(parsed.run_config, flat)
    runs = {
        seed: {kind: run(flat | {"run.seed": seed, "data.seed": seed}, kind) for kind in KINDS} for seed in parsed.seeds
    }
    print(table(runs))


def run(flat: dict, kind: str) -> dict[str, float]:
    """One run through Flower: its last held-out loss, and the megabytes that its clients sent."""
    with tempfile.TemporaryDirectory() as scratch:
        directory = Path(scratch) / "run"
        flat = flat | {"update.compress": kind, "run.directory": str(directory)}
        if not run_to_end(ROOT, flat, Console(quiet=True)):
            raise RuntimeError(f"the run failed: {(directory / 'flower.log').read_text()[-2000:]}")
        losses = [event["eval_loss"] for event in read_journal(directory) if event["event"] == "evaluation"]
        figures = {"before": losses[0], "loss": losses[-1], "megabytes": read_result(directory)["bytes_up"] / 1e6}
    shown = {"benchmark": "compression", "compress": kind, "seed": flat["run.seed"], **figures}
    print(json.dumps(shown), flush=True)
    return figures


def table(runs: dict[int, dict[str, dict[str, float]]]) -> str:
    """The results as a Markdown table, a row a seed and one of the means."""
    lines = [
        "| seed | loss before | loss, none | loss, int8 | ratio | MB up, none | MB up, int8 | ratio |",
        "|---|---|---|---|---|---|---|---|",
    ]
    kinds = {kind: [pair[kind] for pair in runs.values()] for kind in KINDS}
    means = {kind: {name: mean(run[name] for run in of) for name in of[0]} for kind, of in kinds.items()}
    for label, pair in {**runs, "mean": means}.items():
        none, int8 = pair["none"], pair["int8"]
        lines.append(
            f"| {label} | {none['before']:.4f} | {none['loss']:.4f} | {int8['loss']:.4f} "
            f"| {int8['loss'] / none['loss']:.4f} | {none['megabytes']:.2f} | {int8['megabytes']:.2f} "
            f"| {int8['megabytes'] / none['megabytes']:.4f} |"
        )
    return "\n".join(lines)


if __name__ == "__main__":
    main()
