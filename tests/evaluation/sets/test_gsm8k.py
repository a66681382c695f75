"""GSM8K: which number of a text is its answer."""

from decimal import Decimal

import pytest
from places import SHARED_DATA

from fedllm_app.data.errors import DataError
from fedllm_app.evaluation.figures import value_of
from fedllm_app.evaluation.set_rows import open_all
from fedllm_app.evaluation.sets.gsm8k import FEW_SHOT_TASK, TASK, answer_of, few_shot_questions, questions
from fedllm_app.evaluation.suite import Answer, Means

ROW = {"question": "Two and two?", "answer": "2 + 2 = <<2+2=4>>4\n#### 4"}


@pytest.mark.parametrize(
    ("text", "number"),
    [
        ("She has 3 and 5.\n#### 8\nThen 9.", "8"),
        ("#### $1,234.50", "1234.5"),
        ("####-7", "-7"),
        ("#### 18.0 dollars", "18"),
        ("#### Step 1: add. The sum is 12", "12"),  # a heading
        ("#### 5\n\nQuestion: next\n#### 6", "5"),  # the first, as what follows answers another question
        ("It costs $3 and then $1,200.", "1200"),
        ("The answer is 18.", "18"),
        ("The total is 18.00", "18"),
        ("so -5", "-5"),
        ("so -$5", "-5"),
        ("so $-5", "-5"),
        ("so \\$5", "5"),
        ("sides of $3$ $4$", "4"),
        ("it is $16$ 8", "8"),
        ("3$4", "4"),
        ("so -\\$5", "-5"),
        ("so \u22125", "-5"),  # a minus sign
        ("16-3", "3"),  # subtraction is no sign
        ("16 - $3", "3"),
        (".5 of it", ".5"),
        ("1,2345", "2345"),  # no group of three digits
        ("2, 3, 4", "4"),
        ("**72**", "72"),
    ],
)
def test_the_number_behind_the_mark_else_the_last_one(text, number):
    assert answer_of(text) == Decimal(number)


def test_a_text_without_number_has_no_answer():
    assert answer_of("I do not know. ####") is None
    assert answer_of("") is None


def test_accuracy_and_answers_without_a_number():
    """Of four answers 2 are right: 4, and 4.0 dollars; 5 is wrong; one has no number and is wrong, too."""
    asked = questions([ROW] * 4, [])
    texts = ("#### 4", "It is $4.0.", "5", "I do not know")
    grades = TASK.grade(asked, [Answer((text,)) for text in texts], Means())
    assert [value_of(metric, asked, grades) for metric in TASK.metrics] == [0.5, 1.0]


def test_without_examples_the_request_says_how_to_answer():
    (question,) = questions([ROW], [])
    assert (question.gold, question.turns) == ("4", ())
    assert question.text.startswith("Two and two?\n\n")
    assert '"#### "' in question.text
    assert '"#### "' in question.plain
    assert question.plain.endswith("Question: Two and two?\nAnswer:")
    assert TASK.template == "run"


def test_five_examples_of_the_training_rows_without_calculator_marks():
    shots = [ROW | {"question": f"Example {number}?"} for number in range(1, 7)]
    (question,) = few_shot_questions([ROW], shots)
    examples = "".join(f"Question: Example {n}?\nAnswer: 2 + 2 = 4\n#### 4\n\n" for n in range(1, 6))
    assert question.plain == f"{examples}Question: Two and two?\nAnswer:"
    assert question.turns[:2] == (("user", "Example 1?"), ("assistant", "2 + 2 = 4\n#### 4"))
    assert (question.text, len(question.turns), question.gold) == ("Two and two?", 10, "4")
    assert few_shot_questions([ROW], [])[0].plain == "Question: Two and two?\nAnswer:"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"question": None}, 'row 2: there is no column "question"'),
        ({"answer": None}, 'row 2: there is no column "answer"'),
        ({"answer": "4"}, 'row 2, column "answer": no "####"'),
        ({"answer": "#### four"}, 'row 2, column "answer": no "####"'),
    ],
)
def test_a_damaged_row_is_named(change, message):
    for make in (lambda rows: questions(rows, []), lambda rows: few_shot_questions(rows, [])):
        with pytest.raises(DataError, match=f"gsm8k, {message}"):
            make([ROW, ROW | change])
    with pytest.raises(DataError, match=f"gsm8k-train, {message}"):
        few_shot_questions([ROW], [ROW, ROW | change])


@pytest.mark.skipif(not (SHARED_DATA / "gsm8k").is_dir(), reason="the shared GSM8K files are not here")
def test_the_published_solutions_are_all_right():
    opened = open_all((TASK, FEW_SHOT_TASK), SHARED_DATA)
    rows, shots = opened.rows["gsm8k"], opened.rows["gsm8k-train"]
    assert (len(rows), len(shots), opened.notes) == (1319, 7473, {})
    for task in (TASK, FEW_SHOT_TASK):
        asked = task.questions(rows, shots)
        grades = task.grade(asked, [Answer((row["answer"],)) for row in rows], Means())
        assert [value_of(metric, asked, grades) for metric in task.metrics] == [1.0, 0.0]
    assert sum(role == "assistant" for role, _ in asked[0].turns) == 5
