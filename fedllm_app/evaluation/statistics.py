"""Intervals of figures, and paired tests of two models on the same questions."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

LEVEL = 0.95
MEAN_RESAMPLES = 2000
OTHER_RESAMPLES = 400  # of statistics that are computed anew for each, such as F1

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
    """Means of `MEAN_RESAMPLES` samples, each of as many values, drawn with replacement."""
    rng = np.random.default_rng(seed)
    size = max(1, 2_000_000 // max(1, len(values)))  # samples drawn at a time
    means = []
    for start in range(0, MEAN_RESAMPLES, size):
        count = min(size, MEAN_RESAMPLES - start)
        means.append(values[rng.integers(len(values), size=(count, len(values)))].mean(1))
    return np.concatenate(means)


def resamples(statistic: Statistic, n: int, seed: int) -> np.ndarray:
    """The statistic of `OTHER_RESAMPLES` samples of n questions, drawn with replacement."""
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


def paired_p(differences: np.ndarray) -> float:
    """The two-sided p of a paired bootstrap: twice the smaller share of resampled differences on either side of zero.

    A difference of zero counts for both sides; shares are of one more than there are resamples, so p is never 0
    (Davison and Hinkley 1997, section 4.2).
    """
    count = len(differences)
    below, above = (differences <= 0).sum(), (differences >= 0).sum()
    return float(min(1.0, 2 * (min(below, above) + 1) / (count + 1)))
