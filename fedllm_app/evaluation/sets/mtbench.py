"""MT-Bench (arXiv 2306.05685): 80 questions with a follow-up each, answers rated by a judge.

Unlike FastChat, which samples in some categories, all answers are decoded greedily, so that a run can be repeated.
"""

from fedllm_app.data.errors import DataError
from fedllm_app.evaluation.graders.judge import (
    MISSING_RATINGS,
    TURNS,
    judged,
    mean_rating,
    rating_metric,
)
from fedllm_app.evaluation.suite import Converse, EvaluationTask, Metric, Question, TestRow, TestSet

WITH_REFERENCE = frozenset({"math", "reasoning", "coding"})
"""The categories that are rated with a reference answer beside them."""

QUESTIONS = TestSet(
    name="mt-bench",
    hub_id="lighteval/mt-bench",
    split="train",
    size=80,
    licence="Apache-2.0 (FastChat's)",
    files=("mt-bench/question.jsonl",),
    url="https://github.com/lm-sys/FastChat/blob/main/fastchat/llm_judge/data/mt_bench/question.jsonl",
)

REFERENCES = TestSet(
    name="mt-bench-references",
    hub_id="",
    split="",
    size=30,
    licence="Apache-2.0 (FastChat's)",
    files=("mt-bench/reference_answers.jsonl",),
    url="https://github.com/lm-sys/FastChat/blob/main/fastchat/llm_judge/data/mt_bench/reference_answer/gpt-4.jsonl",
)


def turns_of(row: TestRow, number: int, count: int, source: str) -> list[str]:
    """The `count` texts of the column `turns`; DataError names row `number` (from 1) of `source`."""
    turns = row.get("turns")
    if not isinstance(turns, (list, tuple)) or not all(isinstance(turn, str) and turn.strip() for turn in turns):
        raise DataError(f"{source}, row {number}: the column turns must hold texts that are not empty")
    if len(turns) != count:
        raise DataError(f"{source}, row {number}: the column turns must hold {count} texts, and holds {len(turns)}")
    return list(turns)


def references_of(rows: list[TestRow]) -> dict[str, list[str]]:
    """The reference answers to both turns, by the question's id.

    Raises
    ------
    DataError
        A row lacks its id or an answer, or repeats an id.
    """
    references: dict[str, list[str]] = {}
    for number, row in enumerate(rows, 1):
        identity = str(row.get("question_id", ""))
        if not identity or identity in references:
            raise DataError(
                f"{REFERENCES.name}, row {number}: the column question_id is "
                + ("missing" if not identity else f"{identity}, as in an earlier row: keep one answer to each question")
            )
        choices = row.get("choices")
        if not isinstance(choices, (list, tuple)) or not choices or not isinstance(choices[0], dict):
            raise DataError(f"{REFERENCES.name}, row {number}: the column choices must hold an answer with its turns")
        references[identity] = turns_of(choices[0], number, len(TURNS), REFERENCES.name)
    return references


def questions(rows: list[TestRow], reference_rows: list[TestRow]) -> list[Question]:
    """Two turns each; `gold` holds the reference answers in the categories that have them, else None.

    Raises
    ------
    DataError
        A row lacks a turn; or there are reference answers, and none to a question that needs one.
    """
    references = references_of(reference_rows)
    asked = []
    for number, row in enumerate(rows, 1):
        first, second = turns_of(row, number, len(TURNS), QUESTIONS.name)
        category, identity = str(row.get("category", "")), str(row.get("question_id", ""))
        gold = None
        if references and category in WITH_REFERENCE:
            if identity not in references:
                raise DataError(
                    f"{QUESTIONS.name}, row {number}: {REFERENCES.name} has no answer to question {identity}; take the "
                    "whole file, or none, to rate all answers without"
                )
            gold = references[identity]
        asked.append(Question(first, gold=gold, group=category, follow_up=second, row={"question_id": identity}))
    return asked


TASK = EvaluationTask(
    name="mt-bench",
    test=QUESTIONS,
    questions=questions,
    ask=Converse(max_new_tokens=1024),
    grade=judged,
    metrics=(
        Metric("average", "statistic", statistic=mean_rating, percent=False),
        rating_metric("turn 1", TURNS[0]),
        rating_metric("turn 2", TURNS[1]),
        Metric(MISSING_RATINGS, "count", MISSING_RATINGS, percent=False, lower_is_better=True),
    ),
    rule="Two turns, at most 1,024 tokens each, greedy (FastChat samples in some categories). A judge rates each "
    "answer by itself from 1 to 10, in math, reasoning and coding beside a reference answer. Average: the mean of all "
    "ratings of both turns. Missing ratings: turns without a rating of answers whose other turn has one; an answer "
    "without any is missing itself. Source: arXiv 2306.05685, with judging prompts of our own.",
    shots=REFERENCES,
)
