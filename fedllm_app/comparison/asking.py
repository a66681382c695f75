"""All models of a comparison asked the same questions over one loaded base; what was asked before is read again."""

import hashlib
import json
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from fedllm_app.adapters.peft_directory import weights_file
from fedllm_app.comparison.cell import time_left
from fedllm_app.comparison.grid import BadGrid, Cell
from fedllm_app.data.templates import TemplateError
from fedllm_app.evaluation.contestants import BASE, Contestant, Stage, prompt_of
from fedllm_app.evaluation.conversation import find_source
from fedllm_app.evaluation.evaluate import Asked, Evaluation, Settings
from fedllm_app.evaluation.graders.judge import judge_from_environment
from fedllm_app.evaluation.graders.sandbox import sandbox_problem
from fedllm_app.evaluation.harness import PREFIX
from fedllm_app.evaluation.progress import AnswerProgress
from fedllm_app.evaluation.results import TaskResult
from fedllm_app.evaluation.session import NoSandbox
from fedllm_app.evaluation.set_rows import open_all
from fedllm_app.evaluation.suite import Answer, Means, Suite
from fedllm_app.evaluation.suites import load_suite
from fedllm_app.paths import file_sha256, home, write_text
from fedllm_app.runs.directory import client_adapters
from fedllm_app.training.resident import set_threads

ANSWERS = "answers"
"""In the directory of a comparison: what each model answered."""

Tell = Callable[[str], None]

_SILENT = AnswerProgress()


@dataclass(frozen=True)
class Asking:
    """How the models are asked.

    Attributes
    ----------
    suite : Suite | None
        What is asked; None: nothing, and the table has the held-out metrics of the runs alone.
    limit : int
        Questions of each set; 0: all.
    shown : int
        Worked examples that the base is also shown, where the suite has some; 0: none.
    """

    suite: Suite | None
    data_dir: Path | None = None
    limit: int = 0
    shown: int = 0
    run_code: bool = False
    batch_rows: int = 0
    threads: int = 0

    @property
    def name(self) -> str:
        """What the table is called."""
        return self.suite.name if self.suite else "held-out rows of the clients"


def checked_suite(name: str, data_dir: Path | None, run_code: bool = False) -> Suite:
    """The suite of a name, after a look at its sets: what is wrong is told before anything is trained.

    UnknownSuite, BadSuite, DataError, MissingSets, NoSandbox; BadGrid for tasks of lm-evaluation-harness.
    """
    if name.startswith(PREFIX):
        raise BadGrid(
            f"--suite {name}: a comparison asks suites of its own; ask tasks of lm-evaluation-harness afterwards, with "
            "fedllm evaluate and the run directories"
        )
    if run_code and (problem := sandbox_problem()):
        raise NoSandbox(f"--run-code: generated code cannot be run safely on this machine: {problem}")
    suite = load_suite(name)
    open_all(suite.tasks, data_dir)
    return suite


def shown_name(count: int) -> str:
    """What the base is called that is shown so many worked examples."""
    return f"{BASE}, {count} example{'s'[: count > 1]} shown"


def models_of(cell: Cell) -> list[Contestant]:
    """The models that came of a finished cell: one, or one for each client that trained alone."""
    trust = bool(cell.flat["model.trust-remote-code"])
    alone = client_adapters(cell.directory)
    if not alone:
        return [Contestant(cell.name, find_source(cell.directory, trust_remote_code=trust))]
    return [
        Contestant(f"{cell.name}, client {client}", find_source(cell.directory, client, trust_remote_code=trust))
        for client in alone
    ]


def ask_all(
    models: Sequence[Contestant],
    asking: Asking,
    out: Path | None,
    tell: Tell,
    progress: AnswerProgress = _SILENT,
) -> list[TaskResult]:
    """Ask the base and all models; the answers are kept below `out`, model by model, if it is given.

    Parameters
    ----------
    models : Sequence[Contestant]
        At least one, all on the same base.

    Returns
    -------
    list[TaskResult]
        A result a set. The base is the first model, then the base that is shown worked examples, if there are some.
    """
    contestants = [Contestant(BASE, None), *models]
    if asking.shown and all(task.worked for task in asking.suite.tasks):
        contestants.insert(1, Contestant(shown_name(asking.shown), None, asking.shown))
    set_threads(asking.threads)
    base = models[0].source.model
    stage = Stage(base, asking.batch_rows)
    means = Means(asking.run_code, judge_from_environment(home() / "judgements.jsonl"))
    settings = Settings(asking.limit, means=means)
    sets = open_all(asking.suite.tasks, asking.data_dir)
    asked = Evaluation(stage, contestants, settings).prepare(asking.suite, sets.rows, sets.notes)
    prompt = prompt_of(contestants, None, None)
    about = [asdict(base), asdict(prompt), [_about(each) for each in asked]]
    results = [
        TaskResult(each.task, each.questions, {}, {}, each.prompts.name, each.notes, {}, each.seed) for each in asked
    ]
    seconds: list[float] = []  # of the models that were asked
    for number, contestant in enumerate(contestants, 1):
        began = time.monotonic()
        try:
            evaluation = Evaluation(stage, [contestant], settings, progress=progress)
            given, kept = _given(contestant, asked, evaluation, about, out and out / ANSWERS)
        except TemplateError as error:
            if not contestant.shown:
                raise
            results = [replace(one, notes=(*one.notes, f"{contestant.name}: not asked, {error}")) for one in results]
            continue
        results = [_with(one, contestant.name, *those) for one, those in zip(results, given, strict=True)]
        if not kept:
            seconds.append(time.monotonic() - began)
        took = "of before" if kept else f"{seconds[-1]:.0f} s"
        left = time_left(seconds, len(contestants) - number)
        tell(f"{contestant.name}: {sum(len(a) for a, _ in given)} answers, {took}{left}")
    return [_graded(result, means) for result in results]


_Given = list[tuple[list[Answer], list[str]]]


def _given(
    contestant: Contestant, asked: Sequence[Asked], evaluation: Evaluation, about: object, folder: Path | None
) -> tuple[_Given, bool]:
    """A model's answers to each set with what is to be said of them, and whether they are those of before, which lie
    on the disk if it was asked the same."""
    weights = file_sha256(weights_file(contestant.source.adapter)) if contestant.source else ""
    whole = json.dumps([about, weights, contestant.shown], sort_keys=True, default=repr)
    key = hashlib.sha256(whole.encode()).hexdigest()
    file = folder and folder / f"{key[:32]}.json"
    if file and file.is_file():
        kept = json.loads(file.read_text(encoding="utf-8"))
        return [([_answer(answer) for answer in one["answers"]], one["notes"]) for one in kept["sets"]], True
    results = evaluation.run(asked)
    given = [
        (result.answers[contestant.name], [note for note in result.notes if note not in each.notes])
        for result, each in zip(results, asked, strict=True)
    ]
    content = [{"answers": [asdict(answer) for answer in answers], "notes": notes} for answers, notes in given]
    if file:
        write_text(file, json.dumps({"model": contestant.name, "sets": content}, ensure_ascii=False) + "\n")
    return given, False


def _answer(kept: Mapping[str, object]) -> Answer:
    return Answer(**{name: tuple(value) if isinstance(value, list) else value for name, value in kept.items()})


def _about(asked: Asked) -> list:
    """All of a set that its answers depend on."""
    task = asked.task
    return [task.name, repr(task.ask), asked.prompts.name, asked.seed, [asdict(one) for one in asked.questions]]


def _with(result: TaskResult, name: str, answers: list[Answer], notes: Sequence[str]) -> TaskResult:
    return replace(result, answers={**result.answers, name: answers}, notes=(*result.notes, *notes))


def _graded(result: TaskResult, means: Means) -> TaskResult:
    grades = {name: result.task.grade(result.questions, answers, means) for name, answers in result.answers.items()}
    return replace(result, grades=grades)
