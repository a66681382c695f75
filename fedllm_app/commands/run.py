"""`fedllm run`: submit a run, show its progress, and say truthfully how it ended."""

import argparse
import os
import tempfile
import time
from contextlib import nullcontext
from datetime import datetime
from itertools import dropwhile
from pathlib import Path

from rich.console import Console

from fedllm_app.client.progress import Tail, progress_file
from fedllm_app.commands.flower import LaunchError, LocalSuperLink, flower_environment, run_status, submit_run, tail
from fedllm_app.commands.options import add_app_parser, run_config, warn_of_unread
from fedllm_app.commands.resumed import resumed_config
from fedllm_app.commands.start_checks import check_resources, check_start
from fedllm_app.commands.watch import Watch, summary
from fedllm_app.config.parse import parse_run_config
from fedllm_app.config.sections import Config
from fedllm_app.federation.participation import never_contributed
from fedllm_app.runs.directory import RunDirectory, read_result
from fedllm_app.runs.journal import RESUMED, STARTED
from fedllm_app.tasks import task_spec

_LOOK_EVERY = 0.3  # seconds between looks at the journal
_ASK_FLOWER_EVERY = 20.0  # seconds of silence after which Flower is asked whether the run is alive
_UNANSWERED = 15  # times in a row that Flower may fail to answer
_INTERRUPTED = 130  # exit status
_INCOMPLETE = 3  # exit status


def add_parser(subparsers) -> None:
    """Add `fedllm run`."""
    parser = add_app_parser(subparsers, "run", _run, "run the app and wait: the options of `flwr run`")
    parser.add_argument("superlink", nargs="?", help="connection of Flower's configuration (default: local)")
    parser.add_argument("--federation-config", help="as `flwr run`: 'num-supernodes=4 client-resources-num-cpus=1'")
    parser.add_argument(
        "--resume",
        metavar="RUN_DIR",
        help="go on with the run of this directory after its last checkpoint; -c may change train.rounds and time-outs",
    )
    parser.add_argument("--federation", help="as `flwr run`: @account/federation")


def _run(parsed: argparse.Namespace, console: Console) -> int:
    """What `flwr run` does, and then wait, show progress and report how the run ended."""
    local = is_local(parsed.superlink)
    flat = resumed_config(parsed, local) if parsed.resume else run_config(parsed, local)
    warn_of_unread(parsed, flat, console)
    if not flat["run.directory"] and local:
        flat["run.directory"] = str(new_directory(str(flat["strategy.name"])))
    app = Path(parsed.app).resolve()
    finished = run_to_end(app, flat, console, parsed.superlink, parsed.federation_config, parsed.federation)
    return exit_status(finished, Path(flat["run.directory"]))


def exit_status(finished: bool, directory: Path) -> int:
    """0 for a finished run, 1 for a failed one, 3 if it finished and a client that was drawn never contributed.

    Where the run directory cannot be seen from here, a finished run is 0.
    """
    if not finished:
        return 1
    result = read_result(directory)
    return _INCOMPLETE if result is not None and never_contributed(result.get("participation", ())) else 0


def run_to_end(
    app: Path,
    flat: dict,
    console: Console,
    connection: str | None = None,
    federation_config: str | None = None,
    federation: str | None = None,
) -> bool:
    """Run `app` under the flat configuration, show its progress, and say whether it finished.

    Over a connection the run directory is one of the SuperLink's machine. Only where it can be seen from here as well
    is progress shown; else Flower alone knows how the run ends.
    """
    config = parse_run_config(flat)
    local = is_local(connection)
    if not local and not config.run.directory:
        raise LaunchError(
            "run.directory = '': over a connection it must be an absolute path on the SuperLink's machine, such as "
            "'/runs/first'"
        )
    directory = RunDirectory(Path(config.run.directory))
    if not config.run.resume and directory.began():
        raise LaunchError(f"run.directory = {config.run.directory!r} holds another run; name a new directory")
    check_start(config, local)
    if local:
        check_resources(federation_config or "")
        with directory.held():
            if not config.run.resume:
                directory.put_failed_start_aside()
    log_file = directory.path / "flower.log"
    with tempfile.TemporaryDirectory() as scratch:
        overrides = Path(scratch) / "run.toml"
        overrides.write_text("".join(f'"{key}" = {_toml(value)}\n' for key, value in flat.items()), encoding="utf-8")
        options = ["--run-config", str(overrides)]
        if local or federation_config:
            options += ["--federation-config", federation_config or default_federation(config)]
        options += ["--federation", federation] if federation else []
        with LocalSuperLink(log_file) if local else nullcontext() as superlink:
            environment = superlink.environment if superlink else flower_environment()
            run_id = submit_run(app, connection, options, environment)
            if not local:
                notice = (
                    f"what the server says: flwr log {run_id} {connection or ''}; the run goes on if this command ends"
                )
                console.print(notice, markup=False, highlight=False)
            try:
                finished = _follow(run_id, directory, config, console, connection, environment)
            except KeyboardInterrupt:
                if local:
                    raise
                ended = f"this command ended; run {run_id} goes on. To stop it: flwr stop {run_id} {connection}"
                console.print(ended, markup=False, highlight=False)
                raise SystemExit(_INTERRUPTED) from None
    _say_end(finished, directory, log_file, local, console)
    return finished


def _say_end(finished: bool, directory: RunDirectory, log_file: Path, local: bool, console: Console) -> None:
    result = read_result(directory.path) if finished else None
    files = "its files" if directory.journal_file.exists() else "its files, on the SuperLink's machine"
    if result is not None:
        console.print(summary(result, str(directory.path)))
        never = never_contributed(result.get("participation", ()))
        if never:
            names = ", ".join(f"{line['client']} ({line['name']})" for line in never)
            said = f"clients that were drawn and never contributed: {names}"
            console.print(said, style="yellow", markup=False, highlight=False)
    elif finished:
        console.print(f"the run finished; {files}: {directory.path}", markup=False, highlight=False)
    else:
        journal = Tail(directory.journal_file).new()
        if local and not any(event["event"] == "failed" for event in journal):  # else its reason was shown
            console.print(f"the end of {log_file}:\n{tail(log_file)}", markup=False, highlight=False)
        console.print(f"the run failed; {files}: {directory.path}", style="red", markup=False, highlight=False)


def new_directory(name: str) -> Path:
    return Path("runs").resolve() / f"{datetime.now():%Y%m%d-%H%M%S}-{name}"


def default_federation(config: Config) -> str:
    """Simulated nodes and their CPUs: one node a client, and as many at a time as take part and cores allow."""
    clients = config.clients.number or 2
    at_once = min(config.clients.per_round or clients, os.cpu_count() or 1)
    cpus = max(1, (os.cpu_count() or 1) // at_once)
    return f"num-supernodes={clients} client-resources-num-cpus={cpus}"


def is_local(connection: str | None) -> bool:
    """Whether a connection of Flower's configuration is its local simulation. `LaunchError` if there is none."""
    import click
    from flwr.cli.flower_config import read_superlink_connection

    try:
        address = read_superlink_connection(connection).address
    except click.ClickException as error:
        raise LaunchError(error.message) from error
    return address is None or address.startswith(":local")


def _follow(run_id, directory: RunDirectory, config: Config, console: Console, connection, environment) -> bool:
    """Show the run until it ends; whether it finished. Of a server whose files are elsewhere, Flower alone knows."""
    journal = Tail(directory.journal_file)
    steps = Tail(progress_file(run_id))
    train = config.train
    heard, unanswered, started = time.monotonic(), 0, False
    metrics = task_spec(train.task).metrics
    with Watch(console, train.rounds, config.clients.per_round, train.local_steps, metrics) as watch:
        while True:
            result = read_result(directory.path)
            events, lines = journal.new(), steps.new()
            events = events if started else _since_start(events, run_id)
            started = started or bool(events)
            for event in events:
                watch.event(event)
            for line in lines:
                watch.step(line)
            if result is not None and started:
                return True
            if any(event["event"] == "failed" for event in events):
                return False
            if events or lines:
                heard = time.monotonic()
            elif time.monotonic() - heard > _ASK_FLOWER_EVERY:
                heard = time.monotonic()
                try:
                    status, details = run_status(run_id, connection, environment)
                except LaunchError:
                    unanswered += 1  # a network has its moments, and the run goes on without this command
                    if unanswered == _UNANSWERED:
                        raise
                    continue
                unanswered = 0
                if status.startswith("finished") and started:
                    return read_result(directory.path) is not None
                if status.startswith("finished"):
                    if status != "finished:completed":
                        console.print(f"{status}: {details}", markup=False, highlight=False)
                    return status == "finished:completed"
            time.sleep(_LOOK_EVERY)


def _since_start(events: list[dict], run_id: int) -> list[dict]:
    """The events from a run's start on. Its directory may hold the journal of an earlier one, which failed at once."""
    return list(dropwhile(lambda event: event["event"] not in (STARTED, RESUMED) or event["run_id"] != run_id, events))


def _toml(value: bool | int | float | str) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, str):
        escaped = value.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")
        return f'"{escaped}"'
    return repr(value)
