"""Start the fork server of this command's simulations (`client/fork_server.py`), once for all of them."""

import atexit
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from fedllm_app.client.fork_server import read_at_import
from fedllm_app.client.forked import FORK_SERVER
from fedllm_app.client.worker import APP
from fedllm_app.client.worker_link import listen
from fedllm_app.models.hardware import has_gpu_driver

_END = 10.0  # seconds for it to end when its standard input is closed


class RunningForkServer:
    """A fork server, from its start to `close`."""

    def __init__(self, environment: dict[str, str]) -> None:
        self.imported_under = read_at_import(environment)
        self._directory = Path(tempfile.mkdtemp(prefix="fedllm-fork-"))
        self.socket = self._directory / "socket"
        with listen(self.socket) as listener:
            descriptor = listener.fileno()
            self._process = subprocess.Popen(
                [sys.executable, "-P", "-m", "fedllm_app.client.fork_server"]
                + ["--app", APP, "--socket-descriptor", str(descriptor), "--remove", str(self._directory)],
                env=environment | {"OPENBLAS_NUM_THREADS": "1"},  # no thread of NumPy's when clients are forked
                cwd=self._directory,
                stdin=subprocess.PIPE,  # closed when this process ends, which ends the other and all its clients
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,  # what libraries say when they are imported; an error is met again by Ray
                pass_fds=[descriptor],
                start_new_session=True,  # an interrupt of the terminal is for this process alone
            )

    def close(self) -> None:
        """End it, and the clients that are left."""
        self._process.stdin.close()
        try:
            self._process.wait(_END)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        shutil.rmtree(self._directory, ignore_errors=True)  # where it was killed

    @property
    def lives(self) -> bool:
        """Whether it serves."""
        return self._process.poll() is None


_running: list[RunningForkServer] = []


def fork_server_environment(environment: dict[str, str]) -> dict[str, str]:
    """The environment of a simulation on this machine, with the fork server that its clients come from.

    It is started where there is none yet, or where the one that runs has imported its libraries under other variables.
    It ends with this process. There is none on a machine with GPUs, whose driver must not be asked before a fork, and
    outside of Linux, where forks are not safe.
    """
    if sys.platform != "linux" or has_gpu_driver() or environment.get(FORK_SERVER) == "":
        return environment
    fits = read_at_import(environment)
    for server in list(_running):
        if not server.lives or server.imported_under != fits:
            _running.remove(server)
            server.close()
    if not _running:
        _running.append(RunningForkServer(environment))
    return environment | {FORK_SERVER: str(_running[0].socket)}


def _close_all() -> None:
    while _running:
        _running.pop().close()


atexit.register(_close_all)
os.register_at_fork(after_in_child=_running.clear)
