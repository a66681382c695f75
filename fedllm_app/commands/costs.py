"""What a configuration will cost, before anything runs: parameters, bytes, memory, steps, tokens, examples.

Model weights are never loaded. Data is: the clients' rows are read and tokenized, into the cache that the run then
uses.
"""

from collections.abc import Collection
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from flwr.app import RecordDict

from fedllm_app.adapters.methods import add_adapter
from fedllm_app.client.build import local_client
from fedllm_app.client.local_client import LocalClient
from fedllm_app.config.parse import parse_run_config
from fedllm_app.config.sections import Config, ConfigError, FlatConfig
from fedllm_app.config.values import model_values
from fedllm_app.federation.holdings import evaluating_clients
from fedllm_app.federation.schedule import Schedule
from fedllm_app.federation.start import StartingPoint, check_updates, checked_start
from fedllm_app.messages import ADAPTER, ARRAYS, Assignment, ClientHolding, record_bytes, vectors_record
from fedllm_app.models.base import choose_dtype, locate_model
from fedllm_app.models.skeleton import skeleton
from fedllm_app.strategies.registry import build_strategy
from fedllm_app.strategies.round_strategy import RoundStrategy
from fedllm_app.training.footprint import NotWalkable, TrainingMemory, process_bytes, training_memory
from fedllm_app.training.lean_layers import install_lean_layers
from fedllm_app.training.lean_lora import install_lean_lora
from fedllm_app.training.resident import freeze_home
from fedllm_app.updates.chain import UpdateChain

if TYPE_CHECKING:
    from peft import PeftModel


@dataclass(frozen=True)
class Traffic:
    """Bytes of arrays: of one training message to a client and of its reply, and of the whole run both ways.

    As the journal counts them. A client whose reply is refused, or that does not answer, changes them.
    """

    message: int
    reply: int
    down: int
    up: int


@dataclass(frozen=True)
class Plan:
    """The figures. `rows` and `length` are those of the largest batch, `process` the bytes of a client's process before
    the model is loaded, as measured in this one; `memory` is None where it cannot be found without weights; `steps`
    are optimizer steps of all clients, `tokens` what they read. `server` are the bytes that the server holds of a round
    of `asked` clients, None where the strategy does not say; `compares`: it needs all replies at once.
    """

    trained: int
    frozen: int
    traffic: Traffic
    memory: TrainingMemory | None
    process: int
    rows: int
    length: int
    holdings: dict[int, ClientHolding]
    rounds: int
    steps: int
    tokens: int
    server: int | None
    asked: int
    compares: bool
    notes: tuple[str, ...] = ()

    @property
    def client_memory(self) -> int | None:
        """Bytes of a client's process while it trains on a CPU."""
        return None if self.memory is None else self.process + self.memory.held + self.memory.gaps


def make_plan(flat: FlatConfig) -> Plan:
    """Find all figures of a flat configuration. `ConfigError`, and the errors of data and models, as in a run."""
    config = parse_run_config(flat)
    number = config.clients.number
    if not number:
        raise ConfigError(["clients.number = 0: how many nodes there will be is not known yet; name a number with -c"])
    start = checked_start(config)
    client = local_client(0, tuple(sorted(flat.items())), number)
    process = process_bytes()
    holdings = {k: client.describe_rows(k) for k in range(number)}
    strategy = build_strategy(config.strategy.name, config.strategy.hyper, number)
    check_updates(config, client.chain, strategy)
    schedule = Schedule.of(config, number)
    work = _work(client, strategy, schedule)
    drawn = [strategy.taking_part(plan.clients) for plan in schedule.training()]
    asked = max(map(len, drawn), default=0)
    vectors = strategy.held_vectors(asked, len({client for clients in drawn for client in clients}))
    model = _skeleton(config, start)
    trained = sum(parameter.numel() for parameter in model.parameters() if parameter.requires_grad)
    frozen = sum(parameter.numel() for parameter in model.parameters()) - trained
    memory, notes = _memory(config, model, work, start.notes)
    return Plan(
        trained=trained,
        frozen=frozen,
        traffic=_traffic(start, strategy, client.chain, schedule, evaluating_clients(holdings)),
        memory=memory,
        process=process,
        rows=work.rows,
        length=work.length,
        holdings=holdings,
        rounds=config.train.rounds,
        steps=work.steps,
        tokens=work.tokens,
        server=None if vectors is None else vectors * start.travelling.size * np.dtype(np.float32).itemsize,
        asked=asked,
        compares=strategy.needs_single_replies,
        notes=notes,
    )


@dataclass(frozen=True)
class _Work:
    """Optimizer steps and tokens of the whole run, and rows and length of its largest batch."""

    steps: int
    tokens: int
    rows: int
    length: int


def _memory(
    config: Config, model: "PeftModel", work: _Work, notes: tuple[str, ...]
) -> tuple[TrainingMemory | None, tuple[str, ...]]:
    """The memory of a client and the notes; one more where it is not known."""
    options = (config.model.quantization, config.model.double_quantization)
    try:
        return training_memory(model, work.rows, work.length, config.train.optimizer, *options), notes
    except NotWalkable as error:
        return None, (*notes, str(error))


def _work(client: LocalClient, strategy: RoundStrategy, schedule: Schedule) -> _Work:
    """Walk the clients' shards as the run will."""
    batch = client.train_config.batch_size
    positions = dict.fromkeys(range(schedule.clients), 0)
    steps, tokens, largest = 0, 0, (0, 0)
    for plan in schedule.training():
        shares = strategy.shares(plan.clients)
        for k in strategy.taking_part(plan.clients):
            place = (k, schedule.clients, plan.number, positions[k])
            assignment = Assignment(*place, 0.0, "", pooled=strategy.pooled, shares=shares)
            shards = client.pooled_shards() if strategy.pooled else client.shards(k)
            indices = client.indices(shards, assignment)
            lengths = shards.train.lengths[indices].reshape(-1, batch)
            tokens += shards.train.tokens_of(indices)
            largest = max(largest, (int(lengths.max()), batch * shards.train.sequences))
            positions[k] += schedule.local_steps * shares
            steps += schedule.local_steps * shares
    return _Work(steps, tokens, rows=largest[1], length=largest[0])


def _skeleton(config: Config, start: StartingPoint) -> "PeftModel":
    """The model with its adapter, without storage, as a client would load it."""
    values = model_values(config)
    location = locate_model(values.name, values.trust_remote_code)
    base = skeleton(location, choose_dtype(values.dtype), values.attention)
    base.requires_grad_(False)
    model = add_adapter(base, start.layout.settings.peft_config())
    freeze_home(model, config.lora.aggregation)
    install_lean_lora(model)
    install_lean_layers(model)
    if config.train.gradient_checkpointing:
        base.activation_checkpointing_enable()
    return model


class _NoState:
    """The state of a client that has not trained yet."""

    expected = False

    def load(self, _name: str) -> None:
        return None

    def save(self, _name: str, _array: np.ndarray) -> None:
        return None


def _traffic(
    start: StartingPoint,
    strategy: RoundStrategy,
    chain: UpdateChain,
    schedule: Schedule,
    evaluating: Collection[int],
) -> Traffic:
    """Bytes as the run's ledger will count them."""
    zero = np.zeros(start.travelling.size, np.float32)
    vector = _bytes({ADAPTER: zero})
    message = vector * len(strategy.sent_arrays)
    reply = _bytes(chain.outgoing(dict.fromkeys(strategy.reply_arrays, zero), zero, _NoState())[0])
    trained = [strategy.taking_part(plan.clients) for plan in schedule.training()]
    evaluations = [plan for plan in map(schedule.round, range(schedule.rounds + 1)) if plan.evaluates]
    evaluated = [[client for client in plan.clients if client in evaluating] for plan in evaluations]
    trainings = sum(map(len, trained))
    down = trainings * message + sum(map(len, evaluated)) * vector
    once = start.sent_once(range(schedule.clients))
    for client in {client for clients in (*trained, *evaluated) for client in clients}:
        down += sum(len(array.data) for array in once.for_client(client).values())
    return Traffic(message, reply, down, trainings * reply)


def _bytes(vectors: dict[str, np.ndarray]) -> int:
    return record_bytes(RecordDict({ARRAYS: vectors_record(vectors)}))
