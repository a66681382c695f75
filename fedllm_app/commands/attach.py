"""`fedllm watch`: shows a run of a connection from its beginning, as `fedllm run` does; and what both share."""

import argparse
import shlex
from collections.abc import Collection
from pathlib import Path

from rich.console import Console

from fedllm_app.commands.flower import LaunchError, flower_environment, is_local, run_status
from fedllm_app.commands.follow import FileEvents, Outcome, exit_status, follow, say_end
from fedllm_app.commands.log_stream import LogEvents, LogStream
from fedllm_app.commands.options import positive_integer
from fedllm_app.commands.watch import Watch
from fedllm_app.runs.directory import RunDirectory

_INTERRUPTED = 130  # exit status


def add_parser(subparsers) -> None:
    """Add `fedllm watch`."""
    parser = subparsers.add_parser("watch", help="show a run of a connection, from its beginning")
    add_run_options(parser)
    parser.set_defaults(command=_watch)


def add_run_options(parser: argparse.ArgumentParser) -> None:
    """The options that name a run of a connection."""
    parser.add_argument("run", type=positive_integer, metavar="RUN_ID", help="as `fedllm run` shows it")
    parser.add_argument("superlink", nargs="?", help="connection of Flower's configuration (default: its default one)")


def connection_of(parsed: argparse.Namespace) -> str | None:
    """The connection that is asked for. `LaunchError` if it is the local one, whose runs end with their command."""
    if is_local(parsed.superlink):
        raise LaunchError(
            "a run on this machine belongs to the command that started it: Ctrl-C there ends it, and its directory has "
            "its journal. Name the connection of another SuperLink after the run's id"
        )
    return parsed.superlink


def _watch(parsed: argparse.Namespace, console: Console) -> int:
    return exit_status(follow_connection(parsed.run, connection_of(parsed), None, Watch(console)))


def follow_connection(run_id: int, connection: str | None, directory: RunDirectory | None, watch: Watch) -> Outcome:
    """Show a run of a connection until it ends, and say how. Interrupted, say how to go on.

    Parameters
    ----------
    directory : RunDirectory | None
        The run directory, if it is known; a path of the SuperLink's machine, which may be this one.
    """
    environment, console = flower_environment(), watch.console
    named = f"{run_id} {connection or ''}".strip()
    console.print(
        f"what the server says: flwr log {named}; the run goes on if this command ends",
        markup=False,
        highlight=False,
    )
    log = LogEvents(LogStream(run_id, connection, environment))
    sources = [log, FileEvents(directory, run_id)] if directory else [log]
    path = str(directory.path) if directory else ""
    try:
        outcome = follow(run_id, sources, watch, lambda: run_status(run_id, connection, environment), directory=path)
    except KeyboardInterrupt:
        console.print(
            f"this command ended; run {run_id} goes on. To see it again: fedllm watch {named}. To stop it: fedllm stop "
            f"{named}",
            markup=False,
            highlight=False,
        )
        raise SystemExit(_INTERRUPTED) from None
    finally:
        log.close()
    say_end(outcome, console, lambda: _last_words(log.last_lines), _is_here(outcome))
    if not outcome and outcome.directory and not _is_here(outcome):
        again = " ".join(["fedllm run .", *filter(None, [connection]), "--resume", shlex.quote(outcome.directory)])
        console.print(
            f"if it has a checkpoint, it goes on with: {again}", markup=False, highlight=False, soft_wrap=True
        )
    return outcome


def _is_here(outcome: Outcome) -> bool:
    try:
        return bool(outcome.directory) and RunDirectory(Path(outcome.directory)).journal_file.exists()
    except OSError:
        return False


def _last_words(lines: Collection[str]) -> str:
    """The end of Flower's log; "" where nothing of it came."""
    return "\n".join(["the end of Flower's log:", *lines]) if lines else ""
