"""The round loop, on a grid whose clients are functions of two numbers."""

import itertools

import numpy as np
import pytest
from round_loop import SILENT, START, Clients, Stops, events

from fedllm_app.federation.rounds import RunFailed
from fedllm_app.federation.schedule import choose_clients
from fedllm_app.messages import (
    adapter_record,
    record_bytes,
    vector_hash,
)
from fedllm_app.strategies.fedavg import FedAvg


def test_two_rounds(loop):
    """(1, 2) + (0.4, 0) = (1.4, 2) after one round and (1.8, 2) after two; loss ¼ · 1 + ¾ · 2 = 1.75."""
    clients = Clients()
    rounds = loop(clients, rounds=2)
    np.testing.assert_allclose(rounds.run(START), [1.8, 2.0], rtol=1e-6)
    np.testing.assert_allclose(clients.received, [[1, 2]] * 2 + [[1.4, 2]] * 2, rtol=1e-6)
    assert [(event["round"], event["clients"], event["train_loss"]) for event in events(rounds, "round")] == [
        (1, [0, 1], 1.75),
        (2, [0, 1], 1.75),
    ]
    keys = ("round", "client", "name", "num_examples")
    told = [tuple(event[key] for key in keys) for event in events(rounds, "client")]
    assert told == [(1, 0, "owner 0", 1), (1, 1, "owner 1", 3), (2, 0, "owner 0", 1), (2, 1, "owner 1", 3)]


def test_each_message_goes_to_the_clients_node(loop):
    """Nodes are 500 - client."""
    clients = Clients()
    rounds = loop(clients)
    rounds.run(START)
    by_node = [(message.metadata.dst_node_id, message.content["config"]["client"]) for message in rounds.grid.sent]
    assert by_node == [(500, 0), (499, 1)]
    assert {(job.clients, job.manifest) for job in clients.trained()} == {(2, "m")}


@pytest.mark.parametrize(
    ("wrong", "reason"),
    [
        ("nan", "adapter has values that are not finite"),
        ("manifest", "the reply was computed under another adapter manifest"),
        ("error", "client 2: out of memory"),
        (SILENT, "no reply within run.round-timeout = 0.05 s"),
    ],
)
def test_a_bad_reply_is_dropped_with_its_reason_and_the_others_count(loop, wrong, reason):
    """Client 2 would move (1, 2) far away; without it the round ends at (1.4, 2)."""
    rounds = loop(Clients(bad={(1, 2): wrong}), number=3, timeout=0.05 if wrong == SILENT else 5.0)
    np.testing.assert_allclose(rounds.run(START), [1.4, 2.0], rtol=1e-6)
    (refused,) = events(rounds, "refused")
    assert refused["reason"] == reason
    assert (refused["round"], refused["client"], refused["name"], refused["during"]) == (1, 2, "owner 2", "train")
    assert events(rounds, "round")[0]["clients"] == [0, 1]
    assert rounds.totals.refused == 1


def test_order_of_arrival_does_not_change_a_bit(loop):
    """In float64, 1e5 + 1e-12 - 1e5 = 0 but 1e5 - 1e5 + 1e-12 = 1e-12. In the clients' order the mean is 0; in the
    order 0, 2, 1 it would be a third of that.
    """
    moves = {0: ([1e5, 0.1], 1), 1: ([1e-12, 0.2], 1), 2: ([-1e5, 0.3], 1)}
    finals = []
    for order in itertools.permutations(range(3)):
        arrival = lambda message, order=order: order.index(message.content["config"]["client"])  # noqa: E731
        finals.append(loop(Clients(moves), number=3, arrival=arrival).run(np.zeros(2, np.float32)))
    assert {final.tobytes() for final in finals} == {finals[0].tobytes()}
    np.testing.assert_allclose(finals[0], [0.0, 0.2], rtol=1e-6)


def test_only_accepted_clients_advance(loop):
    """Client 1 fails in round 1, client 0 in round 2: 5 local steps an accepted round."""
    clients = Clients(bad={(1, 1): "error", (2, 0): "nan"})
    rounds = loop(clients, rounds=3)
    rounds.run(START)
    assert [(job.server_round, job.client, job.position) for job in clients.trained()] == [
        (1, 0, 0),
        (1, 1, 0),
        (2, 0, 5),
        (2, 1, 0),
        (3, 0, 5),
        (3, 1, 5),
    ]
    assert rounds.totals.positions == {0: 10, 1: 10}
    assert [job.state_version for job in clients.trained()] == [0, 0, 1, 0, 1, 2]


def test_the_reference_is_sent_once_and_again_after_a_refusal(loop):
    """Client 1's reply of round 2 is refused, so it gets the reference policy in rounds 1 and 3, client 0 in 1."""
    reference = np.array([0.5, 0.25], np.float32)
    clients = Clients(bad={(2, 1): "error"})
    loop(clients, rounds=4, reference=reference).run(START)
    assert clients.references == [(1, 0), (1, 1), (3, 1)]
    assert [dict(job.once) for _, job in clients.assigned] == [{"reference": vector_hash(reference)}] * 8


def test_without_a_reference_none_is_named_or_sent(loop):
    clients = Clients()
    loop(clients).run(START)
    assert clients.references == []
    assert all(job.once == {} for _, job in clients.assigned)


def test_learning_rates_are_the_cosines(loop):
    """2e-3, the middle 2e-4 + ½ · 1.8e-3 = 1.1e-3, 2e-4: journaled, and what clients are told."""
    clients = Clients()
    rounds = loop(clients, rounds=3)
    rounds.run(START)
    journaled = [event["learning_rate"] for event in events(rounds, "round-started")]
    assert journaled == pytest.approx([2e-3, 1.1e-3, 2e-4], rel=1e-9)
    assert [job.learning_rate for job in clients.trained()] == pytest.approx(np.repeat(journaled, 2))


def test_the_clients_of_a_round_are_the_seeds(loop):
    moves = dict.fromkeys(range(6), ([0.1, 0.1], 1))
    clients = Clients(moves)
    rounds = loop(clients, number=6, rounds=4, per_round=2)
    rounds.run(START)
    expected = [choose_clients(6, 2, seed=7, server_round=number) for number in (1, 2, 3, 4)]
    assert [event["clients"] for event in events(rounds, "round-started")] == expected
    assert [job.client for job in clients.trained()] == list(itertools.chain(*expected))


def test_checkpoints_every_second_round(loop):
    """After rounds 2, 4 and the last, 5, at (1, 2) + 2 (0.4, 0), + 4 (0.4, 0), + 5 (0.4, 0). FedAvg has no state."""
    rounds = loop(Clients(), rounds=5, checkpoint_every=2)
    rounds.run(START)
    saved = [(point.server_round, point.strategy, point.positions, point.versions) for point in rounds.saved]
    assert saved == [
        (2, {}, {0: 10, 1: 10}, {0: 2, 1: 2}),
        (4, {}, {0: 20, 1: 20}, {0: 4, 1: 4}),
        (5, {}, {0: 25, 1: 25}, {0: 5, 1: 5}),
    ]
    expected = [[1.8, 2.0], [2.6, 2.0], [3.0, 2.0]]
    np.testing.assert_allclose([point.adapter for point in rounds.saved], expected, rtol=1e-6)


def test_checkpoints_hold_the_strategys_state(loop):
    """FedAvgM's momentum after one round is Δ = (0.4, 0)."""
    rounds = loop(Clients(), strategy="fedavgm", checkpoint_every=1)
    rounds.run(START)
    (point,) = rounds.saved
    (momentum,) = point.strategy.values()
    np.testing.assert_allclose(momentum, [0.4, 0.0], atol=1e-6)


def test_evaluations(loop):
    """Before the first round, every second round and after the last; losses 1 and 2 of 1 and 3 examples: 1.75."""
    rounds = loop(Clients(), rounds=3, evaluate_every=2)
    rounds.run(START)
    told = [(event["round"], event["clients"], event["eval_loss"]) for event in events(rounds, "evaluation")]
    assert told == [(0, [0, 1], 1.75), (2, [0, 1], 1.75), (3, [0, 1], 1.75)]
    assert len(events(rounds, "client-evaluation")) == 6
    assert rounds.totals.positions == {0: 15, 1: 15}


def test_clients_without_held_out_rows_are_not_asked_to_evaluate(loop):
    """Client 1 alone has some: its loss of 2 is the mean, and nothing is sent to client 0 but to train."""
    clients = Clients()
    rounds = loop(clients, evaluate_every=1, evaluating={1})
    rounds.run(START)
    told = [(event["round"], event["clients"], event["eval_loss"]) for event in events(rounds, "evaluation")]
    assert told == [(0, [1], 2.0), (1, [1], 2.0)]
    assert [job.client for kind, job in clients.assigned if kind == "evaluate"] == [1, 1]
    assert [job.client for job in clients.trained()] == [0, 1]
    assert events(rounds, "refused") == []


def test_where_no_client_has_held_out_rows_the_run_goes_on_without_evaluations(loop):
    rounds = loop(Clients(), evaluate_every=1, evaluating=frozenset())
    np.testing.assert_allclose(rounds.run(START), [1.4, 2.0], rtol=1e-6)
    assert events(rounds, "evaluation", "client-evaluation") == []


def test_a_failed_evaluation_costs_its_client_only(loop):
    rounds = loop(Clients(bad={(0, 1): "error"}), evaluate_every=1)
    np.testing.assert_allclose(rounds.run(START), [1.4, 2.0], rtol=1e-6)
    assert events(rounds, "evaluation")[0]["eval_loss"] == 1.0
    assert events(rounds, "refused")[0]["during"] == "evaluate"


def test_totals(loop):
    """Two rounds to and from two clients; the largest peak is 200 MB of one, and 300 MB on the GPU of the other."""
    rounds = loop(Clients(), rounds=2)
    rounds.run(START)
    one = len(adapter_record(START)["adapter"].data)
    assert one >= 8
    assert (rounds.totals.down, rounds.totals.up) == (4 * one, 4 * one)
    assert record_bytes(rounds.grid.sent[0].content) == one
    assert rounds.totals.peak == {"peak-memory-mb": 200.0, "peak-gpu-memory-mb": 300.0}


def test_replies_that_the_strategy_leaves_are_received_all_the_same(loop):
    rounds = loop(Clients(), strategy=Stops())
    np.testing.assert_allclose(rounds.run(START), [0.2, 2.6], rtol=1e-6)
    assert [event["client"] for event in events(rounds, "client")] == [0, 1]


@pytest.mark.parametrize(("vector", "complaint"), [([np.nan, 0.0], "not finite"), ([0.0], "shape")])
def test_an_impossible_aggregate_ends_the_run(loop, vector, complaint):
    class Wrong(FedAvg):
        def aggregate_train(self, server_round, replies):
            super().aggregate_train(server_round, replies)
            return adapter_record(np.array(vector)), None

    with pytest.raises(RunFailed, match=f"round 1.*{complaint}"):
        loop(Clients(), strategy=Wrong()).run(START)
