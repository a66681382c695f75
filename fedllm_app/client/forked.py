"""Clients of the fork server, seen from the process of a simulation: its half of `client/fork_server.py`."""

import os
import sys
from collections.abc import Mapping
from pathlib import Path

import psutil
from flwr.app import Context, Message

from fedllm_app.client.worker_link import PROTOCOL, LinkBroken, LinkRefused, connect
from fedllm_app.client.worker_messages import exchange
from fedllm_app.errors import UserError

FORK_SERVER = "FEDLLM_FORK_SERVER"
"""The environment variable with the path of the fork server's socket; unset or empty: Ray starts the clients."""

CLIENT_OUTPUT = "FEDLLM_CLIENT_OUTPUT"
"""The environment variable with the file that clients' output is appended to."""

_CONNECT = 5.0  # seconds
_IMPORTED_WITHIN = 120.0  # seconds that the fork server may take for its imports


class ClientDied(UserError):
    """A client took a message and ended before it answered."""


class NoClient(UserError):
    """No process can be had for a client: nothing was done."""


def misfit(socket_path: Path, identity: Mapping[str, object]) -> str:
    """Why the fork server cannot serve this process; "" if it can. Waits until its imports are done."""
    said = {
        "want": "fit",
        "protocol": PROTOCOL,
        "identity": identity,
        "environment": dict(os.environ),
    }
    try:
        with connect(socket_path, _CONNECT) as link:
            link.wait(_IMPORTED_WITHIN)
            link.send(said)
            return str(link.receive()[0]["misfit"])
    except (LinkBroken, LinkRefused) as error:
        return f"it cannot be reached ({error})"


class ForkedClient:
    """A process that serves this one until it is closed.

    Parameters
    ----------
    environment : Mapping[str, str]
        What it has; its directory and paths of modules are those of this process.

    Raises
    ------
    NoClient
        The fork server has gone, or the system allows no more processes.
    """

    def __init__(self, socket_path: Path, environment: Mapping[str, str]) -> None:
        self.socket_path = socket_path
        said = {
            "want": "client",
            "environment": dict(environment),
            "directory": os.getcwd(),
            "path": sys.path,
            "output": environment.get(CLIENT_OUTPUT, os.devnull),
        }
        try:
            self._link = connect(socket_path, _CONNECT)
            self._link.send(said)
            answer, _ = self._link.receive()
        except (LinkBroken, LinkRefused) as error:
            reason = f"no process can be had for a client: the fork server cannot be reached ({error})"
            raise NoClient(reason) from error
        if "refused" in answer:
            self._link.close()
            raise NoClient(f"no process can be had for a client ({answer['refused']})")
        self.process = int(answer["client"])
        self._link.wait(None)  # training takes as long as it takes

    def answer(self, message: Message, context: Context) -> Message:
        """What the client answers; its log lines appear in this process's log.

        Raises
        ------
        ClientDied
            It ended before it answered. What it did may have been all of it but the answer.
        """
        try:
            return exchange(self._link, message, context)
        except LinkBroken as error:
            self.close()
            raise ClientDied(
                f"the process that served it {_how_it_ended(self.socket_path, self.process)} while it worked on the "
                "message, perhaps because memory ran out; the next message gets a new one"
            ) from error

    def gone(self) -> bool:
        """Whether it has ended; asked while it has nothing to do."""
        return self._link.gone() or _has_ended(self.process)

    def close(self) -> None:
        """Let it end."""
        self._link.close()


def _has_ended(process: int) -> bool:
    """Whether a process is no more. The link alone does not say so until the fork server has closed its end of it."""
    try:
        return psutil.Process(process).status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return True


def _how_it_ended(socket_path: Path, process: int) -> str:
    try:
        with connect(socket_path, _CONNECT) as link:
            link.send({"want": "end", "client": process})
            return str(link.receive()[0]["how"])
    except (LinkBroken, LinkRefused):
        return "went away"
