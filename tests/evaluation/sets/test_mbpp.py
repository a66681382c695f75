"""MBPP's questions, and the programs that answers make."""

import json

import pytest
from places import SHARED_DATA

from fedllm_app.data.errors import DataError
from fedllm_app.evaluation.graders.sandbox import sandbox_problem
from fedllm_app.evaluation.sets.mbpp import TASK, program, questions
from fedllm_app.evaluation.suite import Answer, Means
from fedllm_app.evaluation.suites.code import SUITE

FILE = SHARED_DATA / "mbpp" / "mbpp.jsonl"


def row(task_id: int, name: str = "f") -> dict:
    return {
        "task_id": task_id,
        "text": f"Write {name}.",
        "code": f"def {name}(x):\r\n  return x",
        "test_list": [f"assert {name}(1) == 1", f"assert {name}(2) == 2"],
        "test_setup_code": "y = 1\r\nz = 2",
        "challenge_test_list": ["assert False"],
        "subset": "mbpp.jsonl",
    }


def request(name: str) -> str:
    return (
        f"You are an expert Python programmer, and here is your task: Write {name}. Your code should pass these tests:"
        f"\n\nassert {name}(1) == 1\nassert {name}(2) == 2"
    )


def test_the_prompt_has_the_worked_examples_2_3_4_and_the_tests():
    rows = [row(number, f"f{number}") for number in (1, 2, 3, 4, 5, 11)]
    (question,) = questions(rows, rows)
    shots = "".join(
        f"{request(f'f{number}')}\n[BEGIN]\ndef f{number}(x):\n  return x\n[DONE]\n\n" for number in (2, 3, 4)
    )
    assert question.plain == f"{shots}{request('f11')}\n[BEGIN]\n"
    assert question.text == request("f11")
    assert question.turns[:2] == (
        ("user", request("f2")),
        ("assistant", "[BEGIN]\ndef f2(x):\n  return x\n[DONE]"),
    )
    assert [role for role, _ in question.turns] == ["user", "assistant"] * 3


def test_without_examples_it_is_asked_without():
    (question,) = questions([row(11)], [])
    assert (question.plain, question.turns) == (f"{request('f')}\n[BEGIN]\n", ())


def test_the_examples_are_kept_apart_from_the_test():
    """Rows are kept by the name of their set; split "test" of the Hub does not hold the examples."""
    assert TASK.shots.name != TASK.test.name
    assert (TASK.test.split, TASK.shots.split) == ("test", "prompt")


def test_the_test_part_is_11_to_510():
    asked = questions([row(number) for number in (1, 10, 11, 510, 511, 974)], [])
    assert [question.row["task_id"] for question in asked] == [11, 510]
    with pytest.raises(DataError, match="none of 2 rows has a task_id from 11 to 510"):
        questions([row(1), row(511)], [])


def test_the_program_is_what_stands_between_the_marks():
    (question,) = questions([row(11)], [])
    tests = "y = 1\nz = 2\nassert f(1) == 1\nassert f(2) == 2\n"
    for text in (
        "x = 1\n",
        "x = 1\n[DONE]\nmore",
        "[BEGIN]\nx = 1\n[DONE]",
        "Here:\n[BEGIN]\r\nx = 1\r\n[DONE]",
        "Here:\n```python\nx = 1\n```\nDone.",
        "[BEGIN]\n```python\nx = 1\n```\n[DONE]",
        "```python\nx = 1\n",
    ):
        found, those = program(question, text)
        assert (found.lstrip("\n"), those) == ("x = 1\n", tests), text


@pytest.mark.parametrize("column", ["task_id", "text", "code", "test_list", "test_setup_code"])
def test_a_column_that_is_absent_or_of_another_kind_is_named(column):
    rest = {key: value for key, value in row(12).items() if key != column}
    with pytest.raises(DataError, match=f'row 2: there is no column "{column}"'):
        questions([row(11), rest], [])
    with pytest.raises(DataError, match=f'row 2, column "{column}": a'):
        questions([row(11), {**row(12), column: None}], [])


def test_a_row_without_tests_is_named():
    with pytest.raises(DataError, match='row 1, column "test_list": it is empty'):
        questions([{**row(11), "test_list": []}], [])


def test_the_suite_has_both_sets_and_their_mean():
    assert [task.name for task in SUITE.tasks] == ["humaneval", "mbpp"]
    assert SUITE.averages[0].of == (("humaneval", "pass@1"), ("mbpp", "pass@1"))
    for task in SUITE.tasks:
        assert [(metric.name, metric.kind) for metric in task.metrics] == [
            ("pass@1", "share"),
            ("timed out", "count"),
            ("syntax errors", "count"),
        ]


@pytest.mark.skipif(not FILE.exists(), reason="the shared MBPP file is not here")
@pytest.mark.skipif(sandbox_problem() != "", reason="generated code cannot run here")
def test_published_solutions_pass_and_another_tasks_fail():
    """Every 25th of the 500: 20 rows, and row 367, one of two with a setup that needs the program's class."""
    rows = [json.loads(line) for line in FILE.read_text().splitlines()]
    asked = questions(rows, rows)
    assert len(asked) == TASK.test.size == 500
    chosen = [*asked[::25], next(question for question in asked if question.row["task_id"] == 367)]
    grades = TASK.grade(chosen, [Answer((question.gold,)) for question in chosen], Means(run_code=True))
    assert [grade.labels["outcome"] for grade in grades] == ["passed"] * 21
    grades = TASK.grade(chosen[:2], [Answer((chosen[5].gold,))] * 2, Means(run_code=True))
    assert [grade.labels["outcome"] for grade in grades] == ["failed: NameError"] * 2
