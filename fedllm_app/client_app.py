"""The ClientApp: parse a message, call the local client, reply. One process may serve several clients."""

import functools
import gc
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from logging import INFO, WARNING
from typing import TYPE_CHECKING

from flwr.app import ConfigRecord, Context, Message, RecordDict
from flwr.clientapp import ClientApp
from flwr.supercore import log

from fedllm_app.client import progress
from fedllm_app.client.disclosure import public_error, write_site_log
from fedllm_app.client.offline import downloads
from fedllm_app.client.policy import is_simulated, site_policy
from fedllm_app.client.simulation_workers import prepare_simulation
from fedllm_app.client.site import site_items
from fedllm_app.client.stopping import check_stop, stop_when, time_is_over
from fedllm_app.client.worker_handover import WorkerUnavailable, hand_over, worker_socket
from fedllm_app.federation.fingerprint import PROTOCOL, code_hash, package_versions
from fedllm_app.messages import CONFIG, Assignment, client_of, failure, read_vectors, reply, run_key, vectors_record
from fedllm_app.models.hardware import gpus_are_hidden

if TYPE_CHECKING:
    from fedllm_app.client.local_client import LocalClient

# Flower loads this module in a process that never trains, so what loads torch is imported where it is used.

app = ClientApp()

_Handler = Callable[[Message, Context], Message]

_LOG_EVERY = 5.0  # seconds between log lines of one round; the progress file gets every step


def identity() -> dict[str, str | list[str]]:
    """Which code this process runs: a site's worker answers for a process of the same code only."""
    return {"code": code_hash(), "versions": package_versions()}


prepare_simulation(identity)


def _answering(handle: _Handler) -> _Handler:
    """Turn whatever a handler raises into an error reply that names the client and the cause.

    An exception that leaves the app (above all running out of memory) can cost a simulation the whole process, which
    then swallows every later message; an error reply costs one client one round.
    """

    @functools.wraps(handle)
    def answer(message: Message, context: Context) -> Message:
        try:
            return handle(message, context)
        except Exception as error:
            return failure(message, f"{_client_name(message, context)}: {_told(error, context)}")

    return answer


def _in_the_worker(handle: _Handler) -> _Handler:
    """Let the site's worker answer, which has everything loaded; this process does where there is none."""

    @functools.wraps(handle)
    def answer(message: Message, context: Context) -> Message:
        socket = worker_socket(context.node_config)
        if socket is not None:
            try:
                return hand_over(socket, message, context, identity())
            except WorkerUnavailable as reason:
                log(WARNING, "%s; this process does the work itself", reason)
        return handle(message, context)

    return answer


def _downloading_what_is_allowed(handle: _Handler) -> _Handler:
    """Keep a handler from the Hub where the site's policy does not allow downloads."""

    @functools.wraps(handle)
    def answer(message: Message, context: Context) -> Message:
        policy = site_policy(context.node_config)
        with downloads(policy is None or policy.models.downloads):
            return handle(message, context)

    return answer


@app.query("identify")
@_answering
def identify(message: Message, context: Context) -> Message:
    """Say who this node is, without loading anything."""
    identity = {
        "partition": int(context.node_config.get("partition-id", -1)),
        "partitions": int(context.node_config.get("num-partitions", 0)),
        "site": str(context.node_config.get("site", "")),
        "code": code_hash(),
        "protocol": PROTOCOL,
        "gpus-hidden": gpus_are_hidden(),
    }
    return Message(RecordDict({CONFIG: ConfigRecord(identity)}), reply_to=message)


@app.query("ended")
@_answering
def ended(message: Message, context: Context) -> Message:
    """Keep no more of a finished run than continuing it would need."""
    from fedllm_app.training.client_state import end_run

    request = message.content[CONFIG]
    end_run(run_key(request["run"]), request["versions"])
    return Message(RecordDict({CONFIG: ConfigRecord({})}), reply_to=message)


@app.query("describe")
@_answering
@_in_the_worker
@_downloading_what_is_allowed
def describe(message: Message, context: Context) -> Message:
    """Load model and shard, and say what the client holds."""
    request = message.content[CONFIG]
    number, clients = client_of(request)
    with _without_garbage_collection():
        client = _local_client(context, clients)
        holding, manifest = client.describe(number, bool(request.get("pooled", False)))
    description = holding.to_config() | {"manifest": manifest, "versions": package_versions()}
    return Message(RecordDict({CONFIG: ConfigRecord(description)}), reply_to=message)


@app.train()
@_answering
@_in_the_worker
@_downloading_what_is_allowed
def train(message: Message, context: Context) -> Message:
    """Train the received adapter for one round on the client's shard."""
    assignment = Assignment.from_message(message)
    with stop_when(time_is_over(assignment.seconds)):
        client = _local_client(context, assignment.clients)
        vectors, metrics = client.train(assignment, read_vectors(message), _Reporter(context.run_id, assignment))
    return reply(message, vectors_record(vectors), metrics, assignment.manifest)


@app.evaluate()
@_answering
@_in_the_worker
@_downloading_what_is_allowed
def evaluate(message: Message, context: Context) -> Message:
    """Evaluate the received adapter on the client's held-out rows."""
    assignment = Assignment.from_message(message)
    metrics = _local_client(context, assignment.clients).evaluate(assignment, read_vectors(message))
    return reply(message, None, metrics, assignment.manifest)


@contextmanager
def _without_garbage_collection() -> Iterator[None]:
    """For the import of torch, transformers, PEFT and TRL: garbage collection would take a seventh of the time."""
    gc.disable()
    try:
        yield
    finally:
        gc.enable()


class _Reporter:
    """Reports every step to the progress file, and now and then to the log."""

    def __init__(self, run_id: int, assignment: Assignment) -> None:
        self.run_id, self.assignment, self.logged = run_id, assignment, 0.0

    def __call__(self, step: int, steps: int, loss: float | None) -> None:
        if step < steps:  # who has done all steps may as well answer
            check_stop(f"before step {step + 1} of {steps}")
        place = {"round": self.assignment.server_round, "client": self.assignment.client}
        progress.report(self.run_id, **place, step=step, steps=steps, loss=loss)
        if loss is None:
            return
        if step == steps or time.monotonic() - self.logged > _LOG_EVERY:
            self.logged = time.monotonic()
            log(INFO, "round %d client %d step %d/%d loss %.4f", *place.values(), step, steps, loss)


def _local_client(context: Context, clients: int) -> "LocalClient":
    """The local client for this run's configuration, built on first use in this process."""
    from fedllm_app.client.build import local_client

    site, policy = site_items(context.node_config), site_policy(context.node_config)
    return local_client(context.run_id, tuple(sorted(context.run_config.items())), clients, site, policy)


def _client_name(message: Message, context: Context) -> str:
    request = message.content.get(CONFIG, {})
    site = context.node_config.get("site", "")
    return f"client {request.get('client', '?')}" + (f" ({site})" if site else "")


def _told(error: Exception, context: Context) -> str:
    """What the server is told of an error, which is logged here: at a site its public form, and then the whole of it
    stands in the site's own log only."""
    simulated = is_simulated(context.node_config)
    kind = f"{type(error).__name__}: {error}" if simulated else public_error(error, context.node_config)
    told = _out_of_memory(error, simulated) or kind
    if simulated:
        log(INFO, "client failed", exc_info=error)
        return told
    log(INFO, "client failed: %s (%s)", told, write_site_log("client failed", error))
    return told


def _out_of_memory(error: Exception, simulated: bool) -> str:
    """What helps a client that has run out of memory, once the resident model is released; "" for other errors."""
    import torch

    if isinstance(error, MemoryError | torch.OutOfMemoryError):
        from fedllm_app.training.resident import release

        release()
        what = f" ({str(error).splitlines()[0] if str(error) else type(error).__name__})" if simulated else ""
        return (
            f"out of memory{what}; lower train.batch-size (and raise train.gradient-accumulation) or train.max-length, "
            "set train.gradient-checkpointing = true, or quantize the base: model.quantization = 'int8' or 'nf4'"
        )
    return ""
