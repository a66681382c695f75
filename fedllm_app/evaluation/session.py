"""One call of `fedllm evaluate`: check everything, load once, ask, make the reports, show and save them."""

import importlib.metadata
import platform
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path

from rich.console import Console, Group
from rich.markup import escape
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from fedllm_app.errors import UserError
from fedllm_app.evaluation.contestants import Contestant, Stage
from fedllm_app.evaluation.evaluate import Asked, Evaluation, Settings
from fedllm_app.evaluation.figures import TaskFigures, average_pairs, averages_of, over_seeds
from fedllm_app.evaluation.graders.judge import judge_from_environment
from fedllm_app.evaluation.graders.sandbox import sandbox_problem
from fedllm_app.evaluation.harness import PREFIX, harness_tasks
from fedllm_app.evaluation.own_file import trained_on
from fedllm_app.evaluation.progress import AnswerProgress
from fedllm_app.evaluation.results import Report, TaskResult
from fedllm_app.evaluation.saved import ReportError, file_names, save, show
from fedllm_app.evaluation.set_rows import open_all
from fedllm_app.evaluation.suite import Converse, Means, Suite
from fedllm_app.evaluation.suites import load_suite, suite_table
from fedllm_app.evaluation.tables import terminal
from fedllm_app.models.base import ModelValues
from fedllm_app.paths import home
from fedllm_app.runs.directory import read_run_config, run_of
from fedllm_app.training.resident import set_threads

_LISTED = ("set", "rows", "licence", "from", "metrics", "asked in", "rule")
_ROOM_FOR_A_LIST = 140  # characters of a table with these columns
_VERSIONS = ("fedllm-app", "torch", "transformers", "peft", "lm-eval")


class NoSandbox(UserError):
    """Generated code cannot be run safely here."""


class UnknownSet(UserError):
    """`--only` names a set that no suite has."""


@dataclass(frozen=True)
class Options:
    """What a user asks for; paths are absolute. `only` names sets of the suites, none of them: all."""

    suites: tuple[str, ...]
    only: tuple[str, ...]
    data_dir: Path | None
    settings: Settings
    out: Path
    run_code: bool = False
    batch_rows: int = 0
    threads: int = 0
    include_path: Path | None = None


@dataclass(frozen=True)
class _Prepared:
    """A suite that is ready to be asked: its sets, or the tasks of lm-evaluation-harness."""

    suite: Suite
    asked: list[Asked]
    harness: tuple[list[str], object] | None = None


def evaluate(contestants: Sequence[Contestant], base: ModelValues, options: Options, console: Console) -> None:
    """Evaluate contestants on suites; every suite has a report below `options.out`."""
    if options.out.exists() and any(options.out.iterdir()):
        raise ReportError(f"--out {options.out} is not empty: name a new directory")
    if options.run_code and (problem := sandbox_problem()):
        raise NoSandbox(f"--run-code: generated code cannot be run safely on this machine: {problem}")
    set_threads(options.threads)
    stage = Stage(base, options.batch_rows)
    judge = judge_from_environment(home() / "judgements.jsonl")
    settings = replace(options.settings, means=Means(options.run_code, judge))

    def tell(sentence: str) -> None:
        console.print(f"  {sentence}", markup=False, highlight=False)

    evaluation = Evaluation(stage, contestants, settings, tell, AnswerProgress(console))
    prepared = [_prepared(name, evaluation, options) for name in dict.fromkeys(options.suites)]
    _check_only(options, prepared)
    data_of = _data_of(contestants)
    for warning in filter(None, (trained_on(suite, data_of) for suite in options.suites)):
        tell(warning)
    began = time.monotonic()
    _ = stage.base
    tell(f"{base.name} loaded once, in {time.monotonic() - began:.1f} s; {len(contestants)} models")
    if stage.unshared:
        tell(f"prompts are read whole, because {stage.unshared}")
    several = len(prepared) > 1
    # Two suites may have the same name: files of different folders, or a file of the user's with a name of ours.
    names = file_names([each.suite.name.rstrip("/").rpartition("/")[2] for each in prepared])
    for name, each in zip(names, prepared, strict=True):
        results = evaluation.run_harness(*each.harness) if each.harness else evaluation.run(each.asked)
        directory = options.out / name if several else options.out
        report = report_of(each.suite, results, contestants, _settings(options, base, judge is not None))
        if judge and any(isinstance(result.task.ask, Converse) for result in results):
            report = replace(report, notes=(*report.notes, *judge.notes()))
        save(report, results, directory)
        terminal(report, console)
        console.print(f"report: {directory}", markup=False, highlight=False, soft_wrap=True)
        if any(isinstance(result.task.ask, Converse) for result in results) and judge is None:
            tell("not judged: set FEDLLM_JUDGE_URL, FEDLLM_JUDGE_MODEL and FEDLLM_JUDGE_KEY; the answers are saved")


def _data_of(contestants: Sequence[Contestant]) -> dict[str, str]:
    """By contestant, `data.name` of its run; none for the base, and for adapters from elsewhere."""
    runs = {one.name: run_of(one.source.adapter) for one in contestants if one.source and one.source.adapter}
    return {name: str(read_run_config(run).get("data.name", "")) for name, run in runs.items() if run}


def _prepared(name: str, evaluation: Evaluation, options: Options) -> _Prepared:
    if name.startswith(PREFIX):
        wanted = harness_tasks(name.removeprefix(PREFIX), options.include_path)
        return _Prepared(Suite(name, "tasks of lm-evaluation-harness", ()), [], wanted)
    suite = only(load_suite(name), options.only)
    sets = open_all(suite.tasks, options.data_dir)
    return _Prepared(suite, evaluation.prepare(suite, sets.rows, sets.notes))


def only(suite: Suite, names: Sequence[str]) -> Suite:
    """The suite with the sets of these names alone, and the averages of which every part is left; () leaves all."""
    if not names:
        return suite
    tasks = tuple(task for task in suite.tasks if task.name in names)
    kept = {task.name for task in tasks}
    averages = tuple(average for average in suite.averages if {task for task, _ in average.of} <= kept)
    return replace(suite, tasks=tasks, averages=averages)


def _check_only(options: Options, prepared: Sequence[_Prepared]) -> None:
    asked = {task.name for each in prepared for task in each.suite.tasks}
    if unknown := [name for name in options.only if name not in asked]:
        named = [name for name in options.suites if not name.startswith(PREFIX)]
        known = {task.name for name in named for task in load_suite(name).tasks}
        raise UnknownSet(f"--only: no suite has a set {', '.join(unknown)}; there are {', '.join(sorted(known))}")


def report_of(
    suite: Suite, results: Sequence[TaskResult], contestants: Sequence[Contestant], settings: Mapping[str, object]
) -> Report:
    """The figures, pairs and notes of a suite's results; figures of several seeds together."""
    sets = [TaskFigures(result) for result in results]
    figures, pairs = [], [pair for each in sets for pair in each.paired()]
    for seed in sorted({result.seed for result in results}):
        same = [each for each in sets if each.result.seed == seed]
        figures += [figure for each in same for figure in each.figures()]
        figures += averages_of(suite.averages, same)
        pairs += average_pairs(suite.averages, same)
    notes = dict.fromkeys(f"{result.task.name}: {note}" for result in results for note in result.notes)
    seconds = {c.name: sum(result.seconds.get(c.name, 0.0) for result in results) for c in contestants}
    return Report(
        suite.name,
        {c.name: str(c.source.adapter) if c.source else "the base model alone" for c in contestants},
        tuple(over_seeds(figures)),
        tuple(pairs),
        tuple(notes),
        seconds,
        {result.task.name: result.template for result in results},
        settings,
        _versions(),
    )


def _settings(options: Options, base: ModelValues, judged: bool) -> dict[str, object]:
    return {
        "base": base.name,
        "dtype": base.dtype,
        "quantization": base.quantization,
        "limit": options.settings.limit or "all questions",
        "seeds": ", ".join(map(str, options.settings.seeds)),
        "template": options.settings.template or "as each set says",
        "generated code": "run" if options.run_code else "not run",
        "judge": "asked" if judged else "none",
        "time": time.strftime("%Y-%m-%d %H:%M:%S"),
    }


def _versions() -> dict[str, str]:
    found = {"Python": platform.python_version()}
    for name in _VERSIONS:
        with suppress(importlib.metadata.PackageNotFoundError):  # lm-eval is of the extra
            found[name] = importlib.metadata.version(name)
    return found


def list_suites(console: Console) -> None:
    """Print every suite with its sets, their sizes, licences, metrics and rules; on a narrow terminal set by set."""
    for entry in suite_table():
        rows = [
            (one.task, f"{one.size:,}", one.licence, one.source, ", ".join(one.metrics), one.template, one.rule)
            for one in entry.sets
        ]
        title = f"{entry.name}: {entry.summary}"
        if console.width < _ROOM_FOR_A_LIST:
            console.print(Text(f"\n{title}", style="bold"))
            for name, *cells in rows:
                told = [f"{column}: {cell}" for column, cell in zip(_LISTED[1:], cells, strict=True)]
                lines = [Text(name, style="bold"), *(Padding(Text(line), (0, 0, 0, 4)) for line in told)]
                console.print(Padding(Group(*lines), (0, 0, 0, 2)))
        else:
            table = Table(title=escape(title), show_lines=True, title_justify="left")
            for column in _LISTED:
                table.add_column(column, overflow="fold")
            for cells in rows:
                table.add_row(*map(escape, cells))
            console.print(table)
        if entry.averages:
            console.print(f"averages: {', '.join(entry.averages)}", markup=False, highlight=False)


def show_saved(directories: Sequence[Path], which: str, limit: int, console: Console, sets: Sequence[str] = ()) -> None:
    """Print saved answers, of these sets alone if any is named.

    ReportError if no directory is named, or one holds no report or no such set.
    """
    if not directories:
        raise ReportError("--show: name the directory of a report")
    for directory in directories:
        show(directory, which, limit, console, sets)
