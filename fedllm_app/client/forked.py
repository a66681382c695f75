"""How a worker of a simulation lets a process of the fork server answer: its half of `client/fork_server.py`."""

import os
import sys
from collections.abc import Mapping
from pathlib import Path

from flwr.app import Context, Message
from flwr.supercore import log

from fedllm_app.client.policy import is_simulated
from fedllm_app.client.worker_handover import WorkerDied, WorkerUnavailable
from fedllm_app.client.worker_link import MOST_BYTES, PROTOCOL, LinkBroken, LinkRefused, connect
from fedllm_app.client.worker_messages import pack_request, unpack_reply

FORK_SERVER = "FEDLLM_FORK_SERVER"
"""The environment variable with the path of the fork server's socket; unset: workers do the work themselves."""

_CONNECT = 5.0  # seconds
_FORKED_WITHIN = 120.0  # while the fork server may still be importing

_forked: dict[Path, "ForkedClient"] = {}


def fork_server(node_config: Mapping[str, object]) -> Path | None:
    """The socket of the fork server that serves this node of a simulation; None if there is none."""
    path = os.environ.get(FORK_SERVER)
    return Path(path) if path and is_simulated(node_config) else None


def let_fork(socket_path: Path, message: Message, context: Context, identity: Mapping[str, object]) -> Message:
    """The answer of this worker's client, which is forked for its first message.

    Raises
    ------
    WorkerUnavailable
        The fork server has gone or does not fit: nothing was done. This worker does not ask it again.
    WorkerDied
        The client took the message and ended before it answered.
    """
    client = _forked.get(socket_path)
    if client is None:
        try:
            client = _forked[socket_path] = ForkedClient(socket_path, identity)
        except WorkerUnavailable:
            os.environ.pop(FORK_SERVER, None)
            raise
    try:
        return client.answer(message, context)
    except WorkerDied:
        del _forked[socket_path]
        raise


class ForkedClient:
    """A process of the fork server that serves this one, until one of both ends.

    Raises
    ------
    WorkerUnavailable
        There is no fork server, or it does not fit.
    """

    def __init__(self, socket_path: Path, identity: Mapping[str, object]) -> None:
        self.socket_path = socket_path
        said = {
            "protocol": PROTOCOL,
            "identity": identity,
            "environment": dict(os.environ),
            "directory": os.getcwd(),
            "path": sys.path,
        }
        try:
            self._link = connect(socket_path, _CONNECT)
            self._link.wait(_FORKED_WITHIN)
            self._link.send(said)
            self._link.send_descriptors([1, 2])
            answer, _ = self._link.receive()
        except (LinkBroken, LinkRefused) as error:
            raise WorkerUnavailable(f"the fork server cannot be reached: {error}") from error
        if answer["state"] == "refused":
            self._link.close()
            raise WorkerUnavailable(f"the fork server does not serve this process: {answer['reason']}")
        self._link.wait(None)  # training takes as long as it takes
        self.process = int(answer["pid"])

    def answer(self, message: Message, context: Context) -> Message:
        """What the client answers to a message; its log lines appear in this process's log. WorkerDied: see there."""
        try:
            self._link.send(*pack_request(message, context))
            while (frame := self._link.receive(MOST_BYTES))[0]["state"] == "log":
                log(int(frame[0]["level"]), "%s", frame[0]["text"])
            return unpack_reply(*frame, message)
        except LinkBroken as error:
            self._link.close()
            said = f"the process of this client {self._how_it_ended()} while it worked on the message"
            raise WorkerDied(said, public=said) from error

    def _how_it_ended(self) -> str:
        try:
            with connect(self.socket_path, _CONNECT) as link:
                link.send({"ended": self.process})
                return str(link.receive()[0]["how"])
        except (LinkBroken, LinkRefused):
            return "went away"
