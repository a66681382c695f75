"""BBH: worked examples, the first line, and when two answers are the same."""

import pytest
from places import SHARED_DATA

from fedllm_app.data.errors import DataError
from fedllm_app.evaluation.figures import value_of
from fedllm_app.evaluation.set_rows import open_rows
from fedllm_app.evaluation.sets.bbh import TASK, TASKS, TEST, first_line, normalised, questions
from fedllm_app.evaluation.suite import Answer, Generate, Means


def rows(task, count, target="(A)"):
    return [{"input": f"{task} {number}", "target": target, "subset": task} for number in range(1, count + 1)]


def graded(asked, *texts):
    return TASK.grade(asked, [Answer((text,)) for text in texts], Means())


def test_the_first_three_rows_of_each_task_are_examples_and_are_not_asked():
    """Five rows of one task and four of another, one after the other in turn: 2 + 1 questions."""
    one, two = rows("snarks", 5), rows("navigate", 4, "Yes")
    mixed = [row for pair in zip(one, two, strict=False) for row in pair] + one[4:]
    asked = questions(mixed, [])
    assert [(q.text, q.group) for q in asked] == [
        ("snarks 4", "snarks"),
        ("navigate 4", "navigate"),
        ("snarks 5", "snarks"),
    ]
    examples = "Q: navigate 1\nA: Yes\n\nQ: navigate 2\nA: Yes\n\nQ: navigate 3\nA: Yes\n\n"
    assert asked[1].plain == f"{examples}Q: navigate 4\nA:"
    assert asked[1].turns == tuple(
        turn for number in (1, 2, 3) for turn in (("user", f"navigate {number}"), ("assistant", "Yes"))
    )
    # No stop may end an answer at a blank line before it: the first line that is not blank counts.
    assert (TASK.template, TASK.ask) == ("plain", Generate(64, stops=("\nQ:",)))


@pytest.mark.parametrize(
    ("answer", "target", "same"),
    [
        ("(A)", "(A)", True),
        (" A ", "(A)", True),
        ("a.", "(A)", True),
        ("(B)", "(A)", False),
        ("(A) a dog", "(A)", True),
        ("(A), a dog.", "(A)", True),
        ("A) a dog", "(A)", True),
        ("A. a dog", "(A)", True),
        ("A: a dog", "(A)", True),
        ("A dog", "(A)", False),  # an article
        ("A.dog", "(A)", False),
        ("The answer is (A).", "(A)", True),
        ("the correct answer is: A", "(A)", True),
        ("Answer: option (A) a dog", "(A)", True),
        ("I think (A)", "(A)", False),
        ("not (A)", "(A)", False),
        ("(A) or (B)", "(A)", False),
        ("A) or (B)", "(A)", False),
        ("The answer is yes", "Yes", False),
        ("yes", "Yes", True),
        ("Yes.", "Yes", True),
        ("Yes, it is", "Yes", False),
        ("-12", "12", False),
        (") ]", ") ]", True),
        (")]", ") ]", False),
        ("invalid", "valid", False),
    ],
)
def test_answers_are_the_same_whatever_their_case_brackets_of_a_letter_and_final_period(answer, target, same):
    assert (normalised(answer) == normalised(target)) is same


def test_only_the_first_line_that_is_not_blank_counts():
    assert first_line("\n  (A) \n(B)") == "(A)"
    assert first_line(" \n") == ""


def test_accuracy_is_pooled_and_a_mean_over_tasks_and_empty_answers_are_counted():
    """Snarks: 1 of 3 right, navigate 1 of 1. Pooled 2 / 4; mean (1/3 + 1) / 2 = 2/3; one answer is empty."""
    asked = questions(rows("snarks", 6) + rows("navigate", 4), [])
    grades = graded(asked, " (A)\n(B)", "(B)", " ", "a.")
    assert [value_of(metric, asked, grades) for metric in TASK.metrics] == [0.5, pytest.approx(2 / 3), 1.0]
    assert [metric.kind for metric in TASK.metrics] == ["share", "statistic", "count"]


@pytest.mark.parametrize(
    ("damaged", "message"),
    [
        ({"target": "x"}, 'bbh, row 2: there is no column "input"'),
        ({"input": "x"}, 'row 2: there is no column "target"'),
        ({"input": " ", "target": "x"}, 'row 2, column "input": a text is needed'),
        ({"input": "x", "target": True}, 'row 2, column "target": a text is needed'),
    ],
)
def test_a_damaged_row_is_named(damaged, message):
    with pytest.raises(DataError, match=message):
        questions([*rows("snarks", 1), damaged | {"subset": "snarks"}], [])


def test_a_task_of_three_rows_has_no_question():
    with pytest.raises(DataError, match='the task "navigate" has 3 rows'):
        questions(rows("snarks", 4) + rows("navigate", 3), [])


@pytest.mark.skipif(not (SHARED_DATA / "bbh").is_dir(), reason="the shared BBH files are not here")
def test_the_published_files_give_6430_questions_that_their_own_targets_answer():
    """6,511 rows of 27 tasks, less 3 of each: 6,511 - 81."""
    asked = questions(open_rows(TEST, SHARED_DATA), [])
    assert (len(asked), {q.group for q in asked}) == (6430, set(TASKS))
    grades = graded(asked, *(q.gold for q in asked))
    assert [value_of(metric, asked, grades) for metric in TASK.metrics] == [1.0, 1.0, 0.0]
