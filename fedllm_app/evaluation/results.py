"""What an evaluation gives: answers and grades of every model on every set, and the figures made of them."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from fedllm_app.evaluation.suite import Answer, EvaluationTask, Grade, Question


@dataclass(frozen=True)
class TaskResult:
    """One set, asked with one seed: by the names of the models, their answers and grades, in the order of questions.

    `template` names how it was asked, `notes` say what was dropped or is different, `seconds` are those of each model.
    """

    task: EvaluationTask
    questions: list[Question]
    answers: dict[str, list[Answer]]
    grades: dict[str, list[Grade]]
    template: str
    notes: tuple[str, ...]
    seconds: dict[str, float]
    seed: int


@dataclass(frozen=True)
class Figure:
    """One cell of a table.

    Attributes
    ----------
    value : float | None
        None where nothing counts: then `missing` says why.
    low, high : float | None
        The 95 % interval; None of a count, and where one question cannot tell how sure its value is.
    n : int
        Questions that count.
    missing : Mapping[str, int]
        Answers without a grade, by the reason.
    seed : int | None
        None of a mean over seeds; its interval is then the mean ± the standard deviation over them.
    by_seed : tuple[Figure, ...]
        Of a mean over seeds: the figures that it is the mean of.
    """

    task: str
    metric: str
    model: str
    value: float | None
    low: float | None
    high: float | None
    n: int
    missing: Mapping[str, int] = field(default_factory=dict)
    seed: int | None = None
    percent: bool = True
    lower_is_better: bool = False
    count: bool = False
    by_seed: tuple["Figure", ...] = ()


@dataclass(frozen=True)
class Paired:
    """Two models on the questions that both have: second minus first, its 95 % interval and p.

    There is no interval of one question.
    """

    task: str
    metric: str
    first: str
    second: str
    difference: float
    low: float | None
    high: float | None
    p: float
    test: str
    n: int
    seed: int
    percent: bool = True


@dataclass(frozen=True)
class Report:
    """All of one suite.

    Attributes
    ----------
    models : Mapping[str, str]
        What each model is, by its name; the first is the one that the others are marked against.
    averages : tuple[str, ...]
        Names of the averages, which stand among the figures as a task of their own.
    settings : Mapping[str, object]
        How it was asked.
    """

    suite: str
    models: Mapping[str, str]
    figures: tuple[Figure, ...]
    paired: tuple[Paired, ...]
    notes: tuple[str, ...]
    seconds: Mapping[str, float]
    templates: Mapping[str, str]
    settings: Mapping[str, object]
    versions: Mapping[str, str]
