"""The resident worker of a site: keeps the base model, tokenized rows and trainer loaded between messages.

Flower starts a new ClientApp process for every message, which would load the base each time. With a worker, that
process hands its message over a socket (`client/worker_handover.py`) to a process that stays
(`client/worker_process.py`). This file keeps such a process running:

    python -m fedllm_app.client.worker --socket /run/user/1000/fedllm/worker
    flower-supernode … --node-config "… worker='/run/user/1000/fedllm/worker'"

The supervisor listens and holds nothing else. It starts the process when somebody connects, so that a site that is idle
needs no memory for it, and a message that comes while the process is replaced waits at the socket.
"""

import argparse
import contextlib
import json
import os
import select
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Mapping
from pathlib import Path

from fedllm_app.client.worker_handover import ENDED_FILE, VARIABLE
from fedllm_app.client.worker_link import Link, LinkBroken, LinkRefused, ending, listen
from fedllm_app.paths import write_text

APP = "fedllm_app.client_app"
"""The module of the ClientApp, which pyproject.toml names to Flower. It has `app`, and `identity()`, which says which
code it is."""

IDLE = 600.0
"""Seconds without a message after which the process ends and frees its memory."""

_DELAYS = (0.0, 1.0, 5.0, 15.0, 30.0)  # seconds before the next start, after the first death, the second, …
_STEADY = 60.0  # a process that lived as long is the first of a new series
_LOOK = 0.1  # seconds between looks at what it waits for
_TURNED_AWAY = 2.0  # for a process that connected to say what it wants
_END = 10.0  # for a process to end when it is asked to


def _print(line: str) -> None:
    print(f"{time.strftime('%H:%M:%S')} {line}", file=sys.stderr, flush=True)


class WorkerSupervisor:
    """Within its block a worker answers at `socket`. It ends with the block, and with this process.

    Parameters
    ----------
    socket : Path | None
        Where it listens, an absolute path in a directory that only this user may enter; it is made if it is missing.
        None: in a new directory, which is removed at the end.
    idle : float
        See `IDLE`.
    environment : Mapping[str, str] | None
        Of the process; None: this process's. FEDLLM_HOME must be that of the node.
    say : Callable[[str], None]
        Is told in a sentence when the process ends without being asked to.
    app : str
        The module of the ClientApp that it runs: see `APP`.

    Raises
    ------
    LinkRefused
        On entering: the path is too long or taken, or its directory is open to others.
    """

    def __init__(
        self,
        socket: Path | None = None,
        *,
        idle: float = IDLE,
        environment: Mapping[str, str] | None = None,
        say: Callable[[str], None] = _print,
        app: str = APP,
    ) -> None:
        self.socket, self._own = socket, None
        self.idle, self.environment, self.say, self.app = idle, environment, say, app
        self._stop, self._process = threading.Event(), None
        self._thread = threading.Thread(target=self._supervise, daemon=True)

    def __enter__(self) -> "WorkerSupervisor":
        if self.socket is None:
            self._own = Path(tempfile.mkdtemp(prefix="fedllm-worker-"))
            self.socket = self._own / "socket"
        self._listener = listen(self.socket)
        self._thread.start()
        return self

    def __exit__(self, *_exception: object) -> None:
        self._stop.set()
        self._thread.join()
        self._listener.close()
        for path in (self.socket, self.socket.with_name(ENDED_FILE)):
            path.unlink(missing_ok=True)
        if self._own:
            shutil.rmtree(self._own)

    @property
    def process(self) -> int | None:
        """The id of the process that serves just now; None while there is none."""
        return self._process.pid if self._process and self._process.poll() is None else None

    def _supervise(self) -> None:
        deaths = 0
        while not self._stop.is_set():
            if not self._somebody_waits():
                continue
            began = time.monotonic()
            status = self._life()
            if status == 0 or self._stop.is_set():
                deaths = 0
                continue
            deaths = 1 if time.monotonic() - began > _STEADY else deaths + 1
            if deaths > 1:
                self._turn_away(f"its process died {deaths} times in a row")
            self._stop.wait(_DELAYS[min(deaths, len(_DELAYS)) - 1])

    def _somebody_waits(self) -> bool:
        return bool(select.select([self._listener], [], [], _LOOK)[0])

    def _turn_away(self, reason: str) -> None:
        """Tell those that wait that they must do the work themselves, instead of letting them wait for nothing."""
        while select.select([self._listener], [], [], 0)[0]:
            connection, _ = self._listener.accept()
            with Link(connection, _TURNED_AWAY) as link, contextlib.suppress(LinkBroken):
                link.receive()
                link.send({"state": "refused", "reason": reason})

    def _life(self) -> int:
        """One process from its start to its end: the exit status."""
        descriptor = self._listener.fileno()
        command = [sys.executable, "-P", "-m", "fedllm_app.client.worker_process", "--app", self.app]
        environment = dict(os.environ if self.environment is None else self.environment)
        environment.pop(VARIABLE, None)
        self._process = process = subprocess.Popen(
            [*command, "--idle", str(self.idle), "--socket-descriptor", str(descriptor)],
            env=environment,
            cwd=self.socket.parent,
            stdin=subprocess.PIPE,  # closed when this process ends, which ends the other
            pass_fds=[descriptor],
            start_new_session=True,  # an interrupt of the terminal is for this process alone
        )
        while process.poll() is None and not self._stop.wait(_LOOK):
            pass
        if process.poll() is None:
            self._end(process)
        elif process.returncode:
            self._note(process)
        process.stdin.close()
        return process.returncode

    def _end(self, process: subprocess.Popen) -> None:
        process.terminate()
        try:
            process.wait(_END)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()

    def _note(self, process: subprocess.Popen) -> None:
        ended = ending(process.returncode)
        write_text(self.socket.with_name(ENDED_FILE), json.dumps({"pid": process.pid, "ended": ended}))
        self.say(f"the worker (process {process.pid}) {ended}; the next message starts a new one")


def main() -> int:
    """Run a worker in the foreground until this process is interrupted or terminated."""
    parser = argparse.ArgumentParser(description="keep a site's model loaded between the messages of its node")
    parser.add_argument("--socket", type=Path, required=True, help="absolute path in a directory of your own")
    parser.add_argument(
        "--idle", type=float, default=IDLE, help="seconds until an idle model is released (default: %(default)g)"
    )
    parser.add_argument("--app", default=APP, help="module of the ClientApp (default: %(default)s)")
    parsed = parser.parse_args()
    asked = threading.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: asked.set())
    try:
        with WorkerSupervisor(parsed.socket, idle=parsed.idle, app=parsed.app):
            _print(f"the worker listens at {parsed.socket}; Ctrl-C ends it")
            asked.wait()
    except LinkRefused as error:
        _print(str(error))
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
