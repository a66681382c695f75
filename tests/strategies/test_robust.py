"""Robust rules: seven clients, one of them hostile, and what Flower's classes alone would do."""

import numpy as np
import pytest
from flwr.app import ConfigRecord
from flwr.serverapp import strategy
from flwr.serverapp.exception import AggregationError
from toy_strategies import START, ToyGrid, make_reply, packed, run_moves, send

from fedllm_app.strategies.registry import TooFewClientsError, build_strategy, minimum_clients

ROBUST = ["fedmedian", "fedtrimmedavg", "krum", "multikrum", "bulyan"]

# Moves (t, 2 t) of honest clients, and a hostile one. The example counts differ and must not matter.
LENGTHS = {1: 1.0, 2: 2.5, 3: 3.5, 4: 4.0, 5: 5.0, 6: 7.0}
ATTACKED = {client: ([t, 2 * t], client) for client, t in LENGTHS.items()} | {7: ([1000.0, -1000.0], 10**9)}


def after(name, hyper):
    return run_moves(build_strategy(name, hyper, 7), [ATTACKED], x=np.zeros(2, np.float32))[0]


def test_median():
    """First coordinates 1, 2.5, 3.5, 4, 5, 7, 1000: 4. Second -1000, 2, 5, 7, 8, 10, 14: 7."""
    np.testing.assert_allclose(after("fedmedian", {}), [4.0, 7.0])


def test_trimmed_mean():
    """⌊0.2 · 7⌋ = 1 off either end: (2.5 + 3.5 + 4 + 5 + 7) / 5 = 4.4 and (2 + 5 + 7 + 8 + 10) / 5 = 6.4."""
    np.testing.assert_allclose(after("fedtrimmedavg", {}), [4.4, 6.4], rtol=1e-6)


def test_krum():
    """f = 1: the sum of the 7 − 1 − 2 = 4 smallest squared distances, in units of 1² + 2².

    t = 3.5: 0.25 + 1 + 2.25 + 6.25 = 9.75.  t = 2.5: 1 + 2.25 + 2.25 + 6.25 = 11.75.
    t = 4: 0.25 + 1 + 2.25 + 9 = 12.5.  t = 5: 1 + 2.25 + 4 + 6.25 = 13.5.  t = 1: 33.5.  t = 7: 45.5.
    """
    np.testing.assert_allclose(after("krum", {}), [3.5, 7.0])


def test_multi_krum_ignores_the_examples_that_a_client_claims():
    """The two best are t = 3.5 and 2.5: 3. Flower's own class would weigh them by their 3 and 2 examples: 3.1."""
    np.testing.assert_allclose(after("multikrum", {}), [3.0, 6.0])


def test_multi_krum_keep_four():
    """(3.5 + 2.5 + 4 + 5) / 4 = 3.75."""
    np.testing.assert_allclose(after("multikrum", {"keep": 4}), [3.75, 7.5])


def test_bulyan():
    """Krum's score keeps n − 2 f = 5: t = 1, 2.5, 3.5, 4, 5, median 3.5; the n − 4 f = 3 nearest it: 10 / 3."""
    np.testing.assert_allclose(after("bulyan", {}), [10 / 3, 20 / 3], rtol=1e-6)


@pytest.mark.parametrize("name", ROBUST)
def test_a_hostile_client_that_captures_the_mean_does_not_capture_the_rule(name):
    assert np.abs(after(name, {})).max() < 10
    assert np.abs(after("fedavg", {})).max() > 900


@pytest.mark.parametrize("name", ROBUST)
def test_rules_move_with_the_adapter(name):
    """x + rule({Δ_i}): the same moves from another x give the same step, to the float32 spacing of 6e-5 at 512."""
    x = np.array([256.0, -512.0], np.float32)
    moved = run_moves(build_strategy(name, {}, 7), [ATTACKED], x=x)[0] - x
    np.testing.assert_allclose(moved, after(name, {}), atol=6e-5)


def test_krum_sees_moves_much_smaller_than_the_adapter():
    """An adapter of length 100 and moves of 1e-3 t along one axis: t = 3.5 must win, as above.

    Flower's Krum on the adapters themselves: squared lengths of 1e4 are known to 1e-3 in float32, the squared
    distances of the honest clients are 0.25e-6 to 36e-6. It sees rounding errors.
    """
    x = np.full(100, 10.0, np.float32)
    moves = {client: (np.r_[1e-3 * t, np.zeros(99)], 1) for client, t in LENGTHS.items()}
    moves[7] = (np.r_[-1.0, np.zeros(99)], 1)
    moved = run_moves(build_strategy("krum", {}, 7), [moves], x=x)[0] - x
    assert moved[0] == pytest.approx(3.5e-3, abs=1e-5)  # the float32 spacing at 10 is 1e-6

    flower = strategy.Krum(min_train_nodes=1, min_available_nodes=1, num_malicious_nodes=1)
    messages = flower.configure_train(1, packed(x), ConfigRecord(), ToyGrid(range(1, 8)))
    messages = sorted(messages, key=lambda message: message.metadata.dst_node_id)
    replies = [make_reply(m, x + np.float32(moves[m.metadata.dst_node_id][0]), 1) for m in messages]
    arrays, _ = flower.aggregate_train(1, replies)
    assert abs(arrays["adapter"].numpy()[0] - x[0] - 3.5e-3) > 4e-4


@pytest.mark.parametrize(
    "name, hyper, least",
    [
        ("fedmedian", {}, 3),
        ("fedtrimmedavg", {"beta": 0.2}, 5),
        ("fedtrimmedavg", {"beta": 0.3}, 4),
        ("fedtrimmedavg", {"beta": 0.0}, 1),
        ("krum", {"malicious": 0}, 3),
        ("krum", {"malicious": 2}, 7),
        ("multikrum", {"malicious": 1, "keep": 1}, 5),
        ("multikrum", {"malicious": 1, "keep": 6}, 9),
        ("bulyan", {"malicious": 2}, 11),
    ],
)
def test_bounds(name, hyper, least):
    """2 f + 3, m + f + 2, 4 f + 3; ⌊0.2 · 5⌋ = ⌊0.3 · 4⌋ = 1."""
    assert minimum_clients(name, hyper) == least
    build_strategy(name, hyper, least)
    if least > 1:
        with pytest.raises(TooFewClientsError, match=f"needs {least} clients"):
            build_strategy(name, hyper, least - 1)


@pytest.mark.parametrize("name", ROBUST)
def test_too_few_replies_are_an_error(name):
    """One fewer than the rule needs."""
    least = minimum_clients(name, {})
    robust = build_strategy(name, {}, 7)
    replies = [make_reply(message, START, 1) for message in send(robust, 1, START, range(least - 1))]
    with pytest.raises(AggregationError, match=f"needs {least} replies"):
        robust.aggregate_train(1, iter(replies))


@pytest.mark.parametrize("name", ROBUST)
def test_no_reply_gives_nothing(name):
    robust = build_strategy(name, {}, 7)
    send(robust, 1, START, range(7))
    assert robust.aggregate_train(1, iter(())) == (None, None)


def test_metrics_are_those_of_the_chosen():
    """Krum chooses client 3, whose loss is 1 + 3; the caller's replies keep what they hold."""
    krum = build_strategy("krum", {}, 7)
    messages = send(krum, 1, START, range(1, 8))
    replies = [make_reply(m, START + np.float32(ATTACKED[m.metadata.dst_node_id][0]), 5) for m in messages]
    _, metrics = krum.aggregate_train(1, iter(replies))
    assert dict(metrics) == {"train-loss": 4.0}
    assert replies[0].content["metrics"]["num-examples"] == 5
    np.testing.assert_allclose(replies[0].content["arrays"]["adapter"].numpy(), START + [1.0, 2.0])
