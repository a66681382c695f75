"""The built-in corpus as rated answers and as documents."""

from fedllm_app.data.corpus_rows import CorpusShare
from fedllm_app.data.examples import Document, RatedAnswer


def rows(kind, part="train", client=1):
    return list(CorpusShare(client, kind, seed=7, examples=6, held_out=4).read(part))


def test_every_second_answer_is_the_wrong_one():
    """Thumbs alternate; a thumb up has the right answer of the pair with the same question, a thumb down the other."""
    pairs = {pair.prompt: pair for pair in rows("pair")}
    rated = rows("rated")
    assert all(isinstance(row, RatedAnswer) for row in rated)
    assert [row.desirable for row in rated] == [True, False] * 3
    for row in rated:
        pair = pairs[row.prompt]
        assert row.completion == (pair.chosen if row.desirable else pair.rejected)


def test_held_out_rows_have_both_kinds():
    assert {row.desirable for row in rows("rated", "held-out")} == {True, False}


def test_a_document_is_question_and_answer():
    examples, documents = rows("example"), rows("document")
    assert all(isinstance(row, Document) for row in documents)
    assert documents[2].text == f"{examples[2].prompt[0][1]}\n{examples[2].completion}"
