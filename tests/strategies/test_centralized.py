"""Centralized: one client, all data."""

import numpy as np
from toy_strategies import START, run_moves, send

from fedllm_app.strategies.centralized import Centralized


def test_only_the_lowest_client_is_asked_to_pool():
    (message,) = send(Centralized(), 1, START, [5, 2, 9])
    assert message.metadata.dst_node_id == 2
    assert message.content["config"]["pooled"] is True


def test_two_rounds():
    """x ← y: (1, 2) + (-0.8, 0.6) + (0, 0.8) = (0.2, 3.4); client 1 is never asked."""
    rounds = [{0: ([-0.8, 0.6], 7), 1: ([9.0, 9.0], 7)}, {0: ([0.0, 0.8], 2), 1: ([9.0, 9.0], 7)}]
    np.testing.assert_allclose(run_moves(Centralized(), rounds)[-1], [0.2, 3.4], rtol=1e-6)
