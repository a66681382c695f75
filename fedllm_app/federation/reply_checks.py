"""What a reply is checked for before a strategy sees it."""

from collections.abc import Iterable, Mapping

import numpy as np
from flwr.app import ArrayRecord, Message

from fedllm_app.errors import UserError
from fedllm_app.federation.error_replies import error_reason
from fedllm_app.messages import ARRAYS, CONFIG, EXAMPLES, METRICS

_JOURNAL_KEYS = {"event", "time", "round", "name", "bytes_down", "bytes_up"}


class UnreadableArray(UserError):
    """An array of a reply whose bytes are no NumPy array."""


def reply_arrays(answer: Message) -> dict[str, np.ndarray]:
    """The arrays of a reply by name; none if it carries none. UnreadableArray if one cannot be read."""
    record = answer.content.get(ARRAYS)
    arrays = {}
    for name, array in record.items() if isinstance(record, ArrayRecord) else ():
        try:
            arrays[name] = array.numpy()
        except (TypeError, ValueError, EOFError) as error:
            raise UnreadableArray(f"the array {name} of the reply cannot be read: {error}") from error
    return arrays


def reply_problem(answer: Message, manifest: str, client: int, most_examples: int | None = None) -> str | None:
    """Why a reply must not be used, as far as its numbers tell; None if it may.

    Checked: error replies, the manifest, finite numbers under names of their own, the number of the client, at least
    one
    example and at most `most_examples`, which the client said that it holds; no further records.
    """
    if answer.has_error():
        return error_reason(answer.error)
    content = answer.content
    if METRICS not in content or EXAMPLES not in content[METRICS]:
        return f"the reply carries no {EXAMPLES}"
    if CONFIG not in content or content[CONFIG].get("manifest") != manifest:
        return "the reply was computed under another adapter manifest"
    examples = content[METRICS][EXAMPLES]
    if not isinstance(examples, int | float) or not np.isfinite(examples) or examples <= 0:
        return f"{EXAMPLES} is {examples!r}"
    if most_examples is not None and examples > most_examples:
        return f"{EXAMPLES} is {examples}, and the client said before round 1 that it holds {most_examples}"
    if content[METRICS].get("client", client) != client:
        return f"the reply names client {content[METRICS]['client']}, and client {client} was asked"
    others = sorted(set(content) - {ARRAYS, CONFIG, METRICS})
    if others or not isinstance(content.get(ARRAYS, ArrayRecord()), ArrayRecord):
        return "the reply carries records that were not asked for"
    taken = [name for name in content[METRICS] if name.replace("-", "_") in _JOURNAL_KEYS]
    if taken:
        return f"the metric {taken[0]} has the name of a field of the journal"
    infinite = [name for name, value in content[METRICS].items() if not np.all(np.isfinite(value))]
    if infinite:
        return f"{infinite[0]} is not finite"
    return None


def array_problem(vectors: Mapping[str, np.ndarray], size: int, required: Iterable[str]) -> str | None:
    """Why the vectors of a reply must not reach the strategy; None if they may.

    Checked: the arrays that the strategy requires are there, each has the shape (size,) of the global adapter, is
    float32 and finite.
    """
    missing = [name for name in required if name not in vectors]
    if missing:
        return f"the reply carries no {missing[0]}"
    for name, vector in vectors.items():
        if vector.shape != (size,):
            return f"{name} has shape {vector.shape}, sent was ({size},)"
        if vector.dtype != np.float32:
            return f"{name} has dtype {vector.dtype}, it must be float32"
        if not np.isfinite(vector).all():
            return f"{name} has values that are not finite"
    return None
