"""The order in which a client walks its shard, round after round, the batches of a round, and samples."""

from collections.abc import Iterator, Sequence

import numpy as np

from fedllm_app.data.shards import EmptyShard


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


def sample(size: int, count: int, seed: int) -> np.ndarray:
    """`count` of the indices 0..size-1, drawn by the seed without repetition, ascending; all, if there are no more."""
    if count >= size:
        return np.arange(size)
    return np.sort(np.random.default_rng(seed).choice(size, count, replace=False))


def batches(indices: np.ndarray, lengths: np.ndarray, batch_size: int, seed: Sequence[int]) -> Iterator[np.ndarray]:
    """Cut the examples of a round into batches of similar length, in an order drawn from `seed`.

    Batching by length saves the work on padding; every example of `indices` is still met exactly once.
    """
    by_length = indices[np.argsort(lengths[indices], kind="stable")]
    grouped = by_length.reshape(-1, batch_size)
    yield from grouped[np.random.default_rng(list(seed)).permutation(len(grouped))]
