"""Divide the rows of a source among clients, and a client's rows into training and held-out ones.

Everything is a function of its arguments: every process that asks gets the same division.
"""

from __future__ import annotations

import difflib
import warnings
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from fedllm_app.errors import UserError

_SHARDS_PER_CLIENT = 2


class PartitionError(UserError):
    """The rows cannot be divided as asked; the message says what to change."""

    public = "the rows cannot be divided as data.partition asks"


def partition(
    source_size: int,
    clients: int,
    *,
    method: str,
    seed: int,
    labels: Sequence[str] | None = None,
    alpha: float = 0.5,
) -> list[np.ndarray]:
    """Divide rows among clients, without overlap and without a rest.

    Parameters
    ----------
    source_size : int
        Number of rows.
    clients : int
        Number of clients.
    method : str
        A name of `METHODS`: `iid` (sizes differ by one at most), `linear`, `square` and `exponential` (random rows,
        sizes growing like the client's number, its square, its exponential), `dirichlet` (the rows of every label
        are divided in proportions drawn from Dirichlet(alpha)), `shard` (rows sorted by label and cut into two
        pieces per client, dealt at random), `natural-id` (a client per label).
    seed : int
        Of every random choice.
    labels : Sequence[str] | None
        (source_size,) one label a row, for the last three methods.
    alpha : float
        Concentration of `dirichlet`: the smaller, the fewer labels a client has.

    Returns
    -------
    list[np.ndarray]
        For every client its row numbers, int64, ascending, at least one.

    Raises
    ------
    PartitionError
        Unknown method, missing or mismatched labels, alpha not above 0, or a client without rows.
    """
    if method not in METHODS:
        near = difflib.get_close_matches(method, METHODS, n=1)
        hint = f" Did you mean '{near[0]}'?" if near else ""
        raise PartitionError(f"unknown partition method '{method}'; accepted are {', '.join(METHODS)}.{hint}")
    if not 1 <= clients <= source_size:
        raise PartitionError(f"{source_size} rows cannot be divided among {clients} clients: ask for fewer clients")
    if method in LABELLED and (labels is None or len(labels) != source_size):
        found = "none" if labels is None else str(len(labels))
        raise PartitionError(
            f"method '{method}' needs one label for each of {source_size} rows, got {found}: name a label column"
        )
    values = None if labels is None else np.asarray(labels)
    parts = METHODS[method](source_size, clients, np.random.default_rng([seed, 1]), values, alpha)
    empty = [number for number, part in enumerate(parts) if not len(part)]
    if empty:
        raise PartitionError(
            f"method '{method}' leaves client {empty[0]} of {clients} without rows: ask for fewer clients"
            " or another method"
        )
    return [np.sort(part).astype(np.int64) for part in parts]


def choose_rows(source_size: int, samples: int, seed: int) -> np.ndarray:
    """The rows to use: `samples` of them drawn from `seed`, ascending; all where there are no more, or for 0."""
    if not 0 < samples < source_size:
        return np.arange(source_size)
    return np.sort(np.random.default_rng([seed, 5]).choice(source_size, samples, replace=False))


def split_held_out(
    indices: np.ndarray, share: float, seed: int, repeated: np.ndarray | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """Split a client's rows into (training, held out); `share`, rounded to whole rows, is held out.

    Both parts are ascending and depend on nothing but the arguments. `repeated`, ascending, are rows that are equal to
    another one: they are held out last, because the equal row may be trained on.

    Raises
    ------
    PartitionError
        The share is not in [0, 1), or it leaves nothing to train on.
    """
    if not 0 <= share < 1:
        raise PartitionError(f"the held-out share must be at least 0 and less than 1, got {share}")
    count = round(share * len(indices))
    if count >= len(indices):
        raise PartitionError(f"holding out {share:.0%} of {len(indices)} rows leaves none to train on: hold out less")
    drawn = np.random.default_rng([seed, 2]).permutation(len(indices))
    if repeated is not None:
        drawn = _repeated_last(drawn, np.isin(indices, repeated))
    return np.sort(indices[drawn[count:]]), np.sort(indices[drawn[:count]])


def _repeated_last(drawn: np.ndarray, repeated: np.ndarray) -> np.ndarray:
    """The drawn places with those of repeated rows at the end, in the order drawn otherwise."""
    return drawn[np.argsort(repeated[drawn], kind="stable")]


def _iid(size: int, clients: int, rng: np.random.Generator, labels: Any, alpha: float) -> list[np.ndarray]:
    return np.array_split(rng.permutation(size), clients)


def _sized(name: str) -> Callable[..., list[np.ndarray]]:
    """Method that divides shuffled rows by a size partitioner of flwr-datasets."""

    def divide(size: int, clients: int, rng: np.random.Generator, labels: Any, alpha: float) -> list[np.ndarray]:
        from flwr_datasets import partitioner

        return _by(getattr(partitioner, name)(clients), rng.permutation(size), None, clients)

    return divide


def _dirichlet(size: int, clients: int, rng: np.random.Generator, labels: Any, alpha: float) -> list[np.ndarray]:
    from flwr_datasets.partitioner import DirichletPartitioner

    if not alpha > 0:
        raise PartitionError(f"alpha of method 'dirichlet' must be above 0, got {alpha}")
    drawn = DirichletPartitioner(clients, "label", float(alpha), min_partition_size=1, seed=int(rng.integers(2**31)))
    with warnings.catch_warnings():
        # Drawing again until every client has a row is what is wanted here.
        warnings.filterwarnings("ignore", "The specified min_partition_size", UserWarning)
        return _by(drawn, rng.permutation(size), labels, clients)


def _by(partitioner: Any, rows: np.ndarray, labels: np.ndarray | None, clients: int) -> list[np.ndarray]:
    """Run a partitioner of flwr-datasets over row numbers, in the order given, and their labels."""
    import datasets

    columns = {"row": rows} if labels is None else {"row": rows, "label": labels[rows]}
    partitioner.dataset = datasets.Dataset.from_dict(columns)
    try:
        return [partitioner.load_partition(number).with_format("numpy")[:]["row"] for number in range(clients)]
    except ValueError as error:
        raise PartitionError(
            f"{len(rows)} rows cannot be divided so that each of {clients} clients gets one; ask for fewer clients,"
            f" a larger alpha, or another method ({error})"
        ) from error


def _shard(size: int, clients: int, rng: np.random.Generator, labels: Any, alpha: float) -> list[np.ndarray]:
    # Not flwr-datasets' ShardPartitioner: with a fixed number of shards a client, it leaves out the remainder.
    shuffled = rng.permutation(size)
    ordered = shuffled[np.argsort(labels[shuffled], kind="stable")]
    shards = np.array_split(ordered, _SHARDS_PER_CLIENT * clients)
    dealt = rng.permutation(len(shards)).reshape(clients, _SHARDS_PER_CLIENT)
    return [np.concatenate([shards[number] for number in mine]) for mine in dealt]


def _natural_id(size: int, clients: int, rng: np.random.Generator, labels: Any, alpha: float) -> list[np.ndarray]:
    values = np.unique(labels)
    unlabelled = sum(np.count_nonzero(labels == value) for value in values if not value.strip())
    if unlabelled:
        raise PartitionError(
            f"method 'natural-id' makes one client per label, and {unlabelled} of {size} rows have none: fill in the "
            "label column, or leave these rows out of the data"
        )
    if len(values) != clients:
        raise PartitionError(
            f"method 'natural-id' makes one client per label, and there are {len(values)} labels for {clients} clients:"
            f" set clients.number = {len(values)}"
        )
    return [np.flatnonzero(labels == value) for value in values]


METHODS: dict[str, Callable[..., list[np.ndarray]]] = {
    "iid": _iid,
    "dirichlet": _dirichlet,
    "shard": _shard,
    "linear": _sized("LinearPartitioner"),
    "square": _sized("SquarePartitioner"),
    "exponential": _sized("ExponentialPartitioner"),
    "natural-id": _natural_id,
}
"""Methods by name: (rows, clients, rng, labels or None, alpha) -> row numbers of every client."""

LABELLED = frozenset({"dirichlet", "shard", "natural-id"})
"""The methods that need a label for every row."""
