"""What travels between server and clients, and the check of what comes back.

Down: the packed adapter and what to do with it. Up: the packed result and numbers. Record and key names are Flower's
where Flower has them, so that its own strategies work on these messages as they are.
"""

import hashlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

import numpy as np
from flwr.app import Array, ArrayRecord, ConfigRecord, Error, Message, MetricRecord, RecordDict

from fedllm_app.errors import UserError

ARRAYS, CONFIG, METRICS = "arrays", "config", "metrics"
ADAPTER, CONTROL, CONTROL_DELTA, REFERENCE = "adapter", "control", "control-delta", "reference"
EXAMPLES = "num-examples"
PEAK_MEMORY, PEAK_GPU_MEMORY = "peak-memory-mb", "peak-gpu-memory-mb"
CLIENT_FAILED = 2  # Flower's code for an exception in a ClientApp


class BadMessage(UserError):
    """A message lacks something or carries something impossible; the text says what."""


@dataclass(frozen=True)
class Assignment:
    """What the server tells one client beside the adapter.

    `position` is the number of optimizer steps of this client that entered the global model so far: all that has to be
    remembered of a client between rounds, and kept by the server, so that a restarted site goes on where it stopped.
    `state_version` is the round of this client's last accepted reply (0: none): the version that state on the client's
    disk must have. `reference` is the hash of the reference policy's adapter ("": the base model alone). `asked` is the
    whole configuration of the message, in which strategies have keys of their own.
    """

    client: int
    clients: int
    server_round: int
    position: int
    learning_rate: float
    manifest: str
    state_version: int = 0
    reference: str = ""
    pooled: bool = False
    asked: Mapping[str, int | float | str | bool] = field(default_factory=dict, compare=False)

    def to_config(self) -> dict[str, int | float | str | bool]:
        """The keys of the message's ConfigRecord that the round loop sets; strategies add their own."""
        return {
            "client": self.client,
            "clients": self.clients,
            "server-round": self.server_round,
            "position": self.position,
            "learning-rate": self.learning_rate,
            "manifest": self.manifest,
            "state-version": self.state_version,
            "reference": self.reference,
        }

    @classmethod
    def from_message(cls, message: Message) -> "Assignment":
        """Read the assignment of a train or evaluate message."""
        config = message.content[CONFIG]
        try:
            return cls(
                client=config["client"],
                clients=config["clients"],
                server_round=config["server-round"],
                position=config["position"],
                learning_rate=config["learning-rate"],
                manifest=config["manifest"],
                state_version=config["state-version"],
                reference=config["reference"],
                pooled=config.get("pooled", False),
                asked=dict(config),
            )
        except KeyError as error:
            raise BadMessage(f"the message's configuration lacks {error}") from None


def adapter_record(adapter: np.ndarray) -> ArrayRecord:
    """The packed adapter as an ArrayRecord of one float32 array."""
    return vectors_record({ADAPTER: adapter})


def vectors_record(vectors: Mapping[str, np.ndarray]) -> ArrayRecord:
    """Packed vectors by name as one ArrayRecord of float32 arrays."""
    return ArrayRecord({name: Array(np.ascontiguousarray(array, np.float32)) for name, array in vectors.items()})


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


def reply_problem(
    answer: Message, expected: ArrayRecord | None, manifest: str, required: Iterable[str] = (ADAPTER,)
) -> str | None:
    """Why a reply must not reach the strategy, or None if it may.

    `required` names the arrays that the strategy needs. Checked: error replies, the manifest, arrays by name, shape and
    dtype against `expected` (None for evaluate replies, which carry none), finite values, finite numbers, at least one
    example.
    """
    if answer.has_error():
        return answer.error.reason or f"error code {answer.error.code}"
    content = answer.content
    if METRICS not in content or EXAMPLES not in content[METRICS]:
        return f"the reply carries no {EXAMPLES}"
    if CONFIG not in content or content[CONFIG].get("manifest") != manifest:
        return "the reply was computed under another adapter manifest"
    examples = content[METRICS][EXAMPLES]
    if not isinstance(examples, int | float) or not np.isfinite(examples) or examples <= 0:
        return f"{EXAMPLES} is {examples!r}"
    odd = [name for name, value in content[METRICS].items() if not np.all(np.isfinite(value))]
    if odd:
        return f"{odd[0]} is not finite"
    return None if expected is None else _array_problem(content, expected, required)


def _array_problem(content: RecordDict, expected: ArrayRecord, required: Iterable[str]) -> str | None:
    lacking = [name for name in required if ARRAYS not in content or name not in content[ARRAYS]]
    if lacking:
        return f"the reply carries no {lacking[0]}"
    for name, array in content[ARRAYS].items():
        vector = array.numpy()  # what the bytes hold; the record's own label is only a claim
        if vector.shape != tuple(expected[ADAPTER].shape):
            return f"{name} has shape {vector.shape}, sent was {tuple(expected[ADAPTER].shape)}"
        if vector.dtype != np.float32:
            return f"{name} has dtype {vector.dtype}, accepted is float32"
        if not np.isfinite(vector).all():
            return f"{name} has values that are not finite"
    return None


def record_bytes(content: RecordDict) -> int:
    """Bytes of the arrays of a message: what grows with the adapter. Numbers and keys add a few hundred bytes."""
    # `content.array_records` would keep the record alive until the next full garbage collection: it refers to itself.
    records = [record for record in content.values() if isinstance(record, ArrayRecord)]
    return sum(len(array.data) for record in records for array in record.values())
