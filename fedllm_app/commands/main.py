"""The `fedllm` command: what a user does before, around and after a run. One file a subcommand."""

import argparse
import signal
import sys

from rich.console import Console

from fedllm_app.commands import chat, demo, evaluate, federation, partition, plan, run, site
from fedllm_app.errors import UserError

SUBCOMMANDS = (run, demo, plan, partition, chat, evaluate, federation, site)
"""Each module has `add_parser`, which adds its options. To add a subcommand, write a file and name it here."""


def main(arguments: list[str] | None = None) -> int:
    """Entry point of `fedllm`; returns the exit status."""
    parsed = _parser().parse_args(arguments)
    console = Console()
    # Another process may end this one (a job scheduler, a time limit): stop Flower's processes then, as on Ctrl-C.
    signal.signal(signal.SIGTERM, _interrupt)
    try:
        return parsed.command(parsed, console)
    except UserError as error:
        console.print(str(error), style="red", markup=False, highlight=False, emoji=False)
        return 2
    except KeyboardInterrupt:
        console.print("stopped", style="red")
        return 130


def _interrupt(_number: int, _frame: object) -> None:
    signal.signal(signal.SIGTERM, signal.SIG_IGN)  # a second one must not interrupt the clean-up
    raise KeyboardInterrupt


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="fedllm", description=__doc__)
    subparsers = parser.add_subparsers(required=True, metavar="command")
    for subcommand in SUBCOMMANDS:
        subcommand.add_parser(subparsers)
    return parser


if __name__ == "__main__":
    sys.exit(main())
