"""What a configuration will cost, before anything runs: parameters, bytes, memory, steps, tokens, examples.

Model weights are never loaded. Data is: the clients' rows are read and tokenized, into the cache that the run then
uses.
"""

from dataclasses import dataclass

import numpy as np
from flwr.app import RecordDict

from fedllm_app.adapters.methods import add_adapter, peft_config
from fedllm_app.adapters.view import manifest_of
from fedllm_app.client_app import build_local_client
from fedllm_app.config.parse import parse_run_config
from fedllm_app.config.sections import Config, ConfigError, FlatConfig
from fedllm_app.config.values import adapter_values, check_context, model_values
from fedllm_app.federation.rounds import evaluation_rounds
from fedllm_app.federation.schedule import choose_clients
from fedllm_app.messages import ADAPTER, ARRAYS, Assignment, record_bytes, vectors_record
from fedllm_app.models.base import choose_dtype, load_model_config, locate_model
from fedllm_app.strategies.fedavg import FedAvg
from fedllm_app.strategies.registry import build_strategy
from fedllm_app.training.footprint import TrainingMemory, process_bytes, training_memory


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
class Holding:
    """What a client brings: its name, usable examples, rows dropped for length, held-out examples.

    `bad`, `duplicates` and `notes` are those of `ClientData`.
    """

    name: str
    examples: int
    dropped: int
    held_out: int
    bad: int = 0
    duplicates: int = 0
    notes: str = ""


@dataclass(frozen=True)
class Plan:
    """The figures. `rows` and `length` are those of the largest batch, `process` the bytes of a client's process before
    the model is loaded, as measured in this one; `steps` are optimizer steps of all clients, `tokens` what they read.
    """

    trained: int
    frozen: int
    traffic: Traffic
    memory: TrainingMemory
    process: int
    rows: int
    length: int
    clients: list[Holding]
    rounds: int
    steps: int
    tokens: int

    @property
    def client_memory(self) -> int:
        """Bytes of a client's process while it trains on a CPU."""
        return self.process + self.memory.held + self.memory.gaps


def make_plan(flat: FlatConfig) -> Plan:
    """Find all figures of a configuration, given flat. Errors of configuration, data and models are those of a run."""
    config = parse_run_config(flat)
    number = config.clients.number
    if not number:
        raise ConfigError(["clients.number = 0: how many nodes there will be is not known yet; name a number with -c"])
    check_context(config, locate_model(config.model.name, config.model.trust_remote_code))
    client = build_local_client(0, tuple(sorted(flat.items())), number)
    process = process_bytes()
    holdings = [_holding(client.shards(k)) for k in range(number)]
    strategy = build_strategy(config.strategy.name, config.strategy.hyper, number)
    chosen = _chosen(config, strategy)
    steps, tokens, rows, length = _work(config, client, chosen)
    model = _skeleton(config)
    trained = sum(parameter.numel() for parameter in model.parameters() if parameter.requires_grad)
    values = model_values(config)
    return Plan(
        trained=trained,
        frozen=sum(parameter.numel() for parameter in model.parameters()) - trained,
        traffic=_traffic(config, strategy, manifest_of(model).size, chosen),
        memory=training_memory(
            model, rows, length, config.train.optimizer, values.quantization, values.double_quantization
        ),
        process=process,
        rows=rows,
        length=length,
        clients=holdings,
        rounds=config.train.rounds,
        steps=steps,
        tokens=tokens,
    )


def _holding(held) -> Holding:
    dropped = held.train.dropped + held.held_out.dropped
    notes = "; ".join(held.notes)
    return Holding(held.label, len(held.train), dropped, len(held.held_out), held.bad, held.duplicates, notes)


def _chosen(config: Config, strategy) -> list[list[int]]:
    """The clients that train in every round, as the run will draw them."""
    clients = config.clients
    rounds = range(1, config.train.rounds + 1)
    drawn = [choose_clients(clients.number, clients.per_round, config.run.seed, number) for number in rounds]
    return [strategy.taking_part(those) for those in drawn] if isinstance(strategy, FedAvg) else drawn


def _work(config: Config, client, chosen: list[list[int]]) -> tuple[int, int, int, int]:
    """Optimizer steps and tokens of the whole run, and rows and length of its largest batch."""
    pooled, pairs = config.strategy.name == "centralized", config.train.task == "dpo"
    batch = config.train.batch_size
    positions: dict[int, int] = {}
    tokens, largest = 0, (0, 0)
    for number, those in enumerate(chosen, start=1):
        for one in those:
            shard = (client.pooled_shards() if pooled else client.shards(one)).train
            assignment = Assignment(one, config.clients.number, number, positions.get(one, 0), 0.0, "", pooled=pooled)
            indices = client.indices(shard, assignment)
            lengths = shard.lengths[indices].reshape(-1, batch)
            tokens += shard.tokens_of(indices)
            largest = max(largest, (int(lengths.max()), batch * (2 if pairs else 1)))
            positions[one] = positions.get(one, 0) + config.train.local_steps
    return sum(map(len, chosen)) * config.train.local_steps, tokens, largest[1], largest[0]


def _skeleton(config: Config):
    """The model with its adapter, without storage, as a client would load it."""
    import torch
    from transformers import AutoModelForCausalLM

    values = model_values(config)
    model_config = load_model_config(locate_model(values.name, values.trust_remote_code))
    with torch.random.fork_rng(devices=[]), torch.device("meta"):
        base = AutoModelForCausalLM.from_config(
            model_config, dtype=choose_dtype(values.dtype), attn_implementation=values.attention
        )
    base.requires_grad_(False)
    model = add_adapter(base, peft_config(adapter_values(config)))
    if config.train.gradient_checkpointing:
        base.activation_checkpointing_enable()
    return model


def _traffic(config: Config, strategy, size: int, chosen: list[list[int]]) -> Traffic:
    """Bytes as `rounds.Rounds` will count them."""
    vector = record_bytes(RecordDict({ARRAYS: vectors_record({ADAPTER: np.zeros(size, np.float32)})}))
    known = isinstance(strategy, FedAvg)
    message = vector * (len(strategy.sent_arrays) if known else 1)
    reply = vector * (len(strategy.reply_arrays) if known else 1)
    trainings = sum(map(len, chosen))
    clients, seed = config.clients, config.run.seed
    evaluated = [
        choose_clients(clients.number, clients.per_round, seed, max(number, 1))
        for number in evaluation_rounds(config.train.rounds, config.evaluate.every)
    ]
    down = trainings * message + sum(map(len, evaluated)) * vector
    if config.adapter.start and config.train.task == "dpo":  # the reference policy, once to each client
        down += vector * len({client for those in (*chosen, *evaluated) for client in those})
    return Traffic(message, reply, down, trainings * reply)
