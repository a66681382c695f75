"""The round loop around any strategy: draw, send, gather, aggregate, evaluate, save.

The strategy keeps Flower's four methods. It is shown a grid whose nodes are the clients already drawn for the round,
and gets only replies that the exchange has checked; everything else that a run of weeks needs happens here.
"""

import time
from collections.abc import Callable, Collection, Iterable, Iterator
from dataclasses import dataclass
from typing import NoReturn

import numpy as np
from flwr.app import ArrayRecord, ConfigRecord, Message, MessageType, RecordDict
from flwr.serverapp import Grid

from fedllm_app.errors import UserError
from fedllm_app.federation.attendance import Attendance
from fedllm_app.federation.closing import Quorum, TooFewReplies
from fedllm_app.federation.exchange import Exchange, RoundRequest
from fedllm_app.federation.ledger import Ledger, journal_keys
from fedllm_app.federation.schedule import RoundPlan, Schedule
from fedllm_app.federation.sent_once import SentOnce
from fedllm_app.messages import ADAPTER, ARRAYS, CONFIG, Assignment, adapter_record
from fedllm_app.packed_arrays import all_finite, array_view
from fedllm_app.runs.checkpoints import Checkpoint
from fedllm_app.strategies.round_strategy import RoundStrategy
from fedllm_app.updates.chain import UpdateChain


class RunFailed(UserError):
    """The run cannot go on; the message says why."""


class DrawnClients(Grid):
    """The grid that a strategy sees: its nodes are the clients drawn for this round, and it sends nothing itself."""

    def __init__(self, clients: list[int]) -> None:
        self._clients = clients

    def get_node_ids(self) -> Iterable[int]:
        """The drawn clients."""
        return list(self._clients)

    def _refuse(self, *_args, **_options):
        raise NotImplementedError("the round loop sends the messages, a strategy only configures and aggregates")

    set_run = run = create_message = push_messages = pull_messages = send_and_receive = _refuse


@dataclass(frozen=True)
class Rounds:
    """Runs the rounds of one experiment.

    Attributes
    ----------
    strategy : RoundStrategy
        A Flower strategy that also says what the loop must know of it; bound to the layout already.
    schedule : Schedule
        Who takes part when, at which learning rate.
    exchange : Exchange
        Sends messages and gives replies.
    ledger : Ledger
        Totals and the journal.
    chain : UpdateChain
        What happens to updates.
    once : SentOnce
        Arrays that clients are sent once.
    manifest : str
        Hash of the layout of the vector that travels.
    save : Callable[[Checkpoint], None]
        Writes a checkpoint.
    evaluating : Collection[int] | None
        The clients that have held-out rows, which alone are asked to evaluate; None for all.
    attendance : Attendance | None
        Who is connected; None: everybody always is.
    quorum : Quorum
        How many usable replies make a round, and what becomes of one with fewer.
    ask_suite : Callable[[int, np.ndarray], None] | None
        Given the round and the global adapter (the part that travels) after the clients have evaluated it.
    key : str
        What the run is known by, also when it is resumed.
    seconds : float
        What a client has for a round.
    """

    strategy: RoundStrategy
    schedule: Schedule
    exchange: Exchange
    ledger: Ledger
    chain: UpdateChain
    once: SentOnce
    manifest: str
    save: Callable[[Checkpoint], None]
    evaluating: Collection[int] | None = None
    ask_suite: Callable[[int, np.ndarray], None] | None = None
    quorum: Quorum = Quorum()
    attendance: Attendance | None = None
    key: str = "0" * 32
    seconds: float = 3600.0

    def run(self, initial: np.ndarray, after: int = 0) -> np.ndarray:
        """Run the rounds after round `after` from the packed adapter `initial` and return the last global adapter."""
        arrays = adapter_record(initial)
        before = self.schedule.round(0)
        if before.evaluates and not after:
            self._evaluate(before, arrays)
        failed = 0  # rounds in a row that had too few replies
        for plan in self.schedule.training(after):
            arrays, failed = self._train_or_repeat(plan, arrays, failed)
            if plan.evaluates:
                self._evaluate(plan, arrays)
            if plan.saves:
                self._save(plan.number, arrays)
        return array_view(arrays[ADAPTER])

    def _train_or_repeat(self, plan: RoundPlan, arrays: ArrayRecord, failed: int) -> tuple[ArrayRecord, int]:
        """One round, repeated or skipped where it had too few usable replies; and how many had, in a row until now."""
        self.ledger.participation.drawn(self.strategy.taking_part(plan.clients))
        while True:
            try:
                return self._train(plan, arrays), 0
            except TooFewReplies as few:
                failed += 1
                if failed > self.quorum.retries:
                    self._give_up(plan.number, arrays, few)
                if self.quorum.too_few == "skip":
                    return arrays, failed

    def _train(self, plan: RoundPlan, arrays: ArrayRecord) -> ArrayRecord:
        """One round from `arrays`: the next global adapter. `TooFewReplies`, and nothing changed, if it was none."""
        journal = self.ledger.directory.journal
        journal("round-started", round=plan.number, clients=plan.clients, learning_rate=plan.learning_rate)
        started = time.perf_counter()
        grid = DrawnClients(plan.clients)
        configured = self.strategy.configure_train(plan.number, arrays, ConfigRecord(), grid)
        shares = self.strategy.shares(plan.clients)
        request = self._request(MessageType.TRAIN, configured, plan.number, plan.learning_rate, shares)
        replies = self._replies_of_a_round(request)
        aggregated, metrics = self.strategy.aggregate_train(plan.number, replies)
        self._drain(plan, replies)
        self.ledger.trained(plan.number, request.accepted, self.schedule.local_steps * shares)
        if aggregated is not None:
            arrays = self._next(aggregated, arrays, plan.number)
        seconds = time.perf_counter() - started
        line = {
            "round": plan.number,
            "clients": request.accepted,
            "train_loss": None if metrics is None else metrics.get("train-loss"),
            "seconds": seconds,
            "send_seconds": request.seconds["send"],
            "wait_seconds": request.seconds["wait"],
            "aggregate_seconds": seconds - sum(request.seconds.values()),
            "total_bytes_down": self.ledger.totals.down,
            "total_bytes_up": self.ledger.totals.up,
            **self.ledger.take_peaks(),
        }
        journal("round", **(journal_keys(self.strategy.round_numbers()) | line))
        return arrays

    def _replies_of_a_round(self, request: RoundRequest) -> Iterator[Message]:
        """The usable replies. Where they are too few, the last is followed by `TooFewReplies`.

        Strategies read all replies before they change anything of their own, so the exception, which comes where their
        step would, leaves them as they were; no copy of their state is needed.
        """
        asked = {*request.contents, *request.absent}
        least = self._least(len(asked))
        if len(request.contents) >= least:
            yield from self._replies(request)
        else:  # those who are there would train for nothing
            self._refuse_absent(request)
        answered = set(request.accepted)
        if len(answered) >= least:
            return
        named = self.ledger.named
        reason = (
            f"{len(answered)} of {len(asked)} clients gave a usable reply ({named(answered) or 'nobody'}) and {least} "
            f"are needed (clients.minimum = {self.quorum.minimum:g}); without one: {named(asked - answered)}"
        )
        clients = {"asked": sorted(asked), "answered": sorted(answered)}
        self.ledger.directory.journal("too-few", round=request.server_round, **clients, reason=reason)
        raise TooFewReplies(reason)

    def _replies(self, request: RoundRequest) -> Iterator[Message]:
        """The usable replies; clients that cannot be asked are refused at once."""
        self._refuse_absent(request)
        yield from self.exchange.replies(request)
        if self.attendance is not None:
            self.attendance.answered(request.contents.keys() - request.silent)
            self.attendance.silent(request.silent, request.lost)

    def _refuse_absent(self, request: RoundRequest) -> None:
        for client, reason in request.absent.items():
            self.once.refused(client)
            self.ledger.refused(request.server_round, client, request.kind, reason)

    def _least(self, drawn: int) -> int:
        return self.quorum.least(drawn, self.strategy.minimum_replies)

    def _drain(self, plan: RoundPlan, replies: Iterator[Message]) -> None:
        """A strategy may stop early; what was sent is still received and journaled."""
        try:
            for _ in replies:
                pass
        except TooFewReplies as few:
            raise RunFailed(
                f"round {plan.number}: {few}. It cannot be repeated: {type(self.strategy).__name__} had taken its step "
                "before it had read all replies"
            ) from few

    def _give_up(self, server_round: int, arrays: ArrayRecord, few: TooFewReplies) -> NoReturn:
        """Fail, with a checkpoint of the last round that was one."""
        before = server_round - 1
        if before and not self.schedule.round(before).saves:
            self._save(before, arrays)
        path = self.ledger.directory.path
        go_on = f"go on after round {before} with fedllm run --resume {path}" if before else "start the run again"
        raise RunFailed(
            f"round {server_round}: {few}. That happened {self.quorum.retries + 1} times in a row (clients.retries = "
            f"{self.quorum.retries}). The journal says why each client was refused; mend that, and {go_on}"
        ) from few

    def _evaluate(self, plan: RoundPlan, arrays: ArrayRecord) -> None:
        self._evaluate_on_clients(plan, arrays)
        if self.ask_suite is not None:
            self.ask_suite(plan.number, array_view(arrays[ADAPTER]))

    def _evaluate_on_clients(self, plan: RoundPlan, arrays: ArrayRecord) -> None:
        clients = [client for client in plan.clients if self.evaluating is None or client in self.evaluating]
        if not clients:
            return
        started = time.perf_counter()
        grid = DrawnClients(clients)
        configured = self.strategy.configure_evaluate(plan.number, arrays, ConfigRecord(), grid)
        request = self._request(MessageType.EVALUATE, configured, plan.number, 0.0)
        if not request.contents:
            self._refuse_absent(request)
            return
        metrics = self.strategy.aggregate_evaluate(plan.number, self._replies(request))
        line = {"round": plan.number, "clients": request.accepted, "seconds": time.perf_counter() - started}
        self.ledger.directory.journal("evaluation", **(journal_keys(metrics) | line | self.ledger.take_peaks()))

    def _request(
        self, kind: str, configured: Iterable[Message], server_round: int, rate: float, shares: int = 1
    ) -> RoundRequest:
        """The strategy's messages to clients that are there, each stamped with its client's assignment."""
        messages = {message.metadata.dst_node_id: message for message in configured}
        drawn = sorted(messages)
        least = self._least(len(drawn)) if kind == MessageType.TRAIN else 0
        began = time.monotonic()
        absent = self.attendance.absent(server_round, drawn, least) if self.attendance is not None and drawn else {}
        waited = time.monotonic() - began
        contents = {
            client: self._content(client, messages[client], server_round, rate, shares)
            for client in drawn
            if client not in absent
        }
        enough = self.quorum.enough_of(len(drawn), self.strategy.minimum_replies)
        return RoundRequest(server_round, kind, contents, absent, enough, seconds={"send": 0.0, "wait": waited})

    def _content(self, client: int, message: Message, server_round: int, rate: float, shares: int) -> RecordDict:
        totals = self.ledger.totals
        assignment = Assignment(
            client=client,
            clients=self.schedule.clients,
            server_round=server_round,
            position=totals.positions[client],
            learning_rate=rate,
            shares=shares,
            manifest=self.manifest,
            state_version=totals.versions[client],
            once=self.once.hashes,
            run=self.key,
            seconds=self.seconds,
            checkpoints=tuple(self.ledger.versions_in_checkpoints(client)),
        )
        content = RecordDict(dict(message.content))
        content[CONFIG] = ConfigRecord({**message.content[CONFIG], **assignment.to_config()})
        lacking = self.once.for_client(client)
        if lacking:
            content[ARRAYS] = ArrayRecord({**message.content[ARRAYS], **lacking})
        return content

    def _next(self, aggregated: ArrayRecord, sent: ArrayRecord, server_round: int) -> ArrayRecord:
        """The strategy's result as float32 under our key; it must have the adapter's shape and be finite."""
        found = array_view(aggregated[ADAPTER])
        vector = np.asarray(found, dtype=np.float32)
        if vector.shape != tuple(sent[ADAPTER].shape):
            raise RunFailed(f"round {server_round}: the strategy changed the adapter's shape to {vector.shape}")
        if self.chain.steps:
            vector = self.chain.after_step(array_view(sent[ADAPTER]), vector)
        if not all_finite(vector):
            raise RunFailed(f"round {server_round}: the strategy's global adapter has values that are not finite")
        return ArrayRecord({ADAPTER: aggregated[ADAPTER]}) if vector is found else adapter_record(vector)

    def _save(self, server_round: int, arrays: ArrayRecord) -> None:
        started = time.perf_counter()
        self.save(self._checkpoint(server_round, arrays))
        self.ledger.saved(server_round, time.perf_counter() - started)

    def _checkpoint(self, server_round: int, arrays: ArrayRecord) -> Checkpoint:
        totals = self.ledger.totals
        return Checkpoint(
            server_round=server_round,
            adapter=array_view(arrays[ADAPTER]),
            strategy=self.strategy.state_arrays(),
            updates=self.chain.state_arrays(),
            positions=dict(totals.positions),
            versions=dict(totals.versions),
            participation=self.ledger.participation.lines(),
            totals=self.ledger.numbers(),
        )
