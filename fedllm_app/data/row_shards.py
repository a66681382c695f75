"""How the rows of each kind become a tokenized shard. Every piece is cached on disk under all that it depends on."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np

from fedllm_app.data.examples import Document, Example, PreferencePair, RatedAnswer, Row
from fedllm_app.data.schemas import DataError
from fedllm_app.data.shards import PairShard, Shard, cached, join, tokenize, tokenize_pairs
from fedllm_app.data.templates import Template
from fedllm_app.data.tokenization import Tokenization
from fedllm_app.data.windows import document_windows

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


@dataclass(frozen=True, kw_only=True)
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
    stops : tuple[int, ...]
        Ids at which the model's files say that generation stops.
    """

    tokenizer: "PreTrainedTokenizerBase"
    tokenization: Tokenization
    key: list
    stops: tuple[int, ...] = ()

    @cached_property
    def template(self) -> Template:
        """The template, bound to the tokenizer."""
        return self.tokenization.bind(self.tokenizer, self.stops)

    def make(self, part: str, kind: str, rows: Iterable[Row]) -> AnyShard:
        """The shard of a part ("train", "held-out") whose rows are of a kind; `rows` is read if it is not cached."""
        if self.tokenization.learn_turns == "all" and kind != Example.kind:
            raise DataError(f"data.learn-turns = 'all' must be 'last' for a task that trains on {kind} rows")
        return _MAKERS[kind](self, part, rows)

    def answers(self, part: str, column: str, rows: Callable[[], Iterable[Example | None]]) -> Shard:
        """Prompts with one answer each; a None has the place of a row of another shard."""

        def make() -> Shard:
            how = self.tokenization
            return tokenize(rows(), self.template, self.tokenizer, how.max_length, how.system_prompt, how.learn_turns)

        return cached([part, column, *self.key], make)


def _examples(maker: ShardMaker, part: str, rows: Iterable[Example]) -> Shard:
    return maker.answers(part, "completion", lambda: rows)


def _pairs(maker: ShardMaker, part: str, rows: Iterable[PreferencePair]) -> PairShard:
    how = maker.tokenization

    def make() -> PairShard:
        return tokenize_pairs(rows, maker.template, maker.tokenizer, how.max_length, how.system_prompt)

    return cached([part, "pairs", *maker.key], make)


def _rated(maker: ShardMaker, part: str, rows: Iterable[RatedAnswer]) -> RatedShard:
    def of(thumb: bool) -> Shard:
        answers = (Example(row.prompt, row.completion) if row.desirable == thumb else None for row in rows)
        return maker.answers(part, f"desirable={thumb}", lambda: answers)

    up, down = of(True), of(False)
    both = replace(join([up, down]), refused=up.refused + down.refused)
    return RatedShard(
        **{name: getattr(both, name) for name in both.__dataclass_fields__},
        desirable=np.repeat([True, False], [len(up), len(down)]),
    )


def _documents(maker: ShardMaker, part: str, rows: Iterable[Document]) -> Shard:
    how = maker.tokenization

    def make() -> Shard:
        texts = (row.text for row in rows)
        return document_windows(texts, maker.tokenizer, how.max_length, how.packing, how.special_tokens_in_text)

    return cached([part, "text", how.packing, *maker.key], make)


_MAKERS: dict[str, Callable[[ShardMaker, str, Iterable], AnyShard]] = {
    Example.kind: _examples,
    PreferencePair.kind: _pairs,
    RatedAnswer.kind: _rated,
    Document.kind: _documents,
}
