"""MedMCQA (Pal et al. 2022): questions of Indian medical entrance examinations, four options each.

The validation part, because the answers of the test part are not published. Prompt: question, lettered options and
"Answer:"; the likeliest letter is the answer.

Column "cop" says the right option: on the Hub from 0, in the published dev.json from 1. Which one it is shows in the
whole set: a 0 or a 4 occurs. Where neither does, letters are needed.
"""

from fedllm_app.data.errors import DataError
from fedllm_app.evaluation.sets.letters import (
    field_of,
    letter_of,
    likeliest_letter,
    options_of,
    question_of_options,
    text_of,
)
from fedllm_app.evaluation.suite import Question, TestRow, TestSet

_OPTIONS = ("opa", "opb", "opc", "opd")

TEST = TestSet(
    name="medmcqa",
    hub_id="openlifescienceai/medmcqa",
    split="validation",
    size=4183,
    licence="Apache-2.0",
    files=("medmcqa/dev.json", "medmcqa/data/dev.json"),
)


def parts(rows: list[TestRow]) -> list[tuple[str, tuple[str, ...], str]]:
    """Of each row, as they stand in it: question, four options and the right letter. DataError names what one lacks."""
    first = _first(rows)
    found = []
    for number, row in enumerate(rows, 1):
        options = options_of(TEST, number, row, _OPTIONS)
        question = text_of(TEST, number, row, "question")
        found.append((question, options, letter_of(TEST, number, row, "cop", options, first)))
    return found


def _first(rows: list[TestRow]) -> int:
    """What "cop" counts from; 0 if it is letters only."""
    values = {str(field_of(TEST, number, row, "cop")).strip() for number, row in enumerate(rows, 1)}
    if {"0", "4"} <= values:
        raise DataError('medmcqa, column "cop": it holds both 0 and 4, so it counts neither from 0 nor from 1')
    numbers = {value for value in values if value.isdecimal()}
    if numbers and not numbers & {"0", "4"}:
        raise DataError(
            'medmcqa, column "cop": it holds neither 0 nor 4, so whether it counts from 0 (the Hub) or from 1 '
            "(published dev.json) cannot be seen; write letters a to d, or take the whole set"
        )
    return 1 if "4" in numbers else 0


def questions(rows: list[TestRow], _shots: list[TestRow]) -> list[Question]:
    """A question for each row; DataError names one that lacks something."""
    return [question_of_options(*those) for those in parts(rows)]


TASK = likeliest_letter("medmcqa", TEST, questions, "Pal et al. 2022, validation")
