"""Strategies that must coincide, and every name in the table run for two rounds and resumed."""

import numpy as np
import pytest
from toy_strategies import FIRST, SECOND, START, run_moves

from fedllm_app.strategies.registry import STRATEGIES, build_strategy

SEVEN = [
    {client: ([0.1 * client - 0.3, 0.2], 1 + client) for client in range(7)},
    {client: ([0.3, 0.05 * client], 7 - client) for client in range(7)},
    {client: ([-0.1 * client, -0.2], 2) for client in range(7)},
]


@pytest.mark.parametrize("name, hyper", [("fedprox", {"mu": 0}), ("fedavgm", {"beta": 0, "eta-s": 1})])
def test_is_fedavg(name, hyper):
    fedavg = run_moves(build_strategy("fedavg", {}, 2), [FIRST, SECOND])
    np.testing.assert_allclose(run_moves(build_strategy(name, hyper, 2), [FIRST, SECOND]), fedavg, rtol=1e-6)


def test_first_round_of_scaffold_is_fedavg_for_equal_counts():
    equal = {client: (move, 5) for client, (move, _) in FIRST.items()}
    fedavg = run_moves(build_strategy("fedavg", {}, 2), [equal])
    np.testing.assert_allclose(run_moves(build_strategy("scaffold", {}, 2), [equal]), fedavg, rtol=1e-6)


def test_a_robust_rule_that_drops_nobody_is_the_unweighted_mean():
    """Multi-Krum that keeps 5 of 7 is none; the trimmed mean with β = 0 is: equal counts make it FedAvg."""
    equal = [{client: (move, 1) for client, (move, _) in moves.items()} for moves in SEVEN]
    fedavg = run_moves(build_strategy("fedavg", {}, 7), equal)
    np.testing.assert_allclose(run_moves(build_strategy("fedtrimmedavg", {"beta": 0}, 7), SEVEN), fedavg, rtol=1e-5)
    assert not np.allclose(run_moves(build_strategy("multikrum", {"keep": 4}, 7), SEVEN), fedavg, rtol=1e-5)


@pytest.mark.parametrize("name", STRATEGIES)
def test_every_name_runs(name):
    """Two rounds with the defaults; every strategy but local, which has no global model, moves the adapter."""
    first, second = run_moves(build_strategy(name, {}, num_clients=7), SEVEN[:2])
    assert np.isfinite(second).all()
    moved = not np.array_equal(first, START) and not np.array_equal(second, first)
    assert moved is (name != "local")


@pytest.mark.parametrize("name", STRATEGIES)
def test_a_resumed_run_goes_on_identically(name):
    """Three rounds in one go, and the last one by a new object that got the state of the first two: equal bits."""
    whole = build_strategy(name, {}, num_clients=7)
    trajectory = run_moves(whole, SEVEN)
    before = build_strategy(name, {}, num_clients=7)
    middle = run_moves(before, SEVEN[:2])[-1]
    saved = {key: vector.copy() for key, vector in before.state_arrays().items()}
    assert all(vector.dtype == np.float32 for vector in saved.values())
    after = build_strategy(name, {}, num_clients=7)
    assert after.state_arrays() == {}
    after.load_state_arrays(saved)
    np.testing.assert_array_equal(run_moves(after, SEVEN[2:], x=middle)[-1], trajectory[-1])
    assert set(after.state_arrays()) == set(whole.state_arrays())
    for key, vector in whole.state_arrays().items():
        np.testing.assert_array_equal(after.state_arrays()[key], vector)


STATEFUL = {"scaffold": {"control"}, "fedavgm": {"momentum"}} | {
    name: {"momentum", "second_moment"} for name in ("fedadagrad", "fedyogi", "fedadam")
}


@pytest.mark.parametrize("name", STATEFUL)
def test_state_is_what_the_next_round_needs(name):
    """Without its state, the same strategy goes another way: the round trip above is no accident."""
    strategy = build_strategy(name, {}, num_clients=7)
    trajectory = run_moves(strategy, SEVEN)
    assert set(strategy.state_arrays()) == STATEFUL[name]
    forgetful = build_strategy(name, {}, num_clients=7)
    last = run_moves(forgetful, SEVEN[2:], x=trajectory[1])[-1]
    same_state = all(
        np.array_equal(forgetful.state_arrays()[key], vector) for key, vector in strategy.state_arrays().items()
    )
    # SCAFFOLD's control variate shows in what is sent, not in the server's step.
    assert not same_state and (name == "scaffold" or not np.array_equal(last, trajectory[-1]))
