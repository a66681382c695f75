"""The table of a comparison: on the terminal, as Markdown, CSV and JSON."""

import csv
import io
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean

from rich.console import Console
from rich.table import Table as RichTable
from rich.text import Text

from fedllm_app.comparison.figures import Line, Value
from fedllm_app.evaluation.figures import AVERAGE
from fedllm_app.evaluation.tables import MARK, SIGNIFICANT, rounded, shown, with_deviation, with_interval

_NUMBERS = ("value", "deviation", "difference", "low", "high", "p")
_COSTS = ("examples", "steps", "seconds", "megabytes")
_NAME = 24  # letters of a line's name that are not broken on a narrow terminal


@dataclass(frozen=True)
class Table:
    """What a comparison found.

    Attributes
    ----------
    headline : Sequence[tuple[str, str]]
        The measures of the short table: (task, metric).
    first : str
        The line that the others are held against.
    notes : Sequence[str]
        Sentences below the table.
    remarks : Sequence[str]
        How single sets were asked of single models, where that is to be told; not on the terminal.
    settings : Mapping[str, object]
        How it came about.
    """

    suite: str
    lines: Sequence[Line]
    values: Sequence[Value]
    headline: Sequence[tuple[str, str]]
    first: str
    notes: Sequence[str] = ()
    remarks: Sequence[str] = ()
    settings: Mapping[str, object] | None = None

    def of(self, line: str, task: str, metric: str) -> Value | None:
        """The figure of a cell."""
        return next((v for v in self.values if (v.line, v.task, v.metric) == (line, task, metric)), None)


def cell(value: Value | None) -> str:
    """A figure with its deviation, marked where it differs from the first line."""
    if value is None or value.value is None:
        return "-"
    if value.deviation is None:
        text = shown(value.value, value.percent)
    else:
        text = with_deviation(value.value, value.deviation, value.percent)
    return text + (MARK if value.p is not None and value.p < SIGNIFICANT else "")


def difference(value: Value | None) -> str:
    """The difference from the first line, its interval and p."""
    if value is None or value.difference is None:
        return ""
    if value.low is not None:
        text = with_interval(value.difference, value.low, value.high, value.percent)
    else:
        text = rounded(value.difference, value.deviation or 0.0, value.percent)
    return text if value.p is None else f"{text}, p = {value.p:.2g}"


def place_name(task: str, metric: str) -> str:
    """What a measure is called in a heading."""
    return metric if task == AVERAGE else f"{task}, {metric}"


def short_rows(table: Table) -> tuple[list[str], list[list[str]]]:
    """Columns and rows of the short table: the headline, what was seen and what it took."""
    columns = ["", "seeds"]
    for task, metric in table.headline:
        columns += [_heading(table, task, metric), f"minus {table.first}"]
    columns += ["examples", "steps", "seconds", "MB"]
    return columns, [_short_row(table, line) for line in table.lines]


def _heading(table: Table, task: str, metric: str) -> str:
    """A measure with its unit, or which way it is to go."""
    value = next((value for value in table.values if (value.task, value.metric) == (task, metric)), None)
    better = " (lower is better)" if value and value.lower_is_better else ""
    return place_name(task, metric) + (" (%)" if value and value.percent else better)


def _short_row(table: Table, line: Line) -> list[str]:
    tried = {*line.models, *line.failed}
    row = [line.name, "" if line.fixed else f"{len(line.models)}" + (f" of {len(tried)}" if line.failed else "")]
    for place in table.headline:
        value = table.of(line.name, *place)
        row += [cell(value), difference(value)]
    if not line.costs:
        return [*row, "", "", "", ""]
    seen = list(line.costs.values())
    each = " each" if seen[0].models > 1 else ""
    means = [fmean(getattr(one, name) for one in seen) for name in _COSTS]
    return [*row, f"{means[0]:,.0f}{each}", f"{means[1]:,.0f}{each}", f"{means[2]:,.0f}", f"{means[3]:,.0f}"]


def long_rows(table: Table) -> tuple[list[str], list[list[str]]]:
    """Columns and rows of the table of all metrics."""
    names = [line.name for line in table.lines if line.fixed or line.models]
    places = dict.fromkeys((value.task, value.metric) for value in table.values)
    rows = []
    for task, metric in places:
        rows.append([task, metric, *(cell(table.of(name, task, metric)) for name in names)])
    return ["set", "metric", *names], rows


def legend(table: Table) -> str:
    """What stands beside the figures."""
    seeds = max((len(line.models) for line in table.lines), default=0)
    spread = "Mean ± standard deviation over the seeds" if seeds > 1 else "One seed"
    seen = (
        "Examples and steps are those of training that entered one model, of all clients together; seconds are those "
        "of the rounds, MB what was sent and received"
    )
    if not any(value.low is not None for value in table.values):
        return (
            f"{spread}. Nothing is tested: clients measured these figures, and there are no single questions to pair. "
            f"--suite asks all models the same ones. {seen}."
        )
    over = "questions and seeds" if seeds > 1 else "questions"
    return (
        f"{spread}. [low, high] is a 95 % interval, {MARK}: differs from {table.first} (p < {SIGNIFICANT}), by a "
        f"paired bootstrap over {over}; several figures at once: one in twenty such marks is chance. {seen}."
    )


def show(table: Table, console: Console) -> None:
    """Print the short table and the notes."""
    columns, rows, left_out = narrowed(*short_rows(table), console.width)
    made = RichTable(title=Text(f"comparison: {table.suite}"), caption=Text(legend(table)), caption_justify="left")
    for number, (column, width) in enumerate(zip(columns, _widths(columns, rows, console.width), strict=True)):
        made.add_column(Text(column), justify="right" if number else "left", overflow="fold", width=width)
    for row in rows:
        made.add_row(*map(Text, row))
    console.print(made)
    if left_out:
        told = f"The terminal has no room for {', '.join(left_out)}; the Markdown file has them."
        console.print(told, markup=False, highlight=False)
    for note in table.notes:
        console.print(note, markup=False, highlight=False)
    if table.remarks:
        told = (
            "1 remark on how a single set was asked is in the Markdown file"
            if len(table.remarks) == 1
            else f"{len(table.remarks)} remarks on how single sets were asked are in the Markdown file"
        )
        console.print(told, markup=False, highlight=False)


def narrowed(
    columns: Sequence[str], rows: Sequence[Sequence[str]], width: int
) -> tuple[list[str], list[list[str]], list[str]]:
    """A table without the last columns of what was seen and taken that a terminal has no room for, and their names.

    Differences may wrap between words; anything else is to stay on one line.
    """

    least = _least_widths(columns, rows)

    def needed(count: int) -> int:
        return 1 + sum(3 + width for width in least[:count])

    count = len(columns)
    while count > len(columns) - len(_COSTS) and needed(count) > width:
        count -= 1
    return list(columns[:count]), [list(row[:count]) for row in rows], list(columns[count:])


def _widths(columns: Sequence[str], rows: Sequence[Sequence[str]], width: int) -> list[int | None]:
    """Characters of each column. Left to itself, the table takes them from the names and is wider than the terminal."""
    least, whole = _least_widths(columns, rows), [max(map(len, cells)) for cells in _by_column(columns, rows)]
    left = width - 1 - 3 * len(columns) - sum(least)
    if left < 0:
        return [None] * len(columns)
    for column, (narrow, wide) in enumerate(zip(least, whole, strict=True)):
        more = min(left, wide - narrow)
        least[column], left = narrow + more, left - more
    return list(least)


def _least_widths(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> list[int]:
    """Of each column; headings and differences may wrap between words, a long name anywhere."""
    least = [max(_least(columns[i], text) for text in cells) for i, cells in enumerate(_by_column(columns, rows))]
    return [min(_NAME, max(len(row[0]) for row in rows)), *least[1:]]


def _by_column(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> Iterator[tuple[str, ...]]:
    return zip(columns, *rows, strict=True)


def _least(column: str, text: str) -> int:
    wraps = column.startswith("minus ") or text == column
    return max(map(len, text.split()), default=0) if wraps else len(text)


def markdown(table: Table) -> str:
    """Both tables and the notes as a document."""
    text = [f"# Comparison: {table.suite}", "", *_markdown(*short_rows(table)), "", f"{legend(table)}", ""]
    text += [*(f"- {note}" for note in table.notes), ""] if table.notes else []
    text += ["## All metrics", "", *_markdown(*long_rows(table)), "", "## How", ""]
    text += [f"- {remark}" for remark in table.remarks]
    text += [f"- {key}: {value}" for key, value in (table.settings or {}).items()]
    return "\n".join(text) + "\n"


def _markdown(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> Iterator[str]:
    for cells in (columns, ["---"] * len(columns), *rows):
        yield "| " + " | ".join(text.replace("|", "\\|").replace("\n", " ") for text in cells) + " |"


def csv_text(table: Table) -> str:
    """One line a figure, in full precision, followed by the lines of its seeds; what was seen and taken beside each."""
    file = io.StringIO()
    writer = csv.writer(file, lineterminator="\n")
    writer.writerow(["line", "seed", "set", "metric", *_NUMBERS, "n", *_COSTS])
    lines = {line.name: line for line in table.lines}
    for value in table.values:
        seen = lines[value.line].costs
        means = [fmean(getattr(one, name) for one in seen.values()) for name in _COSTS] if seen else [""] * 4
        numbers = ["" if number is None else number for number in (getattr(value, name) for name in _NUMBERS)]
        writer.writerow([value.line, "", value.task, value.metric, *numbers, value.n or "", *means])
        for seed, one in value.by_seed.items():
            own = [getattr(seen[seed], name) for name in _COSTS] if seed in seen else [""] * 4
            writer.writerow([value.line, seed, value.task, value.metric, one, *[""] * 5, value.n or "", *own])
    return file.getvalue()
