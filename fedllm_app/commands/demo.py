"""`fedllm demo`, the main job: federate four domains, train each client alone for as many steps, and compare."""

import argparse
import json
import time
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import Console
from rich.table import Table

from fedllm_app.commands.flower import LaunchError
from fedllm_app.commands.new_directory import new_directory
from fedllm_app.commands.options import add_app_parser, run_config
from fedllm_app.commands.run import run_to_end
from fedllm_app.comparison.cell import Run, run_cell
from fedllm_app.comparison.grid import Cell
from fedllm_app.config.app_files import app_directory
from fedllm_app.config.parse import parse_run_config
from fedllm_app.config.sections import FlatConfig
from fedllm_app.data import corpus
from fedllm_app.paths import write_text
from fedllm_app.runs.directory import read_result
from fedllm_app.runs.figures import Shares, plot_run

if TYPE_CHECKING:
    from fedllm_app.comparison.by_set import BySet, Sample
    from fedllm_app.evaluation.contestants import Contestant

QUESTIONS = 60
"""Held-out questions a domain."""

SHOWN = 3
"""Worked examples of each domain that the base is also shown, so that it knows the form of the answers."""

FEDERATED = "federated"
_KEY = "exact match"
_OWN_QUESTIONS = (
    "Do not compare its held-out figures with those of part 1: here each model is asked its own domain alone. Part 3 "
    "asks all of them the same."
)
_OTHER_QUESTIONS = (
    "Here every model is asked all domains. During training a client asks its own rows alone, where the model of a "
    "client that trains alone looks good, because it meets one domain."
)


def add_parser(subparsers) -> None:
    """Add `fedllm demo`."""
    add_app_parser(subparsers, "demo", _demo, "the main job: federate four domains and compare")


def _demo(parsed: argparse.Namespace, console: Console) -> int:
    app, flat = app_directory(parsed.app), run_config(parsed)
    parse_run_config(flat)
    given = flat["run.directory"]
    with nullcontext(given) if given else new_directory("demo") as directory:
        demo(flat, Path(directory), lambda own: bool(run_to_end(app, dict(own), console)), console)
    return 0


def demo(flat: FlatConfig, directory: Path, run: Run, console: Console) -> None:
    """Run the whole job into `directory`: two runs, the comparison, the figure, a sample."""
    from fedllm_app.client.local_client import peak_memory_mb  # imports torch, as the next one does
    from fedllm_app.comparison.asking import Asking, ask_all
    from fedllm_app.comparison.by_set import BySet, sample
    from fedllm_app.evaluation.progress import AnswerProgress
    from fedllm_app.evaluation.suites.builtin import EXACT
    from fedllm_app.report.demo import DEMO_FILE

    started = time.monotonic()
    together, alone = cells(flat, directory)
    console.rule("1/3 federated training: four clients, one domain each")
    _run(together, run, console)
    console.rule("2/3 each client alone, for the same number of steps")
    console.print(f"part 1 took {time.monotonic() - started:.0f} s; this part takes about as long")
    console.print(_OWN_QUESTIONS, markup=False, highlight=False)
    _run(alone, run, console)
    console.rule(f"3/3 {QUESTIONS} held-out questions a domain, the same for every model")
    results = ask_all(
        models(together, alone),
        Asking(EXACT, limit=QUESTIONS, shown=SHOWN),
        None,
        lambda sentence: console.print(f"  {sentence}", markup=False, highlight=False),
        AnswerProgress(console),
    )
    found = BySet.of(results, _KEY)
    figure = directory / "training.png"
    plot_run(together.directory, figure, "Federated training: SmolLM2-135M-Instruct, four domains", shares=_bars(found))
    console.print(_table(found))
    console.print(_OTHER_QUESTIONS, markup=False, highlight=False)
    chosen = sample(results, FEDERATED, [name for name in found.shares if name.startswith("base")], _KEY)
    _tell(chosen, console)
    seconds = time.monotonic() - started
    _write(found, chosen, seconds, directory / DEMO_FILE)
    console.print(f"figure: {figure}", soft_wrap=True)
    console.print(f"run directory: {directory}", soft_wrap=True)
    console.print(
        f"all of it took {seconds:.0f} s; peak memory of this process {peak_memory_mb():.0f} MB, of a client "
        f"{client_memory_mb(together, alone):.0f} MB"
    )


def client_memory_mb(*cells: Cell) -> float:
    """The most that a client of the runs has taken."""
    return max(read_result(cell.directory)["peak_client_memory_mb"] for cell in cells)


def cells(flat: FlatConfig, directory: Path) -> tuple[Cell, Cell]:
    """The run of the configuration's strategy, and that of each client alone."""
    seed = int(flat["run.seed"])
    own = {"strategy.name": "local", "strategy.arguments": ""}
    return (
        Cell(FEDERATED, seed, directory / FEDERATED, flat),
        Cell("alone", seed, directory / "alone", {**flat, **own}),
    )


def _run(cell: Cell, run: Run, console: Console) -> None:
    if reason := run_cell(cell, run, console):
        raise LaunchError(f"the demo stops here, because a run of it failed: {reason}")


def models(together: Cell, alone: Cell) -> "list[Contestant]":
    """The models of both cells, those of the clients called after their domain."""
    from fedllm_app.comparison.asking import models_of

    clients = models_of(alone)
    domains = [corpus.DOMAINS[number % len(corpus.DOMAINS)] for number in range(len(clients))]
    several = len(clients) > len(corpus.DOMAINS)
    named = [f"{domain} alone" + f", client {number}" * several for number, domain in enumerate(domains)]
    trained = [replace(model, name=FEDERATED) for model in models_of(together)]
    return [*(replace(model, name=name) for model, name in zip(clients, named, strict=True)), *trained]


def _table(found: "BySet") -> Table:
    table = Table(title=f"exact match on {QUESTIONS} held-out questions a domain")
    table.add_column("model")
    for column in (*corpus.DOMAINS, "mean", "average rank"):
        table.add_column(column, justify="right")
    for model in _ranked(found):
        scores = [f"{found.shares[model][domain]:.1%}" for domain in corpus.DOMAINS]
        style = "bold" if model == FEDERATED else None
        table.add_row(model, *scores, f"{found.mean(model):.1%}", f"{found.rank(model):.2f}", style=style)
    return table


def _bars(found: "BySet") -> Shares:
    means = {model: found.mean(model) for model in found.shares}
    return Shares(f"exact match, all models\non the same {QUESTIONS} questions a domain", means, FEDERATED)


def _ranked(found: "BySet") -> Sequence[str]:
    return sorted(found.shares, key=found.mean, reverse=True)


def _tell(chosen: "Sample", console: Console) -> None:
    said = {"a held-out question": chosen.question}
    said |= {f"  {name}": answer for name, answer in chosen.answers.items()} | {"  expected": chosen.expected}
    for who, text in said.items():
        console.print(f"{who}: {text}", markup=False, highlight=False)


def _write(found: "BySet", chosen: "Sample", seconds: float, file: Path) -> None:
    content = {
        "questions_per_domain": QUESTIONS,
        "accuracy": {model: dict(shares) for model, shares in found.shares.items()},
        "mean": {model: found.mean(model) for model in found.shares},
        "average_rank": {model: found.rank(model) for model in found.shares},
        "sample": {"question": chosen.question, "expected": chosen.expected, **chosen.answers},
        "seconds": seconds,
    }
    write_text(file, json.dumps(content, indent=1) + "\n")
