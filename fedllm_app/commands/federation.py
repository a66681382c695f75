"""`fedllm federation`: the operator's side of a deployment, and a whole federation on one machine for a trial."""

import argparse
from pathlib import Path

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from fedllm_app.commands import trial
from fedllm_app.commands.options import positive_integer
from fedllm_app.errors import UserError
from fedllm_app.sites.control import ControlError, control, runs

_RUNS = 5  # that a status lists


def add_parser(subparsers) -> None:
    """Add `fedllm federation`."""
    parser = subparsers.add_parser("federation", help="the operator's side; a federation on one machine for a trial")
    actions = parser.add_subparsers(required=True, metavar="action")

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


def _show(name: str, console: Console) -> int:
    found = trial.read(name)
    if found is None:
        raise UserError(
            f"there is no federation {name!r} on this machine; up are: {', '.join(trial.names()) or 'none'}"
        )
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
    found = trial.read(parsed.name)
    if found is None:
        raise UserError(
            f"there is no federation {parsed.name!r} on this machine; up are: {', '.join(trial.names()) or 'none'}"
        )
    ended = trial.end(found)
    left = f"runs and client state: {found.directory / 'homes'}"
    console.print(f"ended {ended} processes; keys and certificates removed; {left}", markup=False, soft_wrap=True)
    return 0
