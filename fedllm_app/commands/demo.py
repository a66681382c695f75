"""`fedllm demo`, the main job: federate four domains, train each client alone for as many steps, and compare."""

import argparse
import json
import time
from collections.abc import Callable, Mapping
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path

import numpy as np
from rich.console import Console
from rich.table import Table

from fedllm_app.adapters.layout import Manifest
from fedllm_app.adapters.peft_directory import load_peft_directory
from fedllm_app.commands.flower import LaunchError
from fedllm_app.commands.new_directory import new_directory
from fedllm_app.commands.options import add_app_parser, run_config
from fedllm_app.commands.run import run_to_end
from fedllm_app.config.app_files import app_directory
from fedllm_app.config.parse import parse_run_config
from fedllm_app.config.sections import Config
from fedllm_app.data import corpus
from fedllm_app.evaluation.compare import QUESTIONS, Comparison, compare, sample_answers
from fedllm_app.models.quantization import prepare_bitsandbytes
from fedllm_app.paths import write_text
from fedllm_app.runs.figures import plot_run
from fedllm_app.training.resident import resident, set_threads

RunIt = Callable[[Mapping[str, object]], None]


def add_parser(subparsers) -> None:
    """Add `fedllm demo`."""
    add_app_parser(subparsers, "demo", _demo, "the main job: federate four domains and compare")


def _demo(parsed: argparse.Namespace, console: Console) -> int:
    app, flat = app_directory(parsed.app), run_config(parsed)

    def run_one(overrides: Mapping[str, object]) -> None:
        if not run_to_end(app, flat | overrides, console):
            raise LaunchError("the demo stops here, because a run of it failed")

    given = flat["run.directory"]
    with nullcontext(given) if given else new_directory("demo") as directory:
        demo(parse_run_config(flat), Path(directory), run_one, console)
    return 0


def demo(config: Config, directory: Path, run: RunIt, console: Console) -> None:
    """Run the whole job into `directory`: two runs, the comparison, the figure, a sample."""
    from fedllm_app.client.build import resident_key  # imports torch, which the other subcommands need not wait for
    from fedllm_app.client.local_client import peak_memory_mb

    started = time.monotonic()
    console.rule("1/3 federated training: four clients, one domain each")
    run({"run.directory": str(directory / "federated")})
    console.rule("2/3 each client alone, for the same number of steps")
    run({"run.directory": str(directory / "alone"), "strategy.name": "local", "strategy.arguments": ""})
    console.rule(f"3/3 {QUESTIONS} held-out questions a domain, the same for every model")
    prepare_bitsandbytes(config.model.quantization)
    set_threads(0)
    model = resident(replace(resident_key(config), aggregation="factors"))  # saved adapters are whole
    models = load_models(directory, model.manifest)
    comparison = compare(config, model, models, console)
    figure = directory / "training.png"
    plot_run(directory / "federated", figure, "Federated training: SmolLM2-135M-Instruct, four domains")
    console.print(_table(comparison))
    sample = sample_answers(config, model, models, comparison, console)
    seconds = time.monotonic() - started
    _write(comparison, sample, seconds, directory / "comparison.json")
    console.print(f"figure: {figure}", soft_wrap=True)
    console.print(f"run directory: {directory}", soft_wrap=True)
    console.print(
        f"all of it took {seconds:.0f} s; peak memory of this process {peak_memory_mb():.0f} MB, of a client: above"
    )


def load_models(directory: Path, manifest: Manifest) -> dict[str, np.ndarray | None]:
    """The packed adapter of every model by name; the base has none."""
    paths = {
        f"{domain} alone": directory / "alone" / "adapters" / f"client-{client}"
        for client, domain in enumerate(corpus.DOMAINS)
    }
    paths["federated"] = directory / "federated" / "adapter"
    trained = {name: load_peft_directory(path, manifest) for name, path in paths.items()}
    return {"base": None} | trained


def _table(comparison: Comparison) -> Table:
    table = Table(title=f"exact match on {QUESTIONS} held-out questions a domain")
    table.add_column("model")
    for column in (*corpus.DOMAINS, "mean", "average rank"):
        table.add_column(column, justify="right")
    for model in sorted(comparison.accuracy, key=comparison.mean, reverse=True):
        scores = [f"{comparison.accuracy[model][domain]:.1%}" for domain in corpus.DOMAINS]
        style = "bold" if model == "federated" else None
        table.add_row(model, *scores, f"{comparison.mean(model):.1%}", f"{comparison.rank(model):.2f}", style=style)
    return table


def _write(comparison: Comparison, sample: dict[str, str], seconds: float, file: Path) -> None:
    content = {
        "questions_per_domain": QUESTIONS,
        "accuracy": comparison.accuracy,
        "mean": {model: comparison.mean(model) for model in comparison.accuracy},
        "average_rank": {model: comparison.rank(model) for model in comparison.accuracy},
        "sample": sample,
        "seconds": seconds,
    }
    write_text(file, json.dumps(content, indent=1) + "\n")
