"""The figures of a report as Plotly's JSON. Colours of text, lines and ground come from the page's style sheet."""

import html
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from fedllm_app.report.evaluations import EvaluationTable
from fedllm_app.report.gather import ReportData, RunReport
from fedllm_app.report.participants import LATE, NOT_ASKED, REFUSED, TOOK_PART
from fedllm_app.report.phases import PHASES
from fedllm_app.runs.measures import Series, is_share

COLORS = ("#3f74d6", "#d9762b", "#2a9d78", "#b3489a", "#b8901f", "#4a9fc9", "#96624a", "#7b7f8a")
"""Of runs, and of clients in a report of one run: they can be told apart on a light and on a dark ground."""

_PHASE_COLORS = dict(zip(PHASES, (*COLORS, "#5b8c2a", "#9aa0ab"), strict=True))
_FATES = {NOT_ASKED: "rgba(128,132,145,0.16)", TOOK_PART: "#2a9d78", REFUSED: "#c9413a", LATE: "#d9a12b"}
_MOST_CLIENTS = 12  # that have a line of their own
_MOST_ROWS = 60  # clients in a map
_ROW = 24  # pixels
_LONGEST = 24  # characters of a client's name in a figure

Trace = dict[str, object]


@dataclass(frozen=True)
class Figure:
    """One figure: where it stands on the page, what it shows, and Plotly's traces and layout.

    `legend` has the colours of what Plotly's own legend cannot name; `height` is in pixels.
    """

    name: str
    title: str
    about: str
    traces: list[Trace]
    layout: dict[str, object] = field(default_factory=dict)
    height: int = 360
    legend: Mapping[str, str] = field(default_factory=dict)


def words(text: object) -> str:
    """Words of clients and data in a figure: Plotly reads some markup, which these are not."""
    return html.escape(str(text), quote=False)


def client_words(client: int, name: str) -> str:
    """A client in a figure. Long names are cut, which leaves room for the figure on a phone; the number tells them
    apart."""
    text = f"{client} {name}".strip()
    return words(text if len(text) <= _LONGEST else f"{text[: _LONGEST - 1]}…")


def color_of(place: int) -> str:
    """The colour of a run by its place in the report."""
    return COLORS[place % len(COLORS)]


def training_figure(data: ReportData) -> Figure | None:
    """Training loss by round: of one run each client, of several their means and spreads."""
    series = [run.training for run in data.runs]
    if not any(one.points for one in series):
        return None
    about = "The mean over the clients of each round; the band is from the smallest to the largest client."
    return _by_round("training-loss", "Training loss", about, data, series, {})


def held_out_figures(data: ReportData) -> list[Figure]:
    """One figure for each held-out metric, with what the runs started from and what clients reach alone."""
    names = list(dict.fromkeys(series.metric for run in data.runs for series in run.held_out))
    names.sort(key=lambda name: name != _headline(data))
    return [_held_out_figure(data, name) for name in names]


def _headline(data: ReportData) -> str:
    return next((run.headline for run in data.runs if run.headline), "")


def _held_out_figure(data: ReportData, name: str) -> Figure:
    series = [run.metric(name) or Series(name, name, "", ()) for run in data.runs]
    known = next(one for one in series if one.points)
    direction = "Lower is better." if known.lower_is_better else "Higher is better."
    starts = {}  # under another seed the rows are others, and so is what the base model reaches on them
    for run, one in zip(data.runs, series, strict=True):
        if one.first is not None:
            starts.setdefault(round(one.first, 12), []).append(run)
    references = {}
    for run, one in zip(data.runs, series, strict=True):
        if one.first is not None:
            references[round(one.first, 12)] = (_start_name(starts, round(one.first, 12)), one.first, "dash")
        alone = data.alone(run)
        reached = alone.metric(name).last if alone is not None and alone.metric(name) else None
        if reached is not None:
            references[alone.label] = (f"clients alone ({words(alone.label)})", reached.value, "dot")
    about = f"On rows that no client trains on. The band is the {known.band}. {direction}"
    label = known.label[:1].upper() + known.label[1:]
    return _by_round(f"held-out-{name}", label, about, data, series, references)


def _start_name(starts: Mapping[float, Sequence[RunReport]], value: float) -> str:
    """What the line of a start is called: with its runs where others started elsewhere."""
    name = f"{starts[value][0].base_name} (round 0)"
    if len(starts) == 1:
        return name
    of = [words(run.label) for run in starts[value]]
    return f"{name} of {', '.join(of[:2])}" + (", …" if len(of) > 2 else "")


def _by_round(
    name: str, title: str, about: str, data: ReportData, series: Sequence[Series], references: Mapping
) -> Figure:
    traces: list[Trace] = []
    for place, (run, one) in enumerate(zip(data.runs, series, strict=True)):
        if not one.points:
            continue
        alone = len(data.runs) == 1
        traces += _band(one, color_of(place) if not alone else "#80848f")
        if alone:
            traces += _client_lines(one, run)
        rounds, values = [p.round for p in one.points], [p.value for p in one.points]
        label, colour = ("all clients", "ink") if alone else (words(run.label), color_of(place))
        traces.append(_line(rounds, values, label, colour, 3.0))
    last = max((point.round for one in series for point in one.points), default=1)
    for label, value, dash in references.values():
        traces.append(_line([0, last], [value, value], label, "muted", 1.5, dash=dash))
    layout = {"xaxis": {"title": {"text": "round"}, "dtick": _tick(last)}}
    if all(is_share(one.metric) for one in series):
        layout["yaxis"] = {"tickformat": ".0%", "rangemode": "tozero"}
    return Figure(name, title, about, traces, layout)


def _tick(last: int) -> int:
    return max(1, math.ceil(last / 12))


def _line(x: Sequence, y: Sequence, name: str, colour: str, width: float, dash: str = "solid") -> Trace:
    mode = "lines+markers" if dash == "solid" and len(x) < 40 else "lines"
    line = {"color": colour, "width": width, "dash": dash}
    hover = f"%{{y:.3r}}<extra>{name}</extra>" if "%" not in name else None
    return {"type": "scatter", "mode": mode, "x": list(x), "y": list(y), "name": name, "line": line} | (
        {"hovertemplate": hover} if hover else {}
    )


def _client_lines(series: Series, run: RunReport) -> list[Trace]:
    clients = sorted({client for point in series.points for client in point.clients})
    if len(clients) > _MOST_CLIENTS:
        return []
    names = {row.client: row.name for row in run.clients}
    lines = []
    for place, client in enumerate(clients):
        known = [(point.round, point.clients[client]) for point in series.points if client in point.clients]
        rounds, values = zip(*known, strict=True)
        name = client_words(client, names.get(client, ""))
        lines.append(_line(rounds, values, name, COLORS[place % len(COLORS)], 1.4))
    return lines


def _band(series: Series, colour: str) -> list[Trace]:
    known = [point for point in series.points if point.low is not None]
    if not known:
        return []
    rounds = [point.round for point in known]
    edge = {"type": "scatter", "mode": "lines", "line": {"width": 0}, "hoverinfo": "skip", "showlegend": False}
    low = edge | {"x": rounds, "y": [point.low for point in known]}
    high = edge | {"x": rounds, "y": [point.high for point in known], "fill": "tonexty", "fillcolor": _faint(colour)}
    return [low, high]


def _faint(colour: str) -> str:
    red, green, blue = (int(colour[start : start + 2], 16) for start in (1, 3, 5))
    return f"rgba({red},{green},{blue},0.14)"


def attendance_figure(run: RunReport, name: str) -> Figure | None:
    """A map of clients and rounds: who took part when."""
    found = run.attendance
    if not found.rounds or not found.fates:
        return None
    clients = list(found.fates)[:_MOST_ROWS]
    names = {row.client: row.name for row in run.clients}
    codes = {fate: place for place, fate in enumerate(_FATES)}
    scale = [
        [edge / len(_FATES), colour] for place, colour in enumerate(_FATES.values()) for edge in (place, place + 1)
    ]
    labels = [client_words(client, names[client]) for client in clients]
    trace = {
        "type": "heatmap",
        "x": list(found.rounds),
        "y": labels,
        "z": [[codes[fate] for fate in found.fates[client]] for client in clients],
        "text": [list(found.fates[client]) for client in clients],
        "hovertemplate": "%{y}, round %{x}: %{text}<extra></extra>",
        "zmin": -0.5,
        "zmax": len(_FATES) - 0.5,
        "colorscale": scale,
        "showscale": False,
        "xgap": 2,
        "ygap": 2,
    }
    more = f" The first {len(clients)} of {len(found.fates)} clients." if len(clients) < len(found.fates) else ""
    yaxis = {"autorange": "reversed", "type": "category", "showgrid": False}
    xaxis = {"title": {"text": "round"}, "dtick": _tick(len(found.rounds)), "showgrid": False}
    return Figure(
        name,
        f"Who took part: {run.label}",
        f"Each client in each round.{more}",
        [trace],
        {"xaxis": xaxis, "yaxis": yaxis},
        height=110 + _ROW * len(clients),
        legend=_FATES,
    )


def phases_figure(data: ReportData) -> Figure | None:
    """Seconds by phase, one bar a run."""
    runs = [run for run in data.runs if run.seconds]
    if not runs:
        return None
    shown = [phase for phase in PHASES if any(phase in run.seconds for run in runs)]
    labels = [words(run.label) for run in runs]
    traces = [
        {
            "type": "bar",
            "orientation": "h",
            "name": phase,
            "y": labels,
            "x": [round(run.seconds.get(phase, 0.0), 3) for run in runs],
            "marker": {"color": _PHASE_COLORS[phase]},
            "hovertemplate": f"{phase}: %{{x:.1f}} s<extra>%{{y}}</extra>",
        }
        for phase in shown
    ]
    about = "On the server's clock. The table below says what each phase is."
    layout = {
        "barmode": "stack",
        "xaxis": {"title": {"text": "seconds"}},
        "yaxis": {"autorange": "reversed", "type": "category", "showgrid": False},
    }
    return Figure("phases", "Seconds by phase", about, traces, layout, height=170 + 44 * len(runs))


def traffic_figure(data: ReportData) -> Figure:
    """Megabytes sent and received, by run."""
    labels = [words(run.label) for run in data.runs]
    ways = {"to clients": [run.traffic.down for run in data.runs], "back": [run.traffic.up for run in data.runs]}
    traces = [
        {
            "type": "bar",
            "orientation": "h",
            "name": way,
            "y": labels,
            "x": [size / 1e6 for size in sizes],
            "marker": {"color": COLORS[place * 2]},
            "hovertemplate": f"{way}: %{{x:.2f}} MB<extra>%{{y}}</extra>",
        }
        for place, (way, sizes) in enumerate(ways.items())
    ]
    layout = {
        "barmode": "group",
        "xaxis": {"title": {"text": "MB"}},
        "yaxis": {"autorange": "reversed", "type": "category", "showgrid": False},
    }
    return Figure("traffic", "Bytes", "Of arrays, both ways, the whole run.", traces, layout, 170 + 56 * len(labels))


def memory_figure(data: ReportData) -> Figure | None:
    """The peak memory of each client, by run."""
    traces = []
    for place, run in enumerate(data.runs):
        rows = [row for row in run.clients if row.peak_memory_mb][:_MOST_ROWS]
        if rows:
            traces.append(
                {
                    "type": "bar",
                    "name": words(run.label),
                    "x": [client_words(row.client, row.name) for row in rows],
                    "y": [max(row.peak_memory_mb, row.peak_gpu_memory_mb) for row in rows],
                    "marker": {"color": color_of(place)},
                    "hovertemplate": "%{y:,.0f} MB<extra>%{x}</extra>",
                }
            )
    if not traces:
        return None
    about = (
        "The most that the process of a client has held; on a GPU, the larger of its own and the GPU's. Clients of a "
        "simulation share processes."
    )
    layout = {"barmode": "group", "yaxis": {"title": {"text": "MB"}}, "xaxis": {"type": "category", "showgrid": False}}
    return Figure("memory", "Peak memory", about, traces, layout, 340)


def evaluation_figure(table: EvaluationTable, name: str) -> Figure | None:
    """Shares of right answers with their 95 % intervals, one colour a model."""
    drawn = list(table.drawn())
    if not drawn:
        return None
    traces = []
    for place, model in enumerate(table.report.models):
        rows = [(task, metric, one) for task, metric, figures in drawn for one in figures if one.model == model]
        known = [(words(f"{task}: {metric}"), one) for task, metric, one in rows if math.isfinite(one.value)]
        traces.append(
            {
                "type": "scatter",
                "mode": "markers",
                "name": words(model),
                "x": [100 * one.value for _, one in known],
                "y": [label for label, _ in known],
                "error_x": {
                    "type": "data",
                    "symmetric": False,
                    "array": [100 * ((one.value if one.high is None else one.high) - one.value) for _, one in known],
                    "arrayminus": [100 * (one.value - (one.value if one.low is None else one.low)) for _, one in known],
                    "thickness": 1.6,
                    "width": 4,
                },
                "marker": {"color": color_of(place), "size": 10},
                "hovertemplate": "%{x:.1f} %<extra>%{y}</extra>",
            }
        )
    layout = {
        "xaxis": {"title": {"text": "%"}, "rangemode": "tozero"},
        "yaxis": {"autorange": "reversed", "type": "category"},
        "scattermode": "group",
    }
    about = "Shares of right answers with 95 % intervals."
    return Figure(name, f"Evaluation: {table.report.suite}", about, traces, layout, 150 + 52 * len(drawn))


def clean(value: object) -> object:
    """The same with numbers that JSON does not know as null."""
    if isinstance(value, Mapping):
        return {str(key): clean(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [clean(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
