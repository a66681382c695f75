"""FedAvg: the weighted mean, streamed."""

import tracemalloc
import weakref

import numpy as np
import pytest
from flwr.app import ConfigRecord, MetricRecord
from flwr.serverapp.exception import AggregationError, InconsistentMessageReplies
from toy_strategies import FIRST, SECOND, START, ToyGrid, make_reply, packed, run_moves, send

from fedllm_app.strategies.fedavg import FedAvg, StrategyStateError
from fedllm_app.strategies.registry import STRATEGIES, build_strategy

STREAMING = ["fedavg", "fedprox", "scaffold", "fedavgm", "fedadagrad", "fedyogi", "fedadam", "local"]


def test_two_rounds():
    """x ← x + Δ: (1, 2) + (0.4, 0) = (1.4, 2); + (1.2, -0.4) = (2.6, 1.6)."""
    first, second = run_moves(FedAvg(), [FIRST, SECOND])
    np.testing.assert_allclose(first, [1.4, 2.0], rtol=1e-6)
    np.testing.assert_allclose(second, [2.6, 1.6], rtol=1e-6)


def test_metrics_are_weighted_and_leave_out_weight_and_client():
    """Losses 1 and 2 with 1 and 3 examples: (1·1 + 3·2) / 4 = 1.75. "steps" is reported by client 1 only: 5."""
    strategy = FedAvg()
    messages = send(strategy, 1, START, [0, 1])
    replies = [make_reply(message, START, examples) for message, examples in zip(messages, [1, 3], strict=True)]
    replies[1].content["metrics"]["steps"] = 5
    replies[1].content["metrics"]["losses"] = [1.0, 2.0]
    _, metrics = strategy.aggregate_train(1, iter(replies))
    assert dict(metrics) == {"train-loss": 1.75, "steps": 5.0}


def test_sends_to_every_client_shown():
    strategy = FedAvg()
    for clients in ([7], [3, 1, 2]):
        messages = send(strategy, 4, START, clients)
        assert [message.metadata.dst_node_id for message in messages] == sorted(clients)
        assert all(message.content["config"]["server-round"] == 4 for message in messages)
    evaluate = strategy.configure_evaluate(1, packed(START), ConfigRecord(), ToyGrid([3, 1]))
    assert sorted(message.metadata.dst_node_id for message in evaluate) == [1, 3]


def test_no_reply_gives_nothing():
    strategy = FedAvg()
    send(strategy, 1, START, [0])
    assert strategy.aggregate_train(1, iter(())) == (None, None)


def test_sums_in_float64():
    """1e8 + 1 is 1e8 in float32: summed there, the mean of (1e8, 1, -1e8, 0) would be 0 and not 0.25.

    2²⁴ + 1 examples are 2²⁴ in float32: multiplied there, the mean of 1 alone would be 2²⁴ / (2²⁴ + 1) < 1.
    """
    moves = {client: ([move, 0.0], 1) for client, move in enumerate([1e8, 1.0, -1e8, 0.0])}
    (mean,) = run_moves(FedAvg(), [moves], x=np.zeros(2, np.float32))
    assert mean[0] == 0.25
    (mean,) = run_moves(FedAvg(), [{0: ([1.0, 0.0], 2**24 + 1)}], x=np.zeros(2, np.float32))
    assert mean[0] == 1.0


@pytest.mark.parametrize("shape", [(1,), (3,), (1, 2)])
def test_refuses_another_shape(shape):
    strategy = FedAvg()
    (message,) = send(strategy, 1, START, [0])
    with pytest.raises(InconsistentMessageReplies, match="shape"):
        strategy.aggregate_train(1, iter([make_reply(message, np.zeros(shape), 1)]))


@pytest.mark.parametrize("weight", [-1, float("nan"), float("inf"), [1.0]])
def test_refuses_a_weight_that_is_none(weight):
    strategy = FedAvg()
    (message,) = send(strategy, 1, START, [0])
    reply = make_reply(message, START, 1)
    reply.content["metrics"]["num-examples"] = weight
    with pytest.raises(InconsistentMessageReplies, match="num-examples"):
        strategy.aggregate_train(1, iter([reply]))


def test_refuses_a_reply_without_adapter_metrics_or_weight():
    strategy = FedAvg()
    (message,) = send(strategy, 1, START, [0])
    without_adapter, without_metrics, without_weight = (make_reply(message, START, 1) for _ in range(3))
    del without_adapter.content["arrays"]["adapter"]
    del without_metrics.content["metrics"]
    without_weight.content["metrics"] = MetricRecord({"train-loss": 1.0})
    for reply, complaint in [(without_adapter, "lacks"), (without_metrics, "one"), (without_weight, "num-examples")]:
        with pytest.raises(InconsistentMessageReplies, match=complaint):
            strategy.aggregate_train(1, iter([reply]))


def test_refuses_zero_examples_in_all():
    """A client without examples counts nothing; if all are without, there is no mean."""
    (x,) = run_moves(FedAvg(), [{0: ([8.0, 8.0], 0), 1: ([0.5, 0.5], 2)}])
    np.testing.assert_allclose(x, [1.5, 2.5])
    with pytest.raises(AggregationError, match="training example"):
        run_moves(FedAvg(), [{0: ([1.0, 1.0], 0)}])


def test_refuses_to_aggregate_before_sending():
    with pytest.raises(AggregationError, match="configure_train"):
        FedAvg().aggregate_train(1, iter(()))


def test_refuses_foreign_state():
    with pytest.raises(StrategyStateError, match="momentum"):
        FedAvg().load_state_arrays({"momentum": START})


@pytest.mark.parametrize("name", STREAMING)
def test_replies_are_released_as_they_are_consumed(name):
    """When the next reply is asked for, no earlier one is alive, so that a slow client costs no memory."""
    strategy = build_strategy(name, {}, num_clients=8)
    messages = send(strategy, 1, START, range(8))
    earlier: list[weakref.ref] = []

    def replies():
        for message in messages:
            assert not [ref for ref in earlier if ref() is not None]
            reply = make_reply(message, START + 1, 1, control_delta=START)
            earlier.append(weakref.ref(reply.content["arrays"]["adapter"]))
            yield reply
            del reply

    strategy.aggregate_train(1, replies())
    assert len(earlier) == 8


@pytest.mark.parametrize("name", ["fedavg", "scaffold", "fedadam"])
def test_memory_does_not_grow_with_the_clients(name):
    """The peak over 40 clients is that over 4, to half a float32 vector. The messages share one record."""
    size = 100_000

    def peak(num_clients: int) -> int:
        strategy = build_strategy(name, {}, num_clients)
        x = np.ones(size, np.float32)
        messages = send(strategy, 1, x, range(num_clients))
        tracemalloc.start()
        replies = (make_reply(message, x, 1, control_delta=x) for message in messages)
        strategy.aggregate_train(1, replies)
        high = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        return high

    assert peak(40) < peak(4) + size * 2


def test_streaming_list_is_complete():
    """Only the robust rules, which compare replies with each other, and the one client of centralized are left."""
    assert set(STRATEGIES) - set(STREAMING) == {
        "centralized",
        "fedmedian",
        "fedtrimmedavg",
        "krum",
        "multikrum",
        "bulyan",
    }
