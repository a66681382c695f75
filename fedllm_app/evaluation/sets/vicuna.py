"""Vicuna-Bench: 80 questions of one turn, answers rated by a judge without reference answers."""

from fedllm_app.evaluation.graders.judge import RATING, judged, rating_metric
from fedllm_app.evaluation.sets.mtbench import turns_of
from fedllm_app.evaluation.suite import Converse, EvaluationTask, Question, TestRow, TestSet

QUESTIONS = TestSet(
    name="vicuna-bench",
    hub_id="",
    split="",
    size=80,
    licence="Apache-2.0 (FastChat's)",
    files=("vicuna-bench/question.jsonl",),
    url="https://github.com/lm-sys/FastChat/blob/main/fastchat/llm_judge/data/vicuna_bench/question.jsonl",
)


def questions(rows: list[TestRow], _none: list[TestRow]) -> list[Question]:
    """One turn each. DataError names a row without it."""
    return [
        Question(
            turns_of(row, number, 1, QUESTIONS.name)[0],
            group=str(row.get("category", "")),
            row={"question_id": str(row.get("question_id", ""))},
        )
        for number, row in enumerate(rows, 1)
    ]


TASK = EvaluationTask(
    name="vicuna-bench",
    test=QUESTIONS,
    questions=questions,
    ask=Converse(max_new_tokens=1024),
    grade=judged,
    metrics=(rating_metric("Vicuna", RATING),),
    rule="One turn, at most 1,024 tokens, greedy. A judge rates each answer by itself from 1 to 10, without reference "
    "answer; an answer without rating is missing. Source: FastChat's vicuna_bench, with judging prompts of our own.",
)
