"""Byzantine-robust rules: Flower's implementations, fed so that they keep what their papers promise."""

import math
from collections.abc import Iterable
from copy import copy
from typing import ClassVar

import numpy as np
from flwr.app import Array, ArrayRecord, Message, MetricRecord, RecordDict
from flwr.serverapp import strategy
from flwr.serverapp.exception import AggregationError
from numpy.typing import NDArray

from fedllm_app.messages import ADAPTER
from fedllm_app.strategies.agreement import with_common_metrics
from fedllm_app.strategies.fedavg import CLIENT, FedAvg, reply_records, reply_vector


class RobustAggregation(FedAvg):
    """One of Flower's robust rules, applied to the clients' moves: ``x ← x + rule({Δ_i})``.

    =====================  ==================================================================  ====================
    rule                   source                                                              replies needed
    =====================  ==================================================================  ====================
    FedMedian              Yin et al. 2018 (arXiv:1803.01498), Definition 1                    3
    FedTrimmedAvg(β)       Yin et al. 2018, Definition 2: β of either end of each coordinate   ⌊β n⌋ ≥ 1
    Krum(f)                Blanchard et al. 2017 (arXiv:1703.02757), section 4                 2 f + 3
    MultiKrum(f, m)        ibid., and El Mhamdi et al. 2019 (arXiv:1905.04374): m ≤ n − f − 2  2 f + 3 and m + f + 2
    Bulyan(f)              El Mhamdi et al. 2018 (arXiv:1802.07927)                            4 f + 3
    =====================  ==================================================================  ====================

    Three things differ from Flower's classes on their own, none of which changes a rule:

    - The rule sees Δ_i, not y_i. All five commute with a shift, but Krum's squared distances come from
      ``‖a‖² + ‖b‖² − 2 a·b`` in float32, and a LoRA adapter is so much longer than the moves of one round that the
      difference between two clients is lost in rounding.
    - Every reply weighs 1. Flower's MultiKrum weighs the chosen replies by "num-examples", which a malicious client
      is free to invent.
    - Too few replies are an error. Flower's Krum goes on without its guarantee, its Bulyan skips the round.

    A rule compares replies with each other, so that all of a round are in memory at once.

    Parameters
    ----------
    rule : flwr.serverapp.strategy.FedAvg
        Its `aggregate_train` is used, nothing else of it.
    minimum_replies : int
        The bound of the table; AggregationError below it.
    """

    needs_single_replies: ClassVar[bool] = True

    def __init__(self, rule: strategy.FedAvg, minimum_replies: int) -> None:
        super().__init__()
        self.rule = rule
        self.minimum_replies = minimum_replies

    def aggregate_train(
        self, server_round: int, replies: Iterable[Message]
    ) -> tuple[ArrayRecord | None, MetricRecord | None]:
        """Apply the rule to the moves; the metrics are the mean over the replies that it chose."""
        x = self._sent_vector().astype(np.float64)
        moves = [self._as_move(reply, x) for reply in replies]
        if not moves:
            return None, None
        if len(moves) < self.minimum_replies:
            raise AggregationError(
                f"{type(self.rule).__name__} needs {self.minimum_replies} replies to hold its guarantee, "
                f"{len(moves)} arrived. Draw more clients a round, or assume fewer malicious ones."
            )
        move, metrics = self.rule.aggregate_train(server_round, with_common_metrics(moves))
        updated = (x + move[ADAPTER].numpy()).astype(np.float32)
        return ArrayRecord({ADAPTER: Array(updated)}), metrics

    def _as_move(self, reply: Message, x: NDArray[np.float64]) -> Message:
        arrays, metrics = reply_records(reply)
        move = (reply_vector(arrays, ADAPTER, x.shape) - x).astype(np.float32)
        kept = {name: value for name, value in metrics.items() if name != CLIENT}
        shifted = copy(reply)  # the caller's message keeps its content
        shifted.content = RecordDict(
            {
                "arrays": ArrayRecord({ADAPTER: Array(move)}),
                "metrics": MetricRecord({**kept, self.weighted_by_key: 1}),
            }
        )
        return shifted


def median(minimum_replies: int) -> RobustAggregation:
    """Return the coordinate-wise median."""
    return RobustAggregation(strategy.FedMedian(), minimum_replies)


def trimmed_mean(minimum_replies: int, beta: float = 0.2) -> RobustAggregation:
    """Return the coordinate-wise mean without the ⌊β n⌋ lowest and highest values."""
    return RobustAggregation(strategy.FedTrimmedAvg(beta=beta), minimum_replies)


def krum(minimum_replies: int, malicious: int = 1) -> RobustAggregation:
    """Return Krum: the one move that is closest to its n − f − 2 nearest."""
    return RobustAggregation(strategy.Krum(num_malicious_nodes=malicious), minimum_replies)


def multi_krum(minimum_replies: int, malicious: int = 1, keep: int = 2) -> RobustAggregation:
    """Return Multi-Krum: the mean of the `keep` best moves by Krum's score."""
    rule = strategy.MultiKrum(num_malicious_nodes=malicious, num_nodes_to_select=keep)
    return RobustAggregation(rule, minimum_replies)


def bulyan(minimum_replies: int, malicious: int = 1) -> RobustAggregation:
    """Return Bulyan: of n − 2 f moves by Krum's score, the mean of the n − 4 f nearest their median, by coordinate."""
    return RobustAggregation(strategy.Bulyan(num_malicious_nodes=malicious), minimum_replies)


def trimmed_mean_minimum(beta: float) -> int:
    """Return the least n at which the trimmed mean trims anything; 1 if β = 0 asks for the plain mean."""
    if beta == 0.0:
        return 1
    n = math.ceil(1.0 / beta)
    # Flower trims int(β n) in floating point, which may fall just short of 1.
    return n if int(beta * n) >= 1 else n + 1
