"""Tokenized shards: what a client trains on, as flat arrays, and the order in which it walks them.

Rows that cannot teach are not among them. They are counted, by reason, and so are rows of which a part was cut off.
"""

import hashlib
import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from fedllm_app.data.encoding import Encoded, LearnTurns, Refused, Span, encode_rows
from fedllm_app.data.examples import Example, PreferencePair
from fedllm_app.errors import UserError
from fedllm_app.paths import atomic_path, home

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from fedllm_app.data.templates import Template

# Part of every cache key: raise it when the arrays or the way they are made change.
_FORMAT = 3

# Rows rendered and tokenized at a time: as Python lists, the tokens of a row take ten times the room of its array.
_CHUNK = 1024

_NAMED = 3  # refused rows whose reason is kept


class EmptyShard(UserError):
    """No row of a client is left to train on."""

    shareable = True


Row = tuple[np.ndarray, int] | tuple[np.ndarray, int, np.ndarray]
"""Token ids of an example, the place of its first completion token, and, where answers before it are learnt too, their
spans (n, 2): the first token of each and the one behind its last."""


def row_labels(ids: np.ndarray, start: int, learnt: np.ndarray | Sequence[Span] = ()) -> np.ndarray:
    """The labels of a `Row`: its token ids where they are learnt, -100 elsewhere."""
    labels = np.concatenate([np.full(start, -100), ids[start:]])
    for first, end in learnt:
        labels[first:end] = ids[first:end]
    return labels


@dataclass(frozen=True)
class Refusals:
    """Rows that cannot be written as tokens: how many, and the first ones as (place among the rows, reason)."""

    count: int = 0
    first: tuple[tuple[int, str], ...] = ()

    def __add__(self, other: "Refusals") -> "Refusals":
        """Those of two shards of the same rows."""
        return Refusals(self.count + other.count, tuple(sorted((*self.first, *other.first))[:_NAMED]))


@dataclass(frozen=True)
class Shard:
    """Tokenized examples laid end to end.

    Attributes
    ----------
    tokens : np.ndarray
        Shape (total,), int32; example i is `tokens[offsets[i]:offsets[i + 1]]`.
    starts : np.ndarray
        Where in each example its completion begins.
    dropped : int
        Rows that are not here because their prompt left no room for a completion.
    cut : int
        Examples that end at the maximum length: their completions have no end, so they do not teach to stop.
    refused : Refusals
        Rows that are not here because they cannot be written as tokens.
    learnt : np.ndarray
        Shape (n, 3), int32: example, first token and the one behind the last of every answer before the completion that
        is learnt, too; in the order of the examples.
    """

    tokens: np.ndarray
    offsets: np.ndarray
    starts: np.ndarray
    dropped: int
    cut: int = 0
    refused: Refusals = Refusals()
    learnt: np.ndarray = field(default_factory=lambda: np.zeros((0, 3), np.int32))

    def __len__(self) -> int:
        return len(self.starts)

    @property
    def lengths(self) -> np.ndarray:
        """Tokens of each example."""
        return np.diff(self.offsets)

    @property
    def sequences(self) -> int:
        """Sequences that a model reads of an example."""
        return 1

    @property
    def equal(self) -> int:
        """See `PairShard`."""
        return 0

    @property
    def one_kind(self) -> bool:
        """See `RatedShard`."""
        return False

    @property
    def total(self) -> int:
        """Number of all tokens."""
        return len(self.tokens)

    @property
    def largest_id(self) -> int:
        """The largest token id; -1 where there are no tokens."""
        return int(self.tokens.max(initial=-1))

    def tokens_of(self, indices: np.ndarray) -> int:
        """Number of the tokens of the examples at `indices`."""
        return int(self.lengths[indices].sum())

    def example(self, index: int) -> tuple[np.ndarray, int]:
        """Token ids of one example and the place of its first completion token."""
        return self.tokens[self.offsets[index] : self.offsets[index + 1]], int(self.starts[index])

    def row(self, index: int) -> Row:
        """One example as it is trained on, with its other learnt answers if it has some."""
        first, end = np.searchsorted(self.learnt[:, 0], (index, index + 1))
        return self.example(index) if first == end else (*self.example(index), self.learnt[first:end, 1:])


@dataclass(frozen=True)
class PairShard:
    """Tokenized preference pairs: pair i is `chosen.example(i)` and `rejected.example(i)`, with the same prompt.

    `equal` counts pairs that are not here because nothing tells their answers apart once they are cut.
    """

    chosen: Shard
    rejected: Shard
    equal: int = 0

    def __len__(self) -> int:
        return len(self.chosen)

    @property
    def lengths(self) -> np.ndarray:
        """Tokens of the longer of the two."""
        return np.maximum(self.chosen.lengths, self.rejected.lengths)

    @property
    def sequences(self) -> int:
        """Sequences that a model reads of a pair."""
        return 2

    @property
    def dropped(self) -> int:
        """Pairs whose prompt left no room for a completion."""
        return self.chosen.dropped

    @property
    def cut(self) -> int:
        """Pairs of which at least one completion is cut."""
        return self.chosen.cut

    @property
    def refused(self) -> Refusals:
        """Pairs that cannot be written as tokens."""
        return self.chosen.refused

    @property
    def one_kind(self) -> bool:
        """See `RatedShard`."""
        return False

    @property
    def total(self) -> int:
        """Number of all tokens."""
        return self.chosen.total + self.rejected.total

    @property
    def largest_id(self) -> int:
        """The largest token id of all completions and prompts; -1 where there are none."""
        return max(self.chosen.largest_id, self.rejected.largest_id)

    def tokens_of(self, indices: np.ndarray) -> int:
        """Number of the tokens of the pairs at `indices`, both completions with their prompts."""
        return self.chosen.tokens_of(indices) + self.rejected.tokens_of(indices)


def tokenize(
    examples: Iterable[Example | None],
    template: "Template",
    tokenizer: "PreTrainedTokenizerBase",
    max_length: int,
    system_prompt: str | None,
    learn_turns: LearnTurns = "last",
) -> Shard:
    """Tokenize examples, cut them to `max_length` tokens and drop (and count) those that cannot teach.

    A completion that is cut ends without the end token, so the model does not learn to stop in mid-sentence. Where all
    turns are learnt, an example whose last prompt fills the window ends with the last answer that begins within it.
    A None among the examples only has a place: it is a row of another shard.
    """
    rows = (None if example is None else (example.prompt, (example.completion,)) for example in examples)
    part, dropped, cut, refused = _Part(), 0, 0, _RefusedRows()
    for place, row in _encoded(rows, template, system_prompt, learn_turns):
        if isinstance(row, Refused):
            refused.add(place, row.reason)
            continue
        ids, start, learnt = row.prompt + row.completions[0], len(row.prompt), row.learnt
        length = len(ids)
        if start >= max_length and (within := [span for span in learnt if span[0] < max_length]):
            *learnt, (start, end) = within
            ids = ids[:end]
        if start >= max_length:
            dropped += 1
            continue
        part.add(ids[:max_length], start, learnt)
        cut += min(len(ids), max_length) < length
    return part.shard(dropped, cut, refused.total)


def tokenize_pairs(
    pairs: Iterable[PreferencePair],
    template: "Template",
    tokenizer: "PreTrainedTokenizerBase",
    max_length: int,
    system_prompt: str | None,
) -> PairShard:
    """Tokenize pairs as `tokenize` does examples. A pair whose answers are equal when cut teaches nothing."""
    rows = ((pair.prompt, (pair.chosen, pair.rejected)) for pair in pairs)
    parts, dropped, cut, equal, refused = (_Part(), _Part()), 0, 0, 0, _RefusedRows()
    for place, row in _encoded(rows, template, system_prompt, "last"):
        if isinstance(row, Refused):
            refused.add(place, row.reason)
            continue
        start, whole = len(row.prompt), [row.prompt + completion for completion in row.completions]
        chosen, rejected = (ids[:max_length] for ids in whole)
        if start >= max_length:
            dropped += 1
        elif chosen == rejected:
            equal += 1
        else:
            cut += max(map(len, whole)) > max_length
            for part, ids in zip(parts, (chosen, rejected), strict=True):
                part.add(ids, start, [])
    chosen, rejected = (part.shard(dropped, cut, refused.total) for part in parts)
    return PairShard(chosen, rejected, equal)


def _encoded(
    rows: Iterable, template: "Template", system_prompt: str | None, learn_turns: LearnTurns
) -> Iterator[tuple[int, Encoded | Refused]]:
    """Rows as tokens, each with its place among them, a chunk at a time; None is left out."""
    placed = ((place, row) for place, row in enumerate(rows) if row is not None)
    while chunk := list(islice(placed, _CHUNK)):
        encoded = encode_rows([row for _, row in chunk], template, system_prompt, learn_turns)
        yield from zip((place for place, _ in chunk), encoded, strict=True)


class _Part:
    """A shard in the making."""

    def __init__(self) -> None:
        self.pieces: list[np.ndarray] = []
        self.starts: list[int] = []
        self.learnt: list[tuple[int, int, int]] = []

    def add(self, ids: Sequence[int], start: int, learnt: Sequence[Span]) -> None:
        self.learnt += [(len(self.pieces), first, end) for first, end in learnt]
        self.pieces.append(np.asarray(ids, dtype=np.int32))
        self.starts.append(start)

    def shard(self, dropped: int, cut: int, refused: Refusals) -> Shard:
        return Shard(
            tokens=np.concatenate(self.pieces) if self.pieces else np.zeros(0, np.int32),
            offsets=_offsets([len(piece) for piece in self.pieces]),
            starts=np.asarray(self.starts, np.int32),
            dropped=dropped,
            cut=cut,
            refused=refused,
            learnt=np.asarray(self.learnt, np.int32).reshape(-1, 3),
        )


class _RefusedRows:
    """Refused rows, counted."""

    def __init__(self) -> None:
        self.total = Refusals()

    def add(self, place: int, reason: str) -> None:
        first = self.total.first
        self.total = Refusals(self.total.count + 1, (*first, (place, reason)) if len(first) < _NAMED else first)


def _offsets(lengths: Sequence[int] | np.ndarray) -> np.ndarray:
    return np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)


def join(shards: Sequence[Shard | PairShard]) -> Shard | PairShard:
    """Shards of one kind laid end to end. Which rows were refused is known of each alone; here they are counted."""
    if isinstance(shards[0], PairShard):
        chosen, rejected = join([shard.chosen for shard in shards]), join([shard.rejected for shard in shards])
        return PairShard(chosen, rejected, sum(shard.equal for shard in shards))
    before = np.cumsum([0, *(len(shard) for shard in shards)])
    return Shard(
        tokens=np.concatenate([shard.tokens for shard in shards]),
        offsets=_offsets(np.concatenate([shard.lengths for shard in shards])),
        starts=np.concatenate([shard.starts for shard in shards]),
        dropped=sum(shard.dropped for shard in shards),
        cut=sum(shard.cut for shard in shards),
        refused=Refusals(sum(shard.refused.count for shard in shards)),
        learnt=np.concatenate(
            [shard.learnt + np.array([place, 0, 0], np.int32) for place, shard in zip(before, shards, strict=False)]
        ),
    )


def cached(key_parts: Sequence[object], make: Callable[[], Shard | PairShard]) -> Shard | PairShard:
    """The shard that `make()` returns, from disk if one with the same key was made before.

    `key_parts` must name everything the shard depends on: source, rows, template, tokenizer, lengths. The tokens stay
    on disk: they are mapped, so that what a process holds of a shard is the pages it reads.
    """
    key = hashlib.sha256(json.dumps([_FORMAT, *key_parts], default=str).encode()).hexdigest()[:32]
    path = home() / "shards" / f"{key}.npy"
    if not path.is_file():
        _save(path, make())
    return _load(path)


_HEADER = 6


def _save(path: Path, shard: Shard | PairShard) -> None:
    """One int32 array, because one file is replaced as a whole: the number of shards, equal pairs, and each shard.

    Of a shard: its numbers, the reasons of refused rows as characters of JSON, starts, lengths, learnt spans, tokens.
    """
    pairs = isinstance(shard, PairShard)
    arrays: list = [[2, shard.equal] if pairs else [1, 0]]
    for part in (shard.chosen, shard.rejected) if pairs else (shard,):
        reasons = [ord(letter) for letter in json.dumps(part.refused.first)]
        counts = [len(part), part.dropped, part.cut, part.refused.count, len(reasons), len(part.learnt)]
        arrays += [counts, reasons, part.starts, part.lengths, part.learnt.reshape(-1), part.tokens]
    with atomic_path(path) as temporary:
        np.save(temporary, np.concatenate(arrays).astype(np.int32), allow_pickle=False)


def _load(path: Path) -> Shard | PairShard:
    mapped = np.load(path, mmap_mode="r", allow_pickle=False).view(np.ndarray)
    number, equal = mapped[:2].tolist()
    rest, shards = mapped[2:], []
    for _ in range(number):
        examples, dropped, cut, refused, letters, spans = rest[:_HEADER].tolist()
        reasons, starts, lengths, learnt, rest = np.split(
            rest[_HEADER:], np.cumsum([letters, examples, examples, 3 * spans])
        )
        offsets = _offsets(lengths)
        tokens, rest = rest[: offsets[-1]], rest[offsets[-1] :]
        first = tuple((place, reason) for place, reason in json.loads("".join(map(chr, reasons))))
        shards.append(Shard(tokens, offsets, starts, dropped, cut, Refusals(refused, first), learnt.reshape(-1, 3)))
    return shards[0] if number == 1 else PairShard(*shards, equal)
