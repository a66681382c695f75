"""Centralized: one client, all data."""

import numpy as np
import pytest
from in_process import run_in_process
from toy_strategies import START, run_moves, send

from fedllm_app.client.local_client import LocalClient
from fedllm_app.runs.directory import read_journal
from fedllm_app.strategies.centralized import Centralized
from fedllm_app.strategies.fedavg import FedAvg


def test_only_the_lowest_client_is_asked_to_pool():
    (message,) = send(Centralized(), 1, START, [5, 2, 9])
    assert message.metadata.dst_node_id == 2
    assert message.content["config"]["pooled"] is True


def test_two_rounds():
    """x ← y: (1, 2) + (-0.8, 0.6) + (0, 0.8) = (0.2, 3.4); client 1 is never asked."""
    rounds = [{0: ([-0.8, 0.6], 7), 1: ([9.0, 9.0], 7)}, {0: ([0.0, 0.8], 2), 1: ([9.0, 9.0], 7)}]
    np.testing.assert_allclose(run_moves(Centralized(), rounds)[-1], [0.2, 3.4], rtol=1e-6)


def test_the_one_client_takes_the_shares_of_all_that_were_drawn():
    assert Centralized().shares([5, 2, 9]) == 3
    assert FedAvg().shares([5, 2, 9]) == 1


@pytest.mark.parametrize(("per_round", "drawn"), [(3, 3), (0, 4)])
def test_it_sees_as_many_examples_as_the_federation(per_round, drawn, run_config, tmp_path, monkeypatch):
    """2 steps of 2 rows a client and round: 3 or 4 clients drawn make 12 or 16 examples a round, in 6 or 8 steps.

    The pool has 4 x 16 = 64 rows. Three rounds meet 36 or 48 of them, each once: a round goes on where the last one
    ended, whichever client trains. A federation with the same settings takes as many steps in sum.
    """
    met, indices = [], LocalClient.indices

    def look(client, shards, assignment):
        met.append((len(shards.train), indices(client, shards, assignment)))
        return met[-1][1]

    monkeypatch.setattr(LocalClient, "indices", look)
    flat = run_config | {
        "clients.per-round": per_round,
        "train.rounds": 3,
        "evaluate.every": 0,
        "train.max-length": 400,
    }
    steps = {}
    for name in ("fedavg", "centralized"):
        met.clear()
        run_in_process(flat | {"strategy.name": name}, tmp_path / name)
        trained = [event for event in read_journal(tmp_path / name) if event["event"] == "client"]
        steps[name] = [event["steps"] for event in trained]
    assert steps == {"fedavg": [2] * drawn * 3, "centralized": [2 * drawn] * 3}
    assert [(size, len(rows)) for size, rows in met] == [(64, 4 * drawn)] * 3
    assert len(np.unique(np.concatenate([rows for _, rows in met]))) == 3 * 4 * drawn
