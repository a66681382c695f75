"""A grid, clients and rounds on vectors of a few numbers, for tests of the server strategies."""

from collections.abc import Callable, Iterable, Iterator, Mapping

import numpy as np
from flwr.app import Array, ArrayRecord, ConfigRecord, Message, MetricRecord, RecordDict
from flwr.serverapp.strategy import Strategy
from numpy.typing import NDArray

# Two rounds of two clients with 1 and 3 examples: client -> (move, examples). The weighted means of the moves are
# Δ = ¼ (-0.8, 0.6) + ¾ (0.8, -0.2) = (0.4, 0) and Δ = ¼ (0, 0.8) + ¾ (1.6, -0.8) = (1.2, -0.4);
# the unweighted means are (0, 0.2) and (0.8, 0).
FIRST = {0: ([-0.8, 0.6], 1), 1: ([0.8, -0.2], 3)}
SECOND = {0: ([0.0, 0.8], 1), 1: ([1.6, -0.8], 3)}
START = np.array([1.0, 2.0], np.float32)

Client = Callable[[Message], Message]


class ToyGrid:
    """Shows the clients of a round, as the round loop's proxy does."""

    def __init__(self, clients: Iterable[int]) -> None:
        self.clients = list(clients)

    def get_node_ids(self) -> Iterable[int]:
        return self.clients


def packed(vector: NDArray) -> ArrayRecord:
    return ArrayRecord({"adapter": Array(np.asarray(vector, np.float32))})


def make_reply(message: Message, adapter: NDArray, examples: int, **more: NDArray) -> Message:
    """Return a train reply; `more` are further arrays, underscores as hyphens."""
    arrays = packed(adapter)
    for name, vector in more.items():
        arrays[name.replace("_", "-")] = Array(np.asarray(vector, np.float32))
    client = message.metadata.dst_node_id
    metrics = MetricRecord({"num-examples": examples, "train-loss": 1.0 + client, "client": client})
    return Message(RecordDict({"arrays": arrays, "metrics": metrics}), reply_to=message)


def moving_client(move: NDArray, examples: int) -> Client:
    """Return a client that answers x with x + move, and a control delta of half the move."""

    def client(message: Message) -> Message:
        x = message.content["arrays"]["adapter"].numpy()
        return make_reply(message, x + np.float32(move), examples, control_delta=np.float32(move) / 2)

    return client


def send(strategy: Strategy, server_round: int, x: NDArray, clients: Iterable[int]) -> list[Message]:
    """Return the train messages of a round, ordered by client."""
    messages = strategy.configure_train(server_round, packed(x), ConfigRecord(), ToyGrid(clients))
    return sorted(messages, key=lambda message: message.metadata.dst_node_id)


def run_round(strategy: Strategy, server_round: int, x: NDArray, clients: Mapping[int, Client]) -> NDArray:
    """Return the global vector after one round; replies come from a generator, as in the round loop."""
    messages = send(strategy, server_round, x, clients)

    def replies() -> Iterator[Message]:
        for message in messages:
            yield clients[message.metadata.dst_node_id](message)

    arrays, _ = strategy.aggregate_train(server_round, replies())
    assert list(arrays) == ["adapter"]
    return arrays["adapter"].numpy()


def run_moves(strategy: Strategy, rounds: Iterable[Mapping[int, tuple]], x: NDArray = START) -> list[NDArray]:
    """Return the global vector after each round of scripted moves; each client's start from what it is sent."""
    trajectory = []
    for server_round, moves in enumerate(rounds, start=1):
        clients = {client: moving_client(*script) for client, script in moves.items()}
        x = run_round(strategy, server_round, x, clients)
        trajectory.append(x)
    return trajectory
