"""What a reply is checked for before a strategy sees it."""

from collections.abc import Iterable, Mapping

import numpy as np
from flwr.app import ArrayRecord, ConfigRecord, Message, MessageType, MetricRecord, RecordDict

from fedllm_app.federation.error_replies import error_reason
from fedllm_app.messages import ADAPTER, ARRAYS, CONFIG, EXAMPLES, METRICS, plain_text
from fedllm_app.packed_arrays import largest_magnitude

MOST_METRICS = 2000  # of one reply; a suite has some hundred figures
LONGEST_NAME = 200  # characters of a metric's or an array's name
LARGEST_METRIC = 1e290  # its weighted sum over clients is finite; a perplexity may be e^660
LARGEST_COUNT = 10**12  # examples, where the client did not say how many it holds
LARGEST_ADAPTER_VALUE = 1e6  # what a model computes from a larger one is noise
LARGEST_VALUE = 1e12  # of other arrays, such as changes divided by a learning rate; its square is a float32

_JOURNAL_KEYS = {"event", "time", "round", "name", "clients", "bytes_down", "bytes_up", "reply_seconds", "file", "self"}
_REASON = 400  # characters


def unreadable(error: Exception) -> str:
    """Why a reply is not used if looking at it raised an error."""
    return plain_text(f"the reply cannot be read: {type(error).__name__}: {error}", _REASON)


def reply_problem(
    answer: Message, manifest: str, client: int, most_examples: int | None = None, kind: str = MessageType.TRAIN
) -> str | None:
    """Why a reply must not be used, as far as its records and numbers tell; None if it may.

    Checked: error replies, the manifest, one finite number each under a bounded number of names of their own, the
    number of the client, at least one example and at most `most_examples`, which the client said that it holds; no
    further records, and no arrays in an evaluation.
    """
    if answer.has_error():
        return error_reason(answer.error)
    content = answer.content
    metrics, config = content.get(METRICS), content.get(CONFIG)
    if not isinstance(metrics, MetricRecord) or EXAMPLES not in metrics:
        return f"the reply carries no {EXAMPLES}"
    if not isinstance(config, ConfigRecord) or config.get("manifest") != manifest:
        return "the reply was computed under another adapter manifest"
    arrays = content.get(ARRAYS, ArrayRecord())
    if set(content) - {ARRAYS, CONFIG, METRICS} or not isinstance(arrays, ArrayRecord):
        return "the reply carries records that were not asked for"
    if kind != MessageType.TRAIN and len(arrays):
        return "the reply carries arrays, and none were asked for"
    problem = _count_problem(metrics[EXAMPLES], most_examples) or _metrics_problem(metrics)
    if problem is None and metrics.get("client", client) != client:
        problem = f"the reply names client {metrics['client']}, and client {client} was asked"
    return None if problem is None else plain_text(problem, _REASON)


def _count_problem(examples: object, most: int | None) -> str | None:
    if isinstance(examples, list | bool) or not isinstance(examples, int | float):
        return f"{EXAMPLES} is a {type(examples).__name__}"
    if not np.isfinite(examples) or examples < 1 or examples != int(examples):
        return f"{EXAMPLES} is {examples!r}, it must be a whole number of at least 1"
    if most is not None and examples > most:
        return f"{EXAMPLES} is {examples}, and the client said before round 1 that it holds {most}"
    if examples > LARGEST_COUNT:
        return f"{EXAMPLES} is {examples}, more than {LARGEST_COUNT}"
    return None


def _metrics_problem(metrics: Mapping[str, object]) -> str | None:
    if len(metrics) > MOST_METRICS:
        return f"the reply carries {len(metrics)} metrics, at most {MOST_METRICS} are taken"
    for name, value in metrics.items():
        if not name or len(name) > LONGEST_NAME or not name.isprintable():
            return f"a metric's name has {len(name)} characters, or some that cannot be printed"
        if name.replace("-", "_") in _JOURNAL_KEYS:
            return f"the metric {name} has the name of a field of the journal"
        if isinstance(value, list):
            return f"{name} is a list of {len(value)} values, it must be one number"
        if isinstance(value, bool) or not isinstance(value, int | float):
            return f"{name} is a {type(value).__name__}, it must be one number"
        if not np.isfinite(value):
            return f"{name} is not finite"
        if abs(value) > LARGEST_METRIC:
            return f"{name} is {value:g}, more than {LARGEST_METRIC:g}"
    return None


def array_problem(vectors: Mapping[str, np.ndarray], size: int, required: Iterable[str]) -> str | None:
    """Why the vectors of a reply must not reach the strategy; None if they may.

    Checked: there are the arrays that the strategy requires and no others, each has the shape (size,) of the global
    adapter, is float32 and finite, and none of its values is absurd: beyond 1e6 in an adapter, 1e12 in other arrays.
    """
    required = tuple(required)
    missing = [name for name in required if name not in vectors]
    if missing:
        return f"the reply carries no {missing[0]}"
    for name, vector in vectors.items():
        if name not in required:
            return f"the reply carries an array {plain_text(name, LONGEST_NAME)}, which was not asked for"
        if vector.shape != (size,):
            return f"{name} has shape {vector.shape}, sent was ({size},)"
        if vector.dtype != np.float32:
            return f"{name} has dtype {vector.dtype}, it must be float32"
        largest = largest_magnitude(vector)
        if not np.isfinite(largest):
            return f"{name} has values that are not finite"
        most = LARGEST_ADAPTER_VALUE if name == ADAPTER else LARGEST_VALUE
        if largest > most:
            return f"{name} has a value of magnitude {largest:.3g}, more than {most:g}"
    return None


def checked_content(answer: Message, arrays: ArrayRecord | None) -> RecordDict:
    """What a strategy is shown of a reply that may be used: its numbers and, of a training reply, its arrays alone.

    Flower's strategies insist on exactly one ArrayRecord and one MetricRecord.
    """
    content = {METRICS: answer.content[METRICS]}
    if arrays is not None:
        content[ARRAYS] = arrays
    return RecordDict(content)
