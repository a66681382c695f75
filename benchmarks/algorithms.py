"""All algorithms on a heterogeneous split: one domain of the built-in corpus a client, same steps, same seeds.

    python benchmarks/algorithms.py                       # nine algorithms, three seeds: about an hour on two cores
    python benchmarks/algorithms.py --names fedavg scaffold --seeds 42 -c "train.rounds=4"
    python benchmarks/algorithms.py --dpo /absolute/path/of/hh-rlhf/harmless.jsonl

Each row is one algorithm, mean and deviation over the seeds. Instruction tuning: exact match on 60 held-out questions
of
each of the four domains, every model asked all of them; for `local` the mean over the four clients' models, and in a
row
of its own what each reaches on its own domain. With --dpo: reward accuracy of the last adapter on the clients' held-out
pairs; the base is the reference policy, so its rewards are equal and its accuracy one half by definition. Seconds are
those of the rounds, megabytes what travelled. Every run is printed as one JSON line, then the table as Markdown.
"""

import argparse
import json
import tempfile
from collections.abc import Iterable
from pathlib import Path
from statistics import mean, pstdev

from rich.console import Console

from fedllm_app.adapters.peft_directory import load_peft_directory
from fedllm_app.client.build import resident_key
from fedllm_app.commands.overrides import read_overrides
from fedllm_app.commands.run import run_to_end
from fedllm_app.config.parse import default_run_config, parse_run_config
from fedllm_app.data.corpus import DOMAINS
from fedllm_app.evaluation.compare import compare
from fedllm_app.runs.directory import read_journal, read_result
from fedllm_app.training.resident import resident, set_threads

ROOT = Path(__file__).resolve().parents[1]
NAMES = ("local", "fedavg", "fedprox", "scaffold", "fedavgm", "fedadagrad", "fedyogi", "fedadam", "centralized")
DPO_NAMES = ("local", "fedavg", "scaffold")


def main() -> None:
    """Run every algorithm with every seed and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--names", nargs="+", help="strategies (default: all nine; with --dpo local, fedavg, scaffold)")
    parser.add_argument("--seeds", nargs="+", type=int, default=[42, 43, 44])
    parser.add_argument(
        "--dpo", help="absolute path of preference pairs: value alignment instead of instruction tuning"
    )
    parser.add_argument("-c", "--run-config", action="append", default=[], help="overrides of every run")
    parsed = parser.parse_args()
    flat = alignment_configuration(parsed.dpo) if parsed.dpo else default_run_config(ROOT) | {"evaluate.every": 0}
    flat |= read_overrides(parsed.run_config, flat)
    run_one = alignment_run if parsed.dpo else tuning_run
    rows: dict[str, list[dict]] = {} if parsed.dpo else {"base": [base_scores(flat, seed) for seed in parsed.seeds]}
    for seed in parsed.seeds:
        for name in parsed.names or (DPO_NAMES if parsed.dpo else NAMES):
            scores = run_one(flat | {"strategy.name": name, "run.seed": seed})
            print(json.dumps({"benchmark": "algorithms", "strategy": name, "seed": seed, **scores}), flush=True)
            rows.setdefault(name, []).append(scores)
    if parsed.dpo:
        rows = {"base": [{"score": run["base"]} for runs in rows.values() for run in runs]} | rows
    print(table(rows, "reward accuracy" if parsed.dpo else "exact match"))


def alignment_configuration(pairs: str) -> dict:
    """The defaults with what value alignment on these pairs needs."""
    return default_run_config(ROOT) | {
        "train.task": "dpo",
        "data.name": pairs,
        "train.max-length": 192,
        "train.batch-size": 4,
        "train.rounds": 3,
        "train.local-steps": 4,
        "train.learning-rate": 1e-3,
        "train.min-learning-rate": 1e-4,
        "data.held-out-examples": 24,
        "evaluate.examples": 24,
        "evaluate.every": 100,
    }


def tuning_run(flat: dict) -> dict[str, float]:
    """One run through Flower, and what its adapter (with `local` each client's) answers in all four domains."""
    with tempfile.TemporaryDirectory() as scratch:
        directory = Path(scratch) / "run"
        journal, result = finished_run(flat, directory)
        adapters = sorted((directory / "adapters").glob("client-*")) or [directory / "adapter"]
        exact = answers(flat, adapters)
    scores = {"score": mean(mean(domains.values()) for domains in exact.values())}
    if len(adapters) > 1:
        # Client k owns the domain k of the corpus, and its adapter is the k-th.
        scores["own_domain"] = mean(exact[path.name][domain] for path, domain in zip(adapters, DOMAINS, strict=True))
    return scores | {"domains": exact} | costs(journal, result)


def alignment_run(flat: dict) -> dict[str, float]:
    """One run through Flower: held-out reward accuracy after its last round."""
    with tempfile.TemporaryDirectory() as scratch:
        journal, result = finished_run(flat, Path(scratch) / "run")
    evaluations = [event["reward_accuracy"] for event in journal if event["event"] == "evaluation"]
    return {"base": evaluations[0], "score": evaluations[-1]} | costs(journal, result)


def base_scores(flat: dict, seed: int) -> dict[str, float]:
    """What the base model answers of this seed's held-out questions."""
    return {"score": mean(answers(flat | {"run.seed": seed}, [])["base"].values())}


def finished_run(flat: dict, directory: Path) -> tuple[list[dict], dict]:
    """Run to the end; the journal and the result."""
    flat = flat | {"run.directory": str(directory), "run.checkpoint-every": 0}
    if not run_to_end(ROOT, flat, Console(quiet=True)):
        raise RuntimeError(f"the run failed: {(directory / 'flower.log').read_text()[-2000:]}")
    return read_journal(directory), read_result(directory)


def answers(flat: dict, adapters: list[Path]) -> dict[str, dict[str, float]]:
    """Exact match by model (a directory's name; the base if there is none) and domain, asked as the demo asks."""
    config = parse_run_config(flat)
    set_threads(0)
    model = resident(resident_key(config))
    vectors = {path.name: load_peft_directory(path, model.manifest) for path in adapters}
    vectors = vectors or {"base": None}
    return compare(config, model, vectors, Console(quiet=True)).accuracy


def costs(journal: list[dict], result: dict) -> dict[str, float]:
    """Seconds of the rounds and megabytes of arrays."""
    return {
        "seconds": sum(event["seconds"] for event in journal if event["event"] == "round"),
        "megabytes": (result["bytes_down"] + result["bytes_up"]) / 1e6,
    }


def table(rows: dict[str, list[dict]], label: str) -> str:
    """The results as a Markdown table, the base model first."""
    lines = [f"| algorithm | {label} | seconds of rounds | MB |", "|---|---|---|---|"]
    for name, runs in rows.items():
        rest = ""
        if "seconds" in runs[0]:
            rest = f"{mean(run['seconds'] for run in runs):.0f} | {mean(run['megabytes'] for run in runs):.0f}"
        lines.append(f"| {name} | {_spread(run['score'] for run in runs)} | {rest or ' | '} |")
        if "own_domain" in runs[0]:
            own = _spread(run["own_domain"] for run in runs)
            lines.append(f"| {name}, each on its own domain only | {own} | | |")
    return "\n".join(lines)


def _spread(values: Iterable[float]) -> str:
    values = list(values)
    return f"{mean(values):.1%} ± {pstdev(values):.1%}"


if __name__ == "__main__":
    main()
