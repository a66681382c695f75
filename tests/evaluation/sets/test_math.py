r"""MATH: the final answer of a text, when two are the same, subjects and levels."""

import json

import pytest

from fedllm_app.data.errors import DataError
from fedllm_app.evaluation.figures import value_of
from fedllm_app.evaluation.set_rows import open_rows
from fedllm_app.evaluation.sets.math import SUBJECTS, TASK, TEST, equivalent, final_answer, questions
from fedllm_app.evaluation.suite import Answer, Means

ROW = {"problem": "Half?", "level": "Level 2", "type": "Algebra", "solution": "It is $\\boxed{\\frac{1}{2}}$."}


@pytest.mark.parametrize(
    ("text", "answer"),
    [
        (r"so $\boxed{5}$", "5"),
        (r"first \boxed{1}, then \boxed{2}.", "2"),
        (r"\boxed{\frac{1}{\sqrt{2}}} is it", r"\frac{1}{\sqrt{2}}"),
        (r"\boxed{\{1,2\}}", r"\{1,2\}"),
        (r"\boxed{\left\{ 1 \right.} it is", r"\left\{ 1 \right."),  # an escaped brace without its other half
        (r"\boxed{3} or \boxed{4", "3"),  # the last one is cut off
        (r"\boxed 7$ is it", "7"),
        (r"\fbox{8}", "8"),
        (r"The answer is \boxed{6}. The answer is 9.", "6"),
        ("The answer is 12.", "12"),
        ("The answer is 1. No, the answer is: 2.5. I hope so.", "2.5"),
        (r"The final answer is $\frac12$. I hope it is correct.", r"\frac12"),
        ("The answer is x = 3\nThe end", "x = 3"),
        ("The answer is $5$ dollars.", "5"),
        ("I think 5", None),
        ("The answer is ", None),
    ],
)
def test_the_last_closed_box_else_what_follows_answer_is(text, answer):
    assert final_answer(text) == answer


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        (r"\frac12", r"\frac{1}{2}", True),
        ("1/2", r"\frac{1}{2}", True),
        ("0.5", r"\frac{1}{2}", True),
        (r"\left(1, 2\right)", "(1,2)", True),
        (r"50\%", "50", True),
        ("x=3", "3", True),
        ("0.25", r"\frac{1}{4}", False),
        ("3", "-3", False),
        (None, "None", False),
    ],
)
def test_answers_are_compared_as_normalised_latex(one, other, same):
    assert equivalent(one, other) is same


def test_accuracy_by_subject_and_level():
    """Algebra level 2: right and wrong; geometry level ?: right, in no level's figure; number theory: no answer."""
    rows = [ROW, ROW, ROW | {"type": "Geometry", "level": "Level ?"}, ROW | {"type": "Number Theory", "level": 5}]
    asked = questions(rows, [])
    texts = (r"\boxed{1/2}", r"\boxed{2}", "The answer is 0.5.", "No idea")
    grades = TASK.grade(asked, [Answer((text,)) for text in texts], Means())
    values = {metric.name: value_of(metric, asked, grades) for metric in TASK.metrics}
    assert {name: value for name, value in values.items() if value is not None} == {
        "accuracy": 0.5,
        "Algebra": 0.5,
        "Geometry": 1.0,
        "Number Theory": 0.0,
        "level 2": 0.5,
        "level 5": 0.0,
        "answers without a final answer": 1.0,
    }
    assert [metric.name for metric in TASK.metrics[1:8]] == list(SUBJECTS)


def test_the_form_of_math_500_and_the_hubs_configurations_are_the_same_question():
    (published,) = questions([ROW], [])
    own = {"problem": "Half?", "level": 2, "subject": "Algebra", "answer": "\\frac{1}{2}", "subset": "test"}
    (short,) = questions([own], [])
    (hub,) = questions([{**ROW, "type": None, "subset": "algebra"}], [])
    assert published == short == hub
    (other,) = questions([{**ROW, "type": None, "subset": "counting_and_probability"}], [])
    assert other.group == "Counting & Probability"
    assert (published.gold, published.row) == ("\\frac{1}{2}", {"level": "2"})
    assert "\\boxed{}" in published.text
    assert published.plain.endswith("Problem:\nHalf?\n\nSolution:\n")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"problem": None}, 'math, row 2: there is no column "problem"'),
        ({"solution": "It is half."}, 'row 2, column "solution": no'),
        ({"type": "Biology"}, "row 2, column \"type\": 'Biology'"),
        ({"level": "Level 6"}, "row 2, column \"level\": '6'"),
    ],
)
def test_a_damaged_row_is_named(change, message):
    with pytest.raises(DataError, match=message):
        questions([ROW, ROW | change], [])


def test_the_original_folders_are_read_and_training_rows_left_out(tmp_path):
    """One file a problem: math/test/<subject>/<number>.json."""
    for split, subject in (("test", "Algebra"), ("test", "Geometry"), ("train", "Geometry")):
        folder = tmp_path / "math" / split / subject.lower()
        folder.mkdir(parents=True)
        (folder / "1.json").write_text(json.dumps(ROW | {"type": subject}))
    assert [question.group for question in questions(open_rows(TEST, tmp_path), [])] == ["Algebra", "Geometry"]
