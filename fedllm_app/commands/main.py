"""The `fedllm` command: what a user does before, around and after a run. One file a subcommand."""

import argparse
import importlib
import os
import signal
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress

import shtab
from rich.console import Console

from fedllm_app.commands.command_parser import CommandParser, Version
from fedllm_app.errors import UserError

_RUNS = ("run", "watch", "stop", "fetch", "runs", "report")
_MODELS = ("chat", "evaluate", "merge", "export")
SUBCOMMANDS = (*_RUNS, "demo", "compare", "plan", "partition", *_MODELS, "federation", "site", "init")
"""Each has a module of this name beside this file, with `add_parser`, which adds its options. To add a subcommand,
write a file and name it here."""

_ELSEWHERE = {"watch": "attach"}  # the module of a subcommand that has another name

_IN_A_FILE = 160  # columns
_ENDING = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


def main(arguments: list[str] | None = None) -> int:
    """Entry point of `fedllm`; returns the exit status."""
    arguments = sys.argv[1:] if arguments is None else arguments
    parsed = command_parser(*arguments[:1]).parse_args(arguments)
    console = _console()
    if sys.stderr is None or not sys.stderr.isatty():  # there each step of a progress bar is a line
        os.environ.setdefault("TQDM_DISABLE", "1")  # tqdm reads this when it is loaded
    with _ended_in_order():
        try:
            return parsed.command(parsed, console)
        except UserError as error:
            console.print(str(error), style="red", markup=False, highlight=False, emoji=False, soft_wrap=True)
            return 2
        except KeyboardInterrupt:
            with suppress(OSError):  # the terminal may be gone
                console.print("stopped", style="red")
            return 130


def _console() -> Console:
    """The terminal; or a file or pipe, where lines may be long, so that no path in a table is broken over two."""
    console = Console()
    if not console.is_terminal and "COLUMNS" not in os.environ:
        console.width = _IN_A_FILE
    return console


@contextmanager
def _ended_in_order() -> Iterator[None]:
    """Let the signals that end a command do what Ctrl-C does: a job scheduler's, a time limit's, a closed terminal's.

    What is ignored stays ignored (`nohup`). Only the first counts: a second one must not interrupt the clean-up.
    """
    before = {number: signal.getsignal(number) for number in _ENDING}

    def interrupt(_number: int, _frame: object) -> None:
        for number in _ENDING:
            signal.signal(number, signal.SIG_IGN)
        raise KeyboardInterrupt

    for number, handler in before.items():
        if handler != signal.SIG_IGN:
            signal.signal(number, interrupt)
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def command_parser(first: str = "") -> argparse.ArgumentParser:
    """The parser of the command line.

    Parameters
    ----------
    first : str
        The first word of the command line. After a subcommand, that one alone is there: the others' modules need not be
        imported, which takes most of the time of a short command.
    """
    parser = CommandParser(prog="fedllm", description="Federated fine-tuning of language models")
    parser.add_argument("--version", action=Version, nargs=0, help="the versions of the app and of what it runs on")
    shtab.add_argument_to(parser, "--print-completion", help="a script by which a shell completes commands and options")
    subparsers = parser.add_subparsers(required=True, metavar="command")
    for name in _needed(first):
        module = importlib.import_module(f"fedllm_app.commands.{_ELSEWHERE.get(name, name)}")
        module.add_parser(subparsers)
    return parser


def _needed(first: str) -> Sequence[str]:
    if first == "--version":
        return ()
    return (first,) if first in SUBCOMMANDS else SUBCOMMANDS


if __name__ == "__main__":
    sys.exit(main())
