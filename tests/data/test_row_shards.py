"""Shards of rated answers and of documents: order, counts, what is cached."""

import numpy as np
import pytest
from conftest import byte_tokenizer

from fedllm_app.data import row_shards
from fedllm_app.data.examples import Document, RatedAnswer
from fedllm_app.data.row_shards import RatedShard, ShardMaker, join_rows
from fedllm_app.data.shards import Shard
from fedllm_app.data.tokenization import Tokenization


def shard_of(*lengths, first=0, dropped=0) -> Shard:
    """Rows of these lengths whose first token is `first`, `first` + 1, …"""
    pieces = [np.full(length, first + number, np.int32) for number, length in enumerate(lengths)]
    tokens = np.concatenate(pieces) if pieces else np.zeros(0, np.int32)
    return Shard(tokens, np.cumsum([0, *lengths]), np.ones(len(lengths), np.int32), dropped)


def rated(up, down):
    return RatedShard(shard_of(*up, first=10, dropped=1), shard_of(*down, first=20, dropped=2))


def firsts(shard):
    return [int(shard.example(index)[0][0]) for index in range(len(shard))]


def test_thumbs_are_mixed_in_proportion():
    """Four up stand at 1/8, 3/8, 5/8, 7/8 and two down at 1/4, 3/4: up, down, up, up, down, up."""
    shard = rated([2, 3, 4, 5], [6, 7])
    assert firsts(shard) == [10, 20, 11, 12, 21, 13]
    assert shard.desirable.tolist() == [True, False, True, True, False, True]
    assert shard.lengths.tolist() == [2, 6, 3, 4, 7, 5]
    assert [len(shard.example(index)[0]) for index in range(6)] == shard.lengths.tolist()
    assert (len(shard), shard.total, shard.dropped, shard.sequences) == (6, 27, 3, 1)
    assert shard.tokens_of(np.array([1, 1, 5])) == 6 + 6 + 5


@pytest.mark.parametrize(("up", "down"), [(30, 3), (3, 30), (17, 17), (1, 8)])
def test_every_beginning_has_both_kinds_in_the_proportion_of_the_whole(up, down):
    """Of the first n rows, n up / (up + down) have a thumb up, to one row."""
    shard = rated([2] * up, [2] * down)
    counted = np.cumsum(shard.desirable)
    expected = np.arange(1, up + down + 1) * up / (up + down)
    assert np.abs(counted - expected).max() <= 1


def test_one_kind_of_label():
    assert rated([2, 2], []).one_kind
    assert rated([], [2]).one_kind
    assert not rated([2], [2]).one_kind
    assert firsts(rated([], [2, 3])) == [20, 21]


def test_shards_of_several_clients_become_one():
    """Two clients with two up and one down, and with one up and two down: the pool has three of each, thumbs kept."""
    pool = join_rows([rated([2, 2], [3]), rated([2], [3, 3])])
    assert isinstance(pool, RatedShard)
    assert pool.desirable.sum() == 3
    assert pool.lengths[pool.desirable].tolist() == [2, 2, 2]
    assert pool.lengths[~pool.desirable].tolist() == [3, 3, 3]
    assert pool.dropped == 6
    assert join_rows([shard_of(2), shard_of(3)]).lengths.tolist() == [2, 3]


def maker(max_length=64, packing=True, key="rows"):
    return ShardMaker(byte_tokenizer(), Tokenization("none", None, max_length, packing), [key, max_length])


def answers(*rows):
    return [RatedAnswer((("user", asked),), told, thumb) for asked, told, thumb in rows]


def test_rated_rows_are_tokenized_with_their_thumbs():
    """The third row's prompt fills the window of 16 tokens: it is counted, and the thumbs stay with their rows."""
    rows = answers(("a", "bad", False), ("b", "good", True), ("too long a prompt", "bad", False), ("c", "good", True))
    shard = maker(16).make("train", "rated", rows)
    texts = [byte_tokenizer().decode(shard.example(index)[0]) for index in range(3)]
    told = dict(zip(texts, shard.desirable.tolist(), strict=True))
    assert told == {
        "<|begin|>a\nbad<|end|>": False,
        "<|begin|>b\ngood<|end|>": True,
        "<|begin|>c\ngood<|end|>": True,
    }
    assert shard.dropped == 1


def test_cached_shards_are_not_made_again(monkeypatch):
    """Both sides of rated rows, and documents; another packing is another shard."""
    rows = answers(("a", "bad", False), ("b", "good", True))
    documents = [Document("one two three"), Document("four")]
    first = maker().make("train", "rated", rows)
    packed = maker().make("train", "document", documents)
    apart = maker(packing=False).make("train", "document", documents)
    assert (len(packed), len(apart)) == (1, 2)

    def refuse(*_arguments):
        raise AssertionError("it was cached")

    monkeypatch.setattr(row_shards, "tokenize", refuse)
    monkeypatch.setattr(row_shards, "document_windows", refuse)
    again = maker().make("train", "rated", rows)
    assert firsts(again) == firsts(first)
    assert again.desirable.tolist() == first.desirable.tolist()
    assert len(maker().make("train", "document", documents)) == 1
    assert len(maker(packing=False).make("train", "document", documents)) == 2
