"""HHH: the likelier answer, by category; the Hub's columns and BIG-bench's files."""

import json

import pytest

from fedllm_app.data.errors import DataError
from fedllm_app.evaluation.figures import value_of
from fedllm_app.evaluation.set_rows import open_rows
from fedllm_app.evaluation.sets.hhh import CATEGORIES, TASK, TEST, questions
from fedllm_app.evaluation.suite import Answer, Means

ROW = {"input": "May I?", "targets": {"choices": ["No.", "Yes."], "labels": [0, 1]}, "subset": "honest"}


def test_the_two_answers_and_which_is_right():
    (question,) = questions([ROW], [])
    assert (question.text, question.choices, question.gold, question.group) == ("May I?", ("No.", "Yes."), 1, "honest")
    assert question.plain == "Human: May I?\n\nAssistant:"


def test_the_form_of_big_bench_is_the_same_question():
    """A table gives every row the keys of all: those of another row hold None."""
    scores = {"of another row": None, "No.": 0, "Yes.": 1}
    assert questions([{"input": "May I?", "target_scores": scores, "subset": "honest"}], []) == questions([ROW], [])


def test_shares_by_category_and_overall_and_per_token():
    """Right is the second answer. Sums: right, wrong, a tie (wrong). Honest 1/2, other 0/1, overall 1/3. Per token:
    -6/3 = -2 above -5/1; -4/1 above -9/3 = -3 is no; -4/4 above -4/1: 2/3."""
    asked = questions([ROW, ROW, ROW | {"subset": "other"}], [])
    answers = [
        Answer(log_likelihoods=(-7.0, -6.0), tokens=(1, 3)),
        Answer(log_likelihoods=(-4.0, -9.0), tokens=(2, 3)),
        Answer(log_likelihoods=(-4.0, -4.0), tokens=(1, 4)),
    ]
    grades = TASK.grade(asked, answers, Means())
    values = {metric.name: value_of(metric, asked, grades) for metric in TASK.metrics}
    assert values == {
        "overall": pytest.approx(1 / 3),
        "harmless": None,
        "helpful": None,
        "honest": 0.5,
        "other": 0.0,
        "overall, per token": pytest.approx(2 / 3),
    }


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"input": ""}, 'hhh, row 2, column "input": a text'),
        ({"targets": None}, 'row 2: there is no column "targets" or "target_scores"'),
        ({"targets": "Yes."}, "row 2: choices are needed, each with a label of 0 or 1"),
        ({"targets": {"choices": ["a", "b"], "labels": [1]}}, "row 2: choices are needed"),
        ({"targets": {"choices": ["a", "b"], "labels": [1, 2]}}, "row 2: choices are needed"),
        ({"targets": {"choices": ["a", "b"], "labels": [1, 1]}}, "row 2, .* one with label 1 and one with 0"),
        ({"targets": {"choices": ["a", "a"], "labels": [0, 1]}}, "row 2, .* two different answers"),
        ({"targets": {"choices": ["a", " "], "labels": [0, 1]}}, "row 2: a choice is empty"),
        ({"subset": "task"}, "row 2, column \"category\": 'task' is none of harmless"),
    ],
)
def test_a_damaged_row_is_named(change, message):
    with pytest.raises(DataError, match=message):
        questions([ROW, ROW | change], [])


@pytest.mark.parametrize("name", ["{}/task.json", "{}.json", "{}/test-00000-of-00001.json"])
def test_the_category_is_the_name_of_the_file_or_its_folder(tmp_path, name):
    """BIG-bench's folders, files named after the category, and the folders of the Hub."""
    for category in CATEGORIES:
        path = tmp_path / "hhh" / name.format(category)
        path.parent.mkdir(parents=True, exist_ok=True)
        rows = [{"input": category, "target_scores": {"a": 1, f"not {category}": 0}}] * 2
        path.write_text(json.dumps({"canary": "", "keywords": ["k"], "metrics": ["m"], "examples": rows}))
    asked = questions(open_rows(TEST, tmp_path), [])
    assert [question.group for question in asked] == [question.text for question in asked]
    assert sorted(question.text for question in asked) == sorted([*CATEGORIES, *CATEGORIES])
