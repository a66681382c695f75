"""Byzantine-robust rules, in the memory of the replies themselves, and so that they keep what their papers promise."""

import math
from abc import abstractmethod
from collections.abc import Iterable
from typing import ClassVar

import numpy as np
from flwr.app import ArrayRecord, Message, MetricRecord
from flwr.serverapp.exception import AggregationError
from flwr.serverapp.strategy.bulyan import aggregate_n_closest_weights
from flwr.serverapp.strategy.fedtrimmedavg import trim_mean
from numpy.typing import NDArray

from fedllm_app.messages import ADAPTER
from fedllm_app.packed_arrays import packed_array
from fedllm_app.strategies.fedavg import FedAvg, reply_records, reply_vector

_BLOCK = 1 << 20  # numbers of all replies together that are looked at at a time: 4 MB in float32


class RobustAggregation(FedAvg):
    """A robust rule, applied to the clients' moves: ``x ← x + rule({Δ_i})``.

    =====================  ==================================================================  ====================
    rule                   source                                                              replies needed
    =====================  ==================================================================  ====================
    FedMedian              Yin et al. 2018 (arXiv:1803.01498), Definition 1                    3
    FedTrimmedAvg(β)       Yin et al. 2018, Definition 2: β of either end of each coordinate   ⌊β n⌋ ≥ 1
    Krum(f)                Blanchard et al. 2017 (arXiv:1703.02757), section 4                 2 f + 3
    MultiKrum(f, m)        ibid., and El Mhamdi et al. 2019 (arXiv:1905.04374): m ≤ n − f − 2  2 f + 3 and m + f + 2
    Bulyan(f)              El Mhamdi et al. 2018 (arXiv:1802.07927)                            4 f + 3
    =====================  ==================================================================  ====================

    A rule chooses replies by the distances of their moves, or takes all, and combines them coordinate by coordinate.
    Three things differ from Flower's classes, none of which changes a rule:

    - The rule sees Δ_i, not y_i, and squared distances are sums in float64. All five commute with a shift, but
      ``‖a‖² + ‖b‖² − 2 a·b`` in float32 loses the difference between two clients in rounding, because a LoRA adapter is
      so much longer than the moves of one round.
    - Every reply weighs 1. Flower's MultiKrum weighs the chosen replies by "num-examples", which a malicious client
      is free to invent.
    - Too few replies are an error. Flower's Krum goes on without its guarantee, its Bulyan skips the round.

    A rule compares replies with each other, so that all of a round are in memory at once: one vector each, and blocks.

    Parameters
    ----------
    minimum_replies : int
        The bound of the table; AggregationError below it.
    """

    needs_single_replies: ClassVar[bool] = True
    compares: ClassVar[bool] = False
    """Whether `choose` needs the distances of the moves from each other."""

    def __init__(self, minimum_replies: int) -> None:
        super().__init__()
        self.minimum_replies = minimum_replies

    def held_vectors(self, replies: int, clients: int) -> int:
        """Return how many vectors are in memory at most: every reply, what was sent and the next adapter."""
        return replies + 3

    def choose(self, distances: NDArray[np.float64]) -> list[int]:
        """Return which of the n moves are combined, given their squared distances from each other, shape (n, n)."""
        raise NotImplementedError

    @abstractmethod
    def combine(self, moves: NDArray[np.float32]) -> NDArray:
        """Return the move of some coordinates, shape (B,), of the m chosen moves there, shape (m, B)."""

    def aggregate_train(
        self, server_round: int, replies: Iterable[Message]
    ) -> tuple[ArrayRecord | None, MetricRecord | None]:
        """Apply the rule to the moves; the metrics are the mean over the replies that it chose."""
        x = self._sent_vector()
        adapters, numbers = [], []
        for reply in replies:
            arrays, metrics = reply_records(reply)
            adapters.append(reply_vector(arrays, ADAPTER, x.shape))
            numbers.append(metrics)
            del reply, arrays, metrics
        if not adapters:
            return None, None
        if len(adapters) < self.minimum_replies:
            raise AggregationError(
                f"{type(self).__name__} needs {self.minimum_replies} replies to hold its guarantee, "
                f"{len(adapters)} arrived. Draw more clients a round, or assume fewer malicious ones."
            )
        chosen = list(range(len(adapters)))
        if self.compares:
            chosen = self.choose(_squared_distances(adapters, x))
        mean = self._metric_mean()
        for client in chosen:
            mean.add(numbers[client], 1.0)
        return ArrayRecord({ADAPTER: packed_array(self._moved([adapters[i] for i in chosen], x))}), mean.value()

    def _moved(self, adapters: list[NDArray], x: NDArray[np.float32]) -> NDArray[np.float32]:
        updated = np.empty(x.shape, np.float32)
        for block in _blocks(x.size, len(adapters)):
            updated[block] = x[block].astype(np.float64) + self.combine(_moves(adapters, x, block))
        return updated


def _blocks(size: int, vectors: int) -> Iterable[slice]:
    step = max(1, _BLOCK // vectors)
    return (slice(start, start + step) for start in range(0, size, step))


def _moves(adapters: list[NDArray], x: NDArray[np.float32], block: slice) -> NDArray[np.float32]:
    """Δ_i of some coordinates, shape (n, B)."""
    moves = np.empty((len(adapters), len(x[block])), np.float32)
    for y, move in zip(adapters, moves, strict=True):
        np.subtract(y[block], x[block], out=move)
    return moves


def _squared_distances(adapters: list[NDArray], x: NDArray[np.float32]) -> NDArray[np.float64]:
    """``‖Δ_i − Δ_j‖²``, shape (n, n)."""
    products = np.zeros((len(adapters), len(adapters)))
    for block in _blocks(x.size, 2 * len(adapters)):
        moves = _moves(adapters, x, block).astype(np.float64)
        products += moves @ moves.T
    norms = np.diagonal(products)
    return np.maximum(norms[:, None] + norms[None, :] - 2 * products, 0.0)


def _best(distances: NDArray[np.float64], malicious: int, keep: int) -> list[int]:
    """The `keep` moves with the least Krum score: the sum of squared distances to their n − f − 2 nearest."""
    n = len(distances)
    others = np.where(np.eye(n, dtype=bool), np.inf, distances)
    scores = np.sort(others, axis=1)[:, : max(1, n - malicious - 2)].sum(axis=1)
    return np.argsort(scores, kind="stable")[:keep].tolist()


class FedMedian(RobustAggregation):
    """The coordinate-wise median."""

    def combine(self, moves: NDArray[np.float32]) -> NDArray:
        """See `RobustAggregation`."""
        return np.median(moves, axis=0)


class FedTrimmedAvg(RobustAggregation):
    """The coordinate-wise mean without the ⌊β n⌋ lowest and highest values."""

    def __init__(self, minimum_replies: int, beta: float = 0.2) -> None:
        super().__init__(minimum_replies)
        self.beta = beta

    def combine(self, moves: NDArray[np.float32]) -> NDArray:
        """See `RobustAggregation`."""
        return trim_mean(moves, self.beta)


class MultiKrum(RobustAggregation):
    """The mean of the `keep` best moves by Krum's score."""

    compares: ClassVar[bool] = True

    def __init__(self, minimum_replies: int, malicious: int = 1, keep: int = 2) -> None:
        super().__init__(minimum_replies)
        self.malicious = malicious
        self.keep = keep

    def choose(self, distances: NDArray[np.float64]) -> list[int]:
        """See `RobustAggregation`."""
        return _best(distances, self.malicious, self.keep)

    def combine(self, moves: NDArray[np.float32]) -> NDArray:
        """See `RobustAggregation`."""
        return moves.mean(axis=0, dtype=np.float64)


class Krum(MultiKrum):
    """The one move that is closest to its n − f − 2 nearest."""

    def __init__(self, minimum_replies: int, malicious: int = 1) -> None:
        super().__init__(minimum_replies, malicious, keep=1)


class Bulyan(RobustAggregation):
    """Of n − 2 f moves by Krum's score, the mean of the n − 4 f nearest their median, by coordinate."""

    compares: ClassVar[bool] = True

    def __init__(self, minimum_replies: int, malicious: int = 1) -> None:
        super().__init__(minimum_replies)
        self.malicious = malicious

    def choose(self, distances: NDArray[np.float64]) -> list[int]:
        """See `RobustAggregation`."""
        return _best(distances, self.malicious, len(distances) - 2 * self.malicious)

    def combine(self, moves: NDArray[np.float32]) -> NDArray:
        """See `RobustAggregation`."""
        near = len(moves) - 2 * self.malicious
        return aggregate_n_closest_weights([np.median(moves, axis=0)], [[move] for move in moves], near)[0]


def trimmed_mean_minimum(beta: float) -> int:
    """Return the least n at which the trimmed mean trims anything; 1 if β = 0 asks for the plain mean."""
    if beta == 0.0:
        return 1
    n = math.ceil(1.0 / beta)
    # Flower trims int(β n) in floating point, which may fall just short of 1.
    return n if int(beta * n) >= 1 else n + 1
