"""CRASS: the published columns, the order of the answers, worked examples."""

import random

import pytest

from fedllm_app.data.errors import DataError
from fedllm_app.evaluation.set_rows import open_rows
from fedllm_app.evaluation.sets.crass import EXAMPLES, TASK, TEST, questions
from fedllm_app.evaluation.suite import Answer, Means

ROW = {
    "PCTID": "1",
    "Premise": "A cup falls.",
    "QCC": "What would have happened if a ball had fallen?",
    "CorrectAnswer": "It would have bounced.",
    "Answer1": "It would have broken.",
    "Answer2": "That is not possible.",
    "PossibleAnswer3": "",
}
FOUR = ROW | {"PossibleAnswer3": "It would have cried."}
TEXT = "A cup falls. What would have happened if a ball had fallen?"


def test_three_or_four_lettered_answers_of_which_the_gold_letter_is_the_right_one():
    for row, count in ((ROW, 3), (FOUR, 4)):
        (question,) = questions([row], [])
        head, *options, tail = question.text.split("\n")
        assert (head, tail, len(options)) == (TEXT, "Answer:", count)
        assert question.choices == tuple("ABCD"[:count])
        assert f"{question.gold}. It would have bounced." in options


def test_answers_are_shuffled_row_after_row_with_seed_0():
    """As `random.seed(0); random.shuffle(...)` does for each row in turn; the right answer takes every place."""
    state = random.Random(0)
    expected = []
    for _ in range(20):
        options = [ROW["CorrectAnswer"], ROW["Answer1"], ROW["Answer2"]]
        state.shuffle(options)
        expected.append("ABC"[options.index(ROW["CorrectAnswer"])])
    assert [question.gold for question in questions([ROW] * 20, [])] == expected
    assert set(expected) == set("ABC")


def test_three_worked_examples_stand_before_the_question():
    (question,) = questions([ROW], [])
    assert question.plain.endswith(f" C\n\n{question.text}")
    assert question.plain.count("Answer:") == 4
    assert [content for role, content in question.turns if role == "assistant"] == ["C", "B", "C"]
    first = "A feather falls from a skyscraper. What would have happened if a computer had fallen from the skyscraper?"
    assert question.turns[0][1].startswith(f"{first}\nA. The computer would have remained intact.")


def test_the_right_letters_of_the_examples():
    rights = [answers["ABC".index(letter)] for _, answers, letter in EXAMPLES]
    assert rights == [
        "The computer would have been crushed.",
        "Nothing special would have happened.",
        "That is not possible.",
    ]


def test_an_example_that_is_asked_is_no_example():
    premise, _, question = EXAMPLES[2][0].partition(". ")
    (asked,) = questions([ROW | {"Premise": f"{premise}.", "QCC": question}], [])
    assert (asked.plain.count("Answer:"), len(asked.turns)) == (3, 4)


def test_the_form_of_big_bench():
    """A table gives every row the keys of all: those of another row hold None."""
    scores = {ROW["Answer1"]: 0, ROW["CorrectAnswer"]: 1, ROW["Answer2"]: 0, "of another row": None}
    (own,) = questions([{"input": TEXT, "target_scores": scores}], [])
    (published,) = questions([ROW], [])
    assert own == published


def test_the_likeliest_letter_is_the_answer():
    (question,) = questions([ROW], [])
    scores = [-1.0 if letter == question.gold else -2.0 for letter in question.choices]
    other = [-score for score in scores]
    grades = TASK.grade([question] * 2, [Answer(log_likelihoods=tuple(these)) for these in (scores, other)], Means())
    assert [grade.values["correct"] for grade in grades] == [1.0, 0.0]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"QCC": None}, 'crass, row 2: there is no column "QCC"'),
        ({"CorrectAnswer": " "}, 'row 2, column "CorrectAnswer": a text'),
        ({"Answer2": ""}, "row 2: three or four different answers are needed, not 2"),
        ({"Answer1": "It would have bounced."}, "row 2: three or four different answers are needed, not 3"),
        ({"input": "x", "target_scores": {"a": 1, "b": 1, "c": 0}}, 'row 2, column "target_scores": one answer'),
    ],
)
def test_a_damaged_row_is_named(change, message):
    with pytest.raises(DataError, match=message):
        questions([ROW, ROW | change], [])


def test_the_published_file_is_found_and_read(tmp_path):
    """Columns between semicolons, as published."""
    (tmp_path / "crass").mkdir()
    lines = [";".join(FOUR), ";".join(FOUR.values()), ";".join(ROW.values())]
    (tmp_path / "crass" / "CRASS_FTM_main_data_set.csv").write_text("\n".join(lines) + "\n")
    asked = questions(open_rows(TEST, tmp_path), [])
    assert [len(question.choices) for question in asked] == [4, 3]
