"""HumanEval's questions, and the programs that answers make."""

import json

import pytest
from places import SHARED_DATA

from fedllm_app.data.errors import DataError
from fedllm_app.evaluation.graders.sandbox import sandbox_problem
from fedllm_app.evaluation.sets.humaneval import STOPS, TASK, program, questions, solution
from fedllm_app.evaluation.suite import Answer, Means

FILE = SHARED_DATA / "humaneval" / "human_eval.jsonl"

PROMPT = 'import math\n\ndef half(x):\n    return x / 2\n\ndef quarter(x):\n    """A quarter of x."""\n'
ROW = {
    "task_id": "HumanEval/0",
    "prompt": PROMPT,
    "entry_point": "quarter",
    "canonical_solution": "    return half(half(x))\n",
    "test": "def check(candidate):\n    assert candidate(8) == 2",
    "subset": "human_eval.jsonl",
}
WHOLE = "def quarter(x):\n    return x / 4\n"
BEFORE = "import math\n\ndef half(x):\n    return x / 2\n\n"


def solve(text: str) -> str:
    return solution(PROMPT, "quarter", text)


def test_the_plain_prompt_is_the_published_one():
    (question,) = questions([ROW], [])
    assert question.plain == PROMPT
    assert question.text.endswith(f"```python\n{PROMPT.rstrip()}\n```")
    assert "Complete the Python function `quarter`" in question.text


def test_the_tests_are_called_with_the_function():
    (question,) = questions([ROW], [])
    found = program(question, "    return x / 4")
    assert found == (PROMPT + "    return x / 4", f"{ROW['test']}\n\ncheck(quarter)\n")


def test_a_body_goes_on_with_the_prompt_up_to_the_first_stop():
    for more in (
        "\ndef f(x):\n    pass",
        "\nclass A:\n    pass",
        "\n# next",
        "\nif True:\n    pass",
        "\nprint(1)",
        "\n```",
    ):
        assert solve(f"    return x / 4\n{more}") == PROMPT + "    return x / 4\n", more
    assert solve("\n    if x:\n        return x / 4\n") == PROMPT + "\n    if x:\n        return x / 4\n"


def test_a_body_that_is_followed_by_the_function_again_is_the_body():
    assert solve(f"    return 0\n\n{WHOLE}") == PROMPT + "    return 0\n"


def test_a_whole_function_in_a_block_stands_behind_what_the_prompt_has_before_it():
    assert solve(f"Here it is:\n\n```python\n{WHOLE}```\nIt divides.") == f"{BEFORE}\n{WHOLE}"
    assert solve(f"```python\n{WHOLE}\nprint(quarter(8))") == f"{BEFORE}\n{WHOLE}\nprint(quarter(8))"
    assert solve(f"```python\r\n{WHOLE}```".replace("\n", "\r\n").replace("\r\r", "\r")) == f"{BEFORE}\n{WHOLE}"


def test_a_block_without_the_function_goes_on_with_the_prompt():
    assert solve("```\ndef other(x):\n    pass\n```") == PROMPT + "def other(x):\n    pass\n"


def test_a_whole_function_without_a_block_keeps_its_imports_and_loses_the_words_around_it():
    text = f"Sure, from here on:\n\nimport sys\n\n{WHOLE}\nprint(quarter(8))"
    assert solve(text) == f"{BEFORE}\nimport sys\n\n{WHOLE}"


def test_words_alone_go_behind_the_prompt_and_will_fail():
    assert solve("I cannot.\n# sorry") == PROMPT + "I cannot."


def test_the_stops_are_those_of_the_paper():
    assert STOPS == ("\nclass", "\ndef", "\n#", "\nif", "\nprint")
    assert TASK.ask.stops == STOPS
    assert (TASK.template, TASK.metrics[0].name) == ("plain", "pass@1")


@pytest.mark.parametrize("column", ["task_id", "prompt", "entry_point", "test"])
def test_a_column_that_is_absent_is_named(column):
    rest = {key: value for key, value in ROW.items() if key != column}
    with pytest.raises(DataError, match=f'row 2: there is no column "{column}"'):
        questions([ROW, rest], [])
    with pytest.raises(DataError, match=f'row 2, column "{column}": a text'):
        questions([ROW, {**ROW, column: 1}], [])


def test_a_prompt_without_the_function_is_named():
    with pytest.raises(DataError, match='row 1, column "prompt": no line begins with "def third'):
        questions([{**ROW, "entry_point": "third"}], [])


@pytest.mark.skipif(not FILE.exists(), reason="the shared HumanEval file is not here")
@pytest.mark.skipif(sandbox_problem() != "", reason="generated code cannot run here")
def test_published_solutions_pass_and_empty_ones_fail():
    """Every fourth one: 41 of 164. The sandbox breaks no honest program."""
    rows = [json.loads(line) for line in FILE.read_text().splitlines()]
    assert len(rows) == TASK.test.size == 164
    asked = questions(rows[::4], [])
    grades = TASK.grade(asked, [Answer((question.gold,)) for question in asked], Means(run_code=True))
    assert [grade.labels["outcome"] for grade in grades] == ["passed"] * 41
    grades = TASK.grade(asked[:3], [Answer(("    pass\n",))] * 3, Means(run_code=True))
    assert [grade.values["passed"] for grade in grades] == [0.0] * 3
