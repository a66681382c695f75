"""CareQA (Arias-Duart et al. 2025): questions of the Spanish specialised health training exams, in English.

Four options each. Prompt: question, lettered options and "Answer:"; the likeliest letter is the answer. Column "cop"
counts the right option from 1. A row without a question (the Hub's file has one) is not asked; the number of questions
shows it.
"""

from fedllm_app.data.errors import DataError
from fedllm_app.evaluation.sets.letters import letter_of, likeliest_letter, options_of, question_of_options, text_of
from fedllm_app.evaluation.suite import Question, TestRow, TestSet

_OPTIONS = ("op1", "op2", "op3", "op4")

TEST = TestSet(
    name="careqa",
    hub_id="HPAI-BSC/CareQA",
    configs=("CareQA_en",),
    split="test",
    size=5621,
    licence="Apache-2.0",
    files=("careqa/CareQA_en.*", "CareQA_en.*", "careqa/CareQA_en"),
)


def parts(rows: list[TestRow]) -> list[tuple[str, tuple[str, ...], str]]:
    """Of each row that has a question, as they stand in it: question, four options and the right letter.

    Raises
    ------
    DataError
        A row lacks a column; or no row has a question.
    """
    found = []
    for number, row in enumerate(rows, 1):
        if "question" in row and row["question"] is None:
            continue
        options = options_of(TEST, number, row, _OPTIONS)
        question = text_of(TEST, number, row, "question")
        found.append((question, options, letter_of(TEST, number, row, "cop", options, first=1)))
    if not found:
        raise DataError(f'careqa, column "question": none of {len(rows)} rows has one')
    return found


def questions(rows: list[TestRow], _shots: list[TestRow]) -> list[Question]:
    """A question for each row that has one; DataError names a row that lacks something else."""
    return [question_of_options(*those) for those in parts(rows)]


TASK = likeliest_letter("careqa", TEST, questions, "Arias-Duart et al. 2025, English")
