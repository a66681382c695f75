"""`fedllm plan`: what a run would cost, printed; the figures are those of `costs`."""

import argparse
from typing import TYPE_CHECKING

from rich.console import Console
from rich.table import Table

from fedllm_app.commands.options import add_app_parser, run_config, warn_of_unread
from fedllm_app.config.parse import parse_run_config
from fedllm_app.federation.holdings import data_notes, holdings_table, row_warnings
from fedllm_app.models.quantization import prepare_bitsandbytes

if TYPE_CHECKING:
    from fedllm_app.commands.costs import Plan
    from fedllm_app.commands.pace import Pace


def add_parser(subparsers) -> None:
    """Add `fedllm plan`."""
    summary = "what a run would cost: parameters, bytes, memory, steps, tokens, examples"
    parser = add_app_parser(subparsers, "plan", _plan, summary)
    told = "also train a few steps here, and say how long the training of the run would take"
    parser.add_argument("--measure", action="store_true", help=told)


def _plan(parsed: argparse.Namespace, console: Console) -> int:
    flat = run_config(parsed)
    warn_of_unread(parsed, flat, console)
    prepare_bitsandbytes(parse_run_config(flat).model.quantization)
    from fedllm_app.commands.costs import make_plan

    with console.status("reads the data and the model's headers"):
        plan = make_plan(flat)
    pace = None
    if parsed.measure:
        from fedllm_app.commands.pace import measure

        with console.status("trains a few steps"):
            pace = measure(flat, plan.steps)
    show_plan(plan, console, pace)
    return 0


def show_plan(plan: "Plan", console: Console, pace: "Pace | None" = None) -> None:
    """Print the figures as a table, with what was measured of the time, and the clients below it."""
    traffic = plan.traffic
    table = Table(title="plan", show_header=False)
    table.add_column()
    table.add_column(justify="right")
    for label, value in (
        ("parameters that are trained", f"{plan.trained:,}"),
        ("parameters that stay frozen", f"{plan.frozen:,}"),
        ("bytes of a message to a client", f"{traffic.message:,}"),
        ("bytes of a client's reply", f"{traffic.reply:,}"),
        ("bytes of a round, mean", f"{(traffic.down + traffic.up) // plan.rounds:,}"),
        ("bytes of the run, to clients", f"{traffic.down:,}"),
        ("bytes of the run, back", f"{traffic.up:,}"),
        *_memory_lines(plan),
        ("memory of the server, beside its libraries", _server_memory(plan)),
        ("optimizer steps of all clients", f"{plan.steps:,}"),
        ("tokens of all clients", f"{plan.tokens:,}"),
        *_time_lines(pace),
    ):
        table.add_row(label, value)
    console.print(table)
    console.print(holdings_table(plan.holdings))
    for line in data_notes({client: holding.notes for client, holding in plan.holdings.items()}):
        console.print(line, markup=False, highlight=False, soft_wrap=True)
    for warning in row_warnings(plan.holdings):
        console.print(warning, style="yellow", markup=False, highlight=False)
    for note in plan.notes:
        console.print(f"warning: {note}", style="yellow", markup=False, highlight=False)


def _memory_lines(plan: "Plan") -> list[tuple[str, str]]:
    memory = plan.memory
    if memory is None:
        return [("memory of a client", "not known, see below")]
    return [
        ("memory of a client on a CPU", _mb(plan.client_memory)),
        ("  its process: Python, libraries, rows", _mb(plan.process)),
        ("  base weights", _mb(memory.weights)),
        ("  adapter", _mb(memory.adapter)),
        ("  its gradient and optimizer", _mb(memory.optimizer)),
        (f"  activations of {plan.rows} x {plan.length} tokens", _mb(memory.activations)),
        ("  lost to the allocator", _mb(memory.gaps)),
        ("memory of a client on a GPU, beside its context", _mb(memory.held)),
    ]


def _time_lines(pace: "Pace | None") -> list[tuple[str, str]]:
    if pace is None:
        return []
    from fedllm_app.report.page import duration

    return [
        ("a step of a client, measured", f"{pace.step:.2f} s"),
        (f"training of the run here, {pace.at_once} at a time, about", duration(pace.training)),
    ]


def _server_memory(plan: "Plan") -> str:
    if plan.server is None:
        return "not known for this strategy"
    return _mb(plan.server) + (f": all {plan.asked} replies at once" if plan.compares else "")


def _mb(size: int) -> str:
    return f"{size / 2**20:,.0f} MB"
