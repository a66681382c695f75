"""SCAFFOLD: unweighted means, and a control variate that counts all clients."""

import numpy as np
import pytest
from flwr.serverapp.exception import AggregationError, InconsistentMessageReplies
from toy_strategies import FIRST, SECOND, START, make_reply, packed, run_moves, send

from fedllm_app.strategies.fedavg import StrategyStateError
from fedllm_app.strategies.scaffold import Scaffold


def test_two_rounds_of_two_among_four():
    """η_g = ½, N = 4, |S| = 2; the toy clients send half their move as c_i⁺ − c_i.

    Unweighted mean moves (0, 0.2) and (0.8, 0): x = (1, 2.1) and (1.4, 2.1).
    Mean control deltas (0, 0.1) and (0.4, 0), times 2/4: c = (0, 0.05) and (0.2, 0.05).
    With N the two sampled clients, c would end at (0.4, 0.1).
    """
    strategy = Scaffold(num_clients=4, eta_g=0.5)
    first, second = run_moves(strategy, [FIRST, SECOND])
    np.testing.assert_allclose(first, [1.0, 2.1], rtol=1e-6)
    np.testing.assert_allclose(second, [1.4, 2.1], rtol=1e-6)
    np.testing.assert_allclose(strategy.control, [0.2, 0.05], rtol=1e-5)


def test_control_counts_the_replies_that_arrived():
    """Of 2 clients asked among 4, one answers with (0.8, 0.4) / 2: c = ¼ (0.4, 0.2) = (0.1, 0.05)."""
    strategy = Scaffold(num_clients=4)
    message, _ = send(strategy, 1, START, [0, 1])
    strategy.aggregate_train(1, iter([make_reply(message, START, 5, control_delta=np.array([0.4, 0.2]))]))
    np.testing.assert_allclose(strategy.control, [0.1, 0.05], rtol=1e-6)


def test_sends_the_control_variate():
    """First zeros, then the c of the round before. The caller's record stays as it is."""
    strategy = Scaffold(num_clients=2)
    arrays = packed(START)
    (message,) = send(strategy, 1, START, [0])
    assert message.content["config"]["scaffold"] is True
    np.testing.assert_array_equal(message.content["arrays"]["control"].numpy(), [0.0, 0.0])
    run_moves(strategy, [FIRST])
    (message,) = send(strategy, 2, START, [0])
    sent = message.content["arrays"]["control"]
    assert sent.dtype == "float32"
    np.testing.assert_array_equal(sent.numpy(), strategy.control)
    assert strategy.control.any()
    assert list(arrays) == ["adapter"]


def test_control_is_the_mean_of_the_clients_when_all_take_part():
    """c_i⁺ = Σ of the deltas of client i: ½ (-0.8, 1.4) and ½ (2.4, -1.0), whose mean is (0.4, 0.1)."""
    strategy = Scaffold(num_clients=2)
    run_moves(strategy, [FIRST, SECOND])
    np.testing.assert_allclose(strategy.control, [0.4, 0.1], rtol=1e-5)


def test_refuses_more_replies_than_clients():
    with pytest.raises(AggregationError, match="2 clients replied"):
        run_moves(Scaffold(num_clients=1), [FIRST])


def test_refuses_a_reply_without_control_delta():
    strategy = Scaffold(num_clients=1)
    (message,) = send(strategy, 1, START, [0])
    with pytest.raises(InconsistentMessageReplies, match="control-delta"):
        strategy.aggregate_train(1, iter([make_reply(message, START, 1)]))


def test_refuses_a_checkpoint_of_another_adapter():
    strategy = Scaffold(num_clients=1)
    strategy.load_state_arrays({"control": np.ones(1)})
    with pytest.raises(StrategyStateError, match="shape"):
        send(strategy, 1, START, [0])
