"""A suite of your own: does the model choose the right answer, and does it write a date the way your house does?

    fedllm evaluate RUN --suite examples/own_suite.py --data-dir DIR

DIR holds `house-choices.jsonl`, rows of "question", "options" (a list) and "answer" (one of them), and the folder
`house-dates` with a file of the split "test", rows of "text" and "date" (2026-03-07). This file is executed, and
what it names SUITE is taken.
"""

import re

from fedllm_app.data.errors import DataError
from fedllm_app.evaluation.suite import (
    Answer,
    Average,
    Choose,
    EvaluationTask,
    Generate,
    Grade,
    Metric,
    Question,
    Suite,
    TestSet,
    each,
)

CHOICES = TestSet("house-choices", hub_id="", split="", size=40, licence="ours", url="https://example.org/choices")
DATES = TestSet("house-dates", hub_id="", split="test", size=25, licence="ours", url="https://example.org/dates")

ACCURACY = (Metric("accuracy", "share", "correct"),)
FOUND = (*ACCURACY, Metric("without a date", "count", "none"))

_DATE = re.compile(r"\d{4}-\d{2}-\d{2}")


def choices(rows, _shots) -> list[Question]:
    for number, row in enumerate(rows, 1):
        if row["answer"] not in row["options"]:
            raise DataError(f'house-choices, row {number}: column "answer" is none of "options"')
    return [Question(row["question"], gold=row["answer"], choices=tuple(row["options"])) for row in rows]


def best(question: Question, answer: Answer) -> Grade:
    """The answer with the highest likelihood a token counts."""
    scores = [total / tokens for total, tokens in zip(answer.log_likelihoods, answer.tokens, strict=True)]
    return Grade({"correct": float(question.choices[scores.index(max(scores))] == question.gold)})


def dates(rows, _shots) -> list[Question]:
    return [Question(f"Which date is meant? Answer as YYYY-MM-DD.\n\n{row['text']}", gold=row["date"]) for row in rows]


def first_date(question: Question, answer: Answer) -> Grade:
    """The first date of the text counts; a text without one is wrong, and counted."""
    found = _DATE.search(answer.texts[0])
    return Grade({"correct": float(bool(found) and found[0] == question.gold), "none": float(not found)})


SUITE = Suite(
    "house",
    "what our house asks of a model",
    (
        EvaluationTask(
            "choices", CHOICES, choices, Choose(), each(best), ACCURACY, "Likelihood a token of each option."
        ),
        EvaluationTask("dates", DATES, dates, Generate(32), each(first_date), FOUND, "The first date of the answer."),
    ),
    (Average("accuracy", (("choices", "accuracy"), ("dates", "accuracy"))),),
)
