"""From a suite and the models to the answers and grades of all of them: one base, one contestant after the other.

Everything that can be wrong before the weights are loaded is found before: the suite, the rows, the questions, the
template of each set.
"""

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from fedllm_app.evaluation.answers import Answers, prompts_of
from fedllm_app.evaluation.asking import Asker
from fedllm_app.evaluation.contestants import BASE, Contestant, Stage, prompt_of
from fedllm_app.evaluation.harness import ask_harness, task_of_samples
from fedllm_app.evaluation.progress import AnswerProgress
from fedllm_app.evaluation.prompts import PlainPrompts, Prompts, TemplatePrompts
from fedllm_app.evaluation.results import TaskResult
from fedllm_app.evaluation.sampling import NothingToAsk, drawn, questions_of
from fedllm_app.evaluation.suite import (
    PLAIN,
    RUN,
    Answer,
    EvaluationTask,
    Grade,
    Means,
    Question,
    ScorePair,
    Suite,
    TestRow,
)
from fedllm_app.runs.directory import PromptRecord


@dataclass(frozen=True)
class Settings:
    """How sets are asked.

    Attributes
    ----------
    limit : int
        Questions of each set, drawn by the seed; 0: all.
    seeds : tuple[int, ...]
        The sets are asked once a seed, each time other questions.
    template : str
        "": as each set says; "run": all in the template of the run; "plain": all in their protocol's own text; else the
        name of a template.
    """

    limit: int = 0
    seeds: tuple[int, ...] = (0,)
    template: str = ""
    system_prompt: str | None = None
    means: Means = Means()


@dataclass(frozen=True)
class Asked:
    """A set as it will be asked: drawn questions, how they are written, and what is to be said of it."""

    task: EvaluationTask
    seed: int
    questions: list[Question]
    prompts: Prompts
    notes: tuple[str, ...] = ()


@dataclass
class Evaluation:
    """Evaluates contestants on one stage.

    `tell` is given a sentence on each set that a model has answered, `progress` shows how far it is with one.
    """

    stage: Stage
    contestants: Sequence[Contestant]
    settings: Settings
    tell: Callable[[str], None] = lambda _sentence: None
    progress: AnswerProgress = AnswerProgress()

    def prepare(
        self, suite: Suite, rows: Mapping[str, Sequence[TestRow]], notes: Mapping[str, str] | None = None
    ) -> list[Asked]:
        """The sets of a suite with their questions drawn; `rows` by the name of the test set.

        Raises
        ------
        NothingToAsk
            A set has no question; or it is asked in the run's template and there is none.
        """
        asked = []
        for task in suite.tasks:
            every = questions_of(task, rows)
            prompts = self._prompts(task)
            said = tuple(filter(None, ((notes or {}).get(task.name), _remark(every, rows[task.test.name]))))
            for seed in self.settings.seeds:
                asked.append(Asked(task, seed, drawn(every, self.settings.limit, seed), prompts, said))
        return asked

    def run(self, asked: Sequence[Asked]) -> list[TaskResult]:
        """Ask every contestant everything, and grade the answers."""
        results = [
            TaskResult(each.task, each.questions, {}, {}, each.prompts.name, each.notes, {}, each.seed)
            for each in asked
        ]
        bases = self._base_pairs(asked)
        for contestant in self.contestants:
            with self.stage.asker(contestant) as asker:
                for place, each in enumerate(asked):
                    given = self._given(asker, contestant, each, bases.get(place))
                    results[place] = _with_answers(results[place], contestant.name, given)
                    count, seconds = len(given.answers), given.seconds
                    self.tell(f"{contestant.name}: {each.task.name}, {count} answers, {seconds:.0f} s")
        return [self._graded(result) for result in results]

    def run_harness(self, wanted: Sequence[str], manager: Any) -> list[TaskResult]:
        """Ask every contestant tasks of lm-evaluation-harness."""
        from fedllm_app.evaluation.harness_model import AskedModel  # needs the extra `eval`

        template = bool(self.settings.template) and self.settings.template != PLAIN
        prompts = self._template_prompts("lm-eval") if template else PlainPrompts(self.stage.tokenizer)
        results: dict[tuple[str, int], TaskResult] = {}
        for contestant in self.contestants:
            with self.stage.asker(contestant) as asker:
                for seed in self.settings.seeds:
                    began = time.monotonic()
                    model = AskedModel(asker, prompts)
                    samples = ask_harness(model, wanted, manager, self.settings.limit or None, template, seed)
                    seconds = time.monotonic() - began
                    asked = sum(map(len, samples.values()))
                    for name, those in samples.items():
                        sampled = task_of_samples(name, those)
                        empty = TaskResult(sampled.task, sampled.questions, {}, {}, prompts.name, (), {}, seed)
                        # The harness asks all tasks in one pass: each has the share of the time that it has of them.
                        given = _Given(sampled.answers, 0, seconds * len(those) / asked)
                        result = _with_answers(results.get((name, seed), empty), contestant.name, given)
                        grades = {**result.grades, contestant.name: sampled.grades}
                        results[name, seed] = replace(result, grades=grades)
                    self.tell(f"{contestant.name}: {', '.join(wanted)}, {seconds:.0f} s")
        return list(results.values())

    def _prompts(self, task: EvaluationTask) -> Prompts:
        template = self.settings.template or task.template
        return PlainPrompts(self.stage.tokenizer) if template == PLAIN else self._template_prompts(task.name)

    def _template_prompts(self, name: str) -> TemplatePrompts:
        record = self._record
        if record is None:
            raise NothingToAsk(
                f"the set {name} is asked in the template of a run, and none is known: name a run, or a template with "
                "--template"
            )
        return TemplatePrompts(self.stage.tokenizer, self.stage.template(record), record.system_prompt or None)

    @property
    def _record(self) -> PromptRecord | None:
        named = self.settings.template if self.settings.template not in ("", RUN, PLAIN) else None
        return prompt_of(self.contestants, named, self.settings.system_prompt)

    def _base_pairs(self, asked: Sequence[Asked]) -> "dict[int, _Given]":
        """What the base gives to each set of pairs, by the set's place in `asked`.

        By place and for one call alone, because names say nothing: two suites may each have a set of the same name.
        """
        places = [place for place, each in enumerate(asked) if isinstance(each.task.ask, ScorePair)]
        if not places:
            return {}
        with self.stage.asker(Contestant(BASE, None)) as asker:
            return {place: self._asked_of(asker, BASE, asked[place]) for place in places}

    def _given(self, asker: Asker, contestant: Contestant, each: Asked, base: "_Given | None") -> "_Given":
        if contestant.shown:
            return self._asked_of(asker, contestant.name, with_worked(each, contestant.shown))
        if base is None:
            return self._asked_of(asker, contestant.name, each)
        # Every model's rewards need this pass of the base, so each of them has its share of the time.
        share = base.seconds / len(self.contestants)
        if contestant.source is None:
            return replace(base, seconds=share)
        own = self._asked_of(asker, contestant.name, each, base.answers)
        return replace(own, seconds=own.seconds + share)

    def _asked_of(self, asker: Asker, name: str, each: Asked, base_pairs: Sequence[Answer] | None = None) -> "_Given":
        began, before = time.monotonic(), asker.cut
        prompts = prompts_of(each.questions, each.task.ask)
        with self.progress.of(f"{name}: {each.task.name}", len(each.questions), prompts) as asker.done:
            answers = Answers(asker, each.prompts, base_pairs, each.seed).to(each.questions, each.task.ask)
        return _Given(answers, asker.cut - before, time.monotonic() - began)

    def _graded(self, result: TaskResult) -> TaskResult:
        grades: dict[str, list[Grade]] = {}
        for name, answers in result.answers.items():
            grades[name] = result.task.grade(result.questions, answers, self.settings.means)
        return replace(result, grades=grades)


def with_worked(each: Asked, count: int) -> Asked:
    """The set with so many worked examples before each question, as earlier turns.

    NothingToAsk if there are none.
    """
    if each.task.worked is None:
        raise NothingToAsk(f"the set {each.task.name} has no worked examples to show")
    turns = tuple(turn for text, answer in each.task.worked(count) for turn in (("user", text), ("assistant", answer)))
    return replace(each, questions=[replace(asked, turns=(*turns, *asked.turns)) for asked in each.questions])


def _remark(every: Sequence[Question], rows: Sequence[TestRow]) -> str:
    """What a protocol leaves out of the rows that are there."""
    return f"{len(every):,} of its {len(rows):,} rows are questions" if len(every) < len(rows) else ""


@dataclass(frozen=True)
class _Given:
    """Answers of one model to one set, how many prompts were cut, and how long it took."""

    answers: list[Answer]
    cut: int
    seconds: float


def _with_answers(result: TaskResult, name: str, given: _Given) -> TaskResult:
    ended = sum(answer.cut for answer in given.answers)
    notes = list(result.notes)
    if given.cut:
        notes.append(f"{name}: {given.cut} prompts lost their beginning, because the model reads no more")
    if ended:
        notes.append(f"{name}: {ended} of {len(given.answers)} answers ended because of their length")
    return replace(
        result,
        answers={**result.answers, name: given.answers},
        seconds={**result.seconds, name: given.seconds},
        notes=tuple(notes),
    )
