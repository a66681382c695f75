"""What `fedllm evaluate` saved of the runs of a report: its tables, and answers to look at side by side."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from fedllm_app.evaluation.results import Figure, Report
from fedllm_app.evaluation.saved import REPORT_FILE, ReportError, Seen, examples, load_report
from fedllm_app.evaluation.tables import cell, rows_of, shown
from fedllm_app.paths import expanded, home

_SAMPLES = 3  # questions of each set
_LONGEST = 1200  # characters of an answer


@dataclass(frozen=True)
class Answer:
    """A model's answer, and whether it is right (None: not graded)."""

    model: str
    text: str
    right: bool | None


@dataclass(frozen=True)
class Sample:
    """A question with the answers of all models."""

    set: str
    question: str
    gold: str
    answers: tuple[Answer, ...]


@dataclass(frozen=True)
class EvaluationTable:
    """One saved report.

    Attributes
    ----------
    rows : tuple[tuple[str, str, tuple[tuple[str, bool], ...]], ...]
        Set, metric, and each model's cell: its text, and whether it is the best of the row.
    """

    path: Path
    report: Report
    rows: tuple[tuple[str, str, tuple[tuple[str, bool], ...]], ...]
    samples: tuple[Sample, ...]

    def drawn(self) -> Iterator[tuple[str, str, list[Figure]]]:
        """Set, metric and figures of the rows that have values and intervals of shares, which one axis can show."""
        for task, metric in rows_of(self.report):
            figures = [each for each in self.report.figures if (each.task, each.metric) == (task, metric)]
            known = [each for each in figures if each.percent and not each.count and each.value is not None]
            if known:
                yield task, metric, known


def evaluations_of(runs: Sequence[Path], saved: Sequence[Path] | None) -> list[EvaluationTable]:
    """The saved reports in some directories, or those below FEDLLM_HOME that evaluated one of the runs.

    ReportError if a directory that is named holds none.
    """
    if saved is None:
        return [table for table in map(_quietly, _saved_in(home() / "evaluations")) if table and _is_of(table, runs)]
    tables = []
    for directory in saved:
        found = list(_saved_in(expanded(directory).resolve()))
        if not found:
            raise ReportError(f"{directory} holds no report of fedllm evaluate (no {REPORT_FILE})")
        tables += [_table(one) for one in found]
    return tables


def _saved_in(directory: Path) -> list[Path]:
    return sorted({file.parent for depth in ("", "*/", "*/*/") for file in directory.glob(f"{depth}{REPORT_FILE}")})


def _quietly(directory: Path) -> EvaluationTable | None:
    """One that nobody named and that cannot be read is of another version, and left out."""
    try:
        return _table(directory)
    except ReportError:
        return None


def _table(directory: Path) -> EvaluationTable:
    report = load_report(directory)
    rows = tuple(
        (task, metric, tuple(cell(report, task, metric, model) for model in report.models))
        for task, metric in rows_of(report)
    )
    return EvaluationTable(directory, report, rows, tuple(_samples(directory, list(report.models))))


def _is_of(table: EvaluationTable, runs: Sequence[Path]) -> bool:
    adapters = [Path(adapter) for adapter in table.report.models.values()]
    return any(adapter.is_relative_to(run) for adapter in adapters for run in runs)


def _samples(directory: Path, models: Sequence[str]) -> Iterator[Sample]:
    """Of each set the first questions, those first on which the models differ."""
    try:
        found = list(examples(directory))
    except ReportError:  # the answers were deleted, the tables are there
        return
    by_set: dict[str, list[Seen]] = {}
    for seen in found:
        by_set.setdefault(str(seen.line["set"]), []).append(seen)
    for name, questions in by_set.items():
        ordered = sorted(questions, key=lambda seen: not seen.is_shown("differ"))
        for seen in ordered[:_SAMPLES]:
            yield _sample(name, seen, models)


def _sample(name: str, seen: Seen, models: Sequence[str]) -> Sample:
    line, right = seen.line, seen.right
    answers = [Answer(model, _text(line["models"][model]), right[model]) for model in models if model in line["models"]]
    gold = line["gold"] if line["gold"] is not None else ""
    question = line["plain"] or line["question"]
    return Sample(name, _short(str(question)), _short(str(gold)), tuple(answers))


def _text(given: Mapping) -> str:
    texts = " | ".join(map(str, given["texts"]))
    return _short(texts or ", ".join(shown(value, False) for value in given["log_likelihoods"]))


def _short(text: str) -> str:
    return text if len(text) <= _LONGEST else f"{text[:_LONGEST]}… ({len(text):,} characters)"
