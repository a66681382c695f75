"""Start the fork server of this command's simulations (`client/fork_server.py`), once for all of them."""

import atexit
import logging
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from fedllm_app.client.fork_server import read_at_import
from fedllm_app.client.forked import FORK_SERVER
from fedllm_app.client.worker import APP
from fedllm_app.client.worker_link import LinkRefused, listen
from fedllm_app.models.hardware import has_gpu_driver

_log = logging.getLogger(__name__)


class RunningForkServer:
    """A fork server, from its start to `close`."""

    def __init__(self, environment: dict[str, str]) -> None:
        self.imported_under = read_at_import(environment)
        self._directory = Path(tempfile.mkdtemp(prefix="fedllm-fork-"))
        self.socket = self._directory / "socket"
        try:
            self._process = self._start(environment)
        except BaseException:
            shutil.rmtree(self._directory, ignore_errors=True)
            raise

    def _start(self, environment: dict[str, str]) -> subprocess.Popen:
        with listen(self.socket) as listener:
            descriptor = listener.fileno()
            return subprocess.Popen(
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
        self._process.kill()  # it has nothing to save, and may be importing still
        self._process.wait()
        shutil.rmtree(self._directory, ignore_errors=True)

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
        try:
            _running.append(RunningForkServer(environment))
        except (OSError, LinkRefused) as error:
            _log.warning("no fork server can be started (%s); Ray starts the clients, which takes longer", error)
            return environment
    return environment | {FORK_SERVER: str(_running[0].socket)}


def _close_all() -> None:
    while _running:
        _running.pop().close()


atexit.register(_close_all)
os.register_at_fork(after_in_child=_running.clear)
