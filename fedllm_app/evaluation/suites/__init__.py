"""The suites by name. To add one, write a file with `SUITE` here and name it in `SUITES`; a user's own stands anywhere.

`load_suite` gives one: of these, the user's own, or that of a data file.
"""

import difflib
import importlib
import importlib.util
import os
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from fedllm_app.errors import UserError
from fedllm_app.evaluation.suite import DATA_FILE, EvaluationTask, Suite, TestSet
from fedllm_app.paths import expanded

SUITES = (
    "general",
    "finance",
    "medical",
    "math",
    "code",
    "alignment",
    "flowertune-general",
    "flowertune-finance",
    "flowertune-medical",
)
"""Each stands in the file of its name, with underscores."""

BUILT_IN = "builtin"
"""The suite of the corpus that comes with the app."""

_OTHERS = f"the path of a Python file with SUITE, or {DATA_FILE}PATH for a data file"


class UnknownSuite(UserError):
    """There is no suite of that name or path."""

    public = "there is no suite of that name or path"


class BadSuite(UserError):
    """A suite's file cannot be used; the message says why."""

    public = "the suite's file cannot be used"


def load_suite(name: str) -> Suite:
    """The suite of a name.

    Parameters
    ----------
    name : str
        One of `SUITES`, "builtin", "file:PATH" for a data file (`own_file`), or the path of a Python file, which has to
        end in ".py". That file is EXECUTED, with all the rights of this process, and must define `SUITE`.

    Raises
    ------
    UnknownSuite
        There is none of that name, or no such file.
    BadSuite
        The file fails, or its `SUITE` contradicts itself.
    DataError
        The data file cannot be read.
    """
    if name.startswith(DATA_FILE):
        from fedllm_app.evaluation.own_file import file_suite

        return file_suite(name.removeprefix(DATA_FILE))
    if name.endswith(".py"):
        return _of_file(expanded(name))
    if name in (*SUITES, BUILT_IN):
        module = importlib.import_module(f"{__name__}.{name.replace('-', '_')}")
        return _checked(module.SUITE, name)
    raise UnknownSuite(f"there is no suite {name!r}.{_hint(name)} Give {', '.join((*SUITES, BUILT_IN))}, {_OTHERS}")


def _hint(name: str) -> str:
    near = difflib.get_close_matches(name.lower().replace("_", "-"), [*SUITES, BUILT_IN], n=1)
    if near:
        return f" Did you mean {near[0]!r}?"
    return f" Did you mean '{DATA_FILE}{name}'?" if os.path.exists(name) else ""


def _of_file(path: Path) -> Suite:
    """Execute a user's file and take its `SUITE`."""
    if not path.is_file():
        raise UnknownSuite(f"there is no file {path} to read a suite from")
    title = f"fedllm_suite_{path.stem}"
    spec = importlib.util.spec_from_file_location(title, path)
    module = importlib.util.module_from_spec(spec)
    sys.modules[title] = module  # dataclasses look their module up there
    try:
        spec.loader.exec_module(module)
    except Exception as error:  # whatever a file of the user's raises, its name belongs into the message
        raise BadSuite(f"{path} fails: {type(error).__name__}: {error}") from error
    found = getattr(module, "SUITE", None)
    if found is None:
        raise BadSuite(f"{path} defines no SUITE; examples/own_suite.py shows how")
    return _checked(found, str(path))


def _checked(suite: object, where: str) -> Suite:
    """The suite, if it is one and does not contradict itself. BadSuite names everything that is wrong."""
    if not isinstance(suite, Suite):
        raise BadSuite(f"{where}: SUITE is no fedllm_app.evaluation.suite.Suite, but {type(suite).__name__}")
    if problems := list(_problems(suite)):
        raise BadSuite("\n  ".join([f"{where}:", *problems]))
    return suite


def _problems(suite: Suite) -> Iterator[str]:
    if not suite.tasks:
        yield "it has no task"
    yield from (f"two tasks are called {name!r}" for name in _repeated(task.name for task in suite.tasks))
    for task in suite.tasks:
        if not task.metrics:
            yield f"task {task.name!r} has no metric"
        names = _repeated(metric.name for metric in task.metrics)
        yield from (f"task {task.name!r} has two metrics {name!r}" for name in names)
    sets: dict[str, TestSet] = {}
    for test in [task.test for task in suite.tasks] + [task.shots for task in suite.tasks if task.shots]:
        if sets.setdefault(test.name, test) != test:
            yield f"two different test sets are called {test.name!r}; rows are found by that name"
    figures = {(task.name, metric.name) for task in suite.tasks for metric in task.metrics}
    for average in suite.averages:
        absent = [f"{task} {metric}" for task, metric in average.of if (task, metric) not in figures]
        if absent or not average.of:
            yield f"average {average.name!r} is of what no task has: {', '.join(absent) or 'nothing'}"


def _repeated(names: Iterator[str]) -> list[str]:
    seen: dict[str, int] = {}
    for name in names:
        seen[name] = seen.get(name, 0) + 1
    return [name for name, count in seen.items() if count > 1]


@dataclass(frozen=True)
class SetEntry:
    """A set of a suite, for `--list`.

    Attributes
    ----------
    task, test : str
        Names of the task and of its rows, as they are called in `--data-dir`.
    size : int
        Rows as published.
    source : str
        Hub id, address, or "built in".
    metrics : tuple[str, ...]
        Names of the figures.
    template : str
        "run" or "plain"; see `EvaluationTask`.
    """

    task: str
    test: str
    size: int
    licence: str
    source: str
    metrics: tuple[str, ...]
    template: str
    rule: str


@dataclass(frozen=True)
class SuiteEntry:
    """A suite, for `--list`; `averages` are the names of its averages over several sets."""

    name: str
    summary: str
    sets: tuple[SetEntry, ...]
    averages: tuple[str, ...] = ()


def suite_table(names: tuple[str, ...] = (*SUITES, BUILT_IN)) -> list[SuiteEntry]:
    """What `fedllm evaluate --list` shows, a suite each in the given order; errors as `load_suite`."""
    return [_entry(name, load_suite(name)) for name in names]


def _entry(name: str, suite: Suite) -> SuiteEntry:
    sets = tuple(_set_entry(task) for task in suite.tasks)
    return SuiteEntry(name, suite.summary, sets, tuple(average.name for average in suite.averages))


def _set_entry(task: EvaluationTask) -> SetEntry:
    test = task.test
    return SetEntry(
        task=task.name,
        test=test.name,
        size=test.size,
        licence=test.licence,
        source=test.hub_id or test.url or ("built in" if test.rows else "a local file"),
        metrics=tuple(metric.name for metric in task.metrics),
        template=task.template,
        rule=task.rule,
    )
