"""The process that a simulation's clients are forked from: it has imported torch, transformers, PEFT and TRL already.

`fedllm run` starts it first, so that it imports while Flower starts, once instead of once a client
(`commands/fork_server.py`). The process of the simulation connects (`client/forked.py`) and gets a client: a process
with its environment, directory and paths of modules, which answers one message after the other. A client ends when its
connection does, and with the command, whose end closes the standard input of all these processes.

The fork server itself computes nothing, and no thread of Python's or of OpenMP's is there when it forks; pyarrow's
allocator has one and is made for forks.
"""

import argparse
import ctypes
import gc
import importlib
import os
import random
import select
import shutil
import socket
import sys
import threading
import traceback
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path

import numpy as np
from flwr.app import Context, Message

from fedllm_app.client.worker_link import MOST_BYTES, Link, LinkBroken, LinkRefused, check_peer, ending
from fedllm_app.client.worker_messages import pack_reply, unpack_request
from fedllm_app.client.worker_process import end_with_parent, logging_to, other_code
from fedllm_app.paths import opener

App = Callable[[Message, Context], Message]

IMPORTED = ("fedllm_app.client.build", "fedllm_app.training.sft", "transformers.models.auto.modeling_auto")
"""Every client needs these, and what they import in turn."""

_READ_AT_IMPORT = ("HF_", "HUGGINGFACE_", "TRANSFORMERS_", "TORCH_", "PYTORCH_", "BNB_", "GOMP_", "KMP_", "THP_")
_SAID_WITHIN = 10.0  # seconds in which a process that connects must say what it wants
_LOOK_EVERY = 1.0  # seconds between looks for children that ended
_TOLD_WITHIN = 2.0  # for a child that closed its connection to be gone
_SET_NAME = 15  # PR_SET_NAME


def read_at_import(environment: Mapping[str, str]) -> dict[str, str]:
    """The variables that libraries read once, when they are imported: a fork keeps what they were then."""
    return {name: value for name, value in sorted(environment.items()) if name.startswith(_READ_AT_IMPORT)}


class ForkServer:
    """Takes connections from a listening socket and forks a client for each.

    Parameters
    ----------
    listener : socket.socket
        Listens already.
    app : App
        The ClientApp that clients run.
    identity : Mapping[str, object]
        Of the code that is loaded here: only processes of the same are served.
    """

    def __init__(self, listener: socket.socket, app: App, identity: Mapping[str, object]) -> None:
        self.listener, self.app, self.identity = listener, app, identity
        self.environment = read_at_import(os.environ)
        self._ended: dict[int, int] = {}  # exit status by process

    def run(self) -> None:
        """Serve until the standard input is closed."""
        stdin = sys.stdin.fileno()
        while True:
            ready, _, _ = select.select([self.listener, stdin], [], [], _LOOK_EVERY)
            self._reap()
            if stdin in ready:
                return
            if ready:
                self._meet(self.listener.accept()[0])

    def _meet(self, connection: socket.socket) -> None:
        with Link(connection, _SAID_WITHIN) as link:
            try:
                check_peer(connection)
                said, _ = link.receive()
                if said["want"] == "end":
                    link.send({"how": self._how_it_ended(int(said["client"]))})
                elif said["want"] == "fit":
                    link.send({"misfit": self._misfit(said)})
                else:
                    self._fork(link, said)
            except (LinkBroken, LinkRefused):
                return  # it has gone, or is somebody else's
            except Exception as error:  # no process can be forked, or what it said makes no sense: others are served
                with suppress(LinkBroken):
                    link.send({"refused": f"{type(error).__name__}: {error}"})

    def _misfit(self, said: Mapping[str, object]) -> str:
        """Why a process that greets so is not served; "" if it is."""
        if reason := other_code(said, self.identity):
            return reason
        theirs = read_at_import(said["environment"])
        differing = sorted({name for name, _ in theirs.items() ^ self.environment.items()})
        return f"its environment differs in {', '.join(differing)}" if differing else ""

    def _fork(self, link: Link, said: Mapping[str, object]) -> None:
        """What the new process does until its end; this one goes on."""
        if child := os.fork():
            self._ended.pop(child, None)  # of an earlier process with this number
            return
        try:
            self.listener.close()
            _become(said, link)
            _serve(link, self.app)
        except BaseException:
            with suppress(BaseException):
                traceback.print_exc()
            os._exit(1)
        finally:  # never back into the server's loop
            os._exit(0)

    def _reap(self) -> None:
        while True:
            try:
                child, status = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                return
            if not child:
                return
            self._ended[child] = os.waitstatus_to_exitcode(status)

    def _how_it_ended(self, child: int) -> str:
        if child not in self._ended:
            select.select([], [], [], _TOLD_WITHIN)
            self._reap()
        return ending(self._ended[child]) if child in self._ended else "went away"


def _become(said: Mapping[str, object], link: Link) -> None:
    """Take over what the process that asked has, write to the file that it names, and end when it does."""
    with open(said["output"], "ab", opener=opener) as output:
        for number in (1, 2):
            os.dup2(output.fileno(), number)
    os.environ.clear()
    os.environ.update(said["environment"])
    os.chdir(said["directory"])
    sys.path[:] = said["path"]
    random.seed()  # not the same in every client
    np.random.seed()
    gc.enable()
    ctypes.CDLL(None).prctl(_SET_NAME, b"fedllm-client", 0, 0, 0)
    for watched in (lambda: _end_with(link), end_with_parent):
        threading.Thread(target=watched, daemon=True).start()


def _serve(link: Link, app: App) -> None:
    """Answer messages until the process that sends them has ended."""
    link.send({"client": os.getpid()})
    link.wait(None)
    try:
        while True:
            message, context = unpack_request(link.receive(MOST_BYTES)[1])
            with logging_to(link):
                reply = app(message, context)
            sys.stdout.flush()
            link.send(*pack_reply(reply))
    except LinkBroken:
        return


def _end_with(link: Link) -> None:
    """End this process when the other end does, at once and whatever it does, as Ray ends its workers."""
    link.wait_for_end()
    os._exit(0)


def main() -> None:
    """Import what clients need, and serve on an inherited socket."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--socket-descriptor", type=int, required=True)
    parser.add_argument("--app", required=True, help="module of the ClientApp `app` and its `identity()`")
    parser.add_argument("--imports", nargs="*", default=IMPORTED, help="modules that clients need")
    parser.add_argument("--remove", type=Path, required=True, help="directory of the socket, removed at the end")
    parsed = parser.parse_args()
    gc.disable()  # nothing of an import becomes garbage, and the collector would take a seventh of the time
    module = importlib.import_module(parsed.app)
    identity = module.identity()  # of the code that is loaded now
    for name in parsed.imports:
        importlib.import_module(name)
    gc.freeze()  # a collection in a client would copy every page that is shared with this process
    try:
        ForkServer(socket.socket(fileno=parsed.socket_descriptor), module.app, identity).run()
    finally:
        shutil.rmtree(parsed.remove, ignore_errors=True)


if __name__ == "__main__":
    main()
