"""Handing a message over to the worker of a site, and waiting for its answer: the ClientApp's half."""

import hashlib
import json
import os
import time
from collections.abc import Mapping
from logging import INFO
from pathlib import Path

from flwr.app import Context, Message
from flwr.supercore import log

from fedllm_app.client.policy import is_simulated
from fedllm_app.client.worker_link import PROTOCOL, Link, LinkBroken, LinkRefused, LinkSilent, connect
from fedllm_app.client.worker_messages import exchange
from fedllm_app.errors import UserError
from fedllm_app.messages import CONFIG
from fedllm_app.paths import home

VARIABLE, NODE_KEY = "FEDLLM_WORKER", "worker"
ENDED_FILE = "ended.json"  # beside the socket: the process that ended last, and how

_CONNECT = 5.0  # seconds
_GREETING = 60.0  # for a worker to start and to answer
_MEETINGS = 5  # a worker may end, to make room for another model, between a connection and its greeting
_TOLD = 2.0  # for its supervisor to notice that it ended


class WorkerUnavailable(UserError):
    """No worker took the message: nothing was done, and the ClientApp can do the work itself."""


class WorkerBusy(UserError):
    """The worker served another message for as long as the server waits for the answer to this one."""


class WorkerDied(UserError):
    """The worker took the message and ended before it answered. What it did may have been all of it but the answer."""


def worker_socket(node_config: Mapping[str, object]) -> Path | None:
    """The socket of this site's worker, from its node configuration or the environment; None if it has none.

    The nodes of a simulation, whose processes stay, have none.
    """
    said = node_config.get(NODE_KEY) or os.environ.get(VARIABLE)
    return Path(str(said)) if said and not is_simulated(node_config) else None


def greeting(message: Message, context: Context, identity: Mapping[str, object]) -> dict:
    """What the worker is told before it takes a message: whether both fit together, and what the message is about."""
    request = message.content.get(CONFIG, {})
    return {
        "protocol": PROTOCOL,
        "identity": identity,
        "home": str(home()),
        "run": context.run_id,
        "round": request.get("server-round", 0),
        "model": model_key(context.run_config),
    }


def model_key(run_config: Mapping[str, object]) -> str:
    """A hash of the base model that a run asks for, and of how it is loaded."""
    asked = sorted((key, value) for key, value in run_config.items() if key.startswith("model."))
    return hashlib.sha256(json.dumps(asked).encode()).hexdigest()


def hand_over(socket_path: Path, message: Message, context: Context, identity: Mapping[str, object]) -> Message:
    """Let the worker answer a message; its log lines appear in this process's log.

    Parameters
    ----------
    identity : Mapping[str, object]
        Of the code that runs here, as JSON; the worker takes the message only if its own is the same.

    Raises
    ------
    WorkerUnavailable
        No worker took it.
    WorkerBusy, WorkerDied
        As they say. The message must not be worked on a second time.
    """
    until = time.monotonic() + message.metadata.ttl
    for _ in range(_MEETINGS):
        try:
            with connect(socket_path, _CONNECT) as link:
                worker = _welcome(link, greeting(message, context, identity), until)
                if worker is not None:
                    return _answer(link, worker, message, context, socket_path)
        except (LinkBroken, LinkRefused) as error:
            raise WorkerUnavailable(f"the worker cannot be reached: {error}") from error
    raise WorkerUnavailable(f"the worker at {socket_path} ended {_MEETINGS} times before it took the message")


def _welcome(link: Link, said: dict, until: float) -> int | None:
    """Wait until the worker is free for this message: its process id; None if it ended before, and another is to be
    asked."""
    link.wait(_GREETING)
    try:
        link.send(said)
        answer, _ = link.receive()
        if answer["state"] == "busy":
            answer = _turn(link, answer["with"], until)
    except LinkSilent:
        raise
    except LinkBroken:
        return None
    if answer["state"] == "refused":
        raise WorkerUnavailable(f"the worker does not take the message: {answer['reason']}")
    return int(answer["pid"])


def _turn(link: Link, busy_with: str, until: float) -> dict:
    """What a busy worker says when it is free."""
    log(INFO, "the worker is busy with %s; this message waits", busy_with)
    link.wait(max(0.0, until - time.monotonic()) + 0.001)
    try:
        return link.receive()[0]
    except LinkSilent as error:
        said = f"the worker of this site was busy with {busy_with} for as long as this message may take"
        raise WorkerBusy(said, public=said) from error


def _answer(link: Link, worker: int, message: Message, context: Context, socket_path: Path) -> Message:
    """The worker's answer to a message that it takes."""
    link.wait(None)  # training takes as long as it takes
    try:
        return exchange(link, message, context)
    except LinkBroken as error:
        said = f"the worker of this site {_how_it_ended(socket_path, worker)} while it worked on the message"
        raise WorkerDied(said, public=said) from error


def _how_it_ended(socket_path: Path, worker: int) -> str:
    """What the supervisor notes of a process that ended, once it has."""
    file, deadline = socket_path.with_name(ENDED_FILE), time.monotonic() + _TOLD
    while time.monotonic() < deadline:
        if file.is_file():
            noted = json.loads(file.read_text(encoding="utf-8"))
            if noted["pid"] == worker:
                return str(noted["ended"])
        time.sleep(0.05)
    return "went away"
