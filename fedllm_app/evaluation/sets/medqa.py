"""MedQA (Jin et al. 2021, "What Disease does this Patient Have?"): questions of the US licensing examination.

The English test with four options. Prompt: question, lettered options and "Answer:"; the likeliest letter is the
answer.

Read are the Hub's columns (question, options as an object of letter -> text, answer_idx) and those of the published
phrases_no_exclude_test.jsonl, which are the same; options as a list of {key, value}; and sent1, ending0 to 3, label.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from fedllm_app.data.errors import DataError
from fedllm_app.evaluation.sets.letters import (
    LETTERS,
    field_of,
    letter_of,
    likeliest_letter,
    options_of,
    question_of_options,
    text_of,
)
from fedllm_app.evaluation.suite import Question, TestRow, TestSet

_ENDINGS = ("ending0", "ending1", "ending2", "ending3")
_PUBLISHED = "phrases_no_exclude_test.jsonl"

TEST = TestSet(
    name="medqa",
    hub_id="GBaker/MedQA-USMLE-4-options",
    split="test",
    size=1273,
    licence="CC-BY-4.0",
    files=(f"medqa/{_PUBLISHED}", f"medqa/4_options/{_PUBLISHED}", f"medqa/questions/US/4_options/{_PUBLISHED}"),
)


def parts(number: int, row: TestRow) -> tuple[str, tuple[str, ...], str]:
    """Question, four options and the right letter, as they stand in the row. DataError names what it lacks."""
    question = text_of(TEST, number, row, "question", "sent1")
    if row.get("options") is None and "ending0" in row:
        options = options_of(TEST, number, row, _ENDINGS)
        return question, options, letter_of(TEST, number, row, "label", options)
    by_letter = _by_letter(number, field_of(TEST, number, row, "options"))
    if list(by_letter) != list(LETTERS[:4]):
        raise DataError(
            f'medqa, row {number}, column "options": four options A to D are needed, not {", ".join(by_letter)}; take '
            "the variant with four options"
        )
    options = tuple(by_letter.values())
    if row.get("answer_idx") is not None:
        return question, options, letter_of(TEST, number, row, "answer_idx", options)
    answer = field_of(TEST, number, row, "answer")
    if answer not in options:
        raise DataError(f'medqa, row {number}, column "answer": {answer!r} is none of the options')
    return question, options, LETTERS[options.index(answer)]


def _by_letter(number: int, options: Any) -> dict[str, str]:
    """Texts by letter, sorted."""
    if isinstance(options, Mapping):
        pairs = [(key, text) for key, text in options.items() if text is not None]
    elif isinstance(options, Sequence) and all(
        isinstance(one, Mapping) and {"key", "value"} <= one.keys() for one in options
    ):
        pairs = [(one["key"], one["value"]) for one in options]
    else:
        raise DataError(
            f'medqa, row {number}, column "options": an object of letter -> text, or a list of objects with key and '
            "value, is needed"
        )
    return {str(key): str(text) for key, text in sorted(pairs)}


def questions(rows: list[TestRow], _shots: list[TestRow]) -> list[Question]:
    """A question for each row; DataError names one that lacks something."""
    return [question_of_options(*parts(number, row)) for number, row in enumerate(rows, 1)]


TASK = likeliest_letter("medqa", TEST, questions, "Jin et al. 2021, English, four options")
