"""FedProx: μ travels to the clients, the server averages."""

import numpy as np
import pytest
from toy_strategies import FIRST, SECOND, START, run_moves, send

from fedllm_app.strategies.fedprox import FedProx


@pytest.mark.parametrize("mu", [0.0, 0.3])
def test_sends_mu(mu):
    (message,) = send(FedProx(mu), 1, START, [0])
    assert message.content["config"]["proximal-mu"] == mu
    assert list(message.content["arrays"]) == ["adapter"]


def test_two_rounds():
    """The server does what FedAvg does: (1, 2) + (0.4, 0) + (1.2, -0.4) = (2.6, 1.6)."""
    np.testing.assert_allclose(run_moves(FedProx(0.3), [FIRST, SECOND])[-1], [2.6, 1.6], rtol=1e-6)
