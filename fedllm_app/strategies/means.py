"""Weighted means over replies that arrive one at a time.

A reply is added and can be forgotten: memory does not grow with the number of clients of a round.
"""

from collections.abc import Iterable

import numpy as np
from flwr.app import MetricRecord
from flwr.serverapp.exception import AggregationError
from numpy.typing import NDArray

_BLOCK = 1 << 16  # coordinates added at a time: half a MB in float64, which stays in the processor's cache


class VectorMean:
    """Weighted mean of vectors of one shape, accumulated in float64.

    Attributes
    ----------
    count : int
        Number of vectors added.
    """

    def __init__(self, shape: tuple[int, ...]) -> None:
        self.count = 0
        self._total = np.zeros(shape, np.float64)
        self._weight = 0.0

    def add(self, vector: NDArray, weight: float) -> None:
        """Add one vector of the shape given at construction; the weight is >= 0."""
        for start in range(0, len(self._total), _BLOCK):  # no second vector in float64
            block = slice(start, start + _BLOCK)
            self._total[block] += np.multiply(vector[block], weight, dtype=np.float64)
        self._weight += weight
        self.count += 1

    def value(self, block: slice = slice(None)) -> NDArray[np.float64]:
        """Return the mean, or some coordinates of it; AggregationError if all weights were zero."""
        if self._weight == 0.0:
            raise AggregationError(
                f"None of the {self.count} replies reports a training example, so that there is nothing to average. "
                "Check that the clients' shards are not empty after filtering."
            )
        return self._total[block] / self._weight


class MetricMean:
    """Weighted mean of every scalar metric, each over the replies that report it.

    Parameters
    ----------
    ignored : Iterable[str]
        Names that are not averaged: the weight itself and identifiers.
    """

    def __init__(self, ignored: Iterable[str]) -> None:
        self._ignored = frozenset(ignored)
        self._totals: dict[str, float] = {}
        self._weights: dict[str, float] = {}

    def add(self, metrics: MetricRecord, weight: float) -> None:
        """Add the scalar metrics of one reply. Lists have no agreed length and are left out."""
        for name, value in metrics.items():
            if name in self._ignored or isinstance(value, list):
                continue
            self._totals[name] = self._totals.get(name, 0.0) + weight * value
            self._weights[name] = self._weights.get(name, 0.0) + weight

    def value(self) -> MetricRecord:
        """Return the means as a MetricRecord."""
        return MetricRecord(
            {name: total / self._weights[name] for name, total in self._totals.items() if self._weights[name] > 0.0}
        )
