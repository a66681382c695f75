"""The process that holds a site's model, tokenized rows and trainer, and answers one message after the other.

Started by its supervisor (`client/worker.py`) with a listening socket, when a message waits there. It runs the same
ClientApp as the process that hands a message over. It ends when it has been idle, when a run asks for another base
model, when it is asked by other code than its own, and with its supervisor, whose end closes its standard input.
"""

import argparse
import importlib
import logging
import os
import queue
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager

from flwr.app import Context, Message
from flwr.supercore.logger import FLOWER_LOGGER

from fedllm_app.client.stopping import stop_when
from fedllm_app.client.worker_handover import NODE_KEY, VARIABLE
from fedllm_app.client.worker_link import MOST_BYTES, PROTOCOL, Link, LinkBroken, LinkRefused, check_peer
from fedllm_app.client.worker_messages import pack_reply, unpack_request
from fedllm_app.paths import home
from fedllm_app.process_cache import PROCESS_CACHE

App = Callable[[Message, Context], Message]

_SAID_WITHIN = 10.0  # seconds in which a process that connects must say what it wants
_TAKEN_WITHIN = 60.0  # for a single read or send
_log = logging.getLogger(__name__)


class Worker:
    """Takes connections from a listening socket and answers their messages, one at a time, in their order.

    Parameters
    ----------
    listener : socket.socket
        Listens already; it stays open when this process ends, and the next one goes on with those who wait there.
    app : App
        The ClientApp.
    identity : Mapping[str, object]
        Of the code that runs here: see `hand_over`.
    idle : float
        Seconds without a message after which `run` returns.
    """

    def __init__(self, listener: socket.socket, app: App, identity: Mapping[str, object], idle: float) -> None:
        self.listener, self.app, self.identity, self.idle = listener, app, identity, idle
        self._waiting: queue.Queue[tuple[Link, dict] | None] = queue.Queue()
        self._turns = threading.Lock()
        self._unfinished = 0  # messages that wait or are worked on
        self._busy_with, self._since = "another message", 0.0
        self._model = ""  # of the runs that were served

    def run(self) -> None:
        """Serve until there is a reason to end. Connections that still wait see this process end, and connect anew."""
        threading.Thread(target=self._accept, daemon=True).start()
        while True:
            try:
                turn = self._waiting.get(timeout=self.idle)
            except queue.Empty:
                return
            if turn is None:
                return
            link, said = turn
            if PROCESS_CACHE.holds("resident model") and said["model"] != self._model:
                _log.info("a run asks for another base model: this process ends, and a new one loads it")
                return
            self._model = said["model"]
            self._busy_with, self._since = _about(said), time.monotonic()
            with link:
                if not link.gone():
                    self._serve(link)
            with self._turns:
                self._unfinished -= 1

    def _serve(self, link: Link) -> None:
        try:
            link.send({"state": "welcome", "pid": os.getpid()})
            message, context = unpack_request(link.receive(MOST_BYTES)[1])
            context.node_config.pop(NODE_KEY, None)  # here the work is done
            with logging_to(link), stop_when(lambda: _unwanted(link)):
                reply = self.app(message, context)
            link.send(*pack_reply(reply))
        except LinkBroken as error:
            _log.warning("a message was given up: %s", error)

    def _accept(self) -> None:
        while True:
            connection, _ = self.listener.accept()
            link = Link(connection, _SAID_WITHIN)
            try:
                check_peer(connection)
                said, _ = link.receive()
                link.wait(_TAKEN_WITHIN)
                if reason := misfit(said, self.identity):
                    link.send({"state": "refused", "reason": reason})
                    link.close()
                    self._waiting.put(None)
                    continue
                with self._turns:
                    if self._unfinished:
                        link.send({"state": "busy", "with": self._occupation()})
                    self._unfinished += 1
                    self._waiting.put((link, said))
            except (LinkBroken, LinkRefused) as error:
                _log.warning("a connection was refused: %s", error)
                link.close()

    def _occupation(self) -> str:
        return f"{self._busy_with} for {time.monotonic() - self._since:.0f} s"


def misfit(said: Mapping[str, object], identity: Mapping[str, object]) -> str:
    """Why a worker of this identity must not answer for the process that greets; "" if it may."""
    if reason := other_code(said, identity):
        return reason
    return "" if said.get("home") == str(home()) else f"its FEDLLM_HOME is {home()}"


def other_code(said: Mapping[str, object], identity: Mapping[str, object]) -> str:
    """How the code of a process that greets differs from this identity; "" if it is the same."""
    if said.get("protocol") != PROTOCOL:
        return "it speaks another protocol"
    same = said.get("identity") == identity
    return "" if same else "it runs other code of the app, or other versions of its libraries"


def _about(said: dict) -> str:
    return f"run {said['run']}" + (f", round {said['round']}," if said.get("round") else "")


def _unwanted(link: Link) -> str:
    return "the process that handed the message over has ended" if link.gone() else ""


class _ToLink(logging.Handler):
    """Sends log lines to the process that handed the message over."""

    def __init__(self, link: Link) -> None:
        super().__init__(logging.INFO)
        self.link = link

    def emit(self, record: logging.LogRecord) -> None:
        try:
            self.link.send({"state": "log", "level": record.levelno, "text": self.format(record)})
        except LinkBroken:
            return  # `check_stop` finds it between two steps, and the answer cannot be sent either


@contextmanager
def logging_to(link: Link) -> Iterator[None]:
    """Within this block the app's log lines go to the process that handed the message over, and nowhere else."""
    handler = _ToLink(link)
    loggers = [FLOWER_LOGGER, logging.getLogger("fedllm_app")]
    before = [(logger.handlers, logger.propagate) for logger in loggers]
    for logger in loggers:
        logger.handlers, logger.propagate = [handler], False
    try:
        yield
    finally:
        for logger, (handlers, propagate) in zip(loggers, before, strict=True):
            logger.handlers, logger.propagate = handlers, propagate


def end_with_parent() -> None:
    """End this process when its standard input is closed: where nothing is written, when the process that made it ends,
    however that ends."""
    os.read(sys.stdin.fileno(), 1)
    os._exit(0)


def main() -> None:
    """Serve on an inherited socket."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--socket-descriptor", type=int, required=True)
    parser.add_argument("--app", required=True, help="module of the ClientApp `app` and its `identity()`")
    parser.add_argument("--idle", type=float, required=True)
    parsed = parser.parse_args()
    threading.Thread(target=end_with_parent, daemon=True).start()
    logging.basicConfig(format="%(asctime)s worker: %(message)s", datefmt="%H:%M:%S")
    _log.setLevel(logging.INFO)
    os.environ.pop(VARIABLE, None)
    module = importlib.import_module(parsed.app)
    # The identity is that of the code that is loaded now, whatever is installed later.
    Worker(socket.socket(fileno=parsed.socket_descriptor), module.app, module.identity(), parsed.idle).run()


if __name__ == "__main__":
    main()
