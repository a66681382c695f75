"""DROP (Dua et al. 2019): questions on a passage that need counting, sorting or arithmetic.

Prompt: passage and question, then "Answer:", behind three worked examples, the first rows of the training split that
are about different passages. Greedy, at most 48 new tokens, up to an empty line, behind which the next example would
begin. The answer is the first line that is not blank.

F1 and exact match are the official evaluation's, from lm-evaluation-harness: small letters, without articles and
punctuation, numbers as numbers; F1 of the words is 0 where the right answer has a number and the answer has not the
same. Of all given answers the best counts. A right answer of several spans is compared with the parts of the line
between commas, as the worked examples write them; one of a single span with the whole line.

InstructEval (Chia et al. 2023), probably the code behind the OpenFedLLM paper's figures, asks only questions with a
single span and counts an answer that begins with it, so its figure is neither of the two.
"""

from collections.abc import Iterator, Mapping
from typing import Any

from fedllm_app.data.errors import DataError
from fedllm_app.evaluation.sets.bbh import first_line
from fedllm_app.evaluation.sets.letters import text_of
from fedllm_app.evaluation.suite import (
    Answer,
    EvaluationTask,
    Generate,
    Grade,
    Metric,
    Question,
    TestRow,
    TestSet,
    each,
)

SHOTS = 3

_EMPTY = "empty answers"
_DATE = ("day", "month", "year")
_HUB, _LICENCE = "EleutherAI/drop", "CC-BY-4.0"

TEST = TestSet(
    "drop", _HUB, "validation", 9536, _LICENCE, files=("drop/drop_dataset_dev.json", "drop_dataset_dev.json")
)
TRAIN = TestSet(
    "drop-train",
    _HUB,
    "train",
    77409,
    _LICENCE,
    files=("drop/drop_dataset_train.json", "drop_dataset_train.json", "drop/train*"),
)


def questions(rows: list[TestRow], shots: list[TestRow]) -> list[Question]:
    """A question for each row, or for each of a passage's `qa_pairs` as the original file has them.

    DataError names a row that lacks something, or whose answers are not in the official form.
    """
    examples: dict[str, tuple[str, str]] = {}
    for passage, text, answers in _items(TRAIN, shots):
        if passage not in examples:
            examples[passage] = (text, ", ".join(answers[0]))
        if len(examples) == SHOTS:
            break
    before = "".join(f"{text}\nAnswer: {answer}\n\n" for text, answer in examples.values())
    turns = tuple(turn for text, answer in examples.values() for turn in (("user", text), ("assistant", answer)))
    return [
        Question(text, f"{before}{text}\nAnswer:", gold=[list(answer) for answer in answers], turns=turns)
        for _, text, answers in _items(TEST, rows)
    ]


def _items(test: TestSet, rows: list[TestRow]) -> Iterator[tuple[str, str, list[tuple[str, ...]]]]:
    """Passage, passage with question, and the right answers, each a tuple of spans."""
    for number, row in enumerate(rows, 1):
        passage = text_of(test, number, row, "passage").strip()
        for pair in row.get("qa_pairs") or [row]:
            question = text_of(test, number, pair, "question").strip()
            yield passage, f"{passage} {question}", _answers(test, number, pair)


def _answers(test: TestSet, number: int, row: TestRow) -> list[tuple[str, ...]]:
    from lm_eval.tasks.drop.utils import parse_answer

    if not isinstance(row.get("answer"), Mapping):
        form = (
            '; "answers_spans" does not say whether its spans are parts of one answer or several answers'
            if "answers_spans" in row
            else ""
        )
        raise DataError(
            f"{test.name}, row {number}: column 'answer' must hold number, date and spans{form}. Take {_HUB} of the "
            "Hub or drop_dataset_dev.json"
        )
    given = [_official(value) for value in (row["answer"], *_validated(row.get("validated_answers")))]
    found = [tuple(span for span in parse_answer(value) if span.strip()) for value in given]
    answers = list(dict.fromkeys(answer for answer in found if answer))
    if not answers:
        raise DataError(f'{test.name}, row {number}, column "answer": number, date and spans are all empty')
    return answers


def _validated(value: Any) -> list[Any]:
    """Further answers: a list of them, or on the Hub a list for each of their parts."""
    if not value:
        return []
    if isinstance(value, Mapping):
        columns = [value.get(key) or [] for key in ("number", "date", "spans")]
        return [{"number": number, "date": date, "spans": spans} for number, date, spans in zip(*columns, strict=True)]
    return list(value)


def _official(answer: Mapping[str, Any]) -> dict[str, Any]:
    """An answer with all the parts that the official evaluation reads."""
    date = answer.get("date") or {}
    number = answer.get("number")
    return {
        "number": "" if number is None else str(number),
        "spans": [str(span) for span in answer.get("spans") or []],
        "date": {part: str(date.get(part) or "") for part in _DATE},
    }


def grade(question: Question, answer: Answer) -> Grade:
    """F1 and exact match, each the best over the right answers."""
    from lm_eval.tasks.drop.utils import get_metrics

    line = first_line(answer.texts[0])
    scores = [get_metrics(_spans(line) if len(gold) > 1 else line, tuple(gold)) for gold in question.gold]
    exact, f1 = max(exact for exact, _ in scores), max(f1 for _, f1 in scores)
    if not line:  # equals a right answer that has no word once articles are removed
        exact = f1 = 0.0
    values = {"F1": float(f1), "exact match": float(exact), _EMPTY: float(not line)}
    return Grade(values, {"predicted": line})


def _spans(line: str) -> list[str]:
    return [part.strip() for part in line.split(", ") if part.strip()] or [line]


TASK = EvaluationTask(
    name="drop",
    needs=("lm_eval",),
    test=TEST,
    shots=TRAIN,
    questions=questions,
    ask=Generate(48, stops=("\n\n",)),
    grade=each(grade),
    metrics=(
        Metric("F1", "mean", "F1"),
        Metric("exact match", "share", "exact match"),
        Metric(_EMPTY, "count", _EMPTY, percent=False, lower_is_better=True),
    ),
    rule=(
        "Three worked examples of the training split where it is in the data, else none; passage and question; greedy, "
        "48 new tokens, first line; the official F1 (aware of numbers) and exact match, best over the given answers "
        "(Dua et al. 2019)."
    ),
    template="plain",
)
