"""The round loop around any Flower strategy: choose, send, check, aggregate, evaluate, checkpoint.

The strategy keeps Flower's four methods. It is shown a grid whose nodes are the clients already chosen for the round,
and gets only replies that were checked; everything else that a run of weeks needs happens here.
"""

import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from typing import Protocol, runtime_checkable

import numpy as np
from flwr.app import Array, ArrayRecord, ConfigRecord, Message, MessageType, RecordDict
from flwr.serverapp import Grid
from flwr.serverapp.strategy import Strategy

from fedllm_app.errors import UserError
from fedllm_app.federation.exchange import ask
from fedllm_app.federation.schedule import choose_clients, learning_rate
from fedllm_app.messages import (
    ADAPTER,
    ARRAYS,
    CONFIG,
    METRICS,
    PEAK_GPU_MEMORY,
    PEAK_MEMORY,
    REFERENCE,
    Assignment,
    adapter_record,
    record_bytes,
    reply_problem,
    vector_hash,
)
from fedllm_app.runs.directory import RunDirectory
from fedllm_app.strategies.fedavg import FedAvg


@runtime_checkable
class KeepsState(Protocol):
    """A strategy whose state belongs into checkpoints. Any other is taken to have none."""

    def state_arrays(self) -> dict[str, np.ndarray]:
        """The vectors that it needs to go on."""


class RunFailed(UserError):
    """The run cannot go on; the message says why."""


class ChosenClients(Grid):
    """The grid that a strategy sees: its nodes are the clients chosen for this round, and it sends nothing itself."""

    def __init__(self, clients: list[int]) -> None:
        self._clients = clients

    def get_node_ids(self) -> Iterable[int]:
        """The chosen clients."""
        return list(self._clients)

    def _not_here(self, *_args, **_options):
        raise NotImplementedError("the round loop sends the messages, a strategy only configures and aggregates")

    set_run = run = create_message = push_messages = pull_messages = send_and_receive = _not_here


@dataclass(frozen=True)
class Schedule:
    """What does not change from round to round. Times in seconds."""

    rounds: int
    per_round: int
    local_steps: int
    max_learning_rate: float
    min_learning_rate: float
    evaluate_every: int
    checkpoint_every: int
    round_timeout: float
    seed: int


@dataclass
class Totals:
    """What a run adds up to. `down` and `up` are bytes of arrays sent to and received from clients, `peak` the largest of
    a client's numbers of memory.

    `positions` and `versions` are, by client, the optimizer steps accepted so far and the round of the last of them.
    """

    down: int = 0
    up: int = 0
    peak: dict[str, float] = field(default_factory=lambda: dict.fromkeys((PEAK_MEMORY, PEAK_GPU_MEMORY), 0.0))
    refused: int = 0
    positions: dict[int, int] = field(default_factory=dict)
    versions: dict[int, int] = field(default_factory=dict)


def evaluation_rounds(rounds: int, every: int) -> list[int]:
    """After which rounds clients evaluate: before the first (0), every so many, and after the last; none for 0."""
    return sorted({0, rounds, *range(every, rounds + 1, every)}) if every else []


class Rounds:
    """Runs the rounds of one experiment.

    Parameters
    ----------
    nodes : dict[int, int]
        The node id that serves each client.
    names : dict[int, str]
        What each client is called in journals.
    manifest : str
        Hash of the adapter's layout, which every reply must name.
    reference : np.ndarray | None
        The packed adapter of DPO's reference policy if it is not the base alone. It is sent to a client with its first
        message, and again after a reply that was refused, in case the client lost it.
    save : Callable[[int, np.ndarray, dict[str, np.ndarray], dict[int, int]], None]
        Writes a checkpoint: round, global adapter, the strategy's arrays, positions.
    """

    def __init__(
        self,
        grid: Grid,
        strategy: Strategy,
        nodes: dict[int, int],
        names: dict[int, str],
        manifest: str,
        schedule: Schedule,
        directory: RunDirectory,
        save: Callable[[int, np.ndarray, dict[str, np.ndarray], dict[int, int]], None],
        reference: np.ndarray | None = None,
    ) -> None:
        self.grid = grid
        self.strategy = strategy
        self.nodes = nodes
        self.names = names
        self.manifest = manifest
        self.schedule = schedule
        self.directory = directory
        self.save = save
        self.totals = Totals(positions=dict.fromkeys(nodes, 0), versions=dict.fromkeys(nodes, 0))
        self._required = strategy.reply_arrays if isinstance(strategy, FedAvg) else (ADAPTER,)
        self._reference = None if reference is None else Array(reference.astype(np.float32))
        self._reference_hash = "" if reference is None else vector_hash(reference)
        self._lacks_reference = set(nodes)

    def run(self, initial: np.ndarray) -> np.ndarray:
        """Run all rounds from the packed adapter `initial` and return the last global adapter."""
        arrays = adapter_record(initial)
        evaluated = evaluation_rounds(self.schedule.rounds, self.schedule.evaluate_every)
        if 0 in evaluated:
            self._evaluate(0, arrays)
        for server_round in range(1, self.schedule.rounds + 1):
            arrays = self._train(server_round, arrays)
            if server_round in evaluated:
                self._evaluate(server_round, arrays)
            if self.schedule.checkpoint_every and server_round % self.schedule.checkpoint_every == 0:
                state = self.strategy.state_arrays() if isinstance(self.strategy, KeepsState) else {}
                self.save(server_round, arrays[ADAPTER].numpy(), state, self.totals.positions)
        return arrays[ADAPTER].numpy()

    def _train(self, server_round: int, arrays: ArrayRecord) -> ArrayRecord:
        plan = self.schedule
        chosen = choose_clients(len(self.nodes), plan.per_round, plan.seed, server_round)
        rate = learning_rate(plan.max_learning_rate, plan.min_learning_rate, server_round, plan.rounds)
        self.directory.journal("round-started", round=server_round, clients=chosen, learning_rate=rate)
        started = time.perf_counter()
        configured = self.strategy.configure_train(server_round, arrays, ConfigRecord(), ChosenClients(chosen))
        requests = self._requests(configured, server_round, rate)
        accepted: list[int] = []
        replies = self._checked(requests, server_round, MessageType.TRAIN, arrays, accepted)
        aggregated, metrics = self.strategy.aggregate_train(server_round, replies)
        for _ in replies:  # a strategy may stop early; what was sent is still received and journaled
            pass
        if not accepted:
            raise RunFailed(f"round {server_round}: no client of {len(requests)} gave a usable reply; see the journal")
        for client in accepted:
            self.totals.positions[client] += plan.local_steps
            self.totals.versions[client] = server_round
        if aggregated is not None:
            arrays = _checked_aggregate(aggregated, arrays, server_round)
        self.directory.journal(
            "round",
            round=server_round,
            clients=accepted,
            train_loss=None if metrics is None else metrics.get("train-loss"),
            seconds=time.perf_counter() - started,
            bytes_down=self.totals.down,
            bytes_up=self.totals.up,
        )
        return arrays

    def _evaluate(self, server_round: int, arrays: ArrayRecord) -> None:
        plan = self.schedule
        chosen = choose_clients(len(self.nodes), plan.per_round, plan.seed, max(server_round, 1))
        configured = self.strategy.configure_evaluate(server_round, arrays, ConfigRecord(), ChosenClients(chosen))
        requests = self._requests(configured, server_round, 0.0)
        if not requests:
            return
        accepted: list[int] = []
        replies = self._checked(requests, server_round, MessageType.EVALUATE, None, accepted)
        metrics = self.strategy.aggregate_evaluate(server_round, replies)
        self.directory.journal("evaluation", round=server_round, clients=accepted, **_plain(metrics))

    def _requests(
        self, configured: Iterable[Message], server_round: int, rate: float
    ) -> dict[int, tuple[int, RecordDict]]:
        """The strategy's messages, addressed to nodes and stamped with each client's assignment, by client."""
        requests = {}
        for message in sorted(configured, key=lambda message: message.metadata.dst_node_id):
            client = message.metadata.dst_node_id
            assignment = Assignment(
                client=client,
                clients=len(self.nodes),
                server_round=server_round,
                position=self.totals.positions[client],
                learning_rate=rate,
                manifest=self.manifest,
                state_version=self.totals.versions[client],
                reference=self._reference_hash,
            )
            content = RecordDict(dict(message.content))
            content[CONFIG] = ConfigRecord({**message.content[CONFIG], **assignment.to_config()})
            if self._reference is not None and client in self._lacks_reference:
                content[ARRAYS] = ArrayRecord({**message.content[ARRAYS], REFERENCE: self._reference})
            self.totals.down += record_bytes(content)
            requests[client] = (self.nodes[client], content)
        return requests

    def _checked(
        self,
        requests: dict[int, tuple[int, RecordDict]],
        server_round: int,
        message_type: str,
        expected: ArrayRecord | None,
        accepted: list[int],
    ) -> Iterator[Message]:
        """The usable replies in the order of the clients, each journaled; the others are journaled with the reason."""
        for client, answer in ask(self.grid, requests, message_type, self.schedule.round_timeout):
            problem = (
                f"no reply within run.round-timeout = {self.schedule.round_timeout:g} s"
                if answer is None
                else reply_problem(answer, expected, self.manifest, self._required)
            )
            where = {"round": server_round, "client": client, "name": self.names[client]}
            if problem is not None:
                self.totals.refused += 1
                self._lacks_reference.add(client)
                self.directory.journal("refused", **where, during=message_type, reason=problem)
                continue
            accepted.append(client)
            self._lacks_reference.discard(client)
            numbers = dict(answer.content[METRICS])
            sent, received = record_bytes(requests[client][1]), record_bytes(answer.content)
            self.totals.up += received
            for name, peak in self.totals.peak.items():
                self.totals.peak[name] = max(peak, numbers.get(name, 0.0))
            kind = "client" if message_type == MessageType.TRAIN else "client-evaluation"
            self.directory.journal(kind, **where, **_plain(numbers), bytes_down=sent, bytes_up=received)
            # Flower's strategies insist on exactly one ArrayRecord and one MetricRecord.
            del answer.content[CONFIG]
            yield answer
            del answer  # the next reply may be long in coming; this one is the strategy's alone


def _checked_aggregate(aggregated: ArrayRecord, sent: ArrayRecord, server_round: int) -> ArrayRecord:
    """The strategy's result as float32 under our key; it must have the adapter's shape and be finite."""
    vector = np.asarray(aggregated[ADAPTER].numpy(), dtype=np.float32)
    if vector.shape != tuple(sent[ADAPTER].shape):
        raise RunFailed(f"round {server_round}: the strategy changed the adapter's shape to {vector.shape}")
    if not np.isfinite(vector).all():
        raise RunFailed(f"round {server_round}: the strategy's global adapter has values that are not finite")
    return adapter_record(vector)


def _plain(metrics) -> dict[str, object]:
    """Metric names as the journal's keys."""
    return (
        {} if metrics is None else {key.replace("-", "_"): value for key, value in metrics.items() if key != "client"}
    )
