"""Steps in blocks of coordinates: the numbers of whole vectors, and state that is there once a step has begun it."""

import numpy as np
import pytest
from flwr.app import Message
from flwr.serverapp import strategy as flower
from toy_strategies import make_reply, moving_client, packed, run_moves, run_round, send

from fedllm_app.strategies import fedavg, means, robust
from fedllm_app.strategies.fedavg import FedAvg
from fedllm_app.strategies.registry import build_strategy

SIZE, CLIENTS = 101, 7
RNG = np.random.default_rng(5)
ROUNDS = [{client: (RNG.normal(size=SIZE), client + 1) for client in range(CLIENTS)} for _ in range(3)]
X = RNG.normal(size=SIZE).astype(np.float32)


@pytest.fixture
def small_blocks(monkeypatch):
    """A function that makes blocks of three coordinates."""

    def make() -> None:
        monkeypatch.setattr(fedavg, "_BLOCK", 3)
        monkeypatch.setattr(means, "_BLOCK", 3)
        monkeypatch.setattr(robust, "_BLOCK", 3 * CLIENTS)

    return make


@pytest.mark.parametrize(
    "name",
    [
        "fedavg",
        "scaffold",
        "fedavgm",
        "fedadagrad",
        "fedyogi",
        "fedadam",
        "fedmedian",
        "fedtrimmedavg",
        "krum",
        "bulyan",
    ],
)
def test_blocks_give_the_numbers_of_whole_vectors(name, small_blocks):
    """Three rounds, adapter and state, bit for bit: 101 coordinates in 34 blocks, the last of two."""
    in_blocks, whole = build_strategy(name, {}, CLIENTS), build_strategy(name, {}, CLIENTS)
    expected = run_moves(whole, ROUNDS, X)
    small_blocks()
    for one, other in zip(run_moves(in_blocks, ROUNDS, X), expected, strict=True):
        np.testing.assert_array_equal(one, other)
    assert in_blocks.state_arrays().keys() == whole.state_arrays().keys()
    for state, vector in whole.state_arrays().items():
        np.testing.assert_array_equal(in_blocks.state_arrays()[state], vector)


@pytest.mark.parametrize(
    "name, hyper, rule",
    [
        ("fedmedian", {}, flower.FedMedian()),
        ("fedtrimmedavg", {"beta": 0.3}, flower.FedTrimmedAvg(beta=0.3)),
        ("krum", {"malicious": 2}, flower.Krum(num_malicious_nodes=2)),
        ("multikrum", {"keep": 3}, flower.MultiKrum(num_malicious_nodes=1, num_nodes_to_select=3)),
        ("bulyan", {}, flower.Bulyan(num_malicious_nodes=1)),
    ],
)
def test_a_rule_is_the_one_of_flower(name, hyper, rule):
    """On moves of equal weight from zero, where nothing is lost in rounding."""
    x = np.zeros(SIZE, np.float32)
    moves = {client: (move, 1) for client, (move, _) in ROUNDS[0].items()}
    ours = run_moves(build_strategy(name, hyper, CLIENTS), [moves], x)[0]
    clients = {client: moving_client(*script) for client, script in moves.items()}
    replies: list[Message] = [
        clients[message.metadata.dst_node_id](message)
        for message in send(build_strategy("fedavg", {}, CLIENTS), 1, x, clients)
    ]
    for reply in replies:
        reply.content["arrays"] = packed(reply.content["arrays"]["adapter"].numpy())  # no control delta
    theirs, _ = rule.aggregate_train(1, replies)
    np.testing.assert_allclose(ours, theirs["adapter"].numpy(), rtol=1e-6, atol=1e-7)


class Halfway(FedAvg):
    """Goes half of the way, and has two states: one that it begins, and one that it leaves alone."""

    state_names = ("begun", "untouched")
    begun = untouched = None

    def _coordinate_step(self, x, means, state):
        state["begun"] = state["begun"] + 1
        return (x + means["adapter"]) / 2


def test_a_state_begins_where_a_step_puts_something_into_it(small_blocks):
    """After two rounds 0 + 1 + 1 in every coordinate; the other is still None, and in no checkpoint."""
    small_blocks()
    strategy = Halfway()
    run_moves(strategy, ROUNDS[:2], X)
    np.testing.assert_array_equal(strategy.begun, np.full(SIZE, 2, np.float32))
    assert strategy.untouched is None and list(strategy.state_arrays()) == ["begun"]


class Fails(Halfway):
    """Raises in the second block."""

    blocks = 0

    def _coordinate_step(self, x, means, state):
        self.blocks += 1
        if self.blocks == 2:
            raise ArithmeticError("second block")
        return super()._coordinate_step(x, means, state)


def test_a_step_that_fails_half_way_leaves_the_state_as_it_was(small_blocks):
    small_blocks()
    strategy = Fails()
    with pytest.raises(ArithmeticError):
        run_round(strategy, 1, X, {0: moving_client(np.ones(SIZE), 1)})
    assert strategy.begun is None


def test_what_a_strategy_is_given_cannot_be_changed_in_place():
    """The adapter of a round is the memory of the message itself, which other clients are still sent."""

    class Rude(FedAvg):
        def _server_step(self, x, means):
            x += 1
            return x

    strategy = Rude()
    messages = send(strategy, 1, X, [0])
    with pytest.raises(ValueError, match="read-only"):
        strategy.aggregate_train(1, [make_reply(messages[0], X, 1)])
