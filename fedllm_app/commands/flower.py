"""Starting, waiting for and ending Flower's processes on this machine."""

import json
import os
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Sequence
from pathlib import Path

import psutil

from fedllm_app.client.forked import CLIENT_OUTPUT
from fedllm_app.commands.complete_app import complete_app
from fedllm_app.commands.fork_server import fork_server_environment
from fedllm_app.commands.reaper import reaper_command
from fedllm_app.errors import UserError
from fedllm_app.paths import make_directory, opener

_START_TIMEOUT = 60.0  # seconds
_STOP_TIMEOUT = 20.0
_LOOK_AGAIN = 1.0  # seconds between looks for a process
_LAST_EVENTS = 6.0  # seconds in which the last events of a process that is gone are read
PORT_VARIABLE = "FLWR_LOCAL_SUPERLINK_HTTP_API_PORT"
_SIMULATION = "flwr-simulation"  # Flower's process that runs server and clients of a simulation


class LaunchError(UserError):
    """A Flower process did not start or did not do what it was asked; the message carries its own words."""


class LocalSuperLink:
    """A SuperLink of our own for simulations: on a free port, with its state in memory, in an empty directory.

    Flower's own local SuperLink stays behind after a run and keeps the environment and the working directory of
    whoever started it first, so a later run can see other GPUs or import a stale package without a word. This one
    belongs to one run and ends with it, together with everything that it started, also when this process is killed.

    Parameters
    ----------
    run_directory : Path | None
        The run whose journal is told if it is interrupted.
    ray : str
        The Ray cluster, host:port, that its simulation joins; "": none, whatever else runs on this machine.

    Attributes
    ----------
    environment : dict[str, str]
        In which `flwr` commands find this SuperLink, and, within the block, its simulation the fork server.
    """

    def __init__(self, log_file: Path, run_directory: Path | None = None, ray: str = "") -> None:
        self.log_file = log_file
        self.run_directory = run_directory
        self.ray = ray
        self.port = free_port()
        # Without an address Ray would join whatever cluster was started last on this machine.
        self.environment = flower_environment() | {
            "RAY_ADDRESS": ray or "local",
            PORT_VARIABLE: str(self.port),
            CLIENT_OUTPUT: os.path.abspath(log_file),
        }
        self._directory = tempfile.TemporaryDirectory(prefix="fedllm-superlink-")
        self._process: subprocess.Popen | None = None
        self._seen = 0.0  # when its simulation was last seen to be there

    def __enter__(self) -> "LocalSuperLink":
        if not self.ray:
            self.environment = fork_server_environment(self.environment)
        command = [flower_command("flower-superlink"), "--insecure", "--simulation", "--isolation", "subprocess"]
        command += ["--host", "127.0.0.1", "--port", str(self.port)]
        command += ["--control-api-address", f"127.0.0.1:{free_port()}"]
        make_directory(self.log_file.parent)
        with open(self.log_file, "ab", opener=opener) as log:
            self._process = subprocess.Popen(
                reaper_command(command, self.run_directory),
                cwd=self._directory.name,
                env=self.environment,
                stdin=subprocess.PIPE,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        try:
            wait_until_healthy(self.port, self._process, self.log_file)
        except LaunchError:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_exception: object) -> None:
        if self._process is not None:
            self.close()
            try:
                self._process.wait(timeout=2 * _STOP_TIMEOUT)
            except subprocess.TimeoutExpired:
                end_process_tree(self._process.pid)
                self._process.wait()
        self._directory.cleanup()

    def close(self) -> None:
        """Let it end, with all that it started; leaving the block waits for that."""
        self._process.stdin.close()  # its reaper ends all of it

    def ended(self) -> str:
        """Why nothing more can come from the run, though nobody here ended it; "" as long as something can."""
        if self._process is None:
            return ""
        if self._process.poll() is not None:
            return "Flower's SuperLink was ended before the run was over"
        now = time.monotonic()
        if now - self._seen > _LOOK_AGAIN and _below(self._process.pid, _SIMULATION):
            self._seen = now
        if self._seen and now - self._seen > _LAST_EVENTS:
            return (
                f"the process of the simulation ({_SIMULATION}) was ended before the run was over: by somebody's "
                "kill, or by the system because memory ran out"
            )
        return ""


def wait_until_healthy(port: int, process: subprocess.Popen, log_file: Path) -> None:
    """Wait for a SuperLink on this machine to answer. `LaunchError` with the end of its log if it does not."""
    deadline = time.monotonic() + _START_TIMEOUT
    while time.monotonic() < deadline and process.poll() is None:
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{port}/health", timeout=1):
                return
        except (urllib.error.URLError, OSError):
            time.sleep(0.1)
    raise LaunchError(f"the SuperLink did not start; its log, {log_file}, ends with:\n{tail(log_file)}")


def flower_environment() -> dict[str, str]:
    """This process's environment, set so that Flower uses the packages installed here instead of installing anew.

    A SuperLink of ours works in a directory of its own, so relative entries of PYTHONPATH are made absolute.
    """
    beside_python = str(Path(sys.executable).parent)
    entries = os.environ.get("PYTHONPATH", "").split(os.pathsep)
    return os.environ | {
        "PYTHONPATH": os.pathsep.join(os.path.abspath(entry) for entry in entries if entry),
        "FLWR_DISABLE_RUNTIME_DEPENDENCY_INSTALLATION": "1",
        "FLWR_TELEMETRY_ENABLED": os.environ.get("FLWR_TELEMETRY_ENABLED", "0"),
        "RAY_USAGE_STATS_ENABLED": "0",
        # Actors bring an environment of their own, so workers that Ray starts in advance are never used.
        "RAY_enable_worker_prestart": "0",
        "RAY_prestart_worker_first_driver": "0",
        # Flower starts its helpers by name.
        "PATH": beside_python + os.pathsep + os.environ.get("PATH", ""),
    }


def flower_command(name: str) -> str:
    """The path of a Flower command of this environment."""
    path = Path(sys.executable).parent / name
    if not path.is_file():
        raise LaunchError(f"{name} is not installed beside {sys.executable}; install the app's dependencies there")
    return str(path)


def is_local(connection: str | None) -> bool:
    """Whether a connection of Flower's configuration is its local simulation. `LaunchError` if there is none."""
    import click
    from flwr.cli.flower_config import read_superlink_connection

    try:
        address = read_superlink_connection(connection).address
    except click.ClickException as error:
        raise LaunchError(error.message) from error
    return address is None or address.startswith(":local")


def submit_run(app: Path, connection: str | None, options: Sequence[str], environment: dict[str, str]) -> int:
    """`flwr run` and the id of the run that it started. `LaunchError` with Flower's words if it did not."""
    with complete_app(app) as directory:
        command = [flower_command("flwr"), "run", str(directory), *([connection] if connection else []), *options]
        answer = _flwr_json(command, environment)
    if not answer.get("success"):
        raise LaunchError(f"flwr run failed: {answer.get('error-message') or answer}")
    return int(answer["run-id"])


def run_status(run_id: int, connection: str | None, environment: dict[str, str]) -> tuple[str, str]:
    """Flower's status of a run, such as "running" or "finished:completed", and what it says of the reason."""
    command = [flower_command("flwr"), "list", *([connection] if connection else []), "--run-id", str(run_id)]
    answer = _flwr_json(command, environment)
    if not answer.get("success") or not answer.get("runs"):
        raise LaunchError(f"flwr list failed: {answer.get('error-message') or answer}")
    return str(answer["runs"][0]["status"]), str(answer["runs"][0]["status-details"])


def stop_run(run_id: int, connection: str | None, environment: dict[str, str]) -> None:
    """`flwr stop`. `LaunchError` with Flower's words if the run cannot be stopped."""
    command = [flower_command("flwr"), "stop", str(run_id), *([connection] if connection else [])]
    answer = _flwr_json(command, environment)
    if not answer.get("success"):
        raise LaunchError(f"flwr stop failed: {answer.get('error-message') or answer}")


def end_process_tree(pid: int) -> None:
    """End a process and all that it started: asked first, forced after a while."""
    try:
        parent = psutil.Process(pid)
    except psutil.NoSuchProcess:
        return
    processes = [*parent.children(recursive=True), parent]
    for process in processes:
        _signal(process.terminate)
    _, alive = psutil.wait_procs(processes, timeout=_STOP_TIMEOUT)
    for process in alive:
        _signal(process.kill)


def _below(pid: int, command: str) -> bool:
    """Whether a process of this command is among the descendants of a process."""
    try:
        found = psutil.Process(pid).children(recursive=True)
    except psutil.NoSuchProcess:
        return False
    return any(command in os.path.basename(word) for process in found for word in _command_line(process)[:3])


def _command_line(process: psutil.Process) -> list[str]:
    try:
        return process.cmdline() if process.status() != psutil.STATUS_ZOMBIE else []
    except psutil.Error:
        return []


def tail(path: Path, lines: int = 30) -> str:
    """The last lines of a log file."""
    return "\n".join(path.read_text(errors="replace").splitlines()[-lines:]) if path.is_file() else ""


def _flwr_json(command: list[str], environment: dict[str, str]) -> dict:
    done = subprocess.run([*command, "--format", "json"], env=environment, capture_output=True, text=True, check=False)
    start = done.stdout.find("{")
    if start < 0:
        raise LaunchError(f"{' '.join(command[1:3])} gave no answer:\n{done.stdout}{done.stderr}")
    return json.loads(done.stdout[start:])


def _signal(send) -> None:
    try:
        send()
    except psutil.NoSuchProcess:
        return


def free_port() -> int:
    """A TCP port of this machine that nobody listens on."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]
