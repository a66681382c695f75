"""The state of a cell: whether its run is finished, can go on or has to begin; what it cost, and why it failed."""

import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console

from fedllm_app.comparison.grid import Cell
from fedllm_app.config.changes import refused_changes
from fedllm_app.config.sections import FlatConfig
from fedllm_app.errors import UserError
from fedllm_app.federation.participation import never_contributed
from fedllm_app.runs.directory import RunDirectory, client_adapters, is_run, read_result, read_run_config
from fedllm_app.runs.journal import read_journal

Run = Callable[[FlatConfig], bool]
"""Runs a configuration to its end; whether it finished."""


@dataclass(frozen=True)
class Costs:
    """What one model of a cell has seen, and what the run took.

    Attributes
    ----------
    models : int
        Models that came of it: one, or one for each client that trained alone.
    examples, steps : float
        Training examples, with repetitions, and optimizer steps whose result entered one model: of all clients
        together, or the mean over the clients that trained alone.
    seconds : float
        Of the rounds.
    megabytes : float
        Arrays that were sent and received, 10^6 bytes.
    """

    models: int
    examples: float
    steps: float
    seconds: float
    megabytes: float


def is_finished(cell: Cell) -> bool:
    """Whether the cell's run has all its rounds."""
    result = read_result(cell.directory)
    return result is not None and result["rounds"] >= cell.flat["train.rounds"]


def configuration(cell: Cell) -> FlatConfig:
    """With which the cell's run begins, or goes on if it had begun."""
    flat = cell.flat | {"run.directory": str(cell.directory), "run.resume": ""}
    if is_run(cell.directory) and RunDirectory(cell.directory).began():
        return flat | {"run.resume": str(cell.directory)}
    return flat


def run_cells(cells: Sequence[Cell], run: Run, console: Console) -> dict[str, str]:
    """Run what is not finished, one after the other.

    Returns
    -------
    dict[str, str]
        The reason why a cell failed, by its name. One that fails does not stop the others.
    """
    failed: dict[str, str] = {}
    took: list[float] = []  # seconds of the runs so far
    for number, cell in enumerate(cells, 1):
        new, whole = not is_finished(cell), not configuration(cell)["run.resume"]
        to_come = sum(not is_finished(later) for later in cells[number:]) + new
        console.rule(f"{number} of {len(cells)}: {cell.name}{time_left(took, to_come)}")
        began = time.monotonic()
        reason = run_cell(cell, run, console)
        if new and whole and not reason:
            took.append(time.monotonic() - began)
        if reason:
            failed[cell.name] = reason
            console.print(f"{cell.name} failed: {reason}", style="red", markup=False, highlight=False)
    return failed


def time_left(took: Sequence[float], to_come: int) -> str:
    """How long so many more runs, or models that are asked, may take, from the seconds that others took.

    A few words, or "" if nothing is known. A rough word: strategies differ in what they cost.
    """
    if not took or not to_come:
        return ""
    minutes = statistics.mean(took) * to_come / 60
    if minutes < 1:
        return ", less than a minute left"
    return f", about {minutes:.0f} min left" if minutes < 120 else f", about {minutes / 60:.0f} h left"


def run_cell(cell: Cell, run: Run, console: Console) -> str:
    """Run a cell that is not finished; why it failed, or ""."""
    if is_run(cell.directory) and (different := refused_changes(read_run_config(cell.directory), cell.flat)):
        return f"{cell.directory} holds another run: {different[0]}"
    if is_finished(cell):
        console.print(f"finished before: {cell.directory}", markup=False, highlight=False, soft_wrap=True)
        return ""
    try:
        return "" if run(configuration(cell)) else failure(cell.directory)
    except UserError as error:
        return str(error)


def failure(directory: Path) -> str:
    """The last reason that the journal of a run gives for its end."""
    try:
        events = read_journal(directory, everything=True)
    except OSError:
        events = []
    reasons = [event["reason"] for event in events if event["event"] == "failed"]
    return reasons[-1] if reasons else f"its journal gives no reason; look at {directory / 'flower.log'}"


def is_incomplete(cell: Cell) -> bool:
    """Whether a client of a finished cell was drawn and no update of it was used."""
    result = read_result(cell.directory)
    return result is not None and bool(never_contributed(result.get("participation", ())))


def costs(cell: Cell) -> Costs:
    """What a finished cell cost, by its journal."""
    journal, result = read_journal(cell.directory), read_result(cell.directory)
    rounds = {event["round"]: event for event in journal if event["event"] == "round"}
    # A round that was repeated has several lines of a client; the last is the one that counts.
    steps = {
        (event["round"], event["client"]): event["steps"]
        for event in journal
        if event["event"] == "client" and event["client"] in rounds.get(event["round"], {}).get("clients", ())
    }
    models = len(client_adapters(cell.directory)) or 1
    each = sum(steps.values()) / models
    return Costs(
        models,
        each * cell.flat["train.batch-size"] * cell.flat["train.gradient-accumulation"],
        each,
        sum(event["seconds"] for event in rounds.values()),
        (result["bytes_down"] + result["bytes_up"]) / 1e6,
    )
