"""A round loop on a grid whose clients are functions of two numbers, for the tests of rounds."""

import numpy as np
import pytest
from flwr.app import Message

from fedllm_app.federation.closing import Quorum
from fedllm_app.federation.exchange import PlainExchange
from fedllm_app.federation.ledger import Ledger
from fedllm_app.federation.rounds import Rounds
from fedllm_app.federation.schedule import Schedule
from fedllm_app.federation.sent_once import SentOnce
from fedllm_app.messages import (
    Assignment,
    failure,
    read_vectors,
    reply,
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
        ledger = Ledger(directory, number)
        ledger.know({client: f"owner {client}" for client in range(number)})
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


class Stops(FedAvg):
    """FedAvg of the first reply alone; the others are left unread."""

    def aggregate_train(self, server_round, replies):
        return super().aggregate_train(server_round, [next(replies)])
