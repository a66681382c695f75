"""PubMedQA (Jin et al. 2019): 500 questions about abstracts of medical papers, answered yes, no or maybe.

Prompt: the sections of the abstract without its conclusion, the question and "Answer:"; the most likely of the three
words is the answer. The conclusion (`LONG_ANSWER`) is not shown: the paper's "reasoning-required" setting.

The test part are the 500 ids of the published test_ground_truth.json, looked for beside the file of the 1,000 labelled
records; it is also the test split of every fold. Without that file (the Hub has none) all records are asked, and the
number of questions shows it.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from fedllm_app.data.errors import DataError
from fedllm_app.evaluation.sets.letters import ACCURACY, by_likelihood, field_of, macro_f1, table_rows, text_of
from fedllm_app.evaluation.suite import Choose, EvaluationTask, Metric, Question, TestRow, TestSet

ANSWERS = ("yes", "no", "maybe")

TEST_SIZE = 500

_TEST_IDS = "test_ground_truth.json"
_FOLDERS = ("pubmedqa", "pubmedqa/data")
_NAMES = ("test_set.json", "ori_pqal.json", "test.*", "test-*", "pqa_labeled")


def read(path: Path) -> list[dict[str, Any]]:
    """The rows of a file; an object of id -> record is one row each, with "id".

    If test_ground_truth.json lies beside it, only the records it names, in the file's order.

    Raises
    ------
    DataError
        The file is neither such an object nor a table; or it lacks a record that test_ground_truth.json names.
    """
    rows = _records(path)
    ids_file = path.with_name(_TEST_IDS)
    if not ids_file.is_file():
        return rows
    ids = _json_object(ids_file)
    chosen = [row for row in rows if _id(row) in ids]
    if absent := ids.keys() - {_id(row) for row in chosen}:
        raise DataError(
            f"pubmedqa: {path} lacks {len(absent)} of the {len(ids)} records that {ids_file.name} beside it names, "
            f"such as {min(absent)}; take ori_pqal.json as it is published, or remove {ids_file.name}"
        )
    return chosen


def _records(path: Path) -> list[dict[str, Any]]:
    if path.suffix.lower() != ".json":
        return table_rows("pubmedqa", path)
    whole = _json(path)
    if not isinstance(whole, dict) or not all(isinstance(record, dict) for record in whole.values()):
        return table_rows("pubmedqa", path)
    return [{"id": key, **record} for key, record in whole.items()]


def _json(path: Path) -> Any:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except json.JSONDecodeError:  # lines of JSON under the wrong ending, which the reader of tables knows
        return None


def _json_object(path: Path) -> dict[str, Any]:
    whole = _json(path)
    if not isinstance(whole, dict):
        raise DataError(f"pubmedqa: {path} is no JSON object of id -> answer; take it as it is published")
    return whole


def _id(row: TestRow) -> str:
    return str(row.get("id") or row.get("pubid") or row.get("PMID") or "")


TEST = TestSet(
    name="pubmedqa",
    hub_id="qiaojin/PubMedQA",
    configs=("pqa_labeled",),
    split="train",  # of the Hub's copy, which has no other
    size=TEST_SIZE,
    licence="MIT",
    files=tuple(f"{folder}/{name}" for folder in _FOLDERS for name in _NAMES),
    read=read,
)


def parts(number: int, row: TestRow) -> tuple[str, str, str]:
    """Sections of the abstract, one a line, question and right answer, as they stand in the row.

    Raises
    ------
    DataError
        The row lacks a column, or its answer is none of the three.
    """
    question = text_of(TEST, number, row, "QUESTION", "question")
    sections = field_of(TEST, number, row, "CONTEXTS", "contexts", "context")
    if isinstance(sections, Mapping):
        sections = field_of(TEST, number, sections, "contexts")
    if isinstance(sections, str):
        sections = [sections]
    if not sections or not all(isinstance(section, str) for section in sections):
        raise DataError(f'pubmedqa, row {number}, column "CONTEXTS": a list of texts is needed')
    gold = text_of(TEST, number, row, "final_decision", "answer")
    if gold not in ANSWERS:
        raise DataError(f'pubmedqa, row {number}, column "final_decision": {gold!r} is none of {", ".join(ANSWERS)}')
    return "\n".join(sections), question, gold


def questions(rows: list[TestRow], _shots: list[TestRow]) -> list[Question]:
    """A question for each row; DataError names one that lacks something."""
    asked = []
    for number, row in enumerate(rows, 1):
        abstract, question, gold = parts(number, row)
        prompt = f"Abstract: {abstract}\nQuestion: {question}\nAnswer:"
        request = f"{abstract}\n\n{question}\n\nAnswer yes, no or maybe."
        asked.append(Question(request, prompt, gold=gold, choices=ANSWERS, row={"id": _id(row)}))
    return asked


TASK = EvaluationTask(
    name="pubmedqa",
    test=TEST,
    questions=questions,
    ask=Choose(),
    grade=by_likelihood(),
    metrics=(ACCURACY, Metric("macro F1", "statistic", statistic=macro_f1(ANSWERS))),
    rule=(
        "Abstract without conclusion, question; the likeliest of yes, no, maybe; accuracy and macro F1 (Jin et al. "
        f"2019). The {TEST_SIZE} records that test_ground_truth.json names where it is in the data, else all that are."
    ),
    template="plain",
)
