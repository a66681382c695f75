"""`fedllm partition`: who would hold which rows, counted from the data, before anything is trained or loaded."""

import argparse
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from statistics import median

import numpy as np
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from fedllm_app.commands.options import add_app_parser, run_config
from fedllm_app.config.parse import parse_run_config
from fedllm_app.config.sections import Config, ConfigError
from fedllm_app.config.values import data_selection
from fedllm_app.data.client_rows import DataSelection, client_data, client_share, row_labels
from fedllm_app.data.named_sets import BUILT_IN
from fedllm_app.federation.holdings import data_notes, few_rows_warning
from fedllm_app.paths import last_parts
from fedllm_app.tasks import task_spec

_ROWS = 30  # clients that are listed; of more, the first ones and a summary
_LABELS_IN_TABLE, _LABELS_IN_PLOT = 5, 10
_OTHERS = "others"


@dataclass(frozen=True)
class ClientRows:
    """What one client would hold. `labels` counts its rows, held-out ones included, by label.

    `bad`, `duplicates` and `notes` are those of `ClientData`.
    """

    client: int
    name: str
    rows: int
    held_out: int
    labels: dict[str, int]
    bad: int = 0
    duplicates: int = 0
    notes: str = ""


def add_parser(subparsers) -> None:
    """Add `fedllm partition`."""
    summary = "who would hold which rows, without loading a model"
    parser = add_app_parser(subparsers, "partition", _partition, summary)
    parser.add_argument("--plot", metavar="FILE.png", help="draw a bar a client, stacked by label")


def _partition(parsed: argparse.Namespace, console: Console) -> int:
    plot = Path(parsed.plot).resolve() if parsed.plot else None
    report_partition(parse_run_config(run_config(parsed)), console, plot)
    return 0


def report_partition(config: Config, console: Console, plot: Path | None) -> None:
    """Print the division of a configuration's data, and draw it where a file is named."""
    if not config.clients.number:
        raise ConfigError(["clients.number = 0: how many nodes there will be is not known yet; name a number with -c"])
    clients = divide(data_selection(config, config.clients.number, task_spec(config.train.task).rows))
    console.print(partition_table(clients))
    warning = few_rows_warning({rows.client: rows.rows for rows in clients})
    if warning:
        console.print(warning, style="yellow", markup=False, highlight=False)
    for line in data_notes({rows.client: rows.notes for rows in clients}):
        console.print(line, markup=False, highlight=False, soft_wrap=True)
    if plot:
        plot_partition(clients, plot, f"{last_parts(config.data.name)}: {config.data.partition}")
        console.print(f"figure: {plot}", soft_wrap=True)


def divide(selection: DataSelection) -> list[ClientRows]:
    """The rows of every client. Labels are those of the partition column, else the domains or sets, else none."""
    return [_client_rows(selection, client) for client in range(selection.clients)]


def _client_rows(selection: DataSelection, client: int) -> ClientRows:
    if selection.name == BUILT_IN:
        data = client_data(selection, client)
        total = len(data.train) + len(data.held_out)
        return ClientRows(client, data.label, len(data.train), len(data.held_out), {data.label: total})
    share = client_share(selection, client)
    rows = np.concatenate([share.train, share.held_out])
    labels = {}
    if selection.partition_column:
        labels = dict(Counter(row_labels(share.source, selection.partition_column)[rows].tolist()))
    elif selection.partition == "by-domain":
        labels = {share.label: len(rows)}
    return ClientRows(
        client,
        share.label,
        len(share.train),
        len(share.held_out),
        labels,
        share.source.bad.count,
        share.duplicates,
        "; ".join(share.notes),
    )


def partition_table(clients: list[ClientRows]) -> Table:
    """A line a client; of many clients the first ones, and the smallest, median and largest numbers of all."""
    table = Table(title="who would hold what")
    table.add_column("client", justify="right", no_wrap=True)
    table.add_column("name", overflow="fold")
    for column in ("training\nrows", "held-out\nrows", "duplicates", "bad\nrows"):
        table.add_column(column, justify="right", no_wrap=True)
    table.add_column("labels", overflow="fold")
    shown = clients if len(clients) <= _ROWS else clients[: _ROWS - 3]
    for rows in shown:
        counts = (f"{count:,}" for count in (rows.rows, rows.held_out, rows.duplicates, rows.bad))
        table.add_row(str(rows.client), escape(rows.name), *counts, escape(_shares(rows.labels)))
    table.add_section()
    for name, summary in (("smallest", min), ("median", median), ("largest", max)) if len(shown) < len(clients) else ():
        numbers = ((rows.rows, rows.held_out, rows.duplicates, rows.bad, len(rows.labels)) for rows in clients)
        *counts, labels = (summary(column) for column in zip(*numbers, strict=True))
        table.add_row("", f"{name} of {len(clients)}", *(f"{count:,.0f}" for count in counts), f"{labels:.0f} labels")
    together = (sum(getattr(rows, key) for rows in clients) for key in ("rows", "held_out", "duplicates"))
    table.add_row("", "together", *(f"{count:,}" for count in together), "", "")
    return table


def _shares(labels: dict[str, int]) -> str:
    total = sum(labels.values())
    largest = _largest(labels, _LABELS_IN_TABLE)
    return ", ".join(f"{name.strip() or '(none)'} {count / total:.0%}" for name, count in largest.items())


def _largest(labels: dict[str, int], number: int) -> dict[str, int]:
    """The most frequent labels, the rest summed up."""
    ordered = sorted(labels.items(), key=lambda item: (-item[1], item[0]))
    if len(ordered) <= number:
        return dict(ordered)
    return dict(ordered[: number - 1]) | {_OTHERS: sum(count for _, count in ordered[number - 1 :])}


def plot_partition(clients: list[ClientRows], file: Path, title: str) -> None:
    """A bar a client, stacked by label, or by training and held-out rows where there are no labels."""
    from matplotlib.figure import Figure

    parts = _stacks(clients)
    figure = Figure(figsize=(min(16.0, 4.0 + 0.25 * len(clients)), 4.0), layout="constrained")
    axes = figure.subplots()
    numbers, below = [rows.client for rows in clients], np.zeros(len(clients))
    for place, (name, counts) in enumerate(parts.items()):
        axes.bar(numbers, counts, bottom=below, label=name, color=f"C{place}" if name != _OTHERS else "lightgrey")
        below += counts
    axes.set(title=title, xlabel="client", ylabel="rows")
    axes.xaxis.get_major_locator().set_params(integer=True)
    axes.legend(loc="upper left", bbox_to_anchor=(1.0, 1.0), fontsize="small")
    file.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(file, dpi=150, format="png")


def _stacks(clients: list[ClientRows]) -> dict[str, np.ndarray]:
    """The rows of every client by what the bars are stacked of, the most frequent first."""
    total = sum((Counter(rows.labels) for rows in clients), Counter())
    if not total:
        return {
            "training": np.array([rows.rows for rows in clients]),
            "held out": np.array([rows.held_out for rows in clients]),
        }
    kept = [name for name in _largest(dict(total), _LABELS_IN_PLOT) if name in total]
    stacks = {name: np.array([rows.labels.get(name, 0) for rows in clients]) for name in kept}
    rest = np.array([sum(rows.labels.values()) for rows in clients]) - sum(stacks.values())
    return stacks | ({_OTHERS: rest} if rest.any() else {})
