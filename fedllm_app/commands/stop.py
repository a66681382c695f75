"""`fedllm stop`: ends a run of a connection, and waits until it has ended."""

import argparse
import time

from rich.console import Console

from fedllm_app.commands.attach import add_run_options, connection_of
from fedllm_app.commands.flower import LaunchError, flower_environment, run_status, stop_run

_LOOK_EVERY = 1.0  # seconds
_TIMEOUT = 120.0  # seconds


def add_parser(subparsers) -> None:
    """Add `fedllm stop`."""
    parser = subparsers.add_parser("stop", help="end a run of a connection; its checkpoints stay")
    add_run_options(parser)
    parser.set_defaults(command=_stop)


def _stop(parsed: argparse.Namespace, console: Console) -> int:
    connection, environment = connection_of(parsed), flower_environment()
    status, _ = run_status(parsed.run, connection, environment)
    if status.startswith("finished"):
        console.print(f"run {parsed.run} had ended before: {status}", markup=False, highlight=False)
        return 0
    stop_run(parsed.run, connection, environment)
    deadline = time.monotonic() + _TIMEOUT
    while not (status := run_status(parsed.run, connection, environment)[0]).startswith("finished"):
        if time.monotonic() > deadline:
            raise LaunchError(f"run {parsed.run} is still {status} {_TIMEOUT:.0f} s after Flower was asked to stop it")
        time.sleep(_LOOK_EVERY)
    console.print(
        f"run {parsed.run} has stopped ({status}). A client that trains finishes its step first. To go on from the "
        "last checkpoint: fedllm run --resume RUN_DIR",
        markup=False,
        highlight=False,
    )
    return 0
