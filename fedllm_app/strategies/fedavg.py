"""Federated averaging, and the streaming aggregation that the other strategies inherit."""

import math
from collections.abc import Iterable, Mapping
from typing import ClassVar

import numpy as np
from flwr.app import ArrayRecord, ConfigRecord, Message, MetricRecord
from flwr.serverapp import Grid, strategy
from flwr.serverapp.exception import AggregationError, InconsistentMessageReplies
from numpy.typing import NDArray

from fedllm_app.messages import ADAPTER
from fedllm_app.packed_arrays import array_view, packed_array
from fedllm_app.strategies.agreement import with_common_metrics
from fedllm_app.strategies.means import MetricMean, VectorMean
from fedllm_app.strategies.round_strategy import RoundStrategy, State, StrategyStateError

CLIENT = "client"  # the metric by which a reply names its client
_BLOCK = 1 << 16  # coordinates of a step at a time: half a MB in float64, which stays in the processor's cache


class FedAvg(RoundStrategy, strategy.FedAvg):
    """FedAvg: the mean of the clients' adapters, weighted by their training examples.

    McMahan et al. 2017 (arXiv:1602.05629), Algorithm 1::

        x ← Σ_S p_i y_i = x + Δ        p_i = n_i / Σ_S n_j        Δ = Σ_S p_i (y_i − x)

    ======  =================================================================
    symbol  here
    ======  =================================================================
    x       ``current``, shape (P,), float32: the vector sent out this round
    y_i     array "adapter" of a reply, shape (P,)
    n_i     metric "num-examples" of a reply
    ======  =================================================================

    Flower's FedAvg keeps every reply in a list and divides by a total weight of zero; this one adds each reply to a
    float64 sum and lets it go, and refuses what cannot be averaged. It sends to every node that the grid shows: the
    round loop has drawn the clients, seeded, before.

    A subclass overrides `_coordinate_step`, or `_server_step` for a step that needs whole vectors; `state_names` if it
    keeps anything between rounds; `sent_arrays` and `reply_arrays` if more than the adapter travels.

    Attributes
    ----------
    state_names : tuple[str, ...]
        Attributes that a checkpoint holds: vectors of the adapter's shape, or None before the first round.
    free_state_names : tuple[str, ...]
        Attributes that a checkpoint holds, too, arrays of any shape or numbers.

    Raises
    ------
    InconsistentMessageReplies
        A reply lacks an array or the weight, or an array has another shape than the global one.
    AggregationError
        No example was trained on, or `aggregate_train` was called before `configure_train`.
    """

    state_names: ClassVar[tuple[str, ...]] = ()
    free_state_names: ClassVar[tuple[str, ...]] = ()

    def __init__(self) -> None:
        super().__init__(min_train_nodes=1, min_evaluate_nodes=1, min_available_nodes=1)
        self.current: NDArray[np.float32] | None = None

    def configure_train(
        self, server_round: int, arrays: ArrayRecord, config: ConfigRecord, grid: Grid
    ) -> Iterable[Message]:
        """Remember x and send it to every client of the round."""
        self.current = array_view(arrays[ADAPTER])
        self._check_state(self.current.shape)
        return super().configure_train(server_round, arrays, config, grid)

    def aggregate_train(
        self, server_round: int, replies: Iterable[Message]
    ) -> tuple[ArrayRecord | None, MetricRecord | None]:
        """Average the replies as they arrive, then take the server step. No reply: (None, None)."""
        x = self._sent_vector()
        means = {name: VectorMean(x.shape) for name in self.reply_arrays}
        metrics = self._metric_mean()
        for reply in replies:
            self._add_reply(reply, means, metrics)
            # The iterator may wait long for the next reply; this one must not stay alive meanwhile.
            del reply
        if means[ADAPTER].count == 0:
            return None, None
        updated = np.asarray(self._server_step(x, means), np.float32)
        means.clear()  # the sums are the largest thing in memory, and the next adapter is about to be copied
        return ArrayRecord({ADAPTER: packed_array(updated)}), metrics.value()

    def held_vectors(self, replies: int, clients: int) -> int | None:
        """Return how many vectors are in memory at most: the sums are float64, two each.

        At the end of a round the next adapter and the next state stand where a reply stood before. A subclass that
        compares single replies is assumed to keep them all.
        """
        state = set(self.state_names) - set(self.sent_arrays)
        sums, reply = 2 * len(self.reply_arrays), len(self.reply_arrays)
        kept = replies * reply if self.needs_single_replies else 0
        return len(self.sent_arrays) + len(state) + sums + kept + max(reply, len(self.state_names) + 1)

    def aggregate_evaluate(self, server_round: int, replies: Iterable[Message]) -> MetricRecord | None:
        """Average the metrics that all replies carry. No reply: None."""
        return super().aggregate_evaluate(server_round, with_common_metrics(replies))

    def _add_reply(self, reply: Message, means: Mapping[str, VectorMean], metrics: MetricMean) -> None:
        arrays, record = reply_records(reply)
        num_examples = reply_metric(record, self.weighted_by_key)
        for name, mean in means.items():
            mean.add(reply_vector(arrays, name, self._sent_vector().shape), self._weight(num_examples))
        metrics.add(record, num_examples)

    def _weight(self, num_examples: float) -> float:
        """Return the weight of a reply in the means of the arrays."""
        return num_examples

    def _server_step(self, x: NDArray[np.float32], means: Mapping[str, VectorMean]) -> NDArray:
        """Return the next x from this round's x, read-only, and the mean of each reply array.

        Called once a round. This one takes `_coordinate_step` block by block, so that whole vectors are in memory in
        float32 only, and replaces the state when all blocks are done.
        """
        before = {name: getattr(self, name) for name in self.state_names}
        after = {name: np.empty(x.shape, np.float32) for name in self.state_names}
        updated = np.empty(x.shape, np.float32)
        none = {name for name, vector in before.items() if vector is None}
        for start in range(0, x.size, _BLOCK):
            block = slice(start, start + _BLOCK)
            state = {name: self._state_of(name, before[name], block, x.size) for name in before}
            given = dict(state)
            values = {name: mean.value(block) for name, mean in means.items()}
            updated[block] = self._coordinate_step(x[block].astype(np.float64), values, state)
            none -= {name for name in none if state[name] is not given[name]}
            for name, vector in after.items():
                vector[block] = state[name]
        for name in after.keys() - none:  # a state that no step has begun stays none
            setattr(self, name, after[name])
        return updated

    def _state_of(self, name: str, vector: NDArray | None, block: slice, size: int) -> NDArray[np.float64]:
        if vector is None:
            return np.full(min(block.stop, size) - block.start, self._first_state(name), np.float64)
        return vector[block].astype(np.float64)

    def _coordinate_step(
        self, x: NDArray[np.float64], means: Mapping[str, NDArray[np.float64]], state: State
    ) -> NDArray[np.float64]:
        """Return the next x of some coordinates, from their x and means; put their next `state_names` into `state`."""
        return means[ADAPTER]

    def _first_state(self, name: str) -> float:
        """Return the value of every coordinate of a state before the first round."""
        return 0.0

    def state_arrays(self) -> State:
        """Return what a checkpoint must hold; nothing before the first round."""
        state = {name: getattr(self, name) for name in (*self.state_names, *self.free_state_names)}
        return {name: np.asarray(value) for name, value in state.items() if value is not None}

    def load_state_arrays(self, arrays: Mapping[str, NDArray]) -> None:
        """Put back what `state_arrays` returned; StrategyStateError if the names differ."""
        names = (*self.state_names, *self.free_state_names)
        if arrays and not set(self.state_names) <= set(arrays) <= set(names):
            raise StrategyStateError(
                f"The checkpoint holds the strategy state {sorted(arrays)}, {type(self).__name__} needs "
                f"{sorted(names)}. Resume with the strategy that wrote the checkpoint."
            )
        for name in self.state_names:
            setattr(self, name, np.array(arrays[name], np.float32) if arrays else None)
        for name in self.free_state_names:
            if name in arrays:
                array = np.array(arrays[name])
                setattr(self, name, array.item() if array.shape == () else array)

    def _check_state(self, shape: tuple[int, ...]) -> None:
        # NumPy would broadcast a state of shape (1,) without a word.
        for name in self.state_names:
            vector = getattr(self, name)
            if vector is not None and vector.shape != shape:
                raise StrategyStateError(
                    f"The state '{name}' has shape {vector.shape}, the adapter {shape}. "
                    "The checkpoint belongs to another adapter."
                )

    def _sent_vector(self) -> NDArray[np.float32]:
        if self.current is None:
            raise AggregationError("aggregate_train needs the vector that configure_train sends; call that first.")
        return self.current

    def _metric_mean(self) -> MetricMean:
        return MetricMean(ignored=(self.weighted_by_key, CLIENT))


def reply_records(reply: Message) -> tuple[ArrayRecord, MetricRecord]:
    """Return the one ArrayRecord and the one MetricRecord of a reply."""
    # Not content.array_records: that view refers to itself, and keeps the arrays alive until the next full garbage
    # collection.
    records = list(reply.content.values())
    arrays = [record for record in records if isinstance(record, ArrayRecord)]
    metrics = [record for record in records if isinstance(record, MetricRecord)]
    if len(arrays) != 1 or len(metrics) != 1:
        raise InconsistentMessageReplies(
            f"A reply must hold one ArrayRecord and one MetricRecord, not {len(arrays)} and {len(metrics)}."
        )
    return arrays[0], metrics[0]


def reply_metric(metrics: MetricRecord, name: str) -> float:
    """Return a finite scalar >= 0 from a reply's metrics."""
    value = metrics.get(name)
    if not isinstance(value, int | float) or not math.isfinite(value) or value < 0:
        raise InconsistentMessageReplies(f"The metric '{name}' of a reply must be a number >= 0, not {value!r}.")
    return value


def reply_vector(arrays: ArrayRecord, name: str, shape: tuple[int, ...]) -> NDArray:
    """Return an array of a reply, read-only, which must have the shape of the global one."""
    if name not in arrays:
        raise InconsistentMessageReplies(f"A reply lacks the array '{name}'; it holds {sorted(arrays)}.")
    vector = array_view(arrays[name])
    if vector.shape != shape:
        raise InconsistentMessageReplies(
            f"The array '{name}' of a reply has shape {vector.shape}, the global adapter {shape}."
        )
    return vector
