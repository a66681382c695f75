"""Rounds in which replies are missing: repeated, skipped, failed, closed before all have answered."""

import numpy as np
import pytest
from flwr.app import Error, Message
from round_loop import SILENT, START, Clients, Stops, events

from fedllm_app.federation.closing import Quorum
from fedllm_app.federation.rounds import RunFailed
from fedllm_app.messages import Assignment, adapter_record, reply
from fedllm_app.strategies.registry import build_strategy

EVERY = ["fedavg", "fedadam", "fedyogi", "fedadagrad", "fedavgm", "scaffold", "local", "fedprox"]


@pytest.mark.parametrize("strategy", EVERY)
def test_a_round_with_too_few_replies_is_repeated_as_if_it_had_not_been(loop, strategy):
    """Round 2 has one usable reply of two, then none, then both: the same final adapter, state, positions and versions
    as without the failures, and each attempt sends what the first one sent."""
    calm, troubled = Clients(), Clients(bad={(2, 0): [None, "nan"], (2, 1): ["error", SILENT]})
    timing = {"rounds": 3, "checkpoint_every": 3, "timeout": 0.05, "quorum": Quorum(minimum=1.0)}
    expected = loop(calm, strategy=strategy, **timing)
    rounds = loop(troubled, strategy=strategy, **timing)
    assert rounds.run(START).tobytes() == expected.run(START).tobytes()
    (point,), (other,) = rounds.saved, expected.saved
    assert {name: array.tolist() for name, array in point.strategy.items()} == {
        name: array.tolist() for name, array in other.strategy.items()
    }
    assert (point.positions, point.versions) == (other.positions, other.versions)
    assert [job for job in troubled.trained() if job.server_round == 2] == [
        job for job in calm.trained() if job.server_round == 2
    ] * 3
    assert [(event["round"], event["answered"]) for event in events(rounds, "too-few")] == [(2, [0]), (2, [])]
    assert [event["round"] for event in events(rounds, "round")] == [1, 2, 3]


def test_a_flower_strategy_of_others_is_repeated_as_if_it_had_not_been(loop):
    """Flower's FedAvgM keeps its momentum to itself."""
    quorum = Quorum(minimum=1.0)
    finals = []
    for bad in ({}, {(2, 1): ["error", "error"]}):
        strategy = build_strategy("flwr.serverapp.strategy.FedAvgM", {"server-momentum": 0.9}, 2)
        rounds = loop(Clients(bad=bad), strategy=strategy, rounds=3, quorum=quorum)
        finals.append(rounds.run(START).tobytes())
    assert finals[0] == finals[1]
    assert len(events(rounds, "too-few")) == 2


def test_a_skipped_round_changes_nothing_and_the_schedule_goes_on(loop):
    """Rounds 2 and 3 have one usable reply of two: (1, 2) + (0.4, 0) in rounds 1 and 4 alone."""
    clients = Clients(bad={(2, 0): "error", (3, 1): "error"})
    rounds = loop(clients, rounds=4, checkpoint_every=1, quorum=Quorum(minimum=1.0, too_few="skip"))
    np.testing.assert_allclose(rounds.run(START), [1.8, 2.0], rtol=1e-6)
    assert [event["round"] for event in events(rounds, "round")] == [1, 4]
    assert [event["round"] for event in events(rounds, "too-few")] == [2, 3]
    np.testing.assert_allclose([point.adapter[0] for point in rounds.saved], [1.4, 1.4, 1.4, 1.8], rtol=1e-6)
    assert rounds.saved[2].versions == {0: 1, 1: 1}
    assert rounds.saved[3].positions == {0: 10, 1: 10}


@pytest.mark.parametrize(("too_few", "attempts"), [("repeat", [2, 2, 2]), ("skip", [2, 3, 4])])
def test_after_so_many_times_in_a_row_the_run_fails_and_says_who_answered_and_what_to_do(loop, too_few, attempts):
    """The checkpoint is that of the last round that was one, though none was due."""
    bad = {(number, 0): "error" for number in range(2, 9)}
    rounds = loop(Clients(bad=bad), rounds=8, quorum=Quorum(minimum=0.6, too_few=too_few, retries=2))
    with pytest.raises(RunFailed) as caught:
        rounds.run(START)
    said = str(caught.value)
    assert "1 of 2 clients gave a usable reply (1 owner 1) and 2 are needed (clients.minimum = 0.6)" in said
    assert "without one: 0 owner 0" in said
    assert "happened 3 times in a row" in said
    assert f"fedllm run --resume {rounds.directory.path}" in said
    assert [event["round"] for event in events(rounds, "too-few")] == attempts
    (point,) = rounds.saved
    assert point.server_round == attempts[-1] - 1
    np.testing.assert_allclose(point.adapter, [1.4, 2.0], rtol=1e-6)


def test_failures_are_counted_in_a_row(loop):
    """Two in round 1, then two in round 2: never three in a row."""
    bad = {(1, 0): ["error", "error"], (2, 1): ["error", "error"]}
    rounds = loop(Clients(bad=bad), rounds=2, quorum=Quorum(minimum=1.0, retries=2))
    np.testing.assert_allclose(rounds.run(START), [1.8, 2.0], rtol=1e-6)


class Away:
    """An attendance in which clients are away: (round, client) -> how often."""

    def __init__(self, **_):
        self.away, self.leasts, self.notes = {}, [], []

    def absent(self, server_round, clients, least=0):
        self.leasts.append((server_round, list(clients), least))
        gone = {}
        for client in clients:
            if self.away.get((server_round, client), 0) > 0:
                self.away[server_round, client] -= 1
                gone[client] = "its site is not connected"
        return gone

    def answered(self, clients):
        self.notes.append(("answered", sorted(clients)))

    def silent(self, clients, lost=()):
        self.notes.append(("silent", sorted(clients), sorted(lost)))


def test_a_client_that_is_away_is_sent_nothing_and_refused_at_once(loop):
    """Client 2 of three is away in round 1; the share of the minimum is that of the clients drawn."""
    clients, attendance = Clients(), Away()
    attendance.away = {(1, 2): 1}
    rounds = loop(clients, number=3, rounds=2, attendance=attendance, quorum=Quorum(minimum=0.5))
    rounds.run(START)
    assert [(job.server_round, job.client) for job in clients.trained()] == [(1, 0), (1, 1), (2, 0), (2, 1), (2, 2)]
    (refused,) = events(rounds, "refused")
    assert (refused["client"], refused["reason"]) == (2, "its site is not connected")
    assert attendance.leasts == [(1, [0, 1, 2], 2), (2, [0, 1, 2], 2)]
    assert attendance.notes[:2] == [("answered", [0, 1]), ("silent", [], [])]


def test_a_client_that_cannot_be_reached_is_refused_at_once(loop):
    """Nodes are 500 - client. Nobody waits for the time-out of 5 s."""
    rounds = loop(Clients(), number=3)
    rounds.grid.unreachable = {498}
    rounds.run(START)
    (refused,) = events(rounds, "refused")
    assert (refused["client"], refused["reason"]) == (2, "its node could not be sent a message")


def test_where_too_few_are_there_nobody_trains_for_nothing(loop):
    """One of three is there, two are needed: nothing is sent, and the round is repeated."""
    clients, attendance = Clients(), Away()
    attendance.away = {(1, 0): 1, (1, 2): 1}
    rounds = loop(clients, number=3, attendance=attendance, quorum=Quorum(minimum=0.5))
    rounds.run(START)
    assert [job.client for job in clients.trained()] == [0, 1, 2]
    assert [event["client"] for event in events(rounds, "refused")] == [0, 2]
    assert len(events(rounds, "too-few")) == 1


def test_the_attendance_is_told_who_was_silent_and_who_was_lost(loop):
    def lost(message):
        if Assignment.from_message(message).client != 1:
            return clients(message)
        return Message(Error(code=5, reason="Node Unavailable"), reply_to=message)

    clients, attendance = Clients(bad={(1, 2): SILENT}), Away()
    rounds = loop(lost, number=3, timeout=0.05, attendance=attendance)
    rounds.run(START)
    assert attendance.notes == [("answered", [0, 1]), ("silent", [2], [1])]
    assert "its SuperNode was lost" in events(rounds, "refused")[0]["reason"]


def test_who_took_part_is_counted_by_round_and_not_by_attempt(loop):
    """Client 1 fails once in round 1, which is repeated, and in round 2, which is not: drawn twice, took part once."""
    bad = {(1, 1): ["error"], (2, 1): ["nan", "nan"], (1, 0): ["error"]}
    rounds = loop(Clients(bad=bad), rounds=2, checkpoint_every=2, quorum=Quorum(minimum=0.5))
    rounds.run(START)
    parts = [tuple(line.values())[2:] for line in rounds.ledger.participation.lines()]
    not_finite = "adapter has values that are not finite"
    assert parts == [(2, 2, 1, 0, "client 0: out of memory"), (2, 1, 2, 0, not_finite)]
    assert rounds.saved[0].participation == rounds.ledger.participation.lines()


def test_a_robust_rule_has_the_replies_that_it_needs(loop):
    """Krum with f = 1 needs 2 f + 3 = 5 replies; four of six are more than half and no round."""
    moves = {client: ([0.1 * client, 0.0], 1) for client in range(6)}
    bad = {(1, 0): ["error"], (1, 1): ["error"]}
    rounds = loop(Clients(moves, bad), strategy="krum", number=6, quorum=Quorum(minimum=0.5))
    rounds.run(START)
    (event,) = events(rounds, "too-few")
    assert event["answered"] == [2, 3, 4, 5]
    assert "5 are needed" in event["reason"]


def test_a_strategy_that_took_its_step_too_early_cannot_repeat(loop):
    rounds = loop(Clients(bad={(1, 1): "error"}), strategy=Stops(), quorum=Quorum(minimum=1.0))
    with pytest.raises(RunFailed, match="cannot be repeated: Stops had taken its step"):
        rounds.run(START)


def test_a_round_closes_when_enough_have_answered_and_the_late_reply_is_discarded(loop):
    """Client 2 is silent in round 1 and would be waited for 60 s; 2 of 3 are enough. Its late reply is no update."""
    clients = Clients(bad={(1, 2): SILENT, (2, 2): "error"})
    quorum = Quorum(enough=0.6, grace=0.01)
    rounds = loop(clients, number=3, rounds=2, timeout=60.0, quorum=quorum)
    kept, answer, pull = [], rounds.grid.answer, rounds.grid.pull_messages

    def remember(message):
        reply_ = answer(message)
        if reply_ is None:
            job = Assignment.from_message(message)
            kept.append(reply(message, adapter_record(START + np.float32(100)), {"num-examples": 4}, job.manifest))
        return reply_

    def look(message_ids):
        there = [kept.pop()] if len(rounds.grid.sent) == 6 and kept else []
        return [*there, *pull(message_ids)]

    rounds.grid.answer, rounds.grid.pull_messages = remember, look
    np.testing.assert_allclose(rounds.run(START), [1.8, 2.0], rtol=1e-6)
    first, second = events(rounds, "refused")
    assert (first["round"], first["client"]) == (1, 2)
    assert "clients.grace = 0.01 s after 2 of the clients" in first["reason"]
    assert second["round"] == 2
    (late,) = events(rounds, "late")
    assert (late["round"], late["client"], late["reason"]) == (1, 2, "late, discarded")
