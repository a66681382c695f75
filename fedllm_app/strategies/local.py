"""Local training: every client alone, the reference that federation must beat."""

from collections.abc import Iterable, Mapping
from typing import ClassVar

import numpy as np
from flwr.app import Array, ArrayRecord, Message, MessageType, MetricRecord, RecordDict
from numpy.typing import NDArray

from fedllm_app.messages import ADAPTER
from fedllm_app.strategies.fedavg import CLIENT, FedAvg, reply_metric, reply_records, reply_vector
from fedllm_app.strategies.round_strategy import StrategyStateError

_PREFIX = "client-"


class Local(FedAvg):
    """Every client goes on from its own last adapter; nothing is ever averaged.

    ``y_k`` of one round is the starting point of client k the next time that it is drawn. The server keeps the
    adapters only because clients are stateless; it holds as many vectors as there are clients.

    ======  ============================================================================
    symbol  here
    ======  ============================================================================
    y_k     ``client_arrays[k]``, shape (P,), float32; k is the node id that the grid
            shows and the metric "client" of the reply
    x       ``current``: the starting adapter of a client that has not trained yet. It
            is also what every round returns, since there is no global model
    ======  ============================================================================
    """

    needs_single_replies: ClassVar[bool] = True

    def __init__(self) -> None:
        super().__init__()
        self.client_arrays: dict[int, NDArray[np.float32]] = {}

    def _construct_messages(
        self, record: RecordDict, node_ids: list[int], message_type: MessageType
    ) -> Iterable[Message]:
        # Training and evaluation alike: the one place where Flower's FedAvg turns arrays into messages.
        return [
            Message(
                content=RecordDict(
                    {
                        self.arrayrecord_key: self._arrays_of(client, record[self.arrayrecord_key]),
                        self.configrecord_key: record[self.configrecord_key],
                    }
                ),
                message_type=message_type,
                dst_node_id=client,
            )
            for client in node_ids
        ]

    def _arrays_of(self, client: int, initial: ArrayRecord) -> ArrayRecord:
        if client not in self.client_arrays:
            return initial
        return ArrayRecord({ADAPTER: Array(self.client_arrays[client])})

    def aggregate_train(
        self, server_round: int, replies: Iterable[Message]
    ) -> tuple[ArrayRecord | None, MetricRecord | None]:
        """Keep every reply's adapter for its client; return the starting adapter and the mean metrics."""
        x = self._sent_vector()
        metrics = self._metric_mean()
        trained: dict[int, NDArray[np.float32]] = {}
        for reply in replies:
            arrays, record = reply_records(reply)
            client = int(reply_metric(record, CLIENT))
            trained[client] = reply_vector(arrays, ADAPTER, x.shape).astype(np.float32)
            metrics.add(record, reply_metric(record, self.weighted_by_key))
            del reply, arrays, record
        if not trained:
            return None, None
        # Only now: a round that fails half-way must leave no trace.
        self.client_arrays.update(trained)
        return ArrayRecord({ADAPTER: Array(x)}), metrics.value()

    def held_vectors(self, replies: int, clients: int) -> int:
        """Return how many vectors are in memory at most: each client's, and what a round sends and gets."""
        return clients + 2 * replies + 2

    def own_adapters(self) -> dict[int, NDArray[np.float32]]:
        """Return every client's own adapter, by client."""
        return self.client_arrays

    def state_arrays(self) -> dict[str, NDArray[np.float32]]:
        """Return every client's adapter, named "client-<k>"."""
        return {f"{_PREFIX}{client}": vector for client, vector in self.client_arrays.items()}

    def load_state_arrays(self, arrays: Mapping[str, NDArray]) -> None:
        """Put back what `state_arrays` returned; StrategyStateError if a name is not "client-<k>"."""
        foreign = [name for name in arrays if not (name.startswith(_PREFIX) and name.removeprefix(_PREFIX).isdecimal())]
        if foreign:
            raise StrategyStateError(f"The checkpoint holds {foreign}; Local keeps one vector a client, 'client-<k>'.")
        self.client_arrays = {
            int(name.removeprefix(_PREFIX)): np.array(vector, np.float32) for name, vector in arrays.items()
        }
