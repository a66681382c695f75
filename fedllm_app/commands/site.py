"""`fedllm site`: make, check and run one site of a federation."""

import argparse
import os
import shutil
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType

from filelock import FileLock, Timeout
from rich.console import Console

from fedllm_app.client.policy import default_policy_text
from fedllm_app.client.site import DATA_OPTIONS
from fedllm_app.client.worker import WorkerSupervisor
from fedllm_app.client.worker_handover import VARIABLE
from fedllm_app.commands.flower import flower_environment, free_port
from fedllm_app.commands.options import APP_HELP, run_config
from fedllm_app.commands.supervisor import supervise
from fedllm_app.config.parse import parse_run_config
from fedllm_app.errors import UserError
from fedllm_app.paths import write_text
from fedllm_app.sites.findings import Finding, guarded
from fedllm_app.sites.keys import make_node_key
from fedllm_app.sites.service import unit_text
from fedllm_app.sites.site_file import FILE, Site, address_problem, lock_file, read_site, site_text

_STYLES = {"ok": "green", "warning": "yellow", "fails": "red"}
_REFUSED_COMMANDS = ("flwr-agentapp", "flwr-connector", "flwr-model", "flwr-serverapp", "flwr-simulation")


def add_parser(subparsers) -> None:
    """Add `fedllm site`."""
    parser = subparsers.add_parser("site", help="make, check and start one site of a federation")
    actions = parser.add_subparsers(required=True, metavar="action")

    init = actions.add_parser("init", help="write a site's files and its key pair")
    init.add_argument("directory", type=Path)
    init.add_argument("--superlink", required=True, help="host:port of the server")
    init.add_argument("--ca", required=True, type=Path, help="the certificate ca.crt that the operator sent")
    init.add_argument("--data", required=True, type=Path, help="the file, folder or saved data set of this site")
    init.add_argument("--name", required=True, help="what this site is called, such as berlin")
    init.add_argument("--model", action="append", default=[], help="a base model that runs may use: directory, Hub id")
    init.add_argument("--home", default="home", help="where the site keeps its state (default: home in DIRECTORY)")
    for option in DATA_OPTIONS:
        init.add_argument(f"--{option}")
    init.set_defaults(command=_init)

    check = actions.add_parser("check", help="find in a minute what would otherwise fail in round 1")
    check.add_argument("directory", type=Path)
    check.add_argument("--run-config", "-c", action="extend", nargs="+", metavar="CONFIG", help="as `fedllm run -c`")
    check.add_argument("--app", default=".", help=f"with -c: {APP_HELP}")
    check.set_defaults(command=_check)

    start = actions.add_parser("start", help="run the site's node in the foreground, with TLS and its key")
    start.add_argument("directory", type=Path)
    start.set_defaults(command=_start)


def _init(parsed: argparse.Namespace, console: Console) -> int:
    settings = {option: getattr(parsed, option.replace("-", "_")) for option in DATA_OPTIONS}
    settings = {option: value for option, value in settings.items() if value is not None}
    site = make_site(
        parsed.directory, parsed.superlink, parsed.ca, parsed.data, parsed.name, settings, parsed.model, parsed.home
    )
    public = site.key.with_name(f"{site.key.name}.pub")
    for line in (
        f"the site {site.name} is in {site.directory}: read and complete {FILE} and {site.policy.name} there",
        f"send to the operator: {public}",
        f"then: fedllm site check {site.directory}; fedllm site start {site.directory}",
        f"for systemd: {site.directory / 'fedllm-site.service'}",
    ):
        console.print(line, markup=False, highlight=False, soft_wrap=True)
    return 0


def make_site(
    directory: Path,
    superlink: str,
    authority: Path,
    data: Path,
    name: str,
    settings: Mapping[str, str] = MappingProxyType({}),
    models: Sequence[str] = (),
    home: str = "home",
) -> Site:
    """Write the files of a site. `UserError` before anything is written if a file is missing or a value is wrong."""
    if said := address_problem(superlink):
        raise UserError(f"--superlink {superlink!r}: {said}")
    for option, path in (("--ca", authority), ("--data", data)):
        if not path.exists():
            raise UserError(f"{option} {path}: there is no such file")
    directory = directory.resolve()
    if (directory / FILE).exists():
        raise UserError(f"{directory / FILE} is there already; edit it, or name a new directory")
    directory.mkdir(parents=True, exist_ok=True, mode=0o700)
    settings = {"data-path": str(data.resolve()), **settings}
    write_text(directory / FILE, site_text(superlink, name, settings, home, tuple(models)))
    try:
        site = read_site(directory)
    except UserError:
        (directory / FILE).unlink()
        raise
    shutil.copyfile(authority, site.authority)
    write_text(site.policy, default_policy_text())
    make_node_key(site.key)
    site.home.mkdir(parents=True, exist_ok=True, mode=0o700)
    write_text(directory / "fedllm-site.service", unit_text("site", directory))
    return site


def _check(parsed: argparse.Namespace, console: Console) -> int:
    """A line for each finding; 0 if nothing fails, else 1."""
    site = read_site(parsed.directory)
    os.environ.update(_homes(site))  # what is read and converted here is what the node finds then
    failed = 0
    for finding in _findings(site, parsed):
        failed += finding.level == "fails"
        line = f"{finding.level:<8} {finding.subject + ':':<14} {finding.text}"
        console.print(line, style=_STYLES[finding.level], markup=False, highlight=False, soft_wrap=True)
    console.print("this site can take part" if not failed else f"{failed} of these must be put right")
    return 1 if failed else 0


def _findings(site: Site, parsed: argparse.Namespace) -> Iterator[Finding]:
    from fedllm_app.sites import connection_checks, machine_checks

    checks: dict[str, Callable[[Site], Iterable[Finding]]] = {
        "key": connection_checks.check_key,
        "authority": connection_checks.check_authority,
        "server": connection_checks.check_server,
        "versions": machine_checks.check_versions,
        "disk": machine_checks.check_disk,
        "policy": machine_checks.check_policy,
        "GPU": machine_checks.check_gpu,
        "data": machine_checks.check_data,
    }
    for subject, check in checks.items():
        yield from guarded(subject, lambda check=check: check(site))
    if parsed.run_config:
        yield from guarded("run", lambda: _run_findings(site, parsed))


def _run_findings(site: Site, parsed: argparse.Namespace) -> Iterator[Finding]:
    from fedllm_app.sites.machine_checks import check_run

    flat = run_config(parsed, local=False)
    return check_run(site, flat, parse_run_config(flat))


def _start(parsed: argparse.Namespace, console: Console) -> int:
    site = read_site(parsed.directory)
    for path in (site.key, site.authority, site.policy):
        if not path.is_file():
            raise UserError(f"{path} does not exist; `fedllm site check {site.directory}` says what a site needs")
    site.home.mkdir(parents=True, exist_ok=True, mode=0o700)
    lock = FileLock(lock_file(site))
    try:
        lock.acquire(timeout=0)
    except Timeout:
        raise UserError(f"the site {site.name} runs already: another process holds {lock.lock_file}") from None
    environment = site_environment(site)
    with lock, WorkerSupervisor(environment=environment) as worker:
        said = f"site {site.name}: node of {site.superlink}; Ctrl-C ends it"
        console.print(said, markup=False, highlight=False, soft_wrap=True)
        supervise(lambda: _node_command(site), environment | {VARIABLE: str(worker.socket)}, site.home, console)
    return 0


def _node_command(site: Site) -> list[str]:
    port, parent = str(free_port()), str(os.getpid())
    # -P: the working directory is no place to import from.
    module = [sys.executable, "-P", "-m", "fedllm_app.sites.node"]
    return [*module, str(site.directory), "--port", port, "--parent-pid", parent]


def site_environment(site: Site) -> dict[str, str]:
    """The environment of a site's processes: its own homes, and commands that run the installed app only."""
    environment = flower_environment()
    path = str(_commands(site)) + os.pathsep + environment["PATH"]
    # A node's log is read while it runs.
    return environment | _homes(site) | {"PATH": path, "PYTHONUNBUFFERED": "1"}


def _homes(site: Site) -> dict[str, str]:
    return {"FEDLLM_HOME": str(site.home), "FLWR_HOME": str(site.home / "flwr")}


def _commands(site: Site) -> Path:
    """A directory with the commands by which Flower starts a message's process; only that of a ClientApp does any
    work."""
    directory = site.home / "bin"
    directory.mkdir(exist_ok=True, mode=0o700)
    client = f'exec "{_for_shell(sys.executable)}" -P -m fedllm_app.sites.client_process "$@"'
    refusal = 'echo "$0: a site runs ClientApps only" >&2\nexit 1'
    for name, body in {"flwr-clientapp": client, **dict.fromkeys(_REFUSED_COMMANDS, refusal)}.items():
        write_text(directory / name, f"#!/bin/sh\n{body}\n")
        (directory / name).chmod(0o700)
    return directory


def _for_shell(text: str) -> str:
    """A text between double quotes of a shell."""
    return "".join(f"\\{character}" if character in '\\"$`' else character for character in text)
