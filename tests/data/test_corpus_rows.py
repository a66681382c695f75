"""The built-in corpus as rows of clients."""

import shutil
from pathlib import Path

from fedllm_app.data import corpus, domains
from fedllm_app.data.corpus_rows import CorpusShare
from fedllm_app.data.examples import Example


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
    assert len(files) >= 6
    assert len(keys) == len(files) + 1
