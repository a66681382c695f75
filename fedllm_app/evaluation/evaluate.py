"""From a suite and the models to the answers and grades of all of them: one base, one contestant after the other.

Everything that can be wrong before the weights are loaded is found before: the suite, the rows, the questions, the
template of each set.
"""

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from fedllm_app.evaluation.answers import Answers
from fedllm_app.evaluation.asking import Asker
from fedllm_app.evaluation.contestants import BASE, Contestant, Stage, prompt_of
from fedllm_app.evaluation.harness import ask_harness, task_of_samples
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

    `tell` is given a sentence on the progress.
    """

    stage: Stage
    contestants: Sequence[Contestant]
    settings: Settings
    tell: Callable[[str], None] = lambda _sentence: None
    _base_pairs: dict[tuple[str, int], list[Answer]] = field(default_factory=dict)

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
            said = tuple(filter(None, ((notes or {}).get(task.name), self._remark(every, task))))
            for seed in self.settings.seeds:
                asked.append(Asked(task, seed, drawn(every, self.settings.limit, seed), prompts, said))
        return asked

    def run(self, asked: Sequence[Asked]) -> list[TaskResult]:
        """Ask every contestant everything, and grade the answers."""
        results = [
            TaskResult(each.task, each.questions, {}, {}, each.prompts.name, each.notes, {}, each.seed)
            for each in asked
        ]
        if any(isinstance(each.task.ask, ScorePair) for each in asked):
            self._read_base_pairs(asked)
        for contestant in self.contestants:
            with self.stage.asker(contestant) as asker:
                for place, each in enumerate(asked):
                    began = time.monotonic()
                    answers, cut = self._answers(asker, contestant, each)
                    seconds = time.monotonic() - began
                    results[place] = _with_answers(results[place], contestant.name, answers, cut, seconds)
                    self.tell(f"{contestant.name}: {each.task.name}, {len(answers)} answers, {seconds:.0f} s")
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
                    for name, those in samples.items():
                        task, questions, grades = task_of_samples(name, those)
                        empty = TaskResult(task, questions, {}, {}, prompts.name, (), {}, seed)
                        result = results.setdefault((name, seed), empty)
                        result = _with_answers(
                            result, contestant.name, [Answer() for _ in grades], 0, time.monotonic() - began
                        )
                        results[name, seed] = replace(result, grades={**result.grades, contestant.name: grades})
                    self.tell(f"{contestant.name}: {', '.join(wanted)}, {time.monotonic() - began:.0f} s")
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

    def _remark(self, every: Sequence[Question], task: EvaluationTask) -> str:
        published = task.test.size
        if published and len(every) < published and not self.settings.limit:
            return f"{len(every):,} questions; the set has {published:,} as published"
        return ""

    def _read_base_pairs(self, asked: Sequence[Asked]) -> None:
        with self.stage.asker(Contestant(BASE, None)) as asker:
            for each in asked:
                if isinstance(each.task.ask, ScorePair):
                    answers, _ = self._answers(asker, Contestant(BASE, None), each)
                    self._base_pairs[each.task.name, each.seed] = answers

    def _answers(self, asker: Asker, contestant: Contestant, each: Asked) -> tuple[list[Answer], int]:
        known = self._base_pairs.get((each.task.name, each.seed))
        if known and contestant.source is None:
            return known, 0
        before = asker.cut
        answers = Answers(asker, each.prompts, known, each.seed).to(each.questions, each.task.ask)
        return answers, asker.cut - before

    def _graded(self, result: TaskResult) -> TaskResult:
        grades: dict[str, list[Grade]] = {}
        for name, answers in result.answers.items():
            grades[name] = result.task.grade(result.questions, answers, self.settings.means)
        return replace(result, grades=grades)


def _with_answers(result: TaskResult, name: str, answers: list[Answer], cut: int, seconds: float) -> TaskResult:
    ended = sum(answer.cut for answer in answers)
    notes = list(result.notes)
    if cut:
        notes.append(f"{name}: {cut} prompts lost their beginning, because the model reads no more")
    if ended:
        notes.append(f"{name}: {ended} of {len(answers)} answers ended because of their length")
    return replace(
        result,
        answers={**result.answers, name: answers},
        seconds={**result.seconds, name: seconds},
        notes=tuple(notes),
    )
