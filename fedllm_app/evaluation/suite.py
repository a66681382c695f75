"""What a suite is made of: sets of questions, how a model is asked, how an answer is graded, which figures come out.

A suite is a file of `suites/`, a set one of `sets/`. Data flows one way: rows of a test set -> questions -> answers of
a model -> grades -> metrics. Nothing here loads anything.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, Protocol

RUN, PLAIN = "run", "plain"
"""How a set is asked: in the template of the run, or in its protocol's own text (`EvaluationTask.template`)."""

DATA_FILE = "file:"
"""What comes before the path of a data file that is a suite (`own_file`)."""

TestRow = Mapping[str, Any]
"""A row of a test set by column name. `subset` names the file or the Hub configuration that it came from."""


@dataclass(frozen=True)
class TestSet:
    """Where the rows of a public set are.

    Attributes
    ----------
    name : str
        Its name here, and that of its file or folder in `--data-dir`.
    hub_id, configs, split : str, tuple[str, ...], str
        On the Hub. Several configurations are read one after the other.
    size : int
        Rows as published.
    licence : str
        As the card of the set states it.
    files : tuple[str, ...]
        Patterns of further places in `--data-dir`, such as "finance/fpb.jsonl"; see `set_rows.find_files`.
    read : Callable[[Path], list[dict]] | None
        Reads a file whose own format is no table of rows with names (a CSV file without header, for example).
    url : str
        Where to get it, if not from the Hub.
    rows : Callable[[], list[dict]] | None
        Makes the rows of a set that comes with the app, or that is no file; nothing is looked for then.
    """

    name: str
    hub_id: str
    split: str
    size: int
    licence: str
    configs: tuple[str, ...] = ()
    files: tuple[str, ...] = ()
    read: Callable[[Path], list[dict[str, Any]]] | None = None
    url: str = ""
    rows: Callable[[], list[dict[str, Any]]] | None = None

    __test__ = False  # no test case, whatever its name says


@dataclass(frozen=True)
class Question:
    """One thing to ask a model.

    Attributes
    ----------
    text : str
        The question as a user would type it; what `--template run` and other chat templates ask.
    plain : str
        The whole text as the set's protocol writes it, up to the answer; "" means that `text` is it.
    gold : Any
        What is right; read by the set's grader only. A JSON value.
    choices : tuple[str, ...]
        For `Choose`: the answers that are scored, without the blank before them. For `ScorePair`: chosen, rejected.
    group : str
        Subject or category.
    turns : tuple[tuple[str, str], ...]
        The conversation before `text`: (role, content).
    follow_up : str
        For `Converse`: the user's second turn; "" for none.
    row : Mapping[str, Any]
        What else the grader needs. JSON values.
    """

    text: str
    plain: str = ""
    gold: Any = None
    choices: tuple[str, ...] = ()
    group: str = ""
    turns: tuple[tuple[str, str], ...] = ()
    follow_up: str = ""
    row: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Generate:
    """Greedy decoding of one answer (`samples` > 1: that many, drawn at `temperature`).

    `stops` are texts at which an answer ends; they are no part of it. `total_tokens`, where it is not 0, limits prompt
    and answer together.
    """

    max_new_tokens: int
    stops: tuple[str, ...] = ()
    total_tokens: int = 0
    samples: int = 1
    temperature: float = 0.0


@dataclass(frozen=True)
class Choose:
    """The log-likelihood of every choice after the question. In a plain prompt, `separator` stands before a choice."""

    separator: str = " "


@dataclass(frozen=True)
class ScorePair:
    """Log-probabilities of a chosen and a rejected answer, under the model and under the base."""


@dataclass(frozen=True)
class ScoreAnswer:
    """Loss of the right answer (`gold`, a text) token by token, and greedy decoding of one as with `Generate`.

    `max_new_tokens` 0: the longest right answer of the set and a quarter more.
    """

    max_new_tokens: int = 0


@dataclass(frozen=True)
class Converse:
    """Two turns, each decoded greedily; the second sees the first and its answer."""

    max_new_tokens: int


Ask = Generate | Choose | ScorePair | ScoreAnswer | Converse


@dataclass(frozen=True)
class Answer:
    """What a model gave for one question.

    Attributes
    ----------
    texts : tuple[str, ...]
        Generated: one of `Generate` (or `samples` of them) and `ScoreAnswer`, two of `Converse`.
    log_likelihoods : tuple[float, ...]
        Summed over the tokens of each choice (natural logarithm); of the right answer for `ScoreAnswer`.
    tokens : tuple[int, ...]
        How many tokens each of them has.
    base_log_likelihoods : tuple[float, ...]
        Of `ScorePair`: the same under the base.
    cut : bool
        Whether a generated text ended because of its length, or the prompt had to be cut.
    """

    texts: tuple[str, ...] = ()
    log_likelihoods: tuple[float, ...] = ()
    tokens: tuple[int, ...] = ()
    base_log_likelihoods: tuple[float, ...] = ()
    cut: bool = False


@dataclass(frozen=True)
class Grade:
    """What an answer is worth.

    Attributes
    ----------
    values : Mapping[str, float]
        By the keys that the metrics read: {"correct": 1.0}. A key that is absent means that this question does not
        count for that metric.
    labels : Mapping[str, str]
        Classes, for figures that are no means, such as F1: {"gold": "positive", "predicted": "neutral"}.
    missing : str
        Why there is no grade: "not judged", "not run". Such an answer counts in no metric and is counted itself.
    """

    values: Mapping[str, float] = field(default_factory=dict)
    labels: Mapping[str, str] = field(default_factory=dict)
    missing: str = ""


class Judge(Protocol):
    """Grades conversations (`graders.judge`)."""

    def grade(self, questions: Sequence[Question], answers: Sequence[Answer]) -> list[Grade]:
        """A grade each, in the same order."""
        ...


@dataclass(frozen=True)
class Means:
    """What graders may use: whether generated code may run, and a judge if there is one."""

    run_code: bool = False
    judge: Judge | None = None


Grader = Callable[[Sequence[Question], Sequence[Answer], Means], list[Grade]]


def each(rule: Callable[[Question, Answer], Grade]) -> Grader:
    """The grader that applies a rule to one answer after the other."""

    def grade(questions: Sequence[Question], answers: Sequence[Answer], _means: Means) -> list[Grade]:
        return [rule(question, answer) for question, answer in zip(questions, answers, strict=True)]

    return grade


@dataclass(frozen=True)
class Metric:
    """A figure of a set.

    Attributes
    ----------
    name : str
        "accuracy", "weighted F1".
    kind : Literal["share", "mean", "count", "statistic"]
        "share": the mean of a value that is 0 or 1 (Wilson interval, McNemar test); "mean": of any value (bootstrap);
        "count": the sum of a value, without interval; "statistic": `statistic` of the grades (bootstrap).
    key : str
        The value that is averaged or counted, in `Grade.values`.
    statistic : Callable[[Sequence[Grade]], float] | None
        For figures that are no means; of grades that are not missing, at least one.
    group : str
        Only the questions of this group; "" for all.
    percent : bool
        Whether it is shown in percent.
    lower_is_better : bool
        As a loss is.
    """

    name: str
    kind: Literal["share", "mean", "count", "statistic"]
    key: str = ""
    statistic: Callable[[Sequence[Grade]], float] | None = None
    group: str = ""
    percent: bool = True
    lower_is_better: bool = False


@dataclass(frozen=True)
class EvaluationTask:
    """One set as a suite asks it.

    Attributes
    ----------
    name : str
        Unique within the suite.
    test : TestSet
        The rows that are asked.
    questions : Callable[[list[TestRow], list[TestRow]], list[Question]]
        From the rows, and those of `shots`, to what is asked; all of them, in the set's order. DataError names a row
        that lacks what the set needs.
    ask : Ask
        How an answer comes about.
    grade : Grader
        What it is worth.
    metrics : tuple[Metric, ...]
        The figures, the headline first.
    rule : str
        One or two sentences for `--list`: prompt, answer rule, metric, source.
    template : Literal["plain", "run"]
        "plain": the protocol's own prompt, tokenized as it is; "run": the template that the adapters were trained with.
    shots : TestSet | None
        Rows that worked examples are made of; without them in `--data-dir` the set is asked without, and that is said.
    worked : Callable[[int], Sequence[tuple[str, str]]] | None
        So many questions with their answers, none of them among the set's, for a model that is shown how to answer
        (`Contestant.shown`); None where there are none.
    needs : tuple[str, ...]
        Libraries of the extra `eval` that grading imports, by the names they are imported under.
    """

    name: str
    test: TestSet
    questions: Callable[[list[TestRow], list[TestRow]], list[Question]]
    ask: Ask
    grade: Grader
    metrics: tuple[Metric, ...]
    rule: str
    template: Literal["plain", "run"] = "run"
    shots: TestSet | None = None
    worked: Callable[[int], Sequence[tuple[str, str]]] | None = None
    needs: tuple[str, ...] = ()


@dataclass(frozen=True)
class Average:
    """The plain mean of figures of several sets: (task, metric)."""

    name: str
    of: tuple[tuple[str, str], ...]
    percent: bool = True


@dataclass(frozen=True)
class Suite:
    """Sets that are asked together."""

    name: str
    summary: str
    tasks: tuple[EvaluationTask, ...]
    averages: tuple[Average, ...] = ()
