"""The report as CSV: one line a number, in full precision, to compute with."""

import csv
import io
from collections.abc import Iterator

from fedllm_app.report.gather import ReportData, RunReport
from fedllm_app.runs.measures import Series

COLUMNS = ("run", "table", "round", "client", "name", "metric", "value", "low", "high", "n")

_FORMULA = ("=", "+", "-", "@", "\t", "\r")

Line = tuple[object, ...]


def csv_text(data: ReportData) -> str:
    """The numbers of all runs: rounds, clients, phases, totals, suites, saved evaluations and demos.

    A word that a spreadsheet would read as a formula gets an apostrophe before it.
    """
    file = io.StringIO()
    writer = csv.writer(file, lineterminator="\n")
    writer.writerow(COLUMNS)
    for line in (line for run in data.runs for line in _lines(run)):
        writer.writerow([_cell(value) for value in line])
    for table in data.evaluations:
        for figure in table.report.figures:
            place = (figure.model, f"evaluation: {table.report.suite}", "", "", figure.task, figure.metric)
            writer.writerow([_cell(value) for value in (*place, figure.value, figure.low, figure.high, figure.n)])
    for demo in data.demos:
        for model, shares in demo.shares.items():
            for domain, share in shares.items():
                place = (model, "demo", "", "", domain, "exact match", share, "", "", demo.questions)
                writer.writerow([_cell(value) for value in place])
    return file.getvalue()


def _cell(value: object) -> object:
    if isinstance(value, str) and value.startswith(_FORMULA):
        return f"'{value}"
    return "" if value is None else value


def _lines(run: RunReport) -> Iterator[Line]:
    names = {row.client: row.name for row in run.clients}
    for series in (run.training, *run.held_out):
        yield from _series(run.label, series, names)
    for server_round, suite, figure, value in run.suites:
        yield run.label, f"suite: {suite}", server_round, None, None, figure, value, None, None, None
    for row in run.clients:
        numbers = {
            "examples": row.examples,
            "held_out": row.held_out,
            "tokens": row.tokens,
            "drawn": row.drawn,
            "took_part": row.took_part,
            "refused": row.refused,
            "late": row.late,
            "resets": row.resets,
            "training_seconds": row.seconds,
            "bytes_down": row.bytes_down,
            "bytes_up": row.bytes_up,
            "peak_memory_mb": row.peak_memory_mb,
            "peak_gpu_memory_mb": row.peak_gpu_memory_mb,
        }
        for metric, value in numbers.items():
            yield run.label, "clients", None, row.client, row.name, metric, value, None, None, None
    for phase, seconds in run.seconds.items():
        yield run.label, "phases", None, None, None, f"{phase}_seconds", seconds, None, None, None
    totals = {
        "seconds": run.total_seconds,
        "bytes_down": run.traffic.down,
        "bytes_up": run.traffic.up,
        "peak_memory_mb": run.traffic.peak_memory_mb,
        "peak_gpu_memory_mb": run.traffic.peak_gpu_memory_mb,
        "parameters": run.parameters,
    }
    for metric, value in totals.items():
        yield run.label, "totals", None, None, None, metric, value, None, None, None


def _series(label: str, series: Series, names: dict[int, str]) -> Iterator[Line]:
    for point in series.points:
        yield label, "rounds", point.round, None, None, series.metric, point.value, point.low, point.high, None
        for client, value in point.clients.items():
            yield label, "rounds", point.round, client, names.get(client), series.metric, value, None, None, None
