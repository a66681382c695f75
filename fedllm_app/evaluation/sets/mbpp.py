"""MBPP (Austin et al. 2021, "Program Synthesis with Large Language Models"): 500 short Python tasks with three tests.

Rows with task_id 11 to 510 are the test; 2, 3 and 4 are the three worked examples, as in the paper. Prompt: the paper's
wording with the published tests, and the code between [BEGIN] and [DONE]; "\\r\\n" is written as "\\n". Under a chat
template the examples are earlier turns. Greedy, at most 512 new tokens, up to [DONE].

The program that is tested: what follows the answer's own [BEGIN] if it has one, up to [DONE]; of that the first code
block if there is one (a last one may be open). Then the setup and the three tests of the row run. The challenge tests
of some rows do not.
"""

from collections.abc import Sequence
from typing import Any

from fedllm_app.data.errors import DataError
from fedllm_app.evaluation.graders.code import METRICS, code_block, code_grader
from fedllm_app.evaluation.suite import EvaluationTask, Generate, Question, TestRow, TestSet

BEGIN, DONE = "[BEGIN]", "[DONE]"

TEST_IDS = range(11, 511)
SHOT_IDS = (2, 3, 4)

_HUB = "google-research-datasets/mbpp"
_FILES = ("mbpp/mbpp.jsonl", "mbpp.jsonl")

TEST = TestSet(name="mbpp", hub_id=_HUB, configs=("full",), split="test", size=500, licence="CC-BY-4.0", files=_FILES)
SHOTS = TestSet(
    name="mbpp-prompt",  # a name of its own: rows are kept by it, and the test split does not hold these
    hub_id=_HUB,
    configs=("full",),
    split="prompt",
    size=10,
    licence="CC-BY-4.0",
    files=(*_FILES, "mbpp/prompt*", "mbpp/full/prompt*"),
)


def questions(rows: list[TestRow], shots: list[TestRow]) -> list[Question]:
    """A question for each row of the test part, with the worked examples that `shots` holds.

    DataError names a row that lacks a column; it says so if no row belongs to the test part.
    """
    by_id = {_task_id(number, row): (number, row) for number, row in enumerate(shots, 1)}
    examples = [
        (_request(*by_id[wanted]), _text(*by_id[wanted], "code").strip()) for wanted in SHOT_IDS if wanted in by_id
    ]
    before = "".join(f"{request}\n{BEGIN}\n{code}\n{DONE}\n\n" for request, code in examples)
    turns = tuple(
        turn for request, code in examples for turn in (("user", request), ("assistant", f"{BEGIN}\n{code}\n{DONE}"))
    )
    asked = []
    for number, row in enumerate(rows, 1):
        if _task_id(number, row) not in TEST_IDS:
            continue
        request = _request(number, row)
        kept = {
            "task_id": row["task_id"],
            "setup": _text(number, row, "test_setup_code"),
            "tests": "\n".join(_tests(number, row)),
        }
        plain = f"{before}{request}\n{BEGIN}\n"
        asked.append(Question(request, plain, gold=_text(number, row, "code"), turns=turns, row=kept))
    if not asked:
        raise DataError(
            f"MBPP: none of {len(rows)} rows has a task_id from {TEST_IDS[0]} to {TEST_IDS[-1]}, the test part; take "
            "mbpp.jsonl as it is published, or split test"
        )
    return asked


def program(question: Question, text: str) -> tuple[str, str]:
    """The program that an answer makes, and its tests (rule above)."""
    text = text.replace("\r\n", "\n").partition(DONE)[0]
    text = text.partition(BEGIN)[2] if BEGIN in text else text
    code = code_block(text)
    return (text if code is None else code), f"{question.row['setup']}\n{question.row['tests']}\n"


def _request(number: int, row: TestRow) -> str:
    tests = "\n".join(_tests(number, row))
    return (
        f"You are an expert Python programmer, and here is your task: {_text(number, row, 'text')} Your code should "
        f"pass these tests:\n\n{tests}"
    )


def _task_id(number: int, row: TestRow) -> int:
    value = _value(number, row, "task_id")
    if isinstance(value, bool) or not isinstance(value, int):
        raise DataError(f'MBPP, row {number}, column "task_id": a whole number is needed')
    return value


def _text(number: int, row: TestRow, column: str) -> str:
    value = _value(number, row, column)
    if not isinstance(value, str):
        raise DataError(f'MBPP, row {number}, column "{column}": a text is needed')
    return value.replace("\r\n", "\n")


def _tests(number: int, row: TestRow) -> list[str]:
    value = _value(number, row, "test_list")
    if not isinstance(value, Sequence) or isinstance(value, str) or not all(isinstance(test, str) for test in value):
        raise DataError(f'MBPP, row {number}, column "test_list": a list of texts is needed')
    if not value:
        raise DataError(f'MBPP, row {number}, column "test_list": it is empty, so any program would pass')
    return [test.replace("\r\n", "\n") for test in value]


def _value(number: int, row: TestRow, column: str) -> Any:
    if column not in row:
        raise DataError(
            f'MBPP, row {number}: there is no column "{column}" (needed: task_id, text, code, test_list, '
            "test_setup_code); take the set as it is published"
        )
    return row[column]


TASK = EvaluationTask(
    name="mbpp",
    test=TEST,
    shots=SHOTS,
    questions=questions,
    ask=Generate(512, stops=(DONE,)),
    grade=code_grader(program),
    metrics=METRICS,
    rule=(
        "Three worked examples (task_id 2, 3, 4), the paper's prompt with the three tests, greedy, 512 new tokens up "
        "to [DONE]; the code, or its first code block, run against the tests; pass@1 (Austin et al. 2021)."
    ),
    template="plain",
)
