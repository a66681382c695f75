"""A report in its order: sections of figures, tables, notes, answers and commands."""

from collections.abc import Iterator
from dataclasses import dataclass

from fedllm_app.paths import last_parts
from fedllm_app.report import figures, tables
from fedllm_app.report.evaluations import Sample
from fedllm_app.report.figures import Figure
from fedllm_app.report.gather import ReportData
from fedllm_app.report.seeds import summary_lines
from fedllm_app.report.tables import Table


@dataclass(frozen=True)
class Notes:
    """Sentences under a title."""

    title: str
    lines: tuple[str, ...]


@dataclass(frozen=True)
class Samples:
    """Answers side by side."""

    title: str
    samples: tuple[Sample, ...]


@dataclass(frozen=True)
class Code:
    """Text to copy. `more`: a longer text that a reader may open."""

    title: str
    text: str
    more: str = ""
    more_title: str = ""


Block = Figure | Table | Notes | Samples | Code


@dataclass(frozen=True)
class Section:
    """A section of a report. `name` is its anchor."""

    name: str
    title: str
    blocks: tuple[Block, ...]


def title_of(data: ReportData) -> str:
    """What was run, on what."""
    first = data.runs[0]
    strategies = list(dict.fromkeys(run.overview.strategy for run in data.runs))
    what = ", ".join(strategies[:3]) + (", …" if len(strategies) > 3 else "")
    names = dict.fromkeys(last_parts(run.overview.data) for run in data.runs)
    return f"{what} on {', '.join(names)}" if first.overview.strategy else "Runs"


def subtitle_of(data: ReportData) -> str:
    """Model, task and clients of the runs, where they are the same."""
    parts = []
    for key, words in (
        ("model.name", "{}"),
        ("train.task", "{}"),
        ("clients.number", "{} clients"),
        ("run.seed", "seed {}"),
    ):
        values = {str(run.config.get(key, "")) for run in data.runs}
        if len(values) == 1 and (value := values.pop()):
            words = "1 client" if (key, value) == ("clients.number", "1") else words
            parts.append(words.format(last_parts(value) if key == "model.name" else value))
    return " · ".join(parts)


def sections(data: ReportData) -> list[Section]:
    """All sections that have something to show."""
    found = [
        Section("summary", "Summary", tuple(_summary(data))),
        Section("training", "Training loss", tuple(filter(None, [figures.training_figure(data)]))),
        Section("held-out", "Held-out metrics", tuple(_held_out(data))),
        Section("evaluation", "Evaluation", tuple(_evaluation(data))),
        Section("answers", "Answers side by side", tuple(_answers(data))),
        Section("participation", "Participation", tuple(_participation(data))),
        Section("cost", "Time, bytes and memory", tuple(_cost(data))),
        Section("data", "What the clients hold", tuple(tables.clients_table(run) for run in data.runs if run.clients)),
        Section("environment", "Environment", (tables.environment_table(data),)),
        Section("reproduce", "How to repeat it", tuple(_reproduce(data))),
    ]
    return [section for section in found if section.blocks]


def _summary(data: ReportData) -> Iterator[Block]:
    yield Notes("", tuple(summary_lines(data)))
    if len(data.runs) > 1:
        yield tables.summary_table(data)
    ends = tuple(
        f"{run.label}: {run.overview.state}" + (f", {run.overview.reason}" if run.overview.reason else "")
        for run in data.runs
        if run.overview.state != "finished"
    )
    if ends:
        yield Notes("Not finished", ends)
    yield from filter(None, [tables.differences_table(data)])


def _held_out(data: ReportData) -> Iterator[Block]:
    yield from figures.held_out_figures(data)
    for run in data.runs:
        if run.held_out or run.training.points:
            yield tables.rounds_table(run)
        yield from filter(None, [tables.suites_table(run)])


def _evaluation(data: ReportData) -> Iterator[Block]:
    yield from map(tables.demo_table, data.demos)
    for number, table in enumerate(data.evaluations):
        yield from filter(None, [figures.evaluation_figure(table, f"evaluation-{number}")])
        yield from tables.evaluation_tables(table)
        if table.report.notes:
            yield Notes("Notes", tuple(table.report.notes))
    if not data.demos and not data.evaluations:
        runs = " ".join(str(run.overview.path) for run in data.runs)
        asks = f"fedllm evaluate {runs} --base --suite SUITE"
        yield Notes("", (f"No questions were asked yet: {asks} asks them, and a later report shows the answers.",))


def _answers(data: ReportData) -> Iterator[Block]:
    for demo in data.demos:
        if demo.sample:
            yield Samples("Demo: a held-out question", (demo.sample,))
    for table in data.evaluations:
        if table.samples:
            yield Samples(table.report.suite, table.samples)


def _participation(data: ReportData) -> Iterator[Block]:
    for number, run in enumerate(data.runs):
        yield from filter(None, [figures.attendance_figure(run, f"attendance-{number}")])
        if run.clients:
            yield tables.participation_table(run)
        yield from filter(None, [tables.refusals_table(run)])
        if run.warnings:
            yield Notes(f"Warnings: {run.label}", run.warnings)


def _cost(data: ReportData) -> Iterator[Block]:
    yield from filter(None, [figures.phases_figure(data), tables.phases_table(data)])
    yield figures.traffic_figure(data)
    yield from filter(None, [figures.memory_figure(data)])
    yield tables.cost_table(data)


def _reproduce(data: ReportData) -> Iterator[Block]:
    for run in data.runs:
        yield Code(run.label, run.command, run.toml, "the whole configuration, as a file for -c")
