"""Figures of a run, drawn from its journal."""

from collections import defaultdict
from pathlib import Path
from typing import TYPE_CHECKING

from fedllm_app.paths import atomic_path
from fedllm_app.runs.directory import read_journal

if TYPE_CHECKING:
    from matplotlib.axes import Axes

Points = dict[str, list[tuple[int, float]]]  # one series a name: (round, value)


def plot_run(run: Path, file: Path, title: str) -> None:
    """Draw training loss per client and round beside held-out accuracy per round, as a PNG."""
    # The figure needs no display, and pyplot's global state is not wanted.
    from matplotlib.figure import Figure

    journal = read_journal(run)
    figure = Figure(figsize=(11, 4.2), layout="constrained")
    left, right = figure.subplots(1, 2)
    _lines(left, series(journal, "client", "train_loss"), "training loss")
    accuracy = series(journal, "client-evaluation", "exact_match")
    _lines(right, accuracy, "held-out accuracy (exact match)")
    mean = [(event["round"], event["exact_match"]) for event in journal if event["event"] == "evaluation"]
    if mean:
        right.plot(*zip(*mean, strict=True), color="black", linewidth=2.5, label="mean")
        right.legend()
    right.set_ylim(0, 1)
    figure.suptitle(title)
    with atomic_path(file) as temporary:
        figure.savefig(temporary, dpi=130, format="png")


def series(journal: list[dict], event: str, field: str) -> Points:
    """The values of one field of one kind of event by round, one series a client."""
    points: Points = defaultdict(list)
    for line in journal:
        if line["event"] == event and field in line:
            points[f"client {line['client']} ({line['name']})"].append((line["round"], line[field]))
    return dict(points)


def _lines(axes: "Axes", points: Points, label: str) -> None:
    for name, values in points.items():
        axes.plot(*zip(*values, strict=True), marker="o", markersize=4, alpha=0.8, label=name)
    axes.set_xlabel("round")
    axes.set_ylabel(label)
    axes.xaxis.get_major_locator().set_params(integer=True)
    axes.grid(alpha=0.3)
    axes.spines[["top", "right"]].set_visible(False)
    if points:
        axes.legend()
