"""FedAvgM: momentum on the server."""

import numpy as np
from toy_strategies import FIRST, SECOND, run_moves

from fedllm_app.strategies.fedavgm import FedAvgM


def test_two_rounds():
    """β = η_s = ½. v = (0.4, 0), x = (1, 2) + ½ v = (1.2, 2); v = ½ v + (1.2, -0.4) = (1.4, -0.4), x = (1.9, 1.8).

    v as an exponential mean, ½ v + ½ Δ, would give (1.1, 2) first.
    """
    strategy = FedAvgM(beta=0.5, eta_s=0.5)
    first, second = run_moves(strategy, [FIRST, SECOND])
    np.testing.assert_allclose(first, [1.2, 2.0], rtol=1e-6)
    np.testing.assert_allclose(second, [1.9, 1.8], rtol=1e-6)
    np.testing.assert_allclose(strategy.momentum, [1.4, -0.4], rtol=1e-5)


def test_a_single_move_is_applied_twice_in_the_long_run():
    """With the defaults, one Δ and then silence moves x by η_s / (1 − β) · Δ = 2 Δ, as the docstring promises."""
    still = {0: ([0.0, 0.0], 1)}
    x = run_moves(FedAvgM(), [{0: ([1.0, -1.0], 1)}] + [still] * 30, x=np.zeros(2, np.float32))[-1]
    np.testing.assert_allclose(x, [2.0, -2.0], rtol=1e-6)
