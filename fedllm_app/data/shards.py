"""Tokenized shards: what a client trains on, as flat arrays, and the order in which it walks them.

The loss covers the completion by construction: prompt and completion are tokenized apart and joined, so the first
completion token is known and nothing is searched for in token ids.
"""

import hashlib
import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from fedllm_app.data.examples import Example
from fedllm_app.errors import UserError
from fedllm_app.paths import atomic_path, home

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from fedllm_app.data.templates import Template, Turn

# Part of every cache key: raise it when the arrays or the way they are made change.
_FORMAT = 2

# Rows rendered and tokenized at a time: as Python lists, the tokens of a row take ten times the room of its array.
_CHUNK = 1024


class EmptyShard(UserError):
    """No row of a client is left to train on."""


@dataclass(frozen=True)
class Shard:
    """Tokenized examples laid end to end.

    `tokens` (total,) int32; example i is `tokens[offsets[i]:offsets[i + 1]]` and its completion begins at `starts[i]`
    within it; `dropped` counts the rows whose completion did not fit into the maximum length at all.
    """

    tokens: np.ndarray
    offsets: np.ndarray
    starts: np.ndarray
    dropped: int

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
    def total(self) -> int:
        """Number of all tokens."""
        return len(self.tokens)

    def tokens_of(self, indices: np.ndarray) -> int:
        """Number of the tokens of the examples at `indices`."""
        return int(self.lengths[indices].sum())

    def example(self, index: int) -> tuple[np.ndarray, int]:
        """Token ids of one example and the position of its first completion token."""
        return self.tokens[self.offsets[index] : self.offsets[index + 1]], int(self.starts[index])


@dataclass(frozen=True)
class PairShard:
    """Tokenized preference pairs: pair i is `chosen.example(i)` and `rejected.example(i)`, with the same prompt."""

    chosen: Shard
    rejected: Shard

    def __len__(self) -> int:
        return len(self.chosen)

    @property
    def lengths(self) -> np.ndarray:
        """Tokens of the longer of the two."""
        return np.maximum(self.chosen.lengths, self.rejected.lengths)

    @property
    def dropped(self) -> int:
        """Pairs whose prompt left no room for a completion."""
        return self.chosen.dropped

    @property
    def sequences(self) -> int:
        """Sequences that a model reads of a pair."""
        return 2

    @property
    def total(self) -> int:
        """Number of all tokens."""
        return self.chosen.total + self.rejected.total

    def tokens_of(self, indices: np.ndarray) -> int:
        """Number of the tokens of the pairs at `indices`, both completions with their prompts."""
        return self.chosen.tokens_of(indices) + self.rejected.tokens_of(indices)


def tokenize(
    examples: Iterable[Example],
    template: "Template",
    tokenizer: "PreTrainedTokenizerBase",
    max_length: int,
    system_prompt: str | None,
) -> Shard:
    """Tokenize examples, cut them to `max_length` tokens and drop (and count) those left without a completion token.

    A completion that is cut ends without the end token, so the model does not learn to stop in mid-sentence.
    """
    pieces, starts, dropped = [], [], 0
    rows = iter(examples)
    while chunk := list(islice(rows, _CHUNK)):
        for prompt, completion in _encoded(chunk, template, tokenizer, system_prompt):
            if not prompt or len(prompt) >= max_length:
                dropped += 1
                continue
            pieces.append(np.asarray((prompt + completion)[:max_length], dtype=np.int32))
            starts.append(len(prompt))
    tokens = np.concatenate(pieces) if pieces else np.zeros(0, np.int32)
    return Shard(tokens, _offsets([len(piece) for piece in pieces]), np.asarray(starts, np.int32), dropped)


def _encoded(
    examples: Sequence[Example], template: "Template", tokenizer: "PreTrainedTokenizerBase", system_prompt: str | None
) -> Iterator[tuple[list[int], list[int]]]:
    """Token ids of prompt and completion of each example."""
    prompt_ids = encode_prompts([example.prompt for example in examples], template, tokenizer, system_prompt)
    completions = [template.completion_prefix + example.completion + template.end for example in examples]
    completion_ids = tokenizer(completions, add_special_tokens=False, return_attention_mask=False)["input_ids"]
    return zip(prompt_ids, completion_ids, strict=True)


def encode_prompts(
    conversations: Sequence[Sequence["Turn"]],
    template: "Template",
    tokenizer: "PreTrainedTokenizerBase",
    system_prompt: str | None,
) -> list[list[int]]:
    """Token ids of conversations up to the answer: what a model reads in training, in evaluation and in a chat."""
    prompts = [template.render_prompt(turns, system_prompt) for turns in conversations]
    # A chat template writes the beginning-of-text token itself; it must not stand there twice.
    written = tokenizer.bos_token is not None and prompts[0].startswith(tokenizer.bos_token)
    return tokenizer(prompts, add_special_tokens=not written, return_attention_mask=False)["input_ids"]


def _offsets(lengths: Sequence[int] | np.ndarray) -> np.ndarray:
    return np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)


def join(shards: Sequence[Shard | PairShard]) -> Shard | PairShard:
    """Shards of one kind laid end to end."""
    if isinstance(shards[0], PairShard):
        return PairShard(join([shard.chosen for shard in shards]), join([shard.rejected for shard in shards]))
    lengths = np.concatenate([shard.lengths for shard in shards])
    return Shard(
        tokens=np.concatenate([shard.tokens for shard in shards]),
        offsets=_offsets(lengths),
        starts=np.concatenate([shard.starts for shard in shards]),
        dropped=sum(shard.dropped for shard in shards),
    )


def cached(key_parts: Sequence[object], make) -> Shard:
    """The shard that `make()` returns, from disk if one with the same key was made before.

    `key_parts` must name everything the shard depends on: source, rows, template, tokenizer, lengths. The tokens stay
    on disk: they are mapped, so that what a process holds of a shard is the pages it reads.
    """
    key = hashlib.sha256(json.dumps([_FORMAT, *key_parts], default=str).encode()).hexdigest()[:32]
    path = home() / "shards" / f"{key}.npy"
    if not path.is_file():
        _save(path, make())
    return _load(path)


def _save(path: Path, shard: Shard) -> None:
    """One int32 array, because one file is replaced as a whole: dropped, examples, starts, lengths, tokens."""
    parts = [[shard.dropped, len(shard)], shard.starts, shard.lengths, shard.tokens]
    with atomic_path(path) as temporary:
        np.save(temporary, np.concatenate(parts).astype(np.int32))


def _load(path: Path) -> Shard:
    mapped = np.load(path, mmap_mode="r", allow_pickle=False).view(np.ndarray)
    dropped, count = int(mapped[0]), int(mapped[1])
    starts, lengths, tokens = np.split(mapped[2:], [count, 2 * count])
    return Shard(tokens, _offsets(lengths), starts, dropped)


def walk(size: int, client: int, seed: int, position: int, count: int) -> np.ndarray:
    """The `count` examples that a client meets after it has seen `position` of them: indices in 0..size-1.

    A client walks its shard without repetition, reshuffled every epoch from (seed, client, epoch), and goes on where it
    stopped when it is chosen again. Nothing but `position` is remembered.
    """
    if size < 1:
        raise EmptyShard("a shard without examples cannot be walked")
    indices = []
    while count > 0:
        epoch, offset = divmod(position, size)
        order = np.random.default_rng([seed, 2, client, epoch]).permutation(size)
        taken = order[offset : offset + count]
        indices.append(taken)
        position += len(taken)
        count -= len(taken)
    return np.concatenate(indices)


def batches(indices: np.ndarray, lengths: np.ndarray, batch_size: int, seed: Sequence[int]) -> Iterator[np.ndarray]:
    """Cut the examples of a round into batches of similar length, in an order drawn from `seed`.

    Batching by length saves the work on padding; every example of `indices` is still met exactly once.
    """
    by_length = indices[np.argsort(lengths[indices], kind="stable")]
    grouped = by_length.reshape(-1, batch_size)
    yield from grouped[np.random.default_rng(list(seed)).permutation(len(grouped))]
