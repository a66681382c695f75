"""The sweep behind the strategies' default hyper-parameters: one domain of the built-in corpus a client, one seed.

    python benchmarks/sweep.py > benchmarks/sweep.md          # 22 runs: 40 minutes on two cores
    python benchmarks/sweep.py --names fedavgm --seed 7

Everything but the strategy and its hyper-parameters is the defaults of pyproject.toml. The metric is exact match on 60
held-out questions a domain after the last round, its mean over the four domains.
"""

import argparse
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent))  # for `algorithms`, beside this file, when run from elsewhere

from algorithms import ROOT, tuning_run

from fedllm_app.config.parse import default_run_config

MOMENTS = [
    {"eta": 0.003, "tau": 0.001, "beta-1": 0.9},
    {"eta": 0.01, "tau": 0.001, "beta-1": 0.9},
    {"eta": 0.03, "tau": 0.01, "beta-1": 0.9},
    {"eta": 0.1, "tau": 0.01, "beta-1": 0.9},
    {"eta": 0.01, "tau": 0.001, "beta-1": 0.5},
]

GRID = {
    "fedavg": [{}],
    "fedprox": [{"mu": 0.01}, {"mu": 0.1}, {"mu": 1.0}],
    "scaffold": [{"eta-g": 0.5}, {"eta-g": 1.0}],
    "fedavgm": [{"beta": 0.3, "eta-s": 1.0}, {"beta": 0.5, "eta-s": 1.0}, {"beta": 0.9, "eta-s": 0.3}],
    "fedadagrad": [{"eta": 0.003, "tau": 0.001}, {"eta": 0.01, "tau": 0.001}, {"eta": 0.01, "tau": 0.01}],
    "fedyogi": MOMENTS,
    "fedadam": MOMENTS,
}


def main() -> None:
    """Run every point of the grid and print the table as Markdown, row by row."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--names", nargs="+", default=list(GRID), choices=list(GRID))
    parser.add_argument("--seed", type=int, default=42)
    parsed = parser.parse_args()
    print("| strategy | hyper-parameters | exact match |\n|---|---|---|", flush=True)
    for name in parsed.names:
        for point in GRID[name]:
            overrides = {f"strategy.{name}.{key}": value for key, value in point.items()}
            chosen = {"strategy.name": name, "run.seed": parsed.seed, "evaluate.every": 0}
            run = tuning_run(default_run_config(ROOT) | overrides | chosen)
            shown = ", ".join(f"{key} = {value}" for key, value in point.items())
            print(f"| {name} | {shown} | {run['score']:.1%} |", flush=True)


if __name__ == "__main__":
    main()
