"""Options that several subcommands have: the app, its configuration, and numbers with bounds."""

import argparse
import math
import sys
from collections.abc import Callable
from pathlib import Path

from rich.console import Console

from fedllm_app.commands.overrides import read_overrides, resolve_paths
from fedllm_app.config.app_files import PACKAGE, app_directory
from fedllm_app.config.parse import default_run_config, parse_run_config
from fedllm_app.config.unread import unread_settings

APP_HELP = "directory of the app (default: this one; the installed app if this is none)"

Subcommand = Callable[[argparse.Namespace, Console], int]


def add_app_parser(subparsers, name: str, subcommand: Subcommand, summary: str) -> argparse.ArgumentParser:
    """A subcommand that reads the app's configuration: its parser has the options `app` and `--run-config`."""
    parser = subparsers.add_parser(name, help=summary)
    parser.add_argument("app", nargs="?", default=".", help=APP_HELP)
    add_run_config(parser)
    parser.set_defaults(command=subcommand)
    return parser


def add_run_config(parser: argparse.ArgumentParser) -> None:
    """Add `--run-config`."""
    told = "TOML or YAML files, names of presets, and key=value pairs; later ones win"
    parser.add_argument("--run-config", "-c", action="extend", nargs="+", metavar="CONFIG", help=told)


def run_config(parsed: argparse.Namespace, local: bool = True) -> dict[str, bool | int | float | str]:
    """The app's defaults with the overrides of `--run-config`, flat; relative paths are those of this directory.

    `local` tells that the run directory is on this machine.
    """
    defaults = app_defaults(app_directory(parsed.app))
    return resolve_paths(defaults | read_overrides(parsed.run_config or [], defaults), Path.cwd(), local)


def app_defaults(app: Path) -> dict[str, bool | int | float | str]:
    """The flat defaults of an app. From then on its modules can be imported here, as Flower lets the run do."""
    if app != PACKAGE and str(app) not in sys.path:
        sys.path.append(str(app))
    return default_run_config(app)


def warn_of_unread(parsed: argparse.Namespace, flat: dict[str, bool | int | float | str], console: Console) -> None:
    """Name what a pair of `--run-config` sets and this run does not read, such as the step of another strategy.

    Files are left out: a preset sets the values of every strategy, so that another one is one more pair.
    """
    pairs = [text for text in parsed.run_config or [] if "=" in text]
    given = read_overrides(pairs, flat)
    for line in unread_settings(given, parse_run_config(flat)):
        console.print(f"warning: {line}", style="yellow", markup=False, highlight=False)


def positive_integer(text: str) -> int:
    """Parse a whole number of at least 1."""
    if not text.isdecimal() or (number := int(text)) < 1:
        raise argparse.ArgumentTypeError(f"{text}: must be a whole number, at least 1")
    return number


def not_negative(text: str) -> float:
    """Parse a finite number of at least 0."""
    try:
        number = float(text)
    except ValueError:
        number = math.nan
    if not 0 <= number < math.inf:
        raise argparse.ArgumentTypeError(f"{text}: must be a number, 0 or more")
    return number
