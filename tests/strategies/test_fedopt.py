"""FedAdagrad, FedYogi, FedAdam: Algorithm 2 of Reddi et al. 2021 (v₀ = τ², no bias correction).

Weighted mean moves of the two rounds: Δ = (0.4, 0) and (1.2, -0.4), so Δ² = (0.16, 0) and (1.44, 0.16).
With β₁ = ½, m = (0.2, 0) and then ½ (0.2, 0) + ½ (1.2, -0.4) = (0.7, -0.2).
"""

from math import sqrt

import numpy as np
import pytest
from toy_strategies import FIRST, SECOND, run_moves

from fedllm_app.strategies.fedadagrad import FedAdagrad
from fedllm_app.strategies.fedadam import FedAdam
from fedllm_app.strategies.fedyogi import FedYogi


def test_fedadagrad_two_rounds():
    """η = 1, τ = 0.3, so v₀ = 0.09.

    v = (0.25, 0.09), √v = (0.5, 0.3): x = (1 + 0.4 / 0.8, 2) = (1.5, 2);
    v = (1.69, 0.25), √v = (1.3, 0.5): x = (1.5 + 1.2 / 1.6, 2 − 0.4 / 0.8) = (2.25, 1.5).
    With v₀ = 0 the first step would be 0.4 / 0.7.
    """
    strategy = FedAdagrad(eta=1.0, tau=0.3)
    first, second = run_moves(strategy, [FIRST, SECOND])
    np.testing.assert_allclose(first, [1.5, 2.0], rtol=1e-6)
    np.testing.assert_allclose(second, [2.25, 1.5], rtol=1e-6)
    np.testing.assert_allclose(strategy.second_moment, [1.69, 0.25], rtol=1e-6)


def test_fedadam_two_rounds():
    """η = 2, τ = 0.4, β₁ = ½, β₂ = ¾, so v₀ = 0.16.

    v = ¾ (0.16, 0.16) + ¼ (0.16, 0) = (0.16, 0.12): x = (1 + 2 · 0.2 / 0.8, 2) = (1.5, 2);
    v = ¾ (0.16, 0.12) + ¼ (1.44, 0.16) = (0.48, 0.13):
    x = (1.5 + 2 · 0.7 / (√0.48 + 0.4), 2 − 2 · 0.2 / (√0.13 + 0.4)).
    The usual mistakes give another first coordinate after round 1: v₀ = 0: 1 + 0.4 / 0.6; m₀ = Δ: 2;
    v from m²: 1 + 0.4 / (√0.13 + 0.4); corrected for bias (m / ½, √(v / ¼)): 1 + 0.8 / 1.2.
    """
    strategy = FedAdam(eta=2.0, beta_1=0.5, beta_2=0.75, tau=0.4)
    first, second = run_moves(strategy, [FIRST, SECOND])
    np.testing.assert_allclose(first, [1.5, 2.0], rtol=1e-6)
    expected = [1.5 + 1.4 / (sqrt(0.48) + 0.4), 2 - 0.4 / (sqrt(0.13) + 0.4)]
    np.testing.assert_allclose(second, expected, rtol=1e-6)
    np.testing.assert_allclose(strategy.momentum, [0.7, -0.2], rtol=1e-5)


def test_fedyogi_two_rounds():
    """η = 1, τ = ½, β₁ = ½, β₂ = ¾, so v₀ = 0.25; both signs occur in either direction.

    v = 0.25 − ¼ (0.16, 0) = (0.21, 0.25), since v > Δ²: x = (1 + 0.2 / (√0.21 + ½), 2);
    v = (0.21 + ¼ · 1.44, 0.25 − ¼ · 0.16) = (0.57, 0.21):
    x = (… + 0.7 / (√0.57 + ½), 2 − 0.2 / (√0.21 + ½)).
    """
    strategy = FedYogi(eta=1.0, beta_1=0.5, beta_2=0.75, tau=0.5)
    first, second = run_moves(strategy, [FIRST, SECOND])
    x = 1 + 0.2 / (sqrt(0.21) + 0.5)
    np.testing.assert_allclose(first, [x, 2.0], rtol=1e-6)
    np.testing.assert_allclose(second, [x + 0.7 / (sqrt(0.57) + 0.5), 2 - 0.2 / (sqrt(0.21) + 0.5)], rtol=1e-6)
    np.testing.assert_allclose(strategy.second_moment, [0.57, 0.21], rtol=1e-6)


@pytest.mark.parametrize("strategy_class", [FedAdagrad, FedYogi, FedAdam])
@pytest.mark.parametrize("move, way", [(5e-3, 2.5e-2), (1.5e-2, 6e-2)])
def test_defaults_do_not_throw_a_lora_adapter(strategy_class, move, way):
    """Clients move a coordinate by up to local steps × learning rate, 5 × 3e-3. The server adds to it by a factor of
    four at most, when all clients agree round after round.

    Flower's η = 0.1 with its v₀ = 0 moves it 0.1 · 0.1 Δ / (√0.01 Δ + 1e-3) ≈ 0.033 in the first round where
    Δ = 5e-3, seven times Δ, and more later. Nor may it stand still: in 20 equal rounds it goes at least `way`, a
    quarter of the clients' way where that is short.
    """
    moves = {0: ([move, -move], 1)}
    trajectory = run_moves(strategy_class(), [moves] * 20, x=np.zeros(2, np.float32))
    steps = np.diff([np.zeros(2), *trajectory], axis=0) * [1, -1]
    assert steps.max() <= 4 * move
    assert trajectory[-1][0] >= way
    assert trajectory[-1][1] <= -way
