"""How the rows of each kind become a tokenized shard. Every piece is cached on disk under all that it depends on."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np

from fedllm_app.data.examples import Document, Example, PreferencePair, RatedAnswer, Row
from fedllm_app.data.schemas import DataError
from fedllm_app.data.shards import PairShard, Refusals, Shard, cached, join, tokenize, tokenize_pairs
from fedllm_app.data.templates import Template
from fedllm_app.data.tokenization import Tokenization
from fedllm_app.data.windows import document_windows

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


@dataclass(frozen=True)
class RatedShard:
    """Tokenized rated answers: those with a thumb up and those with a thumb down, evenly mixed.

    However many rows are taken from the beginning, both kinds are among them in the proportion of the whole, so that
    the first held-out rows stand for all of them.
    """

    up: Shard
    down: Shard
    refused: Refusals = Refusals()

    def __len__(self) -> int:
        return len(self.up) + len(self.down)

    @cached_property
    def places(self) -> np.ndarray:
        """Shape (n,): the place of each row in `up` and `down` laid end to end."""
        shares = [(np.arange(len(part)) + 0.5) / max(len(part), 1) for part in (self.up, self.down)]
        return np.argsort(np.concatenate(shares), kind="stable")

    @property
    def desirable(self) -> np.ndarray:
        """Shape (n,), bool: whether each row has a thumb up."""
        return self.places < len(self.up)

    @property
    def one_kind(self) -> bool:
        """Whether all rows have the same thumb."""
        return not len(self.up) or not len(self.down)

    @cached_property
    def lengths(self) -> np.ndarray:
        """Tokens of each row."""
        return np.concatenate([self.up.lengths, self.down.lengths])[self.places]

    @property
    def largest_id(self) -> int:
        """See `Shard.largest_id`."""
        return max(self.up.largest_id, self.down.largest_id)

    @property
    def dropped(self) -> int:
        """Rows whose prompt left no room for a completion."""
        return self.up.dropped + self.down.dropped

    @property
    def cut(self) -> int:
        """Rows whose completion is cut."""
        return self.up.cut + self.down.cut

    @property
    def equal(self) -> int:
        """Pairs that are equal when cut: there are none among single answers."""
        return 0

    @property
    def sequences(self) -> int:
        """Sequences that a model reads of a row to learn from it."""
        return 1

    @property
    def total(self) -> int:
        """Number of all tokens."""
        return self.up.total + self.down.total

    def tokens_of(self, indices: np.ndarray) -> int:
        """Number of the tokens of the rows at `indices`."""
        return int(self.lengths[indices].sum())

    def example(self, index: int) -> tuple[np.ndarray, int]:
        """Token ids of one row and the position of its first completion token."""
        place = self.places[index]
        return self.up.example(place) if place < len(self.up) else self.down.example(place - len(self.up))


AnyShard = Shard | PairShard | RatedShard


def join_rows(shards: Sequence[AnyShard]) -> AnyShard:
    """Shards of one kind of rows as one."""
    if isinstance(shards[0], RatedShard):
        up, down = join([shard.up for shard in shards]), join([shard.down for shard in shards])
        return RatedShard(up, down, Refusals(sum(shard.refused.count for shard in shards)))
    return join(shards)


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
    return RatedShard(up, down, up.refused + down.refused)


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
