"""Intervals of figures, and paired tests of two models on the same questions."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

LEVEL = 0.95
MEAN_RESAMPLES = 2000
OTHER_RESAMPLES = 1000  # of statistics that are computed anew for each, such as F1: fewer, because each is a loop

Statistic = Callable[[np.ndarray], float]
"""A figure of the questions at these places."""


@dataclass(frozen=True)
class Interval:
    """A 95 % interval."""

    low: float
    high: float


def wilson(successes: int, n: int) -> Interval:
    """Of a share, by the score test (Wilson 1927); of no question, from 0 to 1."""
    if n == 0:
        return Interval(0.0, 1.0)
    from scipy.stats import binomtest

    found = binomtest(successes, n).proportion_ci(LEVEL, method="wilson")
    return Interval(float(found.low), float(found.high))


def mean_resamples(values: np.ndarray, seed: int) -> np.ndarray:
    """Means of `MEAN_RESAMPLES` samples, each of as many values, drawn with replacement.

    ValueError for no values. Of one value every mean is that value, which says nothing about how sure it is: callers
    give no interval then.
    """
    rng = np.random.default_rng(seed)
    size = max(1, 2_000_000 // max(1, len(values)))  # samples drawn at a time
    means = []
    for start in range(0, MEAN_RESAMPLES, size):
        count = min(size, MEAN_RESAMPLES - start)
        means.append(values[rng.integers(len(values), size=(count, len(values)))].mean(1))
    return np.concatenate(means)


def resamples(statistic: Statistic, n: int, seed: int) -> np.ndarray:
    """The statistic of `OTHER_RESAMPLES` samples of n questions, drawn with replacement; n = 0, 1: `mean_resamples`."""
    rng = np.random.default_rng(seed)
    return np.array([statistic(rng.integers(n, size=n)) for _ in range(OTHER_RESAMPLES)])


def percentiles(sampled: np.ndarray) -> Interval:
    """The percentile interval of a bootstrap (Efron 1979)."""
    tail = 50 * (1 - LEVEL)
    low, high = np.percentile(sampled, [tail, 100 - tail])
    return Interval(float(low), float(high))


def mcnemar(first: np.ndarray, second: np.ndarray) -> float:
    """The exact two-sided p of McNemar's test: questions that only one of two models gets right, as a fair coin.

    Parameters
    ----------
    first, second : np.ndarray
        Shape (n,), bool: right or wrong on the same questions.
    """
    only_first, only_second = int((first & ~second).sum()), int((~first & second).sum())
    if only_first + only_second == 0:
        return 1.0
    from scipy.stats import binomtest

    return float(binomtest(only_first, only_first + only_second).pvalue)


def paired_p(differences: np.ndarray, n: int) -> float:
    """The two-sided p of a paired bootstrap: twice the smaller share of resampled differences on either side of zero.

    p = min(1, max(2 (min(#(d <= 0), #(d >= 0)) + 1) / (B + 1), 2^(1 - n))), of B resampled differences d. The one more
    keeps p above 0 (Davison and Hinkley 1997, section 4.2). A difference of zero counts for both sides, and so does one
    that is no number, as of two infinite losses.

    The bootstrap alone would call any difference on one question certain. 2^(1 - n) is the smallest p that exchanging
    the two models question by question can give: 2 of 2^n arrangements. So up to 5 questions nothing is below 0.05.

    Parameters
    ----------
    n : int
        Questions that were resampled, at least 1.
    """
    count = len(differences)
    below, above = (~(differences > 0)).sum(), (~(differences < 0)).sum()
    return float(min(1.0, max(2 * (min(below, above) + 1) / (count + 1), 2.0 ** (1 - n))))
