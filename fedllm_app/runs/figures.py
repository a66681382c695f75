"""The figure of a run as a PNG, drawn from its journal: losses by client, held-out metrics, what they started from."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from fedllm_app.errors import UserError
from fedllm_app.messages import plain_text
from fedllm_app.paths import atomic_path, last_parts
from fedllm_app.runs.directory import is_run, read_run_config
from fedllm_app.runs.journal import JOURNAL_FILE, read_journal
from fedllm_app.runs.measures import (
    INTERVAL,
    LOSS,
    SPREAD,
    Series,
    client_names,
    headline_metric,
    held_out,
    is_share,
    metric_labels,
    training,
)

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

FIGURE_FILE = "figure.png"
"""In a run directory."""

_BANDS = {
    SPREAD: {"facecolor": "0.5", "alpha": 0.18, "linewidth": 0},
    INTERVAL: {"facecolor": "none", "edgecolor": "tab:blue", "alpha": 0.45, "hatch": "///", "linewidth": 0.6},
}
"""What the two kinds of bands look like: they mean different things."""

_CLIENT_LINES = ("-", (0, (5, 2)), (0, (1, 1.5)))  # in turn
_MOST_CLIENTS = 10  # that have a line and a name in the legend; of more, the spread is drawn


class NothingToDraw(UserError):
    """A journal without a round and without an evaluation."""


@dataclass(frozen=True)
class Shares:
    """How many questions models got right, for bars beside the panels of a run: share by name, of one set for all."""

    title: str
    of: Mapping[str, float]
    strong: str = ""  # the name that is drawn in black


def plot_run(run: Path, file: Path, title: str = "", alone: Path | None = None, shares: Shares | None = None) -> None:
    """Draw a run as a PNG; see `draw_run`."""
    figure = draw_run(run, title, alone, shares)
    with atomic_path(file) as temporary:
        figure.savefig(temporary, dpi=130, format="png")


def draw_run(run: Path, title: str = "", alone: Path | None = None, shares: Shares | None = None) -> "Figure":
    """Draw training loss by client and round beside the held-out metrics.

    The two losses share their axis, the held-out panels the rounds, and all panels one legend. Nobody trains in
    round 0, so that the panel of the training loss begins at round 1. Dashed lines are what the run started from
    (round 0), dotted ones what clients reach that train alone.

    Parameters
    ----------
    title : str
        "": strategy, data and seed.
    alone : Path | None
        A run directory of the strategy `local`, whose last evaluation is drawn as a reference.
    shares : Shares | None
        Drawn as bars in a panel of their own.

    Raises
    ------
    NothingToDraw
        No round has ended, and no evaluation.
    """
    # The figure needs no display, and pyplot's global state is not wanted.
    from matplotlib.figure import Figure

    events = read_journal(run) if (run / JOURNAL_FILE).is_file() else []
    config = read_run_config(run) if is_run(run) else {}
    panels = run_panels(events, config)
    if not any(series.points for series in panels):
        raise NothingToDraw(f"{run}: no round has ended, so that there is nothing to draw")
    others = read_journal(alone) if alone else []
    base = "base model" if not config.get("adapter.start") else "start"
    count = len(panels) + bool(shares)
    figure = Figure(figsize=(4.6 * count, 4.6), layout="constrained")
    figure.get_layout_engine().set(wspace=0.05)  # long names of bars stay clear of the panel beside them
    *axes, last = figure.subplots(1, count, squeeze=False)[0]
    if shares:
        _draw_shares(last, shares)
    else:
        axes.append(last)
    for other in axes[2:]:
        other.sharex(axes[1])
    names = client_names(events)
    for place, series in zip(axes, panels, strict=True):
        _draw(place, series, names)
        if series.first is not None:
            place.axhline(series.first, color="0.35", linestyle="--", linewidth=1.2, label=f"{base} (round 0)")
        reference = held_out(others, series.metric, "").last if others and series.metric != "train_loss" else None
        if reference is not None:
            place.axhline(
                reference.value, color="0.35", linestyle=":", linewidth=1.6, label="clients alone, each on its own rows"
            )
        if is_share(series.metric):
            share_axis(place)
    losses = [place for place, series in zip(axes, panels, strict=True) if series.metric in ("train_loss", LOSS)]
    for other in losses[1:]:
        other.sharey(losses[0])
    losses[0].autoscale()
    _legend(figure, axes)
    figure.suptitle(_as_text(title or default_title(config)))
    return figure


def run_panels(events: list[dict], config: Mapping[str, object]) -> list[Series]:
    """Training loss, held-out loss, and the metric that says most, as far as the run has them."""
    labels = metric_labels(config)
    there = [name for name in labels if any(event["event"] == "evaluation" and name in event for event in events)]
    shown = dict.fromkeys([name for name in (LOSS, headline_metric(labels, there)) if name in there])
    return [training(events), *(held_out(events, name, labels[name]) for name in shown)]


def default_title(config: Mapping[str, object]) -> str:
    """Strategy, data and seed of a run."""
    if not config:
        return ""
    data = last_parts(str(config.get("data.name", "")))
    return f"{config.get('strategy.name', '')} on {data}, seed {config.get('run.seed', '')}"


def _draw(axes: "Axes", series: Series, names: Mapping[int, str]) -> None:
    rounds = [point.round for point in series.points]
    known = [point for point in series.points if point.low is not None]
    axes.fill_between(
        [point.round for point in known],
        [point.low for point in known],
        [point.high for point in known],
        label=series.band,
        **_BANDS[series.band],
    )
    values = [float("nan") if point.value is None else point.value for point in series.points]
    axes.plot(rounds, values, color="black", linewidth=2.4, label="all clients")
    _draw_clients(axes, series, names)
    axes.set_xlabel("round")
    axes.set_title(series.label, fontsize=10)
    axes.xaxis.get_major_locator().set_params(integer=True)
    axes.grid(alpha=0.3)
    axes.spines[["top", "right"]].set_visible(False)


def share_axis(axes: "Axes") -> None:
    """Shares in percent, as tables show them, on an axis that does not go below zero.

    It has room for what has been drawn, and not for what is drawn later.
    """
    from matplotlib.ticker import PercentFormatter

    axes.yaxis.set_major_formatter(PercentFormatter(1.0))
    low, high = axes.get_ylim()
    axes.set_ylim(bottom=max(low, -0.02 * high))  # a line at zero is not cut in half


def _draw_clients(axes: "Axes", series: Series, names: Mapping[int, str]) -> None:
    """A line for each client, above that of all: where both are the same, as with one client, both are to be seen."""
    clients = sorted({client for point in series.points for client in point.clients})
    if len(clients) > _MOST_CLIENTS:
        return
    for place, client in enumerate(clients):
        line = [(point.round, point.clients[client]) for point in series.points if client in point.clients]
        label = _as_text(f"client {client} ({names.get(client, '')})")
        look = {"color": f"C{place}", "linestyle": _CLIENT_LINES[place % len(_CLIENT_LINES)], "linewidth": 1.3}
        axes.plot(*zip(*line, strict=True), marker="o", markersize=3.5, zorder=3, label=label, **look)


def _draw_shares(axes: "Axes", shares: Shares) -> None:
    """Bars from the best to the worst, each with its percent."""
    names = sorted(shares.of, key=shares.of.get)
    colors = ["black" if name == shares.strong else "0.72" for name in names]
    bars = axes.barh([_as_text(name) for name in names], [100 * shares.of[name] for name in names], color=colors)
    axes.bar_label(bars, [f"{100 * shares.of[name]:.1f} %" for name in names], padding=3, fontsize=8)
    axes.set_xlim(0, max(10.0, 120 * max(shares.of.values())))
    axes.set_xlabel("%")
    axes.set_title(shares.title, fontsize=10)
    axes.spines[["top", "right"]].set_visible(False)


def _legend(figure, axes) -> None:
    """One legend below all panels, each label once."""
    found = {}
    for place in axes:
        for handle, label in zip(*place.get_legend_handles_labels(), strict=True):
            found.setdefault(label, handle)
    figure.legend(found.values(), found.keys(), loc="outside lower center", ncols=4, frameon=False, fontsize=8)


def _as_text(text: str) -> str:
    """Words of clients and data as they stand: matplotlib would read text between dollar signs as a formula."""
    return plain_text(text, 80).replace("$", r"\$")
