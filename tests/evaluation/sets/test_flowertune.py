"""The FlowerTune leaderboard's protocol: prompts letter by letter, and the answer rules with answers made by hand."""

import pytest

from fedllm_app.data.errors import DataError
from fedllm_app.evaluation.figures import TaskFigures, averages_of, value_of
from fedllm_app.evaluation.results import TaskResult
from fedllm_app.evaluation.sets import flowertune
from fedllm_app.evaluation.suite import Answer, Generate, Means
from fedllm_app.evaluation.suites import load_suite

OPTIONS = {"A": "w", "B": "x", "C": "y", "D": "z"}
PUBMED = {"QUESTION": "Does it?", "CONTEXTS": ["One.", "Two."], "final_decision": "yes"}


def test_the_general_prompt():
    (question,) = flowertune.MMLU.questions([{"subset": "anatomy", "input": "Find x ", "target": "B", **OPTIONS}], [])
    assert question.plain == (
        "<|im_start|>question\nAnswer the following multiple choice question.\nQuestion: Find x ?\n\nOptions:\nA. w\n"
        "B. x\nC. y\nD. z\nThe answer is:\n<|im_end|>\n<|im_start|>answer\n"
    )
    assert (question.gold, question.group, flowertune.MMLU.ask) == ("B", "STEM", Generate(1))
    assert all(task.template == "plain" for task in (flowertune.MMLU, flowertune.PUBMEDQA))


@pytest.mark.parametrize(("question", "written"), [("a?", "a?"), ("a.", "a."), ("a:", "a:?"), ("a? ", "a? ?")])
def test_a_question_ends_with_a_question_mark_or_a_full_stop(question, written):
    assert flowertune.with_options(question, ["w"]) == f"Question: {written}\n\nOptions:\nA. w"


def test_the_medical_prompts():
    (pubmed,) = flowertune.PUBMEDQA.questions([PUBMED], [])
    assert pubmed.plain == (
        "<|im_start|>question\nAs an expert doctor in clinical science and medical knowledge, can you tell me if the "
        "following statement is correct? Answer yes, no, or maybe.\nOne.\nTwo.\nDoes it?\nThe answer is:\n<|im_end|>\n"
        "<|im_start|>answer\n"
    )
    options = [{"key": key, "value": value} for key, value in OPTIONS.items()]
    (usmle,) = flowertune.MEDQA.questions([{"question": "Q?", "options": options, "answer": "z"}], [])
    assert "select one correct answer from A to E. Base your answer" in usmle.plain
    rows = [{"question": "Q?", "opa": "w", "opb": "x", "opc": "y", "opd": "z", "cop": cop} for cop in (0, 3)]
    entrance = flowertune.MEDMCQA.questions(rows, [])
    spanish = flowertune.CAREQA.questions(
        [{"question": "Q?", "op1": "w", "op2": "x", "op3": "y", "op4": "z", "cop": 4}], []
    )
    assert [question.gold for question in (usmle, *entrance, *spanish)] == ["D", "A", "D", "D"]
    assert entrance[0].plain == spanish[0].plain
    assert "realworld medical entrance exam questions" in entrance[0].plain


@pytest.mark.parametrize(
    ("text", "answer"),
    [
        ("B", "b"),
        (" b.", "b"),
        ("(C) because", "c"),
        ("**D**", "d"),
        ("Because", "b"),  # the first character, whatever the word
        ("The answer is B", "the answer is b"),  # "t" is no option
        ("2", "2"),
        ("Ärzte: B", "ärzte: b"),
        ("", ""),
        ("x\n## B\nA", "b"),
        ("\n", "\n"),
    ],
)
def test_the_first_letter_or_digit_is_the_answer(text, answer):
    assert flowertune.answer_of(text) == answer


@pytest.mark.parametrize(
    ("text", "answer"),
    [
        ("Yes", "yes"),
        (" no.", "no"),
        ("yesyes", "yes"),
        ("nono", "no"),
        ("yesno", "yes"),
        ("noyes", "no"),
        ("yesyesyes", "yesyesyes"),  # repaired once: "yesyes", which is none
        ("yes yes", "yes yes"),
        ("yes, it does", "yes, it does"),
        ("Maybe", "maybe"),
        ("maybe.", "maybe."),
        (" maybe", " maybe"),
    ],
)
def test_yes_and_no_are_repaired_and_maybe_must_be_exact(text, answer):
    assert flowertune.answer_of(text, yes_no=True) == answer


def test_maybe_counts_only_if_exact_and_what_is_not_found_is_counted():
    """Right answers maybe, maybe, yes; given "maybe", "maybe.", "b": 1 of 3 right, two without an answer."""
    rows = [PUBMED | {"final_decision": gold} for gold in ("maybe", "maybe", "yes")]
    questions = flowertune.PUBMEDQA.questions(rows, [])
    answers = [Answer((text,)) for text in ("maybe", "maybe.", "b")]
    grades = flowertune.PUBMEDQA.grade(questions, answers, Means())
    values = {metric.name: value_of(metric, questions, grades) for metric in flowertune.PUBMEDQA.metrics}
    assert values == {"accuracy": pytest.approx(1 / 3), "no answer found": 2.0}
    assert [grade.labels["predicted"] for grade in grades] == ["maybe", "none", "none"]


def test_the_general_score_is_the_mean_of_three_pooled_groups():
    """STEM: anatomy 1 of 1, physics 0 of 2: pooled 1/3. Social 1 of 1, humanities 0 of 1. Mean (1/3 + 1 + 0) / 3."""
    subjects = ["anatomy", "college_physics", "college_physics", "sociology", "philosophy", "virology"]
    rows = [{"subset": subject, "input": "Q", "target": "B", **OPTIONS} for subject in subjects]
    task = flowertune.MMLU
    questions = task.questions(rows, [])
    assert len(questions) == 5  # virology belongs to "other"
    answers = [Answer((text,)) for text in ("B", "A", "E", "b)", "")]
    grades = task.grade(questions, answers, Means())
    assert [value_of(metric, questions, grades) for metric in task.metrics] == pytest.approx([0.4, 1 / 3, 1.0, 0.0, 2])
    suite = load_suite("flowertune-general")
    result = TaskResult(task, questions, {"m": answers}, {"m": grades}, "plain", (), {"m": 1.0}, seed=0)
    (average,) = averages_of(suite.averages, [TaskFigures(result)])
    assert average.value == pytest.approx(4 / 9)


def test_the_medical_score_is_the_mean_of_four_accuracies():
    suite = load_suite("flowertune-medical")
    (average,) = suite.averages
    assert average.of == tuple((name, "accuracy") for name in ("pubmedqa", "medmcqa", "medqa", "careqa"))


def test_only_the_test_part_of_pubmedqa_is_asked():
    with pytest.raises(DataError, match="501 rows.*test_ground_truth.json"):
        flowertune.PUBMEDQA.questions([PUBMED] * 501, [])
    with pytest.raises(DataError, match="none of 1 rows is of STEM"):
        flowertune.MMLU.questions([{"subset": "virology", "input": "Q", "target": "B", **OPTIONS}], [])
