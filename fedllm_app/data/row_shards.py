"""How the rows of each kind become a tokenized shard. Every piece is cached on disk under all that it depends on."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from fedllm_app.data.examples import Document, Example, PreferencePair, RatedAnswer, Row
from fedllm_app.data.shards import PairShard, Shard, cached, join, tokenize
from fedllm_app.data.templates import get_template
from fedllm_app.data.tokenization import Tokenization
from fedllm_app.data.windows import document_windows

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


@dataclass(frozen=True)
class RatedShard(Shard):
    """Tokenized rated answers: `desirable` (n,) bool, the thumb of each."""

    desirable: np.ndarray


AnyShard = Shard | PairShard | RatedShard


@dataclass(frozen=True)
class ShardMaker:
    """Makes the shards of one client.

    Attributes
    ----------
    key : list
        Everything that the tokens depend on beside the part and the column: tokenizer, rows, template, lengths.
    """

    tokenizer: "PreTrainedTokenizerBase"
    tokenization: Tokenization
    key: list

    def make(self, part: str, kind: str, rows: Iterable[Row]) -> AnyShard:
        """The shard of a part ("train", "held-out") whose rows are of a kind; `rows` is read only if it is not cached."""
        return _MAKERS[kind](self, part, rows)

    def answers(self, part: str, column: str, rows: Callable[[], Iterable[Example]]) -> Shard:
        """Prompts with one answer each."""

        def make() -> Shard:
            how = self.tokenization
            template = get_template(how.template, self.tokenizer)
            return tokenize(rows(), template, self.tokenizer, how.max_length, how.system_prompt)

        return cached([part, column, *self.key], make)


def _examples(maker: ShardMaker, part: str, rows: Iterable[Example]) -> Shard:
    return maker.answers(part, "completion", lambda: rows)


def _pairs(maker: ShardMaker, part: str, rows: Iterable[PreferencePair]) -> PairShard:
    def side(column: str) -> Shard:
        return maker.answers(part, column, lambda: (Example(row.prompt, getattr(row, column)) for row in rows))

    return PairShard(side("chosen"), side("rejected"))


def _rated(maker: ShardMaker, part: str, rows: Iterable[RatedAnswer]) -> RatedShard:
    def of(thumb: bool) -> Shard:
        answers = (Example(row.prompt, row.completion) for row in rows if row.desirable == thumb)
        return maker.answers(part, f"desirable={thumb}", lambda: answers)

    up, down = of(True), of(False)
    both = join([up, down])
    return RatedShard(
        tokens=both.tokens,
        offsets=both.offsets,
        starts=both.starts,
        dropped=both.dropped,
        desirable=np.repeat([True, False], [len(up), len(down)]),
    )


def _documents(maker: ShardMaker, part: str, rows: Iterable[Document]) -> Shard:
    how = maker.tokenization

    def make() -> Shard:
        return document_windows((row.text for row in rows), maker.tokenizer, how.max_length, how.packing)

    return cached([part, "text", how.packing, *maker.key], make)


_MAKERS: dict[str, Callable[[ShardMaker, str, Iterable], AnyShard]] = {
    Example.kind: _examples,
    PreferencePair.kind: _pairs,
    RatedAnswer.kind: _rated,
    Document.kind: _documents,
}
