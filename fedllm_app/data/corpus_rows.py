"""The built-in corpus as rows of clients: one domain a client."""

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from fedllm_app.data import corpus, domains
from fedllm_app.data.examples import Document, Example, PreferencePair, RatedAnswer, Row


@dataclass(frozen=True)
class CorpusShare:
    """One client's rows of the built-in corpus; clients that share a domain (5th and later) get rows of their own.

    Attributes
    ----------
    rows : str
        The kind of rows, a name of `ROW_KINDS`.
    examples, held_out : int
        Numbers of training and of held-out rows.
    """

    client: int
    rows: str
    seed: int
    examples: int
    held_out: int

    @property
    def domain(self) -> str:
        """The domain of this client."""
        return corpus.DOMAINS[self.client % len(corpus.DOMAINS)]

    @property
    def fingerprint(self) -> str:
        """Names the rows exactly."""
        parts = (_corpus_version(), self.rows, self.client, self.seed, self.examples, self.held_out)
        return "/".join(map(str, parts))

    def read(self, part: corpus.Part) -> Iterator[Row]:
        """The rows of a part, in the order of the seed."""
        count = self.examples if part == "train" else self.held_out
        turn = self.client // len(corpus.DOMAINS)
        drawn = corpus.questions(self.domain, part, count * (turn + 1), self.seed)[count * turn :]
        return (corpus_row(question, self.rows, number) for number, question in enumerate(drawn))


def corpus_row(question: corpus.Question, kind: str, number: int) -> Row:
    """A question of the corpus as a row of a kind; of rated answers, every second one is the wrong answer."""
    prompt = (("user", question.instruction),)
    if kind == PreferencePair.kind:
        return PreferencePair(prompt, question.answer, question.rejected)
    if kind == RatedAnswer.kind:
        good = number % 2 == 0
        return RatedAnswer(prompt, question.answer if good else question.rejected, good)
    if kind == Document.kind:
        return Document(f"{question.instruction}\n{question.answer}")
    return Example(prompt, question.answer)


def _corpus_version() -> str:
    """A hash over all that the questions are made of, so that shards of another corpus are not taken from the cache."""
    files = [Path(corpus.__file__), *sorted(Path(domains.__file__).parent.glob("*.py"))]
    return hashlib.sha256(b"".join(file.read_bytes() for file in files)).hexdigest()[:16]
