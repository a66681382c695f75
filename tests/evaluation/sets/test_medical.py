"""PubMedQA, MedQA, MedMCQA and CareQA from rows made by hand, and PubMedQA from the published files."""

import json

import pytest
from places import SHARED_DATA

from fedllm_app.data.errors import DataError
from fedllm_app.evaluation.figures import value_of
from fedllm_app.evaluation.set_rows import open_all, open_rows
from fedllm_app.evaluation.sets import careqa, medmcqa, medqa, pubmedqa
from fedllm_app.evaluation.suite import Answer, Means
from fedllm_app.evaluation.suites import load_suite

PUBMED = {"QUESTION": "Does it?", "CONTEXTS": ["One.", "Two."], "final_decision": "no", "LONG_ANSWER": "It does not."}
HUB = {
    "pubid": 7,
    "question": "Does it?",
    "context": {"contexts": ["One.", "Two."], "labels": ["A", "B"]},
    "long_answer": "It does not.",
    "final_decision": "no",
}
OPTIONS = {"A": "w", "B": "x", "C": "y", "D": "z"}
USMLE = {"question": "Q?", "options": OPTIONS, "answer": "y", "answer_idx": "C"}
INDIAN = {"question": "Q?", "opa": "w", "opb": "x", "opc": "y", "opd": "z", "cop": 0}
SPANISH = {"question": "Q?", "op1": "w", "op2": "x", "op3": "y", "op4": "z", "cop": 3}
LETTERED = "Question: Q?\nA. w\nB. x\nC. y\nD. z\nAnswer:"


@pytest.mark.parametrize("row", [PUBMED, HUB])
def test_pubmedqa_shows_the_abstract_without_its_conclusion(row):
    (question,) = pubmedqa.TASK.questions([row], [])
    assert question.plain == "Abstract: One.\nTwo.\nQuestion: Does it?\nAnswer:"
    assert (question.gold, question.choices) == ("no", ("yes", "no", "maybe"))
    assert "It does not" not in question.text


def test_macro_f1_by_hand():
    """Gold yes yes yes no maybe, predicted yes yes no no yes.

    yes: right 2, gold 3, predicted 3: F1 4/6. no: 1, 1, 2: 2/3. maybe: 0. Mean (2/3 + 2/3 + 0) / 3 = 4/9; 3 of 5 right.
    """
    rows = [PUBMED | {"final_decision": gold} for gold in ("yes", "yes", "yes", "no", "maybe")]
    questions = pubmedqa.TASK.questions(rows, [])
    scores = {"yes": (-1.0, -2.0, -3.0), "no": (-2.0, -1.0, -3.0)}
    answers = [Answer(log_likelihoods=scores[word]) for word in ("yes", "yes", "no", "no", "yes")]
    grades = pubmedqa.TASK.grade(questions, answers, Means())
    values = [value_of(metric, questions, grades) for metric in pubmedqa.TASK.metrics]
    assert values == [0.6, pytest.approx(4 / 9)]


def test_a_class_that_does_not_occur_is_left_out_of_macro_f1():
    """Gold yes, no; predicted yes, yes. yes 2/3, no 0; "maybe" is nowhere: (2/3 + 0) / 2."""
    questions = pubmedqa.TASK.questions([PUBMED | {"final_decision": gold} for gold in ("yes", "no")], [])
    grades = pubmedqa.TASK.grade(questions, [Answer(log_likelihoods=(0.0, -1.0, -1.0))] * 2, Means())
    assert value_of(pubmedqa.TASK.metrics[1], questions, grades) == pytest.approx(1 / 3)


def write_pubmedqa(folder, ids):
    folder.mkdir()
    records = {str(number): PUBMED | {"QUESTION": f"Is {number}?"} for number in (30, 10, 20)}
    (folder / "ori_pqal.json").write_text(json.dumps(records))
    if ids is not None:
        (folder / "test_ground_truth.json").write_text(json.dumps(ids))


def test_of_the_original_files_the_ids_of_the_test_part_are_asked(tmp_path):
    write_pubmedqa(tmp_path / "pubmedqa", {"20": "no", "30": "no"})
    assert [row["id"] for row in open_rows(pubmedqa.TEST, tmp_path)] == ["30", "20"]


def test_without_the_ids_all_are_asked(tmp_path):
    write_pubmedqa(tmp_path / "pubmedqa", None)
    assert [row["id"] for row in open_rows(pubmedqa.TEST, tmp_path)] == ["30", "10", "20"]


@pytest.mark.parametrize(("ids", "message"), [({"20": "no", "40": "no"}, "lacks 1 of the 2 .* 40"), ([1], "no JSON")])
def test_ids_that_do_not_fit_are_refused(tmp_path, ids, message):
    write_pubmedqa(tmp_path / "pubmedqa", ids)
    with pytest.raises(DataError, match=message):
        open_rows(pubmedqa.TEST, tmp_path)


@pytest.mark.parametrize("name", ["pubmedqa/test.jsonl", "pubmedqa.jsonl", "pubmedqa/test.json"])
def test_pubmedqa_as_a_table(tmp_path, name):
    path = tmp_path / name
    path.parent.mkdir(exist_ok=True)
    path.write_text(json.dumps([HUB]) if name.endswith("json") else json.dumps(HUB) + "\n")
    (row,) = open_rows(pubmedqa.TEST, tmp_path)
    assert row["pubid"] == 7


def test_the_published_files_hold_500_questions():
    if not (SHARED_DATA / "pubmedqa").exists():
        pytest.skip("pubmedqa is not among the shared data")
    opened = open_all([pubmedqa.TASK], SHARED_DATA)
    questions = pubmedqa.TASK.questions(opened.rows["pubmedqa"], [])
    truth = json.loads((SHARED_DATA / "pubmedqa" / "test_ground_truth.json").read_text())
    assert {question.row["id"]: question.gold for question in questions} == truth
    assert (len(questions), opened.notes) == (500, {})


@pytest.mark.parametrize(
    "row",
    [
        USMLE,
        {"question": "Q?", "options": OPTIONS | {"E": None}, "answer": "y"},
        {"question": "Q?", "options": [{"key": key, "value": text} for key, text in OPTIONS.items()], "answer": "y"},
        {"sent1": "Q?", "ending0": "w", "ending1": "x", "ending2": "y", "ending3": "z", "label": 2},
    ],
)
def test_every_schema_of_medqa(row):
    (question,) = medqa.TASK.questions([row], [])
    assert (question.plain, question.gold) == (LETTERED, "C")


@pytest.mark.parametrize(("values", "golds"), [((0, 2), "AC"), ((4, 2), "DB"), (("a", "D"), "AD"), (("0", "3"), "AD")])
def test_whether_medmcqa_counts_from_0_or_1_shows_in_the_whole_set(values, golds):
    questions = medmcqa.TASK.questions([INDIAN | {"cop": value} for value in values], [])
    assert [question.gold for question in questions] == list(golds)
    assert questions[0].plain == LETTERED


def test_careqa_counts_from_1_and_a_row_without_question_is_not_asked():
    questions = careqa.TASK.questions([SPANISH | {"question": None}, SPANISH], [])
    assert [(question.plain, question.gold) for question in questions] == [(LETTERED, "C")]


@pytest.mark.parametrize(
    ("task", "row", "change", "message"),
    [
        (pubmedqa.TASK, PUBMED, {"CONTEXTS": None}, 'pubmedqa, row 2: there is no column "CONTEXTS"'),
        (pubmedqa.TASK, PUBMED, {"CONTEXTS": []}, 'row 2, column "CONTEXTS": a list'),
        (pubmedqa.TASK, PUBMED, {"final_decision": "Yes"}, "row 2, column \"final_decision\": 'Yes' is none"),
        (medqa.TASK, USMLE, {"options": OPTIONS | {"E": "v"}}, 'medqa, row 2, column "options": four options'),
        (medqa.TASK, USMLE, {"options": "w x"}, 'row 2, column "options": an object'),
        (medqa.TASK, USMLE, {"answer_idx": None, "answer": "v"}, "row 2, column \"answer\": 'v' is none"),
        (medqa.TASK, USMLE, {"question": None}, 'row 2: there is no column "question" or "sent1"'),
        (medmcqa.TASK, INDIAN, {"cop": -1}, 'medmcqa, row 2, column "cop": -1 is neither'),
        (medmcqa.TASK, INDIAN, {"cop": 4}, "both 0 and 4"),
        (medmcqa.TASK, INDIAN | {"cop": 1}, {}, "neither 0 nor 4"),
        (careqa.TASK, SPANISH, {"cop": 0}, 'careqa, row 2, column "cop": 0 is neither'),
    ],
)
def test_a_row_that_lacks_something_is_named(task, row, change, message):
    with pytest.raises(DataError, match=message):
        task.questions([row, row | change], [])


def test_a_column_of_options_that_is_absent_is_named():
    with pytest.raises(DataError, match='row 1: there is no column "opd"'):
        medmcqa.TASK.questions([{name: value for name, value in INDIAN.items() if name != "opd"}], [])


def test_the_average_is_of_five_accuracies():
    suite = load_suite("medical")
    assert [name for name, _ in suite.averages[0].of] == ["pubmedqa", "medqa", "medmcqa", "careqa", "mmlu-medical"]
    assert {metric for _, metric in suite.averages[0].of} == {"accuracy"}
