"""FedYogi: Yogi on the server."""

import numpy as np
from numpy.typing import NDArray

from fedllm_app.strategies.fedopt import FedOpt


class FedYogi(FedOpt):
    """FedYogi: as FedAdam, but v moves towards Δ² by steps that do not grow with v.

    Reddi et al. 2021 (arXiv:2003.00295), Algorithm 2::

        v ← v − (1 − β₂) Δ² sign(v − Δ²)

    β₂ is ``beta_2``; the other symbols and attributes: see `FedOpt`.
    """

    def __init__(self, eta: float = 1e-2, beta_1: float = 0.5, beta_2: float = 0.99, tau: float = 1e-3) -> None:
        super().__init__(eta, tau, beta_1)
        self.beta_2 = beta_2

    def _next_second_moment(self, v: NDArray[np.float64], squared: NDArray[np.float64]) -> NDArray[np.float64]:
        return v - (1 - self.beta_2) * squared * np.sign(v - squared)
