"""The figure of a comparison: held-out metrics over rounds, a line each with a bar for its spread over the seeds."""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from fedllm_app.comparison.grid import Cell
from fedllm_app.paths import atomic_path
from fedllm_app.runs.figures import share_axis
from fedllm_app.runs.journal import read_journal
from fedllm_app.runs.measures import is_share

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_DASHES = ("-", (0, (6, 2)), (0, (1, 1.5)), (0, (6, 2, 1, 2)))
_MARKS = ("o", "s", "^", "D", "v", "P", "X")  # as many as make no multiple of the dashes
_SHIFT = 0.12  # of a round, between the bars of the first and the last line

Curve = list[tuple[int, float, float]]  # round, mean over the seeds, standard deviation (n - 1; 0 of one seed)


def curves(cells: Sequence[Cell], metric: str) -> dict[str, Curve]:
    """The means of a held-out metric by round, line by line, from the journals of finished cells.

    A round counts if every seed of the line has evaluated in it.
    """
    by_line: dict[str, list[dict[int, float]]] = defaultdict(list)
    for cell in cells:
        journal = read_journal(cell.directory)
        by_line[cell.line].append(
            {event["round"]: event[metric] for event in journal if event["event"] == "evaluation" and metric in event}
        )
    return {line: curve for line, seeds in by_line.items() if (curve := _curve(seeds))}


def _curve(seeds: Sequence[Mapping[int, float]]) -> Curve:
    rounds = sorted(set.intersection(*(set(seed) for seed in seeds)))
    found = []
    for number in rounds:
        values = [seed[number] for seed in seeds]
        found.append((number, float(np.mean(values)), float(np.std(values, ddof=1)) if len(values) > 1 else 0.0))
    return found


def plot_curves(cells: Sequence[Cell], metrics: Mapping[str, str], file: Path) -> bool:
    """Draw the held-out metrics over rounds as a PNG, see `draw_curves`; whether there was anything to draw."""
    figure = draw_curves(cells, metrics)
    if figure is None:
        return False
    with atomic_path(file) as temporary:
        figure.savefig(temporary, dpi=130, format="png")
    return True


def draw_curves(cells: Sequence[Cell], metrics: Mapping[str, str]) -> "Figure | None":
    """Draw the held-out metrics over rounds, a panel each; None where there is nothing to draw.

    Parameters
    ----------
    metrics : Mapping[str, str]
        By the journal's name, what the axis is called.
    """
    # The figure needs no display, and pyplot's global state is not wanted.
    from matplotlib.figure import Figure

    found = {name: lines for name in metrics if (lines := curves(cells, name))}
    if not found:
        return None
    figure = Figure(figsize=(5.5 * len(found), 4.4), layout="constrained")
    panels = figure.subplots(1, len(found), squeeze=False)[0]
    for axes, (name, lines) in zip(panels, found.items(), strict=True):
        _draw(axes, lines, metrics[name])
        if is_share(name):
            share_axis(axes)
    handles, labels = panels[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=min(4, len(labels)), frameon=False)
    seeds = list(dict.fromkeys(cell.seed for cell in cells))
    spread = ": mean and standard deviation" if len(seeds) > 1 else ""
    named = "seeds" if len(seeds) > 1 else "seed"
    figure.suptitle(f"held-out rows of the clients, {named} {', '.join(map(str, seeds))}{spread}")
    return figure


def _draw(axes: "Axes", lines: Mapping[str, Curve], label: str) -> None:
    """Equal lines lie on each other and are told apart by their dashes and marks; their bars stand side by side."""
    for place, (name, curve) in enumerate(lines.items()):
        rounds, means, deviations = (np.array(column) for column in zip(*curve, strict=True))
        shift = _SHIFT * (place - (len(lines) - 1) / 2) / max(1, len(lines) - 1)
        color = f"C{place % 10}"
        axes.plot(
            rounds,
            means,
            # Matplotlib reads "$" as the beginning of a formula, and leaves out names that begin with "_".
            label=" " + name.replace("$", r"\$"),
            color=color,
            linestyle=_DASHES[place % len(_DASHES)],
            marker=_MARKS[place % len(_MARKS)],
            markersize=5,
            markerfacecolor="none",
            linewidth=1.5,
        )
        if deviations.any():
            axes.errorbar(rounds + shift, means, deviations, color=color, fmt="none", elinewidth=0.9, capsize=2.5)
    axes.set_xlabel("round")
    axes.set_ylabel(label)
    axes.xaxis.get_major_locator().set_params(integer=True)
    axes.grid(alpha=0.3)
    axes.spines[["top", "right"]].set_visible(False)
