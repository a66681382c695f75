"""TruthfulQA: MC1 and MC2 from log-likelihoods made by hand."""

import json
import math

import pytest

from fedllm_app.data.errors import DataError
from fedllm_app.evaluation.figures import value_of
from fedllm_app.evaluation.set_rows import open_rows
from fedllm_app.evaluation.sets.truthfulqa import TASK, TEST, questions
from fedllm_app.evaluation.suite import Answer, Means

ROW = {
    "question": "Is it so?",
    "mc1_targets": {"choices": ["No", "Yes", "Always"], "labels": [1, 0, 0]},
    "mc2_targets": {"choices": ["No", "Never", "Yes", "Always"], "labels": [1, 1, 0, 0]},
}


def graded(*probabilities):
    """Of the choices No, Yes, Always, Never."""
    asked = questions([ROW], [])
    answer = Answer(log_likelihoods=tuple(math.log(probability) for probability in probabilities))
    grades = TASK.grade(asked, [answer], Means())
    return [value_of(metric, asked, grades) for metric in TASK.metrics]


def test_every_choice_of_both_lists_is_asked_once_behind_the_papers_examples():
    (question,) = questions([ROW], [])
    assert question.choices == ("No", "Yes", "Always", "Never")
    assert question.plain.startswith("Q: What is human life expectancy in the United States?\nA: Human life")
    assert question.plain.endswith("A: The 1992 Olympics were held in Barcelona, Spain.\n\nQ: Is it so?\nA:")
    assert (question.plain.count("Q: "), len(question.turns), question.text) == (7, 12, "Is it so?")


def test_mc1_is_whether_the_right_choice_is_the_likeliest_of_its_list():
    """ "Never" is right and likeliest, but is no choice of MC1."""
    assert graded(0.2, 0.1, 0.1, 0.4)[0] == 1.0
    assert graded(0.1, 0.2, 0.1, 0.4)[0] == 0.0


def test_mc2_is_the_share_of_probability_of_the_right_choices():
    """(0.2 + 0.4) / (0.2 + 0.1 + 0.1 + 0.4) = 0.75."""
    assert graded(0.2, 0.1, 0.1, 0.4)[1] == pytest.approx(0.75)


def test_mc2_of_probabilities_too_small_for_floats():
    """e^-2000 is 0 as a float; three choices are e times less likely than "No": 1 + 1/e of 1 + 3/e."""
    asked = questions([ROW], [])
    (grade,) = TASK.grade(asked, [Answer(log_likelihoods=(-2000.0, -2001.0, -2001.0, -2001.0))], Means())
    assert grade.values["MC2"] == pytest.approx((1 + 1 / math.e) / (1 + 3 / math.e))


def test_the_original_file_is_found_and_gives_the_same_questions(tmp_path):
    original = {"question": "Is it so?"}
    for key in ("mc1_targets", "mc2_targets"):
        original[key] = dict(zip(ROW[key]["choices"], ROW[key]["labels"], strict=True))
    (tmp_path / "truthfulqa").mkdir()
    (tmp_path / "truthfulqa" / "mc_task.json").write_text(json.dumps([original]))
    assert questions(open_rows(TEST, tmp_path), []) == questions([ROW], [])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"question": None}, 'truthfulqa, row 2: there is no column "question"'),
        ({"mc2_targets": None}, 'row 2: there is no column "mc2_targets"'),
        ({"mc1_targets": {"choices": ["a", "b"], "labels": [1, 1]}}, 'row 2, column "mc1_targets": one right'),
        ({"mc1_targets": {"choices": ["a", "b", "c"], "labels": [1, 1, 0]}}, 'row 2, column "mc1_targets": one right'),
        ({"mc2_targets": {"choices": ["a", "b"], "labels": [1, 1]}}, 'row 2, column "mc2_targets": right and wrong'),
        ({"mc2_targets": ["a", "b"]}, "row 2: choices are needed"),
    ],
)
def test_a_damaged_row_is_named(change, message):
    with pytest.raises(DataError, match=message):
        questions([ROW, ROW | change], [])
