"""What sets of questions with given answers share: columns, lettered options, the choice by likelihood, means, F1."""

from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

from fedllm_app.data.errors import BadRow, DataError
from fedllm_app.data.readers.base import UnreadableFile
from fedllm_app.data.readers.files import ENDINGS, format_of, read_files
from fedllm_app.evaluation.suite import (
    Answer,
    Choose,
    EvaluationTask,
    Grade,
    Grader,
    Metric,
    Question,
    TestRow,
    TestSet,
    each,
)

LETTERS = "ABCDEFGHIJ"

ACCURACY = Metric("accuracy", "share", key="correct")

UNREAD = Metric("no answer found", "count", key="no answer found")
"""For generated answers: how many give none of the set's own answers."""


def field_of(test: TestSet, number: int, row: TestRow, *names: str) -> Any:
    """The value of the first of these columns that a row has and that is not None.

    Parameters
    ----------
    number : int
        Of the row in the set, from 1.
    *names : str
        The column as the schemas of the set call it.

    Raises
    ------
    DataError
        It has none of them.
    """
    for name in names:
        if row.get(name) is not None:
            return row[name]
    wanted = " or ".join(f'"{name}"' for name in names)
    there = ", ".join(name for name in row if name != "subset")
    raise DataError(
        f"{test.name}, row {number}: there is no column {wanted} (columns: {there or 'none'}); take the set as it is "
        "published"
    )


def text_of(test: TestSet, number: int, row: TestRow, *names: str) -> str:
    """As `field_of`, of a text that is not blank, as it stands. DataError for anything else."""
    value = field_of(test, number, row, *names)
    if not isinstance(value, str) or not value.strip():
        name = next(name for name in names if row.get(name) is not None)
        raise DataError(f'{test.name}, row {number}, column "{name}": a text is needed, not {value!r}')
    return value


def options_of(test: TestSet, number: int, row: TestRow, columns: Sequence[str]) -> tuple[str, ...]:
    """The options that stand in one column each, such as ("opa", "opb", "opc", "opd").

    An option may be a number (files without types hold such) or empty, as some published rows are. DataError names a
    column that is absent.
    """
    values = []
    for column in columns:
        value = "" if column in row and row[column] is None else field_of(test, number, row, column)
        values.append(str(value))
    return tuple(values)


def letter_of(test: TestSet, number: int, row: TestRow, column: str, options: Sequence[str], first: int = 0) -> str:
    """The letter of the right option, which a column says as a letter, or as a number that counts from `first`.

    Raises
    ------
    DataError
        The column is absent, or says none of the options.
    """
    value = field_of(test, number, row, column)
    letters = LETTERS[: len(options)]
    text = str(value).strip().upper()
    if len(text) == 1 and text in letters:
        return text
    if is_whole(value) and 0 <= int(value) - first < len(letters):
        return letters[int(value) - first]
    raise DataError(
        f'{test.name}, row {number}, column "{column}": {value!r} is neither one of the letters {", ".join(letters)} '
        f"nor a number from {first} to {first + len(letters) - 1}"
    )


def is_whole(value: Any) -> bool:
    """Whether a value is a whole number, also as files without types hold it: 2, 2.0 or "2"; true and false are not."""
    if isinstance(value, str):
        return value.strip().isdecimal()
    return isinstance(value, int | float) and not isinstance(value, bool) and float(value).is_integer()


def lettered(options: Sequence[str]) -> str:
    """Lines "A. first option" and so on."""
    return "\n".join(f"{letter}. {option}" for letter, option in zip(LETTERS, options, strict=False))


def by_likelihood(label: str = "") -> Grader:
    """A grader for `Choose`: the most likely choice is the answer; of equal ones the first.

    Labels are "gold", "predicted" and, if `label` names one, that column of `Question.row`.
    """

    def rule(question: Question, answer: Answer) -> Grade:
        scores = answer.log_likelihoods
        predicted = question.choices[max(range(len(scores)), key=scores.__getitem__)]
        labels = {"gold": question.gold, "predicted": predicted} | ({label: question.row[label]} if label else {})
        return Grade({"correct": float(predicted == question.gold)}, labels)

    return each(rule)


def macro_mean(label: str) -> Callable[[Sequence[Grade]], float]:
    """The statistic that is the plain mean, over the classes of a label, of the share of right answers in each."""

    def statistic(grades: Sequence[Grade]) -> float:
        of_class: dict[str, list[float]] = defaultdict(list)
        for grade in grades:
            of_class[grade.labels[label]].append(grade.values["correct"])
        return sum(sum(values) / len(values) for values in of_class.values()) / len(of_class)

    return statistic


def macro_f1(classes: Iterable[str]) -> Callable[[Sequence[Grade]], float]:
    """The statistic that is the plain mean of F1 over these classes; a class that is never right counts as 0.

    F1 of a class is 2 · right / (gold + predicted). A class that is neither gold nor predicted anywhere is left out:
    its F1 is not defined.
    """
    names = tuple(classes)

    def statistic(grades: Sequence[Grade]) -> float:
        scores = [score for score, _ in _f1_of_classes(names, grades)]
        return sum(scores) / len(scores) if scores else 0.0

    return statistic


def weighted_f1(classes: Iterable[str]) -> Callable[[Sequence[Grade]], float]:
    """As `macro_f1`, but each class weighs as much as it is gold: the sum of F1 · gold over the sum of gold."""
    names = tuple(classes)

    def statistic(grades: Sequence[Grade]) -> float:
        scores = _f1_of_classes(names, grades)
        return sum(score * gold for score, gold in scores) / sum(gold for _, gold in scores)

    return statistic


def _f1_of_classes(names: Sequence[str], grades: Sequence[Grade]) -> list[tuple[float, int]]:
    """F1, and how often it is gold, of each class that is gold or predicted somewhere."""
    pairs = [(grade.labels["gold"], grade.labels["predicted"]) for grade in grades]
    gold, predicted = Counter(pair[0] for pair in pairs), Counter(pair[1] for pair in pairs)
    right = Counter(one for one, other in pairs if one == other)
    return [(2 * right[name] / total, gold[name]) for name in names if (total := gold[name] + predicted[name])]


def table_rows(name: str, path: Path) -> list[dict[str, Any]]:
    """The rows of a file of any format that is read. DataError names the first row of set `name` that cannot be."""
    if not format_of(path):
        raise UnreadableFile(f"{path} has no ending that says how to read it; readable are {ENDINGS}")
    rows = []
    for where, row in read_files([path]):
        if isinstance(row, BadRow):
            raise DataError(f"{name}: {where}: {row}. A test set is asked whole: repair the row, or take the set anew")
        rows.append(row)
    return rows


def question_of_options(question: str, options: Sequence[str], gold: str) -> Question:
    """The plain way to ask: the question, its lettered options, and "Answer:" before the letter."""
    listed = f"{question.strip()}\n{lettered([option.strip() for option in options])}"
    return Question(
        f"{listed}\n\nAnswer with the letter of the right option.",
        f"Question: {listed}\nAnswer:",
        gold=gold,
        choices=tuple(LETTERS[: len(options)]),
    )


def likeliest_letter(
    name: str, test: TestSet, questions: Callable[[list[TestRow], list[TestRow]], list[Question]], source: str
) -> EvaluationTask:
    """The task of a set that is asked by `question_of_options`; `source` is for its rule."""
    return EvaluationTask(
        name=name,
        test=test,
        questions=questions,
        ask=Choose(),
        grade=by_likelihood(),
        metrics=(ACCURACY,),
        rule=f'Question and lettered options; the likeliest letter after "Answer:"; accuracy ({source}).',
        template="plain",
    )
