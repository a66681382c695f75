"""What the server holds in memory of a round, through the round loop, in adapters above the start: a constant for
strategies that are sums, whoever is slow; one for each reply for rules that compare replies.
"""

import tracemalloc

import numpy as np
import pytest
from conftest import FakeGrid
from flwr.app import Array, ArrayRecord

from fedllm_app.messages import Assignment, reply
from fedllm_app.strategies.registry import build_strategy

SIZE = 2_500_000  # numbers of an adapter: 10 MB, against which messages, journal and blocks are small


def echo(message):
    """A client that sends back what it got, in one copy, so that only the server's memory is seen."""
    job = Assignment.from_message(message)
    sent = message.content["arrays"]
    names = {"adapter": "adapter", "control": "control-delta"}
    copies = {
        names[name]: Array(array.dtype, array.shape, array.stype, bytes(memoryview(array.data)))
        for name, array in sent.items()
    }
    metrics = {"num-examples": 1, "client": job.client}
    return reply(message, ArrayRecord(copies), metrics, job.manifest)


class NetworkGrid(FakeGrid):
    """Replies are made when the server takes them, strictly in the order of arrival."""

    def __init__(self, answer, **options) -> None:
        super().__init__(lambda message: message, **options)
        self.make = answer

    def push_messages(self, messages):
        ids = super().push_messages(messages)
        self.sent = [None] * len(self.sent)  # what was sent is the network's
        return ids

    def pull_messages(self, message_ids):
        if not self._waiting:
            return []
        first = min(self._waiting, key=lambda name: self._waiting[name][0])
        return [self.make(self._waiting.pop(first)[1])] if first in set(message_ids) else []


@pytest.fixture
def make_grid(monkeypatch):
    monkeypatch.setattr("fedllm_app.federation.transport._PULL_INTERVAL", 0.001)
    return NetworkGrid


@pytest.fixture
def peak(loop):
    """A function that runs two rounds and returns the highest memory above the start, in adapters."""

    def measure(strategy: str, clients: int, slow: bool = False) -> float:
        last_first = (lambda message: message.metadata.dst_node_id) if slow else None  # nodes are 500 - client
        rounds = loop(echo, strategy, clients, rounds=2, timeout=300.0, arrival=last_first)
        start = np.ones(SIZE, np.float32)
        tracemalloc.start()
        try:
            before = tracemalloc.get_traced_memory()[0]
            rounds.run(start)
            return (tracemalloc.get_traced_memory()[1] - before) / start.nbytes
        finally:
            tracemalloc.stop()

    return measure


@pytest.mark.parametrize("strategy, most", [("fedavg", 5), ("fedprox", 5), ("scaffold", 8.5), ("fedadam", 9)])
@pytest.mark.parametrize("slow", [False, True], ids=["in order", "first client last"])
def test_a_sum_takes_the_same_memory_for_any_number_of_replies(peak, strategy, most, slow):
    """Sums are float64, two adapters each; the rest is what is sent, one reply, the state and the next adapter.

    fedavg 1 + 2 + 1 (the reply, then the next adapter) = 4, scaffold 2 + 4 + 2 = 8, fedadam 1 + 2 + 2 (state) + 2 (its
    next) + 1 = 8; and some blocks of half a MB.
    """
    few, many = peak(strategy, 4, slow), peak(strategy, 12, slow)
    assert few < most
    assert abs(many - few) < 0.3
    assert abs(few - build_strategy(strategy, {}, 4).held_vectors(4, 4)) < 0.6  # what the plan says


@pytest.mark.parametrize("strategy", ["krum", "bulyan", "fedmedian"])
def test_a_rule_that_compares_replies_takes_one_adapter_for_each(peak, strategy):
    few, many = peak(strategy, 8), peak(strategy, 16)
    assert 7.7 < many - few < 8.3
    assert few < build_strategy(strategy, {}, 8).held_vectors(8, 8) + 2  # and blocks of some MB
