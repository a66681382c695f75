"""Centralized training, run as a federation of one client."""

from collections.abc import Iterable
from typing import ClassVar

from flwr.app import ArrayRecord, ConfigRecord, Message
from flwr.serverapp import Grid

from fedllm_app.strategies.fedavg import FedAvg


class Centralized(FedAvg):
    """One client trains on the pooled data of all: the reference that federation tries to reach.

    ``x ← y``, where y is the adapter of the client with the lowest id, which config["pooled"] asks to train on the
    shards of all clients. It needs the data in one place: a simulation, or one owner.

    It sees as many examples as the federation: where m clients of K are drawn for a round, it takes m times
    ``train.local-steps`` optimizer steps (`shares`), and goes on in the pool where the last round ended. As everywhere,
    the learning rate is that of the round, and the optimizer starts anew in each.
    """

    pooled: ClassVar[bool] = True

    def configure_train(
        self, server_round: int, arrays: ArrayRecord, config: ConfigRecord, grid: Grid
    ) -> Iterable[Message]:
        """Send x to the client with the lowest id only."""
        config["pooled"] = True
        messages = list(super().configure_train(server_round, arrays, config, grid))
        alone = self.taking_part([message.metadata.dst_node_id for message in messages])
        return [message for message in messages if message.metadata.dst_node_id in alone]

    def taking_part(self, clients: list[int]) -> list[int]:
        """Return the lowest id."""
        return [min(clients)]
