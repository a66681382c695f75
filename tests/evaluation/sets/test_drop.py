"""DROP: the official rule on answers made by hand, and the three forms of the set."""

import json

import pytest

from fedllm_app.data.errors import DataError
from fedllm_app.evaluation.figures import value_of
from fedllm_app.evaluation.set_rows import open_rows
from fedllm_app.evaluation.sets.drop import TASK, TEST, questions
from fedllm_app.evaluation.suite import Answer, Generate, Means, Question

NONE = {"day": "", "month": "", "year": ""}


def answer(number="", spans=(), **date):
    return {"number": number, "spans": list(spans), "date": NONE | date}


def row(given, validated=(), passage="A passage.", question="What?"):
    return {"passage": passage, "question": question, "answer": given, "validated_answers": list(validated)}


def scores(text, *golds):
    (grade,) = TASK.grade([Question("", gold=[list(gold) for gold in golds])], [Answer((text,))], Means())
    return grade.values["exact match"], grade.values["F1"]


def test_small_letters_articles_and_punctuation_do_not_count():
    assert scores(" the Bears!\nmore", ("Bears",)) == (1.0, 1.0)


def test_an_answer_may_begin_on_a_line_of_its_own():
    """So a line's end cannot be what stops it."""
    assert scores("\nBears\nLions", ("Bears",)) == (1.0, 1.0)
    assert (TASK.template, TASK.ask) == ("plain", Generate(48, stops=("\n\n",)))


def test_f1_of_words():
    """Two of the three words given are right, and both right words are there: P 2/3, R 1, F1 0.8."""
    assert scores("Chicago Bears win", ("Chicago Bears",)) == (0.0, 0.8)


def test_numbers_must_be_the_same_number():
    """Without the rule for numbers "3 yards" and "4 yards" would share one of two words, F1 0.5."""
    assert scores("3 yards", ("4 yards",)) == (0.0, 0.0)
    assert scores("4.0", ("4",)) == (1.0, 1.0)
    # 4 is there: P 1/3, R 1, F1 0.5.
    assert scores("about 4 yards", ("4",)) == (0.0, 0.5)


def test_the_best_of_several_answers_counts():
    assert scores("Bears", ("Lions",), ("Bears",)) == (1.0, 1.0)


def test_spans_stand_between_commas_where_the_right_answer_has_several():
    """Both, in another order; one of two: bags of 1 and 0, mean 0.5; a single span is the whole line with its comma."""
    assert scores("Lions, Bears", ("Bears", "Lions")) == (1.0, 1.0)
    assert scores("Bears", ("Bears", "Lions")) == (0.0, 0.5)
    assert scores("May 1, 1900", ("May 1 1900",)) == (1.0, 1.0)


def test_an_empty_answer_is_worth_nothing_and_counted():
    """By the official rule alone it would equal "The", which has no word without its article."""
    assert scores("", ("The",)) == (0.0, 0.0)
    asked = questions([row(answer("4"))] * 2, [])
    grades = TASK.grade(asked, [Answer((text,)) for text in (" \n", "4")], Means())
    assert [value_of(metric, asked, grades) for metric in TASK.metrics] == [0.5, 0.5, 1.0]


def test_the_given_answers_in_each_form_of_the_set():
    """Number, spans or a date; validated answers as a list, on the Hub a list for each part. Equal ones are one."""
    further = [answer(spans=["two"]), answer("2"), answer(day="3", month="May")]
    split = {key: [one[key] for one in further] for key in ("number", "spans", "date")}
    one, other = row(answer("2"), further), row(answer("2"))
    other["validated_answers"] = split
    original = {
        "passage": "A passage.",
        "qa_pairs": [{key: one[key] for key in ("question", "answer", "validated_answers")}],
    }
    for each in (one, other, original):
        (question,) = questions([each], [])
        assert question.gold == [["2"], ["two"], ["3 May"]]
        assert question.text == "A passage. What?"


def test_a_date_that_lacks_parts_is_read():
    (question,) = questions([row({"number": "", "spans": [], "date": {"year": "1900"}})], [])
    assert question.gold == [["1900"]]


def test_three_examples_are_about_different_passages():
    shots = [row(answer("1"), passage=f"P{n // 2}.", question=f"Q{n}?") for n in range(8)]
    shots[2] = row(answer(spans=["a", "b"]), passage="P1.", question="Q2?")
    (question,) = questions([row(answer("2"))], shots)
    examples = "P0. Q0?\nAnswer: 1\n\nP1. Q2?\nAnswer: a, b\n\nP2. Q4?\nAnswer: 1\n\n"
    assert question.plain == f"{examples}A passage. What?\nAnswer:"
    assert question.turns[2:4] == (("user", "P1. Q2?"), ("assistant", "a, b"))
    assert questions([row(answer("2"))], [])[0].turns == ()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"passage": ""}, 'drop, row 2, column "passage": a text'),
        ({"question": None}, 'row 2: there is no column "question"'),
        ({"answer": "2"}, "row 2: column 'answer' must hold number, date and spans"),
        ({"answer": None, "answers_spans": {"spans": ["a"]}}, 'answers_spans" does not say'),
        ({"answer": answer()}, 'row 2, column "answer": number, date and spans are all empty'),
    ],
)
def test_a_damaged_row_is_named(change, message):
    with pytest.raises(DataError, match=message):
        questions([row(answer("1")), row(answer("1")) | change], [])


def test_the_original_file_is_found_and_read(tmp_path):
    pair = {"question": "What?", "answer": answer("2"), "validated_answers": [], "query_id": "q"}
    passages = {name: {"passage": f"{name}.", "qa_pairs": [pair, pair], "wiki_url": "u"} for name in ("a", "b")}
    (tmp_path / "drop").mkdir()
    (tmp_path / "drop" / "drop_dataset_dev.json").write_text(json.dumps(passages))
    assert [question.text for question in questions(open_rows(TEST, tmp_path), [])] == ["a. What?"] * 2 + [
        "b. What?"
    ] * 2
