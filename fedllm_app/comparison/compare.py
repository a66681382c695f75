"""A comparison from its finished cells to its files: ask all models, make the figures, write table and figure."""

import json
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

from rich.console import Console

from fedllm_app.comparison.asking import Asking, ask_all, models_of, shown_name
from fedllm_app.comparison.cell import costs, is_finished
from fedllm_app.comparison.curves import plot_curves
from fedllm_app.comparison.figures import Line, headline, measures, values
from fedllm_app.comparison.grid import Cell
from fedllm_app.comparison.held_out import HELD_OUT, held_out
from fedllm_app.comparison.notes import notes
from fedllm_app.comparison.table import Table, csv_text, markdown, show
from fedllm_app.data.named_sets import BUILT_IN
from fedllm_app.evaluation.contestants import BASE
from fedllm_app.evaluation.progress import AnswerProgress
from fedllm_app.evaluation.results import TaskResult
from fedllm_app.evaluation.saved import example_lines, file_names
from fedllm_app.evaluation.tables import json_text
from fedllm_app.paths import atomic_path, write_text
from fedllm_app.tasks import task_spec

TABLE, FIGURE = "comparison", "comparison.png"
"""In the directory of a comparison: the table's files without their endings, and the figure."""


def compare(
    cells: Sequence[Cell], failed: Mapping[str, str], asking: Asking, out: Path, console: Console
) -> tuple[Table, list[TaskResult]] | None:
    """Compare what is finished and write it all below `out`; None if nothing is.

    Parameters
    ----------
    failed : Mapping[str, str]
        Why cells are not finished, by their names.
    """
    finished = [cell for cell in cells if is_finished(cell) and cell.name not in failed]
    if not finished:
        return None

    def tell(sentence: str) -> None:
        console.print(f"  {sentence}", markup=False, highlight=False)

    models = {cell.name: models_of(cell) for cell in finished}
    results = []
    if asking.suite:
        all_models = [model for those in models.values() for model in those]
        results = ask_all(all_models, asking, out, tell, AnswerProgress(console))
    lines = _lines(cells, {name: tuple(m.name for m in those) for name, those in models.items()}, failed)
    lines = [*_bases(results, asking), *lines]
    first = next(line.name for line in lines if line.models)
    seeds = list(dict.fromkeys(cell.seed for cell in cells))
    metrics = task_spec(finished[0].flat["train.task"]).metrics
    found = values(measures(asking.suite, results), lines, seeds, first) if asking.suite else []
    found += held_out(finished, lines, metrics, first)
    chosen = headline(asking.suite) if asking.suite else [(HELD_OUT, label) for label in metrics.values()]
    shown = [value for value in found if (value.task, value.metric) in chosen]
    said = notes(cells, lines, failed, shown, asking.suite is None or asking.suite.name == BUILT_IN)
    remarks = list(dict.fromkeys(f"{result.task.name}: {note}" for result in results for note in result.notes))
    about = _settings(cells, asking)
    table = Table(asking.name, lines, found, chosen, first, said, remarks, about)
    _write(table, results, out)
    if not plot_curves(finished, metrics, out / FIGURE):
        tell("no figure, because no cell evaluates during its run (evaluate.every = 0)")
    return table, results


def report(table: Table, out: Path, console: Console) -> None:
    """Print the table and where the files are."""
    show(table, console)
    files = [f"{TABLE}.md", f"{TABLE}.csv", f"{TABLE}.json", FIGURE]
    there = ", ".join(name for name in files if (out / name).is_file())
    console.print(f"written to {out}: {there}", markup=False, highlight=False, soft_wrap=True)


def _bases(results: Sequence[TaskResult], asking: Asking) -> list[Line]:
    names = (BASE, shown_name(asking.shown)) if asking.shown else (BASE,)
    asked = results[0].answers if results else (BASE,)
    return [Line(name, fixed=name) for name in names if name in asked]


def _lines(cells: Sequence[Cell], models: Mapping[str, tuple[str, ...]], failed: Mapping[str, str]) -> list[Line]:
    lines = []
    for name in dict.fromkeys(cell.line for cell in cells):
        own = [cell for cell in cells if cell.line == name]
        done = [cell for cell in own if cell.name in models]
        reasons = {cell.seed: failed.get(cell.name, "not finished") for cell in own if cell.name not in models}
        lines.append(
            Line(
                name,
                {cell.seed: models[cell.name] for cell in done},
                costs={cell.seed: costs(cell) for cell in done},
                failed=reasons,
            )
        )
    return lines


def _settings(cells: Sequence[Cell], asking: Asking) -> dict[str, object]:
    flat = cells[0].flat
    keys = ("model.name", "data.name", "data.partition", "clients.number", "clients.per-round", "train.rounds")
    return {
        **{key: flat[key] for key in (*keys, "train.local-steps", "train.batch-size", "adapter.method")},
        "questions of each set": asking.limit or "all",
        "time": time.strftime("%Y-%m-%d %H:%M:%S"),
    }


def _write(table: Table, results: Sequence[TaskResult], out: Path) -> None:
    for ending, text in (("md", markdown(table)), ("csv", csv_text(table)), ("json", json_text(table))):
        write_text(out / f"{TABLE}.{ending}", text)
    if not results:
        return
    with atomic_path(out / "examples") as folder:
        folder.mkdir()
        for name, result in zip(file_names([result.task.name for result in results]), results, strict=True):
            lines = "".join(json.dumps(line, ensure_ascii=False) + "\n" for line in example_lines(result))
            (folder / f"{name}.jsonl").write_text(lines, encoding="utf-8")
