"""The round loop, on a grid whose clients are functions of two numbers."""

import itertools

import numpy as np
import pytest
from flwr.app import Error, Message

from fedllm_app.federation.closing import Quorum
from fedllm_app.federation.exchange import PlainExchange
from fedllm_app.federation.ledger import Ledger
from fedllm_app.federation.rounds import Rounds, RunFailed
from fedllm_app.federation.schedule import Schedule, choose_clients
from fedllm_app.federation.sent_once import SentOnce
from fedllm_app.messages import (
    Assignment,
    adapter_record,
    failure,
    read_vectors,
    record_bytes,
    reply,
    vector_hash,
    vectors_record,
)
from fedllm_app.runs.directory import Checkpoint, RunDirectory, read_journal
from fedllm_app.strategies.fedavg import FedAvg
from fedllm_app.strategies.registry import build_strategy
from fedllm_app.updates.chain import UpdateChain

START = np.array([1.0, 2.0], np.float32)
SILENT = "silent"
# client -> (move, examples): the mean of the first two is ¼ (-0.8, 0.6) + ¾ (0.8, -0.2) = (0.4, 0).
MOVES = {0: ([-0.8, 0.6], 1), 1: ([0.8, -0.2], 3), 2: ([8.0, 8.0], 4)}


class Clients:
    """Clients that answer x with x + their move.

    `bad` maps (round, client) to what is wrong with a reply, or to a list of it for the first attempts of the round.
    """

    def __init__(self, moves=MOVES, bad=None):
        self.moves, self.bad = moves, bad or {}
        self.assigned: list[tuple[str, Assignment]] = []
        self.received: list[np.ndarray] = []
        self.references: list[tuple[int, int]] = []

    def __call__(self, message: Message) -> Message | None:
        job = Assignment.from_message(message)
        self.assigned.append((message.metadata.message_type, job))
        vectors = read_vectors(message)
        self.received.append(vectors["adapter"])
        if "reference" in vectors:
            self.references.append((job.server_round, job.client))
        wrong = self.bad.get((job.server_round, job.client))
        if isinstance(wrong, list):
            wrong = wrong.pop(0) if wrong else None
        if wrong == SILENT:
            return None
        if wrong == "error":
            return failure(message, f"client {job.client}: out of memory")
        move, examples = self.moves[job.client]
        if message.metadata.message_type == "evaluate":
            return reply(message, None, {"num-examples": examples, "eval-loss": 1.0 + job.client}, job.manifest)
        moved = vectors["adapter"] + np.float32(move)
        more = {}
        if "control" in vectors:
            more["control-delta"] = np.float32(move)
        if wrong == "nan":
            moved[0] = np.nan
        metrics = {
            "num-examples": examples,
            "client": job.client,
            "train-loss": 1.0 + job.client,
            "peak-memory-mb": 100.0 * (job.client + 1),
            "peak-gpu-memory-mb": 300.0 - 100.0 * job.client,
        }
        arrays = vectors_record({"adapter": moved, **more})
        return reply(message, arrays, metrics, "other" if wrong == "manifest" else job.manifest)

    def trained(self):
        return [job for kind, job in self.assigned if kind == "train"]


class Loop:
    """A round loop with what it runs on and what it saves."""

    def __init__(self, rounds: Rounds, grid, saved: list[Checkpoint]) -> None:
        self.run, self.grid, self.saved = rounds.run, grid, saved
        self.ledger = rounds.ledger
        self.directory, self.totals = self.ledger.directory, self.ledger.totals


@pytest.fixture
def loop(tmp_path, make_grid):
    """A function that makes the loop of some clients."""

    def make(
        clients,
        strategy="fedavg",
        number=2,
        arrival=None,
        reference=None,
        timeout=5.0,
        evaluating=None,
        quorum=None,
        attendance=None,
        **schedule,
    ):
        plan = {
            "rounds": 1,
            "per_round": 0,
            "local_steps": 5,
            "max_learning_rate": 2e-3,
            "min_learning_rate": 2e-4,
            "evaluate_every": 0,
            "checkpoint_every": 0,
            "seed": 7,
        }
        quorum = quorum or Quorum(minimum=0.0)
        directory = RunDirectory(tmp_path / f"run-{len(list(tmp_path.iterdir()))}")
        directory.create({})
        saved = []
        grid = make_grid(clients, **({"arrival": arrival} if arrival else {}))
        strategy = build_strategy(strategy, {}, number) if isinstance(strategy, str) else strategy
        ledger = Ledger(directory, {client: f"owner {client}" for client in range(number)})
        chain, once = UpdateChain(), SentOnce({} if reference is None else {"reference": reference}, range(number))
        exchange = PlainExchange(
            grid,
            {client: 500 - client for client in range(number)},
            manifest="m",
            required=strategy.reply_arrays,
            timeout=timeout,
            grace=quorum.grace,
            ledger=ledger,
            chain=chain,
            once=once,
        )
        plan = Schedule(clients=number, **plan | schedule)
        rounds = Rounds(
            strategy, plan, exchange, ledger, chain, once, "m", saved.append, evaluating, None, quorum, attendance
        )
        return Loop(rounds, grid, saved)

    return make


def events(rounds, *kinds):
    return [event for event in read_journal(rounds.directory.path) if event["event"] in kinds]


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


class Stops(FedAvg):
    """FedAvg of the first reply alone; the others are left unread."""

    def aggregate_train(self, server_round, replies):
        return super().aggregate_train(server_round, [next(replies)])


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
