"""Questions of MT-Bench and Vicuna-Bench from rows made by hand, and from the published files where they are."""

import json
from dataclasses import replace

import pytest
from places import SHARED_DATA

from fedllm_app.data.errors import DataError
from fedllm_app.evaluation.graders.judge import turn_prompts
from fedllm_app.evaluation.sets import mtbench, vicuna
from fedllm_app.evaluation.suite import Answer, Converse, Grade, Means, Question

WRITING = {"question_id": 81, "category": "writing", "turns": ["Write.", "Rewrite."]}
MATH = {"question_id": 111, "category": "math", "turns": ["Add.", "Double."], "reference": ["unused", "unused"]}
REFERENCE = {"question_id": "111", "choices": [{"index": 0, "turns": ["Five.", "Ten."]}]}


def test_a_question_has_two_turns_and_references_in_three_categories_only():
    writing, math = mtbench.TASK.questions([WRITING, MATH], [REFERENCE, {**REFERENCE, "question_id": 81}])
    assert writing == Question("Write.", group="writing", follow_up="Rewrite.", row={"question_id": "81"})
    assert (math.text, math.follow_up, math.group, math.gold) == ("Add.", "Double.", "math", ["Five.", "Ten."])


def test_without_reference_answers_all_is_asked_without():
    assert [question.gold for question in mtbench.TASK.questions([WRITING, MATH], [])] == [None, None]


@pytest.mark.parametrize(
    ("rows", "references", "message"),
    [
        ([WRITING, {"category": "math"}], [], "mt-bench, row 2: the column turns"),
        ([{**WRITING, "turns": ["One."]}], [], "row 1: .* must hold 2 texts, and holds 1"),
        ([{**WRITING, "turns": ["One.", " "]}], [], "row 1: .* not empty"),
        ([{**WRITING, "turns": "No"}], [], "row 1"),
        ([WRITING, {**MATH, "question_id": 112}], [REFERENCE], "row 2: .* no answer to question 112"),
        ([MATH], [REFERENCE, REFERENCE], "mt-bench-references, row 2: .* 111, as in an earlier row"),
        ([MATH], [{"choices": REFERENCE["choices"]}], "mt-bench-references, row 1: .* missing"),
        ([MATH], [{"question_id": 111}], "mt-bench-references, row 1: the column choices"),
        ([MATH], [{"question_id": 111, "choices": [{"turns": ["One."]}]}], "mt-bench-references, row 1: .* 2 texts"),
    ],
)
def test_a_row_that_lacks_something_is_named(rows, references, message):
    with pytest.raises(DataError, match=message):
        mtbench.TASK.questions(rows, references)


def test_vicuna_bench_has_one_turn():
    rows = [{"question_id": 1, "category": "generic", "turns": ["How?"]}]
    assert vicuna.TASK.questions(rows, []) == [Question("How?", group="generic", row={"question_id": "1"})]
    with pytest.raises(DataError, match="vicuna-bench, row 1"):
        vicuna.TASK.questions([{"turns": ["One.", "Two."]}], [])


def test_the_figures_are_means_of_ratings():
    """Ratings 8 and 6, then 1 alone: turn 1 (8 + 1) / 2, turn 2 6, all (8 + 6 + 1) / 3 = 5, one missing."""
    grades = [
        Grade({"turn 1": 8.0, "turn 2": 6.0, "rating": 7.0, "missing ratings": 0.0}),
        Grade({"turn 1": 1.0, "missing ratings": 1.0}),
    ]
    average, *others = mtbench.TASK.metrics
    assert (average.name, average.kind, average.statistic(grades)) == ("average", "statistic", 5.0)
    assert [(metric.name, metric.kind) for metric in others] == [
        ("turn 1", "mean"),
        ("turn 2", "mean"),
        ("missing ratings", "count"),
    ]
    shown = [[grade.values[metric.key] for grade in grades if metric.key in grade.values] for metric in others]
    assert shown == [[8.0, 1.0], [6.0], [0.0, 1.0]]
    assert not any(metric.percent for metric in (*mtbench.TASK.metrics, *vicuna.TASK.metrics))
    assert [(metric.name, metric.kind, metric.key) for metric in vicuna.TASK.metrics] == [("Vicuna", "mean", "rating")]


@pytest.mark.parametrize("task", [mtbench.TASK, vicuna.TASK])
def test_answers_are_long_and_without_a_judge_not_judged(task):
    assert task.ask == Converse(1024)
    assert task.grade([Question("a")], [Answer(("b",))], Means()) == [Grade(missing="not judged")]


def published(pattern):
    path = SHARED_DATA / pattern
    if not path.exists():
        pytest.skip(f"{pattern} is not among the shared data")
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def test_the_published_files_hold_80_questions_with_30_references():
    rows = published(mtbench.QUESTIONS.files[0])
    asked = mtbench.TASK.questions(rows, published(mtbench.REFERENCES.files[0]))
    assert (len(asked), sum(question.gold is not None for question in asked)) == (mtbench.QUESTIONS.size, 30)
    assert {question.group for question in asked if question.gold} == mtbench.WITH_REFERENCE
    first = next(question for question in asked if question.gold)
    assert first.gold[1] in turn_prompts(first, Answer(("x", "y")))[1]
    assert first.gold[1] not in turn_prompts(replace(first, gold=None), Answer(("x", "y")))[1]


def test_the_published_file_of_vicuna_bench_holds_80_questions():
    asked = vicuna.TASK.questions(published(vicuna.QUESTIONS.files[0]), [])
    assert (len(asked), len({question.group for question in asked})) == (vicuna.QUESTIONS.size, 9)
