"""All algorithms on a heterogeneous split: one domain of the built-in corpus a client, same steps, same seeds.

    python benchmarks/algorithms.py                       # nine algorithms, three seeds: about an hour on two cores
    python benchmarks/algorithms.py --names fedavg scaffold --seeds 42 -c "train.rounds=4"
    python benchmarks/algorithms.py --dpo /absolute/path/of/hh-rlhf/harmless.jsonl

Each row is one algorithm: mean and deviation over the seeds of the last round's held-out metric (exact match over the
four domains; with --dpo reward accuracy on held-out pairs), seconds of the rounds, megabytes that travelled. The table
is printed as Markdown, and every run's result as one JSON line.
"""

import argparse
import json
import tempfile
from pathlib import Path
from statistics import mean, pstdev

from rich.console import Console

from fedllm_app.cli import read_overrides, run_to_end
from fedllm_app.config import default_run_config
from fedllm_app.run_directory import read_journal, read_result

ROOT = Path(__file__).resolve().parents[1]
NAMES = ("local", "fedavg", "fedprox", "scaffold", "fedavgm", "fedadagrad", "fedyogi", "fedadam", "centralized")
DPO_NAMES = ("local", "fedavg", "scaffold")


def main() -> None:
    """Run every algorithm with every seed and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--names", nargs="+", help="strategies (default: all nine; with --dpo local, fedavg, scaffold)")
    parser.add_argument("--seeds", nargs="+", type=int, default=[42, 43, 44])
    parser.add_argument("--dpo", help="absolute path of preference pairs: value alignment instead of instruction tuning")
    parser.add_argument("-c", "--run-config", action="append", default=[], help="overrides of every run")
    parsed = parser.parse_args()
    flat = default_run_config(ROOT) | {"data.held-out-examples": 60, "evaluate.examples": 60, "evaluate.every": 100}
    metric = "exact_match"
    if parsed.dpo:
        metric = "reward_accuracy"
        flat |= {"train.task": "dpo", "data.name": parsed.dpo, "train.max-length": 256, "train.batch-size": 4,
                 "train.rounds": 3, "train.learning-rate": 5e-4, "train.min-learning-rate": 5e-5,
                 "data.held-out-examples": 24, "evaluate.examples": 24}  # fmt: skip
    flat |= read_overrides(parsed.run_config)
    rows = []
    for name in parsed.names or (DPO_NAMES if parsed.dpo else NAMES):
        runs = [one_run(flat | {"strategy.name": name, "run.seed": seed}, metric) for seed in parsed.seeds]
        for seed, run in zip(parsed.seeds, runs, strict=True):
            print(json.dumps({"benchmark": "algorithms", "strategy": name, "seed": seed, **run}), flush=True)
        rows.append((name, runs))
    print(table(rows, metric))


def one_run(flat: dict, metric: str) -> dict[str, float]:
    """One run through Flower: the metric before and after, seconds of its rounds, megabytes of arrays."""
    with tempfile.TemporaryDirectory() as scratch:
        directory = Path(scratch) / "run"
        flat = flat | {"run.directory": str(directory), "run.checkpoint-every": 0}
        if not run_to_end(ROOT, flat, Console(quiet=True)):
            raise RuntimeError(f"the run failed: {(directory / 'flower.log').read_text()[-2000:]}")
        journal, result = read_journal(directory), read_result(directory)
    evaluations = [event[metric] for event in journal if event["event"] == "evaluation"]
    return {
        "before": evaluations[0],
        "after": evaluations[-1],
        "seconds": sum(event["seconds"] for event in journal if event["event"] == "round"),
        "megabytes": (result["bytes_down"] + result["bytes_up"]) / 1e6,
    }


def table(rows: list[tuple[str, list[dict[str, float]]]], metric: str) -> str:
    """The results as a Markdown table, the base model first."""
    label = metric.replace("_", " ")
    lines = [f"| algorithm | {label} | seconds of rounds | MB |", "|---|---|---|---|"]
    before = [run["before"] for _, runs in rows for run in runs]
    lines.append(f"| base | {mean(before):.1%} | | |")
    for name, runs in rows:
        after = [run["after"] for run in runs]
        seconds, megabytes = mean(run["seconds"] for run in runs), mean(run["megabytes"] for run in runs)
        lines.append(f"| {name} | {mean(after):.1%} ± {pstdev(after):.1%} | {seconds:.0f} | {megabytes:.0f} |")
    return "\n".join(lines)


if __name__ == "__main__":
    main()
