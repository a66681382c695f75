"""A report as tables: in the terminal, as Markdown, CSV and JSON."""

import csv
import io
import json
import math
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from fedllm_app.evaluation.results import Figure, Paired, Report

SIGNIFICANT = 0.05
MARK = "*"
LEGEND = (
    f"[low, high] is a 95 % interval, n the questions that count. {MARK}: differs from {{first}} (p < {SIGNIFICANT}, "
    "see the paired tests). Several questions asked at once: one in twenty such marks is chance."
)
PAIR_COLUMNS = ("set", "metric", "models", "difference", "95 % interval", "p", "test", "n")
_MOST_DECIMALS = 8  # of smaller uncertainties, significant digits are easier to read
SEEDS_LEGEND = "±: standard deviation over the seeds."


def rows_of(report: Report) -> list[tuple[str, str]]:
    """(set, metric) of the rows, in order."""
    return list(dict.fromkeys((figure.task, figure.metric) for figure in report.figures))


def cell(report: Report, task: str, metric: str, model: str) -> tuple[str, bool]:
    """The text of a cell, and whether it is the best of its row."""
    row = [figure for figure in report.figures if (figure.task, figure.metric) == (task, metric)]
    figure = next((figure for figure in row if figure.model == model), None)
    if figure is None:
        return "-", False
    if figure.value is None:
        return _reasons(figure) or "-", False
    text = f"{figure.value:,.10g}" if figure.count else shown(figure.value, figure.percent)
    if figure.count and figure.seed is not None:
        return text, False
    if figure.seed is None and figure.count:
        text += f" ± {shown(figure.high - figure.value, figure.percent)}"
    elif figure.seed is None:
        text = with_deviation(figure.value, figure.high - figure.value, figure.percent)
    elif figure.low is not None:
        text = with_interval(figure.value, figure.low, figure.high, figure.percent)
    text += MARK if _differs(report, task, metric, model) else ""
    if reasons := _reasons(figure):
        text += f" ({reasons})"
    values = dict.fromkeys(other.value for other in row if other.value is not None and not math.isnan(other.value))
    if figure.count or len(values) < 2:
        return text, False
    return text, figure.value == (min(values) if figure.lower_is_better else max(values))


def shown(value: float, percent: bool) -> str:
    """A share in percent with one digit, any other number with four digits."""
    return f"{100 * value:.1f}" if percent else f"{value:.4g}"


def with_deviation(value: float, deviation: float, percent: bool) -> str:
    """A mean and its deviation: of a number that is no share, as many digits as the deviation allows."""
    return f"{rounded(value, deviation, percent)} ± {rounded(deviation, deviation, percent)}"


def with_interval(value: float, low: float, high: float, percent: bool) -> str:
    """A number and its interval, with as many digits as half of the interval allows."""
    number, *ends = (rounded(one, (high - low) / 2, percent) for one in (value, low, high))
    return f"{number} [{', '.join(ends)}]"


def rounded(value: float, uncertainty: float, percent: bool) -> str:
    """A number up to the second significant digit of its uncertainty: further digits would say nothing."""
    if percent or not (math.isfinite(value) and math.isfinite(uncertainty) and uncertainty > 0):
        return shown(value, percent)
    decimals = 1 - int(f"{uncertainty:.1e}".partition("e")[2])
    if decimals > _MOST_DECIMALS:
        return shown(value, percent)
    return f"{round(value, decimals) + 0.0:.{max(0, decimals)}f}"  # the sum makes 0 of -0


def _reasons(figure: Figure) -> str:
    return ", ".join(f"{count} {reason}" if count > 1 else reason for reason, count in figure.missing.items())


def _differs(report: Report, task: str, metric: str, model: str) -> bool:
    """Whether a model differs from the first one, in the paired test of every seed."""
    first = next(iter(report.models))
    pairs = [
        pair
        for pair in report.paired
        if (pair.task, pair.metric, pair.first, pair.second) == (task, metric, first, model)
    ]
    return bool(pairs) and all(pair.p < SIGNIFICANT for pair in pairs)


def _n(report: Report, task: str, metric: str) -> str:
    counts = {
        figure.n
        for figure in report.figures
        if (figure.task, figure.metric) == (task, metric) and figure.value is not None
    }
    return " to ".join(f"{count:,}" for count in sorted({min(counts), max(counts)})) if counts else "0"


def _legend(report: Report) -> str:
    seeds = any(figure.seed is None for figure in report.figures)
    return LEGEND.format(first=next(iter(report.models), "")) + (f" {SEEDS_LEGEND}" if seeds else "")


def terminal(report: Report, console: Console) -> None:
    """Print the table, the paired tests against the first model, and the notes."""
    # Names are texts, not markup: a directory may be called "run[1]" or "a:dog:b".
    table = Table(title=Text(report.suite), caption=Text(_legend(report)))
    for column in ("set", "metric", "n", *report.models):
        justify = "left" if column in ("set", "metric") else "right"
        table.add_column(Text(column), justify=justify, overflow="fold")
    previous = ""
    for task, metric in rows_of(report):
        if previous and task != previous:
            table.add_section()
        cells = []
        for model in report.models:
            text, best = cell(report, task, metric, model)
            cells.append(Text(text, style="bold" if best else ""))
        table.add_row(Text(task if task != previous else ""), Text(metric), _n(report, task, metric), *cells)
        previous = task
    console.print(table)
    _print_pairs(report, console)
    for note in report.notes:
        console.print(note, markup=False, highlight=False, soft_wrap=True)


def _print_pairs(report: Report, console: Console) -> None:
    first = next(iter(report.models), "")
    pairs = [pair for pair in report.paired if pair.first == first]
    if not pairs:
        return
    others = len(report.paired) - len(pairs)
    table = Table(title=Text("Paired tests"), caption=Text(f"{others:,} more in the report") if others else None)
    for column in PAIR_COLUMNS:
        table.add_column(column, justify="left" if column in ("set", "metric", "models", "test") else "right")
    for pair in pairs:
        table.add_row(*map(Text, pair_cells(pair)))
    console.print(table)


def markdown(report: Report) -> str:
    """The same tables as a document."""
    lines = [f"# {report.suite}", "", *(f"- {name}: {what}" for name, what in report.models.items()), ""]
    lines += _markdown_row(["set", "metric", "n", *report.models])
    lines += _markdown_row(["---"] * (3 + len(report.models)))
    for task, metric in rows_of(report):
        cells = []
        for model in report.models:
            text, best = cell(report, task, metric, model)
            cells.append(f"**{text}**" if best else text)
        lines += _markdown_row([task, metric, _n(report, task, metric), *cells])
    lines += ["", _legend(report), ""]
    if report.paired:
        lines += ["## Paired tests", ""]
        lines += _markdown_row(PAIR_COLUMNS)
        lines += _markdown_row(["---"] * len(PAIR_COLUMNS))
        lines += [line for pair in report.paired for line in _markdown_row(pair_cells(pair))]
        lines.append("")
    if report.notes:
        lines += ["## Notes", "", *(f"- {note}" for note in report.notes), ""]
    lines += ["## How", "", *(f"- {key}: {value}" for key, value in report.settings.items())]
    lines += [f"- template of {task}: {name}" for task, name in report.templates.items()]
    lines += [f"- seconds of {name}: {seconds:.0f}" for name, seconds in report.seconds.items()]
    lines += [f"- {name} {version}" for name, version in report.versions.items()]
    return "\n".join(lines) + "\n"


def pair_cells(pair: Paired) -> list[str]:
    """A paired test as text, by `PAIR_COLUMNS`."""
    difference, interval = shown(pair.difference, pair.percent), "-"
    if pair.low is not None:
        difference, _, interval = with_interval(pair.difference, pair.low, pair.high, pair.percent).partition(" ")
    return [
        pair.task,
        pair.metric,
        f"{pair.second} - {pair.first}",
        difference,
        interval,
        f"{pair.p:.3g}",
        pair.test,
        f"{pair.n:,}",
    ]


def _markdown_row(cells: Sequence[str]) -> Iterator[str]:
    yield "| " + " | ".join(text.replace("|", "\\|").replace("\n", " ") for text in cells) + " |"


def csv_text(report: Report) -> str:
    """One line a figure, in full precision; a missing figure has no value and its reason.

    A line without a seed is a mean over seeds, whose low and high are one standard deviation away; theirs follow it.
    """
    file = io.StringIO()
    writer = csv.writer(file, lineterminator="\n")
    writer.writerow(["suite", "set", "metric", "model", "seed", "value", "low", "high", "n", "missing"])
    for figure in (one for whole in report.figures for one in (whole, *whole.by_seed)):
        numbers = ["" if number is None else number for number in (figure.seed, figure.value, figure.low, figure.high)]
        writer.writerow([report.suite, figure.task, figure.metric, figure.model, *numbers, figure.n, _reasons(figure)])
    return file.getvalue()


def json_text(report: Any) -> str:
    """Everything of a dataclass; numbers that JSON does not know, such as an infinite perplexity, as text."""
    return json.dumps(_finite(asdict(report)), indent=2, default=str, allow_nan=False) + "\n"


def _finite(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(item) for item in value]
    return str(value) if isinstance(value, float) and not math.isfinite(value) else value
