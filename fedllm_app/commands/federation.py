"""`fedllm federation`: the operator's side of a deployment, and a whole federation on one machine for a trial."""

import argparse
import os
import sys
from pathlib import Path

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from fedllm_app.commands import trial
from fedllm_app.commands.connections import add_connection, check_free, configuration_file
from fedllm_app.commands.flower import flower_environment
from fedllm_app.commands.options import positive_integer
from fedllm_app.commands.supervisor import supervise
from fedllm_app.commands.trial import is_free
from fedllm_app.errors import UserError
from fedllm_app.paths import write_text
from fedllm_app.sites.control import ControlError, control, runs
from fedllm_app.sites.keys import (
    AUTHORITY,
    AUTHORITY_KEY,
    SERVER,
    SERVER_KEY,
    make_authority,
    make_server_certificate,
    read_certificate,
)
from fedllm_app.sites.link import networks_of
from fedllm_app.sites.service import unit_text
from fedllm_app.sites.site_file import address_problem

_RUNS = 5  # that a status lists


def add_parser(subparsers) -> None:
    """Add `fedllm federation`."""
    parser = subparsers.add_parser("federation", help="the operator's side; a federation on one machine for a trial")
    actions = parser.add_subparsers(required=True, metavar="action")

    certificates = actions.add_parser(
        "certificates", help="make the authority and the server's certificate, or a new one"
    )
    certificates.add_argument("directory", type=Path)
    certificates.add_argument(
        "--host", action="append", required=True, help="name or address by which sites reach the server; any number"
    )
    certificates.add_argument("--days", type=positive_integer, default=365, help="how long it is valid (default: 365)")
    certificates.set_defaults(command=_certificates)

    serve = actions.add_parser("serve", help="run the SuperLink in the foreground, with TLS and node keys")
    serve.add_argument("directory", type=Path, help="made by `fedllm federation certificates`")
    serve.add_argument("--host", default="0.0.0.0", help="address to listen on (default: all of this machine)")
    serve.add_argument("--port", type=positive_integer, default=8000)
    serve.add_argument(
        "--runs-from",
        action="extend",
        nargs="+",
        default=[],
        metavar="NETWORK",
        help="who may start runs, beside this machine: addresses or networks such as 10.1.0.0/16",
    )
    serve.set_defaults(command=_serve)

    connect = actions.add_parser("connect", help="add a connection to Flower's configuration, for `fedllm run`")
    connect.add_argument("name")
    connect.add_argument("--superlink", required=True, help="host:port of the server")
    connect.add_argument("--ca", required=True, type=Path, help="the certificate ca.crt")
    connect.set_defaults(command=_connect)

    up = actions.add_parser("up", help="start a federation on this machine, with TLS and node keys")
    up.add_argument("--name", default="trial", help="its name, and that of the connection for `fedllm run`")
    up.add_argument("--sites", type=positive_integer, help="how many sites with generated rows (default: 3)")
    up.add_argument("--data", action="append", type=Path, default=[], help="a data file; one site for each")
    up.add_argument("--port", type=positive_integer, help="of the SuperLink (default: a free one)")
    up.add_argument("--model", action="append", default=[], help="a base model that runs may use: directory, Hub id")
    up.set_defaults(command=_up)

    status = actions.add_parser("status", help="its processes, nodes and latest runs")
    status.add_argument("--name", help="default: all that are up")
    status.set_defaults(command=_status)

    down = actions.add_parser("down", help="end exactly what `up` started; data and runs stay")
    down.add_argument("--name", default="trial")
    down.set_defaults(command=_down)


def _certificates(parsed: argparse.Namespace, console: Console) -> int:
    """What a server needs in one directory; again, a new certificate by the same authority."""
    directory = parsed.directory.resolve()
    directory.mkdir(parents=True, exist_ok=True, mode=0o700)
    make_authority(directory, parsed.host[0])
    # Flower's own processes on the server's machine reach it by these.
    make_server_certificate(directory, dict.fromkeys([*parsed.host, "localhost", "127.0.0.1"]), parsed.days)
    write_text(directory / "fedllm-federation.service", unit_text("federation", directory))
    for line in (
        f"send to every site: {directory / AUTHORITY}",
        f"keep secret, and a copy elsewhere: {directory / AUTHORITY_KEY}",
        f"valid for {parsed.days} days: {directory / SERVER}; then call this again and restart the server",
        f"for systemd: {directory / 'fedllm-federation.service'}",
    ):
        console.print(line, markup=False, highlight=False, soft_wrap=True)
    return 0


def _serve(parsed: argparse.Namespace, console: Console) -> int:
    directory = parsed.directory.resolve()
    for name in (AUTHORITY, SERVER, SERVER_KEY):
        if not (directory / name).is_file():
            raise UserError(f"{directory / name} does not exist: `fedllm federation certificates` makes it")
    networks_of(parsed.runs_from)
    if not is_free(parsed.host, parsed.port):
        raise UserError(f"--host {parsed.host} --port {parsed.port}: cannot listen there; is another server running?")
    work = directory / "work"  # empty, so that nothing there is imported instead of the app
    work.mkdir(exist_ok=True, mode=0o700)
    options = ["--host", parsed.host, "--port", str(parsed.port), "--parent-pid", str(os.getpid())]
    allowed = ["--runs-from", *parsed.runs_from] if parsed.runs_from else []
    command = [sys.executable, "-P", "-m", "fedllm_app.sites.link", str(directory), *options, *allowed]
    said = f"runs are accepted from this machine{' and ' + ', '.join(parsed.runs_from) if parsed.runs_from else ''}"
    console.print(f"{said}; Ctrl-C ends the server", markup=False, highlight=False, soft_wrap=True)
    supervise(lambda: command, flower_environment() | {"PYTHONUNBUFFERED": "1"}, work, console)
    return 0


def _connect(parsed: argparse.Namespace, console: Console) -> int:
    if said := address_problem(parsed.superlink):
        raise UserError(f"--superlink {parsed.superlink!r}: {said}")
    read_certificate(parsed.ca)
    check_free(parsed.name)
    add_connection(parsed.name, parsed.superlink, parsed.ca.resolve())
    said = f"{configuration_file()} has the connection {parsed.name}: fedllm run . {parsed.name} …"
    console.print(said, markup=False, highlight=False, soft_wrap=True)
    return 0


def _up(parsed: argparse.Namespace, console: Console) -> int:
    if parsed.data and parsed.sites:
        raise UserError("--sites and --data: with --data there is a site for each file; leave --sites out")
    console.print("starting a SuperLink and the sites …", style="dim")
    started = trial.start(parsed.name, parsed.data, parsed.sites or 3, parsed.port, parsed.model)
    _print_processes(started, console)
    directory = started.directory / "homes" / "server" / "runs" / "first"
    for line in (
        "run on it, in the directory of the app:",
        f"  fedllm run . {started.name} -c \"clients.number={len(started.sites)} run.directory='{directory}'\"",
        f"end it: fedllm federation down --name {started.name}",
        f"keys, certificates and logs: {started.directory}",
    ):
        console.print(line, markup=False, highlight=False, soft_wrap=True)
    return 0


def _status(parsed: argparse.Namespace, console: Console) -> int:
    """0 if all processes live and all sites are connected, else 1."""
    asked = [parsed.name] if parsed.name else trial.names()
    if not asked:
        console.print("no federation is up on this machine; `fedllm federation up` starts one")
        return 1
    return max([_show(name, console) for name in asked])


def _found(name: str) -> trial.Trial:
    found = trial.read(name)
    if found is None:
        up = ", ".join(trial.names()) or "none"
        raise UserError(f"there is no federation {name!r} on this machine; up are: {up}")
    return found


def _show(name: str, console: Console) -> int:
    found = _found(name)
    well = _print_processes(found, console)
    try:
        with control(found.address, found.authority) as client:
            latest = runs(client)
    except ControlError as error:
        console.print(str(error), style="red", markup=False, highlight=False, soft_wrap=True)
        return 1
    for run_id, status in list(latest.items())[-_RUNS:]:
        console.print(f"run {run_id}: {status}", markup=False, highlight=False)
    if not latest:
        console.print("no run yet")
    return 0 if well else 1


def _print_processes(found: trial.Trial, console: Console) -> bool:
    """A line for each process; whether all live and all sites are connected."""
    try:
        states = trial.connected(found)
    except ControlError:
        states = {}
    table = Table(title=f"federation {escape(found.name)}, {found.address}")
    for column in ("process", "id", "state", "log"):
        table.add_column(column, overflow="fold")
    well = True
    for process in found.processes:
        state = states.get(process.name, "not connected") if process.name in found.sites else "running"
        state = state if process.alive() else "ended"
        well = well and state in ("running", "online")
        log = found.log(process.name).relative_to(found.directory)
        table.add_row(escape(process.name), str(process.pid), state, escape(str(log)))
    console.print(table)
    return well


def _down(parsed: argparse.Namespace, console: Console) -> int:
    found = _found(parsed.name)
    ended = trial.end(found)
    left = f"runs and client state: {found.directory / 'homes'}"
    console.print(f"ended {ended} processes; keys and certificates removed; {left}", markup=False, soft_wrap=True)
    return 0
