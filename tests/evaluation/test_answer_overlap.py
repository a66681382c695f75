"""Exact match, token F1 and ROUGE-L of answers made by hand."""

import pytest

from fedllm_app.evaluation.answer_overlap import exact_match, rouge_l, token_f1


@pytest.mark.parametrize(
    ("text", "gold", "expected"),
    [(" = 12\n", "= 12", 1.0), ("= 12.", "= 12", 0.0), ("Mice", "mice", 0.0), ("", "x", 0.0)],
)
def test_exact_match_forgives_white_space_around_and_nothing_else(text, gold, expected):
    assert exact_match(text, gold) == expected


@pytest.mark.parametrize(
    ("text", "gold", "expected"),
    [
        ("The cat sat.", "a cat, sat", 1.0),  # articles and punctuation fall away, and capitals
        ("cat cat dog", "cat dog dog bird", 4 / 7),  # one cat and one dog in common: 2 · 2 / (3 + 4)
        ("bird", "cat", 0.0),
        ("", "cat", 0.0),
        ("theatre", "theatre", 1.0),  # "the" is a word, not a beginning
        ("-5", "5", 1.0),  # a known weakness of the normalisation
    ],
)
def test_token_f1_by_hand(text, gold, expected):
    assert token_f1(text, gold) == pytest.approx(expected)


@pytest.mark.parametrize(
    ("text", "gold", "expected"),
    [
        # In common, in this order: the cat on mat (4); precision 4/5, recall 4/6: 2 · 4 / (5 + 6).
        ("the cat on green mat", "the cat sat on the mat", 8 / 11),
        ("mat the", "the mat", 0.5),  # one word in this order, of two and two
        ("The Cat!", "the cat", 1.0),
        ("running", "runs", 0.0),  # no stemming
        ("", "cat", 0.0),
    ],
)
def test_rouge_l_by_hand(text, gold, expected):
    assert rouge_l(text, gold) == pytest.approx(expected)


def test_letters_outside_ascii_count_in_rouge_l():
    """Words "größe" and "zwölf" of two and three: 2 · 2 / (2 + 3). Han: 我, 爱 of 我, 爱, 猫 and 我, 爱: 4 / 5."""
    assert rouge_l("Größe zwölf", "größe ist zwölf") == pytest.approx(0.8)
    assert rouge_l("我爱猫", "我爱") == pytest.approx(0.8)


@pytest.mark.parametrize("measure", [token_f1, rouge_l])
def test_of_signs_that_are_dropped_only_the_same_one_is_right(measure):
    """ "+" and "-" both leave no word, which SQuAD's rule would call equal."""
    assert (measure("-", "+"), measure(" + ", "+")) == (0.0, 1.0)


def test_the_words_are_those_of_rouge_score_where_the_text_is_ascii():
    from rouge_score.rouge_scorer import RougeScorer

    text, gold = "It's 3.5 a_b C-3 well", "its 3.5, a_b: c3 WELL done"
    theirs = RougeScorer(["rougeL"]).score(gold, text)["rougeL"].fmeasure
    assert rouge_l(text, gold) == theirs
