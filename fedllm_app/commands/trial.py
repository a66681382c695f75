"""A federation on this machine, for a trial: certificates, a SuperLink, and a site for each data file, all as for real.

Everything is below `FEDLLM_HOME/federations/NAME`: `server` and `sites` with keys and logs, which vanish when it is
ended; `homes` with what server and sites keep, such as runs and client state, and `data` with generated files, which
stay.
"""

import json
import os
import re
import shutil
import socket
import ssl
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

import psutil

from fedllm_app.commands.connections import add_connection, check_free, remove_connection
from fedllm_app.commands.flower import LaunchError, end_process_tree, flower_environment, free_port, tail
from fedllm_app.commands.site import make_site
from fedllm_app.data import corpus
from fedllm_app.errors import UserError
from fedllm_app.paths import home, make_directory, write_text
from fedllm_app.sites.control import control, nodes, register
from fedllm_app.sites.keys import AUTHORITY, make_authority, make_server_certificate

_SUPERLINK = "superlink"
_LOOK_EVERY = 0.2  # seconds
_START_TIMEOUT = 90.0
_GENERATED_ROWS = 320


@dataclass
class Process:
    """A process that this federation started: known by its id and the time when it began, since ids come again."""

    name: str
    pid: int
    began: float

    def alive(self) -> bool:
        """Whether it is still this one."""
        try:
            process = psutil.Process(self.pid)
            return abs(process.create_time() - self.began) < 1.0 and process.status() != psutil.STATUS_ZOMBIE
        except psutil.NoSuchProcess:
            return False


@dataclass
class Trial:
    """The state of a trial federation, kept in `state.json` from the first process on."""

    name: str
    port: int = 0
    processes: list[Process] = field(default_factory=list)
    sites: dict[str, int] = field(default_factory=dict)

    @property
    def directory(self) -> Path:
        return directory_of(self.name)

    @property
    def address(self) -> str:
        return f"127.0.0.1:{self.port}"

    @property
    def authority(self) -> Path:
        return self.directory / "server" / AUTHORITY

    def save(self) -> None:
        """Write `state.json`."""
        write_text(self.directory / "state.json", json.dumps(asdict(self), indent=1) + "\n")

    def log(self, name: str) -> Path:
        """The log of the SuperLink or of a site."""
        return self.directory / ("server" if name == _SUPERLINK else f"sites/{name}") / "log"


def directory_of(name: str) -> Path:
    """Where a trial federation keeps everything. `UserError` for a name that is none."""
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9_-]{0,40}", name):
        raise UserError(f"--name {name!r}: must be letters, digits, - and _, such as 'trial'")
    return home() / "federations" / name


def names() -> list[str]:
    """The trial federations that are up, or were when their machine went down."""
    return sorted(path.parent.name for path in (home() / "federations").glob("*/state.json"))


def read(name: str) -> Trial | None:
    """The state of a trial federation; None if there is none of that name."""
    file = directory_of(name) / "state.json"
    if not file.is_file():
        return None
    kept = json.loads(file.read_text(encoding="utf-8"))
    return Trial(**(kept | {"processes": [Process(**process) for process in kept["processes"]]}))


def start(name: str, data: Sequence[Path], sites: int, port: int | None = None, models: Sequence[str] = ()) -> Trial:
    """Start a trial federation and wait until all its sites are connected.

    Parameters
    ----------
    data : Sequence[Path]
        A site for each; without any, `sites` sites with generated rows.
    port : int or None
        Of the SuperLink; None takes a free one.
    models : Sequence[str]
        Base models that runs may use at the sites, beside the packaged ones.

    Raises
    ------
    UserError
        Before anything has started: a name or port that is taken, data that is not there. Later: what did not start,
        with the end of its log; then all is ended again.
    """
    existing = read(name)
    if existing and any(process.alive() for process in existing.processes):
        raise UserError(f"the federation {name!r} is up; end it with `fedllm federation down --name {name}`")
    if existing:
        end(existing)
    files = _data_files(data)
    check_free(name)
    if port is not None and not is_free("127.0.0.1", port):
        raise UserError(f"--port {port}: another program listens there; leave the option out to take a free port")
    trial = Trial(name, port or free_port())
    make_directory(trial.directory)
    try:
        _start_superlink(trial)
        add_connection(name, trial.address, trial.authority)
        for site, file in (files or _generated(trial, sites)).items():
            _start_site(trial, site, file, models)
        _wait_for_sites(trial)
    except BaseException:
        end(trial)
        raise
    return trial


def end(trial: Trial) -> int:
    """End the processes that a federation started and remove its keys and certificates; how many were alive."""
    alive = [process for process in trial.processes if process.alive()]
    for process in reversed(alive):
        end_process_tree(process.pid)
    remove_connection(trial.name)
    for part in ("server", "sites"):
        shutil.rmtree(trial.directory / part, ignore_errors=True)
    (trial.directory / "state.json").unlink(missing_ok=True)
    return len(alive)


def _data_files(data: Sequence[Path]) -> dict[str, Path]:
    """The data by the name of its site, which is that of the file; a second of the same name gets a number."""
    missing = [str(path) for path in data if not path.exists()]
    if missing:
        raise UserError(f"--data: there is no such file: {', '.join(missing)}")
    files: dict[str, Path] = {}
    for path in data:
        stem = re.sub(r"[^\w-]+", "-", path.resolve().stem).strip("-") or "site"
        same = sum(1 for name in files if re.fullmatch(rf"{re.escape(stem)}(-\d+)?", name))
        files[f"{stem}-{same + 1}" if same else stem] = path.resolve()
    return files


def _generated(trial: Trial, sites: int) -> dict[str, Path]:
    """A file of generated questions for each site, one domain each, other questions where a domain comes again."""
    files = {}
    for number in range(sites):
        turn, domain = divmod(number, len(corpus.DOMAINS))[0], corpus.DOMAINS[number % len(corpus.DOMAINS)]
        site = f"{domain}-{turn + 1}" if turn else domain
        rows = corpus.questions(domain, "train", _GENERATED_ROWS, seed=turn)
        lines = (json.dumps({"question": row.instruction, "answer": row.answer}) for row in rows)
        files[site] = trial.directory / "data" / f"{site}.jsonl"
        write_text(files[site], "\n".join(lines) + "\n")
    return files


def _start_superlink(trial: Trial) -> None:
    server = trial.directory / "server"
    server.mkdir(mode=0o700, exist_ok=True)
    make_authority(server, trial.name)
    make_server_certificate(server, ["localhost", "127.0.0.1"])
    module = [sys.executable, "-P", "-m", "fedllm_app.sites.link", str(server)]
    kept = trial.directory / "homes" / "server"
    process = _launch(trial, _SUPERLINK, [*module, "--host", "127.0.0.1", "--port", str(trial.port)], kept)
    deadline = time.monotonic() + _START_TIMEOUT
    while time.monotonic() < deadline and process.poll() is None:
        if is_healthy(trial.address, trial.authority):
            return
        time.sleep(_LOOK_EVERY)
    raise LaunchError(f"the SuperLink did not start; its log ends with:\n{tail(trial.log(_SUPERLINK))}")


def is_healthy(address: str, authority: Path) -> bool:
    """Whether a SuperLink answers there, with a certificate of that authority."""
    try:
        context = ssl.create_default_context(cafile=str(authority))
        with urllib.request.urlopen(f"https://{address}/health", timeout=2, context=context):
            return True
    except (urllib.error.URLError, OSError):
        return False


def _start_site(trial: Trial, name: str, file: Path, models: Sequence[str]) -> None:
    kept, directory = trial.directory / "homes" / name, trial.directory / "sites" / name
    site = make_site(directory, trial.address, trial.authority, file, name, models=models, home=str(kept))
    with control(trial.address, trial.authority) as client:
        trial.sites[name] = register(client, site.key.with_name(f"{site.key.name}.pub"), name)
    module = [sys.executable, "-P", "-m", "fedllm_app.commands.main", "site", "start", str(site.directory)]
    _launch(trial, name, module, kept)


def _launch(trial: Trial, name: str, command: Sequence[str], kept: Path) -> subprocess.Popen:
    """Start a process that outlives this one, and keep its id at once, so that it can be ended whatever happens."""
    make_directory(kept)
    homes = {"FEDLLM_HOME": str(kept), "FLWR_HOME": str(kept / "flwr"), "PYTHONUNBUFFERED": "1"}
    with open(os.open(trial.log(name), os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600), "ab") as log:
        process = subprocess.Popen(
            command,
            cwd=kept,
            env=flower_environment() | homes,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            start_new_session=True,
        )
    trial.processes.append(Process(name, process.pid, psutil.Process(process.pid).create_time()))
    trial.save()
    return process


def _wait_for_sites(trial: Trial) -> None:
    deadline = time.monotonic() + _START_TIMEOUT
    missing = set(trial.sites)
    while time.monotonic() < deadline:
        with control(trial.address, trial.authority) as client:
            online = {node.node_id for node in nodes(client) if node.status == "online"}
        missing = {name for name, node in trial.sites.items() if node not in online}
        if not missing:
            return
        # A site starts its node again when it dies; here nothing has happened that would be over the second time.
        dead = [process.name for process in trial.processes if not process.alive() or _gave_up(trial, process.name)]
        if dead:
            raise LaunchError(f"{dead[0]} ended; its log ends with:\n{tail(trial.log(dead[0]))}")
        time.sleep(_LOOK_EVERY * 2)
    name = sorted(missing)[0]
    raise LaunchError(f"the site {name} did not connect; its log ends with:\n{tail(trial.log(name))}")


def _gave_up(trial: Trial, name: str) -> bool:
    return name in trial.sites and "the process ended:" in tail(trial.log(name))


def connected(trial: Trial) -> dict[str, str]:
    """The state of every site as the SuperLink knows it: online, offline, or registered and never there.

    `ControlError` if the SuperLink does not answer.
    """
    with control(trial.address, trial.authority) as client:
        states = {node.node_id: node.status for node in nodes(client)}
    return {name: states.get(node, "not registered") for name, node in trial.sites.items()}


def is_free(host: str, port: int) -> bool:
    """Whether this process could listen there."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family) as listener:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            listener.bind((host, port))
        except (OSError, OverflowError):
            return False
    return True
