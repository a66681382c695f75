"""Dividing rows among clients."""

import numpy as np
import pytest

from fedllm_app.data.partition import METHODS, PartitionError, partition, split_held_out

LABELS = [str(i // 30) for i in range(120)]  # four labels of 30 rows each


def divide(method, clients=4, size=120, seed=0, labels=LABELS, alpha=1.0):
    return partition(size, clients, method=method, seed=seed, labels=labels, alpha=alpha)


@pytest.mark.parametrize("method", METHODS)
def test_covers_all_rows_once_and_repeats(method):
    parts, again = divide(method), divide(method)
    assert sorted(np.concatenate(parts).tolist()) == list(range(120))
    for part, same in zip(parts, again, strict=True):
        assert part.dtype == np.int64
        assert len(part) and (np.diff(part) > 0).all()
        np.testing.assert_array_equal(part, same)


@pytest.mark.parametrize("method", sorted(set(METHODS) - {"natural-id"}))
def test_another_seed_divides_otherwise(method):
    pairs = zip(divide(method), divide(method, seed=1), strict=True)
    assert not all(np.array_equal(part, other) for part, other in pairs)


@pytest.mark.parametrize(
    ("method", "sizes"),
    [
        # 10 rows: 3, 3, 2, 2, sizes differing by one.
        ("iid", [3, 3, 2, 2]),
        # 1:2:3:4 of 10 rows.
        ("linear", [1, 2, 3, 4]),
    ],
)
def test_sizes_of_ten_rows(method, sizes):
    assert [len(part) for part in divide(method, size=10, labels=None)] == sizes


def test_square_and_exponential_sizes():
    """30 rows as 1:4:9:16 are 1, 4, 9, 16. 120 rows as e:e^2:e^3:e^4 are 3.85, 10.5, 28.4, 77.3: cut to whole rows
    3, 10, 28, 77, and the two left over go to the largest."""
    assert [len(part) for part in divide("square", size=30, labels=None)] == [1, 4, 9, 16]
    assert [len(part) for part in divide("exponential", labels=None)] == [3, 10, 28, 79]


def test_shard_gives_two_pieces_of_equal_size_each():
    """120 sorted rows in 8 shards of 15: a shard has one label, so a client has two labels at most."""
    for part in divide("shard"):
        assert len(part) == 30
        assert len({LABELS[i] for i in part}) <= 2


def test_shard_leaves_no_remainder():
    assert sum(map(len, divide("shard", clients=7))) == 120


def test_natural_id_gives_every_label_its_client():
    assert [{LABELS[i] for i in part} for part in divide("natural-id")] == [{"0"}, {"1"}, {"2"}, {"3"}]


def test_dirichlet_concentration():
    """Large alpha: every client has close to a quarter of every label. Small alpha: labels concentrate."""

    def largest_share(alpha):
        counts = [np.bincount([int(LABELS[i]) for i in part], minlength=4) for part in divide("dirichlet", alpha=alpha)]
        return np.max(counts, axis=0).mean() / 30

    assert largest_share(1000.0) < 0.35
    assert largest_share(0.1) > 0.6


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        ({"method": "idd"}, "Did you mean 'iid'"),
        ({"method": "iid", "clients": 121}, "120 rows .* 121 clients: ask for fewer clients"),
        ({"method": "iid", "clients": 0}, "among 0 clients"),
        ({"method": "shard", "labels": None}, "needs one label for each of 120 rows, got none"),
        ({"method": "dirichlet", "labels": ["a"]}, "got 1: name a label column"),
        ({"method": "dirichlet", "alpha": 0.0}, "must be above 0"),
        ({"method": "natural-id", "clients": 3}, "set clients.number = 4"),
        ({"method": "exponential", "clients": 12}, "ask for fewer clients"),
    ],
)
def test_errors_say_what_to_change(arguments, reason):
    with pytest.raises(PartitionError, match=reason):
        divide(**arguments)


@pytest.mark.filterwarnings("ignore:The specified min_partition_size")
def test_dirichlet_that_starves_a_client():
    with pytest.raises(PartitionError, match="a larger alpha"):
        divide("dirichlet", clients=60, alpha=0.001)


def test_held_out():
    """A tenth of 20 rows is 2."""
    rows = np.arange(100, 140, 2)
    train, held_out = split_held_out(rows, 0.1, seed=3)
    assert (len(train), len(held_out)) == (18, 2)
    np.testing.assert_array_equal(np.sort(np.concatenate([train, held_out])), rows)
    for part, again in zip((train, held_out), split_held_out(rows, 0.1, seed=3), strict=True):
        np.testing.assert_array_equal(part, again)
    assert len(split_held_out(rows, 0.0, seed=3)[1]) == 0


def test_held_out_errors():
    with pytest.raises(PartitionError, match="less than 1"):
        split_held_out(np.arange(3), 1.0, seed=0)
    with pytest.raises(PartitionError, match="leaves none"):
        split_held_out(np.arange(1), 0.9, seed=0)


def test_rows_without_a_label_are_no_client():
    """Two of six rows have no label, one of them a blank."""
    labels = ["a", "", "b", " ", "a", "b"]
    with pytest.raises(PartitionError, match="2 of 6 rows have none: fill in the label column"):
        divide("natural-id", clients=3, size=6, labels=labels)
    assert sorted(np.concatenate(divide("shard", clients=2, size=6, labels=labels)).tolist()) == list(range(6))


@pytest.mark.parametrize("share", [0.1, 0.5])
def test_repeated_rows_are_held_out_last(share):
    """Of 20 rows four stand twice. A tenth or half of them, 2 or 10, is drawn from the 16 others, in the same order as
    without repeated rows: those of them that were drawn are drawn again."""
    rows, repeated = np.arange(100, 140, 2), np.array([100, 104, 118, 138])
    train, held_out = split_held_out(rows, share, 3, repeated)
    assert len(held_out) == round(20 * share)
    assert not np.isin(held_out, repeated).any()
    np.testing.assert_array_equal(np.sort(np.concatenate([train, held_out])), rows)
    before = split_held_out(rows, share, 3)[1]
    assert set(before[~np.isin(before, repeated)]) <= set(held_out)


def test_more_held_out_rows_than_stand_alone():
    """Four of five rows stand twice, and three are held out: the one that stands alone and two others."""
    _, held_out = split_held_out(np.arange(5), 0.6, 0, np.array([0, 1, 2, 4]))
    assert len(held_out) == 3 and 3 in held_out


@pytest.mark.parametrize("seed", range(5))
def test_the_split_without_repeated_rows_is_the_same(seed):
    plain = split_held_out(np.arange(50), 0.3, seed)
    for repeated in (np.array([], np.int64), np.array([77, 99])):  # those are other clients'
        for part, same in zip(plain, split_held_out(np.arange(50), 0.3, seed, repeated), strict=True):
            np.testing.assert_array_equal(part, same)
