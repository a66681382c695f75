"""FedOpt: what FedAdagrad, FedYogi and FedAdam share."""

from abc import abstractmethod
from collections.abc import Mapping
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from fedllm_app.messages import ADAPTER
from fedllm_app.strategies.fedavg import FedAvg
from fedllm_app.strategies.round_strategy import State


class FedOpt(FedAvg):
    """An adaptive optimizer on the server that takes −Δ as its gradient.

    Reddi et al. 2021 (arXiv:2003.00295), Algorithm 2::

        m ← β₁ m + (1 − β₁) Δ        m₀ = 0
        v ← see the subclass         v₀ = τ²
        x ← x + η m / (√v + τ)

    ======  ===========================================
    symbol  here
    ======  ===========================================
    m       ``momentum``, shape (P,), float32
    v       ``second_moment``, shape (P,), float32
    η       ``eta``
    τ       ``tau``
    β₁      ``beta_1``
    ======  ===========================================

    Not Flower's classes: theirs start v at 0, FedAdam corrects a bias that Algorithm 2 does not correct, and their
    η = 0.1 moves a coordinate of a LoRA adapter some 60 times further than the clients did. A coordinate moves by
    about η a round once v has settled, so that η belongs near what a client moves it: local steps × learning rate.
    The defaults are those of benchmarks/sweep.md, where that is 5 × 3e-3 over six rounds (exact match on the built-in
    corpus, FedAvg 42.9 %). With η = 0.01 and τ = 0.001 a β₁ of 0.5 reaches 44.2 % (Yogi) and 46.7 % (Adam), the
    paper's 0.9 32.1 % and 30.8 %: it is for runs of many more rounds. Smaller learning rates need a smaller η.
    """

    state_names: ClassVar[tuple[str, ...]] = ("momentum", "second_moment")

    def __init__(self, eta: float, tau: float, beta_1: float) -> None:
        super().__init__()
        self.eta = eta
        self.tau = tau
        self.beta_1 = beta_1
        self.momentum: NDArray[np.float32] | None = None
        self.second_moment: NDArray[np.float32] | None = None

    @abstractmethod
    def _next_second_moment(self, v: NDArray[np.float64], squared: NDArray[np.float64]) -> NDArray[np.float64]:
        """Return the next v from v and Δ²."""

    def _first_state(self, name: str) -> float:
        return self.tau**2 if name == "second_moment" else 0.0

    def _coordinate_step(
        self, x: NDArray[np.float64], means: Mapping[str, NDArray[np.float64]], state: State
    ) -> NDArray[np.float64]:
        delta = means[ADAPTER] - x
        m = self.beta_1 * state["momentum"] + (1 - self.beta_1) * delta
        v = self._next_second_moment(state["second_moment"], delta**2)
        state["momentum"], state["second_moment"] = m, v
        return x + self.eta * m / (np.sqrt(v) + self.tau)
