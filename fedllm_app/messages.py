"""What travels between server and clients.

Down: the packed adapter and what to do with it. Up: the packed result and numbers. Record and key names are Flower's
where Flower has them, so that its own strategies work on these messages as they are.
"""

import hashlib
import re
from collections.abc import Mapping
from dataclasses import MISSING, dataclass, field, fields

import numpy as np
from flwr.app import ArrayRecord, ConfigRecord, Error, Message, MetricRecord, RecordDict

from fedllm_app.errors import UserError
from fedllm_app.packed_arrays import packed_array

ARRAYS, CONFIG, METRICS = "arrays", "config", "metrics"
ADAPTER, CONTROL, CONTROL_DELTA, REFERENCE, HOME = "adapter", "control", "control-delta", "reference", "home"
_ONCE = "once."  # keys of the configuration that name an array sent once
EXAMPLES = "num-examples"
PEAK_MEMORY, PEAK_GPU_MEMORY = "peak-memory-mb", "peak-gpu-memory-mb"
_MOST = 10**12  # clients, rounds and steps of a run
_LARGEST_RATE, _LONGEST = 1e3, 1e8  # a learning rate, seconds
_MOST_ROWS = 10**15  # or tokens, that a client may say it holds
CLIENT_FAILED = 2  # Flower's code for an exception in a ClientApp


def plain_text(text: str, limit: int = 1000) -> str:
    """Text that came from a client, safe to print and to journal: one line, no control characters, shortened."""
    printable = "".join(character if character.isprintable() else " " for character in text[: limit + 1])
    return printable if len(text) <= limit else f"{printable[:limit]}… ({len(text)} characters)"


class BadMessage(UserError):
    """A message lacks something or carries something impossible; the text says what."""

    shareable = True


@dataclass(frozen=True)
class ClientHolding:
    """What one client holds, as it says before the first round. Counts in rows, `tokens` of the training rows.

    Attributes
    ----------
    name, schema : str
        What the client is called in journals, and how its rows were read.
    examples, held_out : int
        Usable training and held-out rows.
    dropped : int
        Rows that have no room for an answer within `train.max-length`.
    bad : int
        Unusable rows of the set that its rows are from, of which other clients may have shares.
    cut, cut_training : int
        Rows, and training rows among them, whose answer is cut at `train.max-length`: they do not teach to stop.
    refused : int
        Rows that cannot be written as tokens, because the template refuses them; `first_refused` names one and says
        why.
    equal : int
        Preference pairs whose answers are equal when cut, which are left out.
    one_kind : bool
        Whether the training rows are rated answers that all have the same label.
    duplicates : int
        Held-out rows that equal another row of the set.
    notes : str
        How the data was read, and what of it was not read.
    base, tokenizer : str
        Hashes of the files of its base model's weights and of its tokenizer; "" where they are not known.
    """

    name: str
    schema: str
    examples: int
    held_out: int
    dropped: int
    bad: int
    tokens: int
    cut: int = 0
    cut_training: int = 0
    refused: int = 0
    first_refused: str = ""
    equal: int = 0
    one_kind: bool = False
    duplicates: int = 0
    notes: str = ""
    base: str = ""
    tokenizer: str = ""

    def to_config(self) -> dict[str, int | str]:
        """As keys of a message."""
        return {field.name.replace("_", "-"): getattr(self, field.name) for field in fields(self)}

    def to_journal(self) -> dict[str, int | str]:
        """As keys of a line of the journal."""
        return {field.name: getattr(self, field.name) for field in fields(self)}

    @classmethod
    def from_journal(cls, line: Mapping[str, object]) -> "ClientHolding":
        """Read `to_journal`; earlier versions wrote hyphens. Errors as `from_config`."""
        return cls.from_config({key.replace("_", "-"): value for key, value in line.items()})

    @classmethod
    def from_config(cls, config: Mapping[str, object]) -> "ClientHolding":
        """Read `to_config`; other keys are left alone.

        BadMessage if one without a default is missing, or a value is of another type or no count.
        """
        keys = {field.name: field.name.replace("_", "-") for field in fields(cls)}
        wanted = [field.name for field in fields(cls) if field.default is MISSING or keys[field.name] in config]
        try:
            values = {name: config[keys[name]] for name in wanted}
        except KeyError as error:
            raise BadMessage(f"a client's description of its data lacks {error}") from None
        for item in fields(cls):
            value = values.get(item.name, item.default)
            if not isinstance(value, item.type) or (item.type is int and not _is_whole(value, 0, _MOST_ROWS)):
                raise BadMessage(f"a client's description of its data has {keys[item.name]} = {value!r:.80}")
        texts = {name: plain_text(value) for name, value in values.items() if isinstance(value, str)}
        return cls(**(values | texts))


def run_key(value: object) -> str:
    """What a run is known by, as a message says. BadMessage if it is not 32 hexadecimal digits: it becomes a path."""
    if not isinstance(value, str) or not re.fullmatch("[0-9a-f]{32}", value):
        raise BadMessage(f"run = {value!r:.80}: must be 32 hexadecimal digits")
    return value


class Requests(dict):
    """The configuration of a message, which remembers the keys that were looked at."""

    def __init__(self, config: Mapping[str, object]) -> None:
        super().__init__(config)
        self.read: set[str] = set()

    def __getitem__(self, key: str) -> object:
        self.read.add(key)
        return super().__getitem__(key)

    def __contains__(self, key: object) -> bool:
        self.read.add(str(key))
        return super().__contains__(key)

    def get(self, key: str, default: object = None) -> object:
        """As of any dictionary."""
        self.read.add(key)
        return super().get(key, default)


@dataclass(frozen=True)
class Assignment:
    """What the server tells one client beside the adapter.

    `position` is the number of optimizer steps of this client that entered the global model so far: all that has to be
    remembered of a client between rounds, and kept by the server, so that a restarted site goes on where it stopped.
    `state_version` is the round of this client's last accepted reply (0: none): the version that state on the client's
    disk must have, and `checkpoints` are earlier versions that the client must keep, because a run that is resumed goes
    back to one of them. `run` is what the run is known by, also when it is resumed: 32 hexadecimal digits, which become
    part of a path. `seconds` is the time until the round is closed, counted by the client from the arrival of the
    message, because clocks differ. `once` are hashes, by name, of arrays that the server sends a client once and the
    client keeps, such as the adapter of a reference policy. `shares` is how many times `train.local-steps` the client
    trains, which is 1 unless it stands for others (`pooled`). `config` is the whole configuration of the message, in
    which strategies have keys of their own.
    """

    client: int
    clients: int
    server_round: int
    position: int
    learning_rate: float
    manifest: str
    state_version: int = 0
    once: Mapping[str, str] = field(default_factory=dict)
    pooled: bool = False
    shares: int = 1
    run: str = "0" * 32
    checkpoints: tuple[int, ...] = ()
    seconds: float = 3600.0
    config: Mapping[str, int | float | str | bool] = field(default_factory=dict, compare=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "config", Requests(self.config))

    def to_config(self) -> dict[str, int | float | str | bool | list[int]]:
        """The keys of the message's ConfigRecord that the round loop sets; strategies add their own."""
        return {
            "client": self.client,
            "clients": self.clients,
            "server-round": self.server_round,
            "position": self.position,
            "shares": self.shares,
            "learning-rate": self.learning_rate,
            "manifest": self.manifest,
            "state-version": self.state_version,
            "run": self.run,
            "checkpoints": list(self.checkpoints),
            "seconds": self.seconds,
            **{_ONCE + name: digest for name, digest in self.once.items()},
        }

    @classmethod
    def from_message(cls, message: Message) -> "Assignment":
        """Read the assignment of a train or evaluate message. BadMessage for a field of another type or range."""
        config = message.content[CONFIG]
        client, clients = client_of(config)
        server_round = whole_number(config, "server-round", 0, _MOST)
        checkpoints = _field(config, "checkpoints")
        if not isinstance(checkpoints, list) or not all(_is_whole(one, 0, server_round) for one in checkpoints):
            raise BadMessage(f"checkpoints = {checkpoints!r:.80}: must be rounds, at most server-round")
        once = {key.removeprefix(_ONCE): value for key, value in config.items() if key.startswith(_ONCE)}
        for name, value in once.items():
            if name not in (REFERENCE, HOME) or not _is_digest(value):
                raise BadMessage(f"{_ONCE}{name} = {value!r:.80}: must be the hash of {REFERENCE} or {HOME}")
        if not isinstance(config.get("pooled", False), bool):
            raise BadMessage(f"pooled = {config['pooled']!r:.80}: must be true or false")
        manifest = _field(config, "manifest")
        if not _is_digest(manifest):
            raise BadMessage(f"manifest = {manifest!r:.80}: must be a hash")
        return cls(
            client=client,
            clients=clients,
            server_round=server_round,
            position=whole_number(config, "position", 0, _MOST),
            learning_rate=_real(config, "learning-rate", 0.0, _LARGEST_RATE),
            manifest=manifest,
            state_version=whole_number(config, "state-version", 0, server_round),
            once=once,
            pooled=config.get("pooled", False),
            shares=whole_number(config, "shares", 1, clients),
            run=run_key(_field(config, "run")),
            checkpoints=tuple(checkpoints),
            seconds=_real(config, "seconds", 0.0, _LONGEST),
            config=config,
        )

    def check_honoured(self) -> None:
        """Refuse what the strategy asks for and nothing here has looked at. Called when the client is done.

        A strategy that expects clients to clip or to add noise would go on as if they had. BadMessage.
        """
        own = {*self.to_config(), "pooled", *self.config.read}
        unread = sorted(key for key in self.config if key not in own and not key.startswith(_ONCE))
        if unread:
            asked = ", ".join(f"{key} = {self.config[key]!r:.80}" for key in unread)
            raise BadMessage(
                f"the strategy asks clients for {asked}, and nothing here reads it: name the correction or the task "
                "that does (train.corrections, train.task), or take a strategy that does not ask for it"
            )


def client_of(config: Mapping[str, object]) -> tuple[int, int]:
    """The number of the client that a message is for, and of all clients. BadMessage if it is none of them."""
    clients = whole_number(config, "clients", 1, _MOST)
    return whole_number(config, "client", 0, clients - 1), clients


def whole_number(config: Mapping[str, object], key: str, least: int, most: int) -> int:
    """A whole number of a message. BadMessage if it is missing, of another type or out of range."""
    value = _field(config, key)
    if not _is_whole(value, least, most):
        raise BadMessage(f"{key} = {value!r:.80}: must be a whole number from {least} to {most}")
    return value


def _real(config: Mapping[str, object], key: str, least: float, most: float) -> float:
    value = _field(config, key)
    if isinstance(value, bool) or not isinstance(value, int | float) or not least <= value <= most:
        raise BadMessage(f"{key} = {value!r:.80}: must be a number from {least:g} to {most:g}")
    return float(value)


def _field(config: Mapping[str, object], key: str) -> object:
    if key not in config:
        raise BadMessage(f"the message's configuration lacks '{key}'")
    return config[key]


def _is_whole(value: object, least: int, most: int) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and least <= value <= most


def _is_digest(value: object) -> bool:
    return isinstance(value, str) and re.fullmatch("[0-9a-z]{1,128}", value) is not None


def adapter_record(adapter: np.ndarray) -> ArrayRecord:
    """The packed adapter as an ArrayRecord of one float32 array."""
    return vectors_record({ADAPTER: adapter})


def vectors_record(vectors: Mapping[str, np.ndarray]) -> ArrayRecord:
    """Packed arrays by name as one ArrayRecord: vectors are float32, what an update step has encoded is bytes."""
    return ArrayRecord({name: packed_array(_on_the_wire(array)) for name, array in vectors.items()})


def _on_the_wire(array: np.ndarray) -> np.ndarray:
    return array if array.dtype == np.uint8 else np.asarray(array, np.float32)


def read_vectors(message: Message) -> dict[str, np.ndarray]:
    """The packed vectors of a message by name; the adapter is always there."""
    record = message.content[ARRAYS]
    if ADAPTER not in record:
        raise BadMessage(f"the message carries no array {ADAPTER!r}")
    return {name: array.numpy() for name, array in record.items()}


def vector_hash(vector: np.ndarray) -> str:
    """SHA-256 of a packed float32 vector."""
    return hashlib.sha256(np.ascontiguousarray(vector, np.float32).tobytes()).hexdigest()


def reply(request: Message, arrays: ArrayRecord | None, metrics: dict[str, int | float], manifest: str) -> Message:
    """A client's answer: its arrays, its numbers, and the manifest it computed them under."""
    content = RecordDict({METRICS: MetricRecord(metrics), CONFIG: ConfigRecord({"manifest": manifest})})
    if arrays is not None:
        content[ARRAYS] = arrays
    return Message(content, reply_to=request)


def failure(request: Message, reason: str) -> Message:
    """A client's answer when it could not do what it was asked to."""
    return Message(Error(code=CLIENT_FAILED, reason=reason), reply_to=request)


def record_bytes(content: RecordDict) -> int:
    """Bytes of the arrays of a message: what grows with the adapter. Numbers and keys add a few hundred bytes."""
    # `content.array_records` would keep the record alive until the next full garbage collection: it refers to itself.
    records = [record for record in content.values() if isinstance(record, ArrayRecord)]
    return sum(len(array.data) for record in records for array in record.values())
