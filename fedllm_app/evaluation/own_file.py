"""The suite "file:PATH": a data file of the user's own, asked like the rows that a run trains on.

Every file, folder or saved dataset that training accepts is read with the same readers and schemas. Rows of questions
and answers give loss, perplexity, exact match, token F1 and ROUGE-L; pairs of preferred and other answers give what
`sets.preferences` measures.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fedllm_app.data.errors import DataError
from fedllm_app.data.examples import Example, PreferencePair
from fedllm_app.data.readers.folders import files_of
from fedllm_app.data.schemas import UnknownSchema
from fedllm_app.evaluation.answer_overlap import exact_match, rouge_l, token_f1
from fedllm_app.evaluation.suite import (
    DATA_FILE,
    Answer,
    EvaluationTask,
    Grade,
    Metric,
    Question,
    ScoreAnswer,
    Suite,
    TestRow,
    TestSet,
    each,
)
from fedllm_app.paths import expanded, home

if TYPE_CHECKING:
    from fedllm_app.data.sources import Source

_NATS, _TOKENS = "nats", "tokens"

RULE = (
    "The run's template. Loss: negative log-likelihood of all tokens of the right answers, each with the one that ends "
    "it, divided by their number, as in training; perplexity: its exponential. Greedy answer against the right one: "
    "exact match, token F1 (SQuAD's normalisation), ROUGE-L."
)


def loss(grades: Sequence[Grade]) -> float:
    """Nats a token over all right answers: long answers weigh more, as in training."""
    return sum(grade.values[_NATS] for grade in grades) / sum(grade.values[_TOKENS] for grade in grades)


def perplexity(grades: Sequence[Grade]) -> float:
    """The exponential of the loss; infinite where that is no float."""
    nats = loss(grades)
    return math.exp(nats) if nats < 709 else math.inf


METRICS = (
    Metric("loss", "statistic", statistic=loss, percent=False, lower_is_better=True),
    Metric("perplexity", "statistic", statistic=perplexity, percent=False, lower_is_better=True),
    Metric("exact match", "share", "exact match"),
    Metric("token F1", "mean", "token F1"),
    Metric("ROUGE-L", "mean", "ROUGE-L"),
)
"""What is measured of answers that have a right one, also on the built-in corpus."""


def grade_answer(question: Question, answer: Answer) -> Grade:
    """The values that `METRICS` read, of an answer of `ScoreAnswer`."""
    text, gold = answer.texts[0], str(question.gold)
    values = {_NATS: -answer.log_likelihoods[0], _TOKENS: float(answer.tokens[0])}
    values |= {"exact match": exact_match(text, gold), "token F1": token_f1(text, gold), "ROUGE-L": rouge_l(text, gold)}
    return Grade(values)


def grade_exact(question: Question, answer: Answer) -> Grade:
    """Exact match alone, which needs no library of the extra `eval`."""
    return Grade({"exact match": exact_match(answer.texts[0], str(question.gold))})


def answer_task(test: TestSet, rule: str = RULE) -> EvaluationTask:
    """The task of a set whose rows are those of `row_of`; its name is the set's."""
    return EvaluationTask(test.name, test, questions, ScoreAnswer(), each(grade_answer), METRICS, rule)


def row_of(example: Example) -> dict[str, Any]:
    """A row of training as one of a test set: the turns before the answer, and the answer."""
    return {"prompt": [list(turn) for turn in example.prompt], "completion": example.completion}


def questions(rows: list[TestRow], _shots: list[TestRow]) -> list[Question]:
    """A question for each row of `row_of`; earlier turns stand before it."""
    asked = []
    for row in rows:
        *earlier, (_, text) = row["prompt"]
        turns = tuple((role, content) for role, content in earlier)
        asked.append(Question(text, gold=row["completion"], turns=turns))
    return asked


def file_suite(path: str) -> Suite:
    """The suite of one data file.

    Parameters
    ----------
    path : str
        A data file, a folder of them or a saved dataset; "~" is the user's home. Of a folder with several splits that
        for tests is read, else that which training would read.

    Raises
    ------
    DataError
        It cannot be read, a row of it is damaged, or it holds neither answers nor pairs of them.
    """
    place = expanded(path).resolve()
    try:
        source = _opened(place, Example.kind)
    except UnknownSchema as error:
        return Suite(f"{DATA_FILE}{path}", f"pairs of answers of {place}", (_pairs_task(place, error),))
    test = _test_set(place, source, lambda: [row_of(row) for row in source.examples(range(len(source)))])
    task = answer_task(test, f"{RULE} {'; '.join(source.notes())}.")
    return Suite(f"{DATA_FILE}{path}", f"{len(source):,} rows of {place}", (task,))


def trained_on(suite: str, data_of: Mapping[str, str]) -> str:
    """A warning that names the runs whose rows are from the file of a suite "file:PATH"; "" if none has such rows.

    Parameters
    ----------
    data_of : Mapping[str, str]
        By run, `data.name`.
    """
    if not suite.startswith(DATA_FILE):
        return ""
    place = expanded(suite.removeprefix(DATA_FILE)).resolve()
    runs = [run for run, data in data_of.items() if any(_is_at(name, place) for name in data.split(","))]
    if not runs:
        return ""
    return (
        f"{place} is also data.name of {', '.join(runs)}: most of its rows were trained on, so the figures say little "
        "about new ones. Keep a part of the rows apart (data.test, or a file of its own) and ask that"
    )


def _is_at(name: str, place: Path) -> bool:
    return name.strip().startswith(("/", "~")) and expanded(name.strip()).resolve() == place


def _pairs_task(place: Path, no_example: UnknownSchema) -> EvaluationTask:
    try:
        source = _opened(place, PreferencePair.kind)
    except UnknownSchema as no_pair:
        raise DataError(
            f"{no_example} Or, as pairs of answers: {no_pair} Documents and rated answers cannot be asked."
        ) from no_pair
    from fedllm_app.evaluation.sets.preferences import preference_task

    def rows() -> list[dict[str, Any]]:
        return [vars(pair) for pair in source.examples(range(len(source)))]

    return preference_task(_test_set(place, source, rows))


def _opened(place: Path, kind: str) -> "Source":
    from fedllm_app.data.sources import open_source

    return open_source(str(place), rows=kind, cache_dir=home() / "sources", split=_split(place))


def _split(place: Path) -> str:
    """The split for tests, if a folder holds one beside others; "" for whatever training reads."""
    if not place.is_dir():
        return ""
    if (place / "dataset_dict.json").is_file():
        return "test" if (place / "test").is_dir() else ""
    try:
        files_of(place, "test")
    except DataError:  # no test split, or nothing at all, which opening it will say
        return ""
    return "test"


def _test_set(place: Path, source: "Source", rows: Callable[[], list[dict[str, Any]]]) -> TestSet:
    return TestSet(place.stem, hub_id="", split="", size=len(source), licence="the file's own", rows=rows)
