"""Local: every client walks its own way."""

import numpy as np
import pytest
from flwr.app import ConfigRecord
from flwr.serverapp.exception import InconsistentMessageReplies
from toy_strategies import FIRST, SECOND, START, ToyGrid, make_reply, packed, run_moves, send

from fedllm_app.strategies.fedavg import StrategyStateError
from fedllm_app.strategies.local import Local


def test_two_rounds():
    """Client 0: (1, 2) + (-0.8, 0.6) + (0, 0.8) = (0.2, 3.4).

    Client 1: (1, 2) + (0.8, -0.2) + (1.6, -0.8) = (3.4, 1).
    """
    strategy = Local()
    trajectory = run_moves(strategy, [FIRST, SECOND])
    np.testing.assert_array_equal(trajectory, [START, START])
    np.testing.assert_allclose(strategy.client_arrays[0], [0.2, 3.4], rtol=1e-6)
    np.testing.assert_allclose(strategy.client_arrays[1], [3.4, 1.0], rtol=1e-6)


def test_each_client_is_sent_and_evaluated_on_its_own():
    """Client 2 has not trained yet and starts where all started, though the others have moved."""
    strategy = Local()
    run_moves(strategy, [FIRST])
    evaluate = strategy.configure_evaluate(2, packed(START), ConfigRecord(), ToyGrid([2, 1, 0]))
    for messages in (send(strategy, 2, START, [2, 1, 0]), sorted(evaluate, key=lambda m: m.metadata.dst_node_id)):
        sent = [message.content["arrays"]["adapter"].numpy() for message in messages]
        np.testing.assert_allclose(sent, [[0.2, 2.6], [1.8, 1.8], [1.0, 2.0]], rtol=1e-6)
        assert all(message.content["config"]["server-round"] == 2 for message in messages)


def test_replies_are_kept_by_the_client_that_they_name():
    """Whatever the order of the replies: the metric "client" decides."""
    strategy = Local()
    messages = send(strategy, 1, START, [4, 9])
    replies = [make_reply(message, START * message.metadata.dst_node_id, 1) for message in reversed(messages)]
    _, metrics = strategy.aggregate_train(1, iter(replies))
    np.testing.assert_array_equal(strategy.client_arrays[9], START * 9)
    np.testing.assert_array_equal(strategy.client_arrays[4], START * 4)
    assert dict(metrics) == {"train-loss": 7.5}


def test_a_failed_round_leaves_no_trace():
    strategy = Local()
    messages = send(strategy, 1, START, [0, 1])
    good, nameless = (make_reply(message, START, 1) for message in messages)
    del nameless.content["metrics"]["client"]
    with pytest.raises(InconsistentMessageReplies, match="client"):
        strategy.aggregate_train(1, iter([good, nameless]))
    assert strategy.client_arrays == {}


def test_state_names_and_foreign_state():
    strategy = Local()
    run_moves(strategy, [FIRST])
    assert set(strategy.state_arrays()) == {"client-0", "client-1"}
    for name in ("control", "3", "client-x"):
        with pytest.raises(StrategyStateError, match=name):
            strategy.load_state_arrays({name: START})


def test_no_reply_gives_nothing():
    strategy = Local()
    send(strategy, 1, START, [0])
    assert strategy.aggregate_train(1, iter(())) == (None, None)
