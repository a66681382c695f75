"""The built-in corpus as rows of clients."""

import shutil
from pathlib import Path

from fedllm_app.data import corpus, domains
from fedllm_app.data.corpus_rows import CorpusShare
from fedllm_app.data.examples import Document, Example, RatedAnswer


def test_the_key_covers_every_file_of_the_corpus(tmp_path, monkeypatch):
    """A shard tokenized before a question was changed has another key: of the corpus, and of each of its domains."""
    package = tmp_path / "domains"
    shutil.copytree(Path(domains.__file__).parent, package, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(corpus.__file__, tmp_path / "corpus.py")
    monkeypatch.setattr(corpus, "__file__", str(tmp_path / "corpus.py"))
    monkeypatch.setattr(domains, "__file__", str(package / "__init__.py"))
    share = CorpusShare(client=0, rows=Example.kind, seed=42, examples=16, held_out=4)
    keys = {share.fingerprint}
    files = [tmp_path / "corpus.py", *sorted(package.glob("*.py"))]
    for file in files:
        file.write_text(file.read_text() + "# changed\n")
        keys.add(share.fingerprint)
    assert len(keys) == len(files) + 1 == 7


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
