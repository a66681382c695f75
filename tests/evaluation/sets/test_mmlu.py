"""MMLU from rows made by hand: every schema, worked examples, groups, and the three kinds of mean."""

import json

import pytest

from fedllm_app.data.errors import DataError
from fedllm_app.evaluation.figures import value_of
from fedllm_app.evaluation.set_rows import open_all, open_rows
from fedllm_app.evaluation.sets import mmlu
from fedllm_app.evaluation.suite import Answer, Means

ROW = {"subject": "high_school_physics", "question": " What falls? ", "choices": ["w", "x", "y", "z"], "answer": 1}
EXAMPLE = ROW | {"question": "Example 1?", "answer": 3}


def asked(*rows, shots=()):
    return mmlu.TASK.questions(list(rows), list(shots))


def test_57_subjects_in_four_groups():
    counts = {group: list(mmlu.GROUP_OF.values()).count(group) for group in mmlu.GROUP_OF.values()}
    assert counts == {"STEM": 19, "social sciences": 12, "humanities": 13, "other": 13}


def test_the_papers_prompt():
    (question,) = asked(ROW)
    head = "The following are multiple choice questions (with answers) about high school physics.\n\n"
    body = "What falls?\nA. w\nB. x\nC. y\nD. z\nAnswer:"
    assert (question.plain, question.text, question.turns) == (head + body, head + body, ())
    assert (question.gold, question.choices, question.group) == ("B", ("A", "B", "C", "D"), "STEM")


def test_five_worked_examples_of_the_own_subject_stand_before_the_question():
    shots = [EXAMPLE | {"question": f"Example {number}?"} for number in range(1, 7)]
    shots.insert(0, EXAMPLE | {"subject": "sociology", "question": "Another subject?"})
    (question,) = asked(ROW, shots=shots)
    options = "A. w\nB. x\nC. y\nD. z\nAnswer:"
    examples = "".join(f"Example {number}?\n{options} D\n\n" for number in range(1, 6))
    head = "The following are multiple choice questions (with answers) about high school physics.\n\n"
    assert question.plain == f"{head}{examples}What falls?\n{options}"
    assert question.turns[:3] == (
        ("user", f"{head}Example 1?\n{options}"),
        ("assistant", "D"),
        ("user", f"Example 2?\n{options}"),
    )
    assert (len(question.turns), question.text) == (10, f"What falls?\n{options}")


@pytest.mark.parametrize(
    "row",
    [
        {"subject": "anatomy", "question": "Q", "choices": ["w", "x", "y", "z"], "answer": 2},
        {"subject": "anatomy", "question": "Q", "choices": ["w", "x", "y", "z"], "answer": "C"},
        {"subset": "anatomy", "input": "Q", "A": "w", "B": "x", "C": "y", "D": "z", "target": "C"},
        {"subset": "Anatomy", "question": "Q", "A": "w", "B": "x", "C": "y", "D": "z", "answer": "C"},
    ],
)
def test_every_schema_gives_the_same_question(row):
    (question,) = asked(row)
    assert question.plain.endswith("about anatomy.\n\nQ\nA. w\nB. x\nC. y\nD. z\nAnswer:")
    assert (question.gold, question.row) == ("C", {"subject": "anatomy"})


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"question": None}, 'row 2: there is no column "question" or "input"'),
        ({"question": " "}, 'row 2, column "question": a text is needed'),
        ({"choices": None}, 'row 2: there is no column "A"'),
        ({"choices": ["w", "x"]}, 'row 2, column "choices": a list of four'),
        ({"answer": None}, 'row 2: there is no column "answer"'),
        ({"answer": 4}, 'row 2, column "answer": 4 is neither'),
        ({"answer": "E"}, "row 2, column \"answer\": 'E' is neither"),
        ({"answer": True}, 'row 2, column "answer": True is neither'),
        ({"subject": "cooking"}, "row 2, column \"subject\": 'cooking' is none of the 57"),
        ({"subject": ""}, 'row 2, column "subject"'),
    ],
)
def test_a_row_that_lacks_something_is_named(change, message):
    with pytest.raises(DataError, match=message):
        asked(ROW, ROW | change)


def test_accuracy_groups_and_mean_over_subjects():
    """Physics (STEM) right, wrong, wrong; sociology right. All 2/4; STEM 1/3; macro (1/3 + 1) / 2 = 2/3."""
    questions = asked(ROW, ROW, ROW, ROW | {"subject": "sociology"})
    right, wrong = Answer(log_likelihoods=(-3.0, -1.0, -2.0, -4.0)), Answer(log_likelihoods=(-1.0, -3.0, -2.0, -4.0))
    grades = mmlu.TASK.grade(questions, [right, wrong, wrong, right], Means())
    values = {metric.name: value_of(metric, questions, grades) for metric in mmlu.TASK.metrics}
    assert values == {
        "accuracy": 0.5,
        "STEM": pytest.approx(1 / 3),
        "social sciences": 1.0,
        "humanities": None,
        "other": None,
        "mean over subjects": pytest.approx(2 / 3),
    }
    assert grades[1].labels == {"gold": "B", "predicted": "A", "subject": "high_school_physics"}


def test_the_medical_subjects_alone():
    questions = mmlu.MEDICAL_TASK.questions([ROW, ROW | {"subject": "anatomy"}], [])
    assert [question.group for question in questions] == ["anatomy"]
    with pytest.raises(DataError, match="none of 1 rows is of anatomy"):
        mmlu.MEDICAL_TASK.questions([ROW], [])


@pytest.mark.parametrize("root", ["mmlu", "mmlu/data"])
def test_the_published_folders_of_csv_files_without_header(tmp_path, root):
    """Sociology and anatomy; the quoted cell holds a comma and quotation marks."""
    for split, letter in (("test", "B"), ("dev", "D"), ("val", "A")):
        folder = tmp_path / root / split
        folder.mkdir(parents=True)
        for subject in ("sociology", "anatomy"):
            (folder / f"{subject}_{split}.csv").write_text(f'"{subject}, a ""{split}""?",1,2,3,4,{letter}\n')
    opened = open_all([mmlu.TASK], tmp_path)
    questions = mmlu.TASK.questions(opened.rows["mmlu"], opened.rows["mmlu-dev"])
    assert [(question.row["subject"], question.gold) for question in questions] == [
        ("anatomy", "B"),
        ("sociology", "B"),
    ]
    assert questions[0].plain == (
        "The following are multiple choice questions (with answers) about anatomy.\n\n"
        'anatomy, a "dev"?\nA. 1\nB. 2\nC. 3\nD. 4\nAnswer: D\n\nanatomy, a "test"?\nA. 1\nB. 2\nC. 3\nD. 4\nAnswer:'
    )
    assert "2 of the 14,042 published rows, without" in opened.notes["mmlu"]


def test_without_development_rows_it_is_asked_without_and_that_is_said(tmp_path, monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    (tmp_path / "mmlu").mkdir()
    (tmp_path / "mmlu" / "test.csv").write_text("subject,question,A,B,C,D,answer\nanatomy,Q,1,2,3,4,B\n")
    opened = open_all([mmlu.TASK, mmlu.MEDICAL_TASK], tmp_path)
    for task in (mmlu.TASK, mmlu.MEDICAL_TASK):
        (question,) = task.questions(opened.rows[task.test.name], opened.rows.get(task.shots.name, []))
        assert question.turns == ()
        assert f"asked without '{task.shots.name}'" in opened.notes[task.name]


@pytest.mark.parametrize("name", ["mmlu.jsonl", "mmlu/anatomy.jsonl", "mmlu/all/test.jsonl"])
def test_the_medical_subjects_are_found_where_the_whole_set_is(tmp_path, name):
    path = tmp_path / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(ROW | {"subject": "anatomy"}) + "\n")
    assert [row["question"] for row in open_rows(mmlu.MEDICAL_TASK.test, tmp_path)] == [ROW["question"]]


def test_a_line_of_a_csv_file_with_too_few_cells_is_named(tmp_path):
    path = tmp_path / "anatomy_test.csv"
    path.write_text("Q,1,2,3,4,B\nQ,1,2,3,B\n")
    with pytest.raises(DataError, match="anatomy_test.csv, row 2: 5 cells instead of 6"):
        mmlu.read(path)


def test_worked_examples_may_lie_beside_the_questions(tmp_path):
    (tmp_path / "mmlu").mkdir()
    for split in ("dev", "test"):
        (tmp_path / "mmlu" / f"anatomy_{split}.csv").write_text(f"{split},1,2,3,4,B\n")
    for test, split in ((mmlu.SHOTS, "dev"), (mmlu.TEST, "test"), (mmlu.MEDICAL_TASK.shots, "dev")):
        assert [row["question"] for row in open_rows(test, tmp_path)] == [split]
