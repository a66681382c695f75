"""The seeded choice of clients and the learning rate of a round."""

import pytest

from fedllm_app.federation.schedule import choose_clients, learning_rate


@pytest.mark.parametrize("per_round", [0, 5, 9])
def test_all_take_part(per_round):
    assert choose_clients(5, per_round, seed=1, server_round=1) == [0, 1, 2, 3, 4]


def test_draws_without_replacement_in_ascending_order():
    for server_round in range(1, 50):
        chosen = choose_clients(10, 4, seed=3, server_round=server_round)
        assert len(set(chosen)) == 4
        assert chosen == sorted(chosen)
        assert all(type(client) is int and 0 <= client < 10 for client in chosen)


def test_same_seed_and_round_same_clients():
    assert choose_clients(50, 5, seed=3, server_round=7) == choose_clients(50, 5, seed=3, server_round=7)


def test_every_round_and_every_seed_draws_anew():
    """2,118,760 ways to choose 5 of 50: among 20 draws, two alike have a chance of 1 in 10,000."""
    rounds = [choose_clients(50, 5, seed=3, server_round=server_round) for server_round in range(1, 21)]
    seeds = [choose_clients(50, 5, seed=seed, server_round=1) for seed in range(20)]
    assert len(set(map(tuple, rounds))) == 20
    assert len(set(map(tuple, seeds))) == 20


def test_every_client_is_drawn_alike():
    """2 of 8 in 400 rounds: each client 100 times, with a standard deviation of √(400 · ¼ · ¾) ≈ 8.7."""
    counts = [0] * 8
    for server_round in range(1, 401):
        for client in choose_clients(8, 2, seed=0, server_round=server_round):
            counts[client] += 1
    assert sum(counts) == 800
    assert all(60 < count < 140 for count in counts)


def test_cosine_across_rounds():
    """0.1 + ½ · 0.8 (1 + cos(π t / 4)), t = 0..4: 0.9, 0.5 + 0.4/√2 = 0.7828427, 0.5, 0.2171573, 0.1."""
    rates = [learning_rate(0.9, 0.1, server_round, 5) for server_round in range(1, 6)]
    assert rates == pytest.approx([0.9, 0.78284271, 0.5, 0.21715729, 0.1], rel=1e-7)


def test_ends_are_exact():
    assert learning_rate(5e-5, 1e-6, 1, 200) == 5e-5
    assert learning_rate(5e-5, 1e-6, 200, 200) == 1e-6


def test_a_single_round_gets_the_maximum():
    assert learning_rate(0.9, 0.1, 1, 1) == 0.9
