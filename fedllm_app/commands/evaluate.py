"""`fedllm evaluate`: base and adapters side by side on suites of test sets, with intervals and paired tests."""

import argparse
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import Console

from fedllm_app.commands.options import positive_integer
from fedllm_app.errors import UserError
from fedllm_app.evaluation.extra import check_extra
from fedllm_app.evaluation.suite import PLAIN, RUN
from fedllm_app.models.base import ModelValues
from fedllm_app.paths import expanded, home

if TYPE_CHECKING:
    from fedllm_app.evaluation.contestants import Contestant

_SHOWN = ("wrong", "right", "differ", "missing", "all")


def add_parser(subparsers) -> None:
    """Add `fedllm evaluate`."""
    parser = subparsers.add_parser("evaluate", help="base and adapters side by side on test sets")
    parser.add_argument("directories", nargs="*", metavar="run", help="run directories, checkpoints, PEFT directories")
    parser.add_argument(
        "--suite",
        "-s",
        action="extend",
        nargs="+",
        default=[],
        metavar="SUITE",
        help="names (--list shows them), the path of your own suite, file:PATH, or lm-eval:TASK,TASK",
    )
    parser.add_argument(
        "--only", action="extend", nargs="+", default=[], metavar="SET", help="these sets of the suites"
    )
    parser.add_argument("--list", action="store_true", help="show the suites, their sets, metrics and rules, and end")
    parser.add_argument("--data-dir", type=Path, metavar="DIR", help="where local copies of the sets are")
    parser.add_argument("--limit", type=positive_integer, default=0, metavar="N", help="questions of each set")
    parser.add_argument(
        "--seeds", type=positive_integer, default=1, metavar="K", help="repeat with K different samples of --limit"
    )
    parser.add_argument("--base", action="store_true", help="the base model, too")
    parser.add_argument("--clients", action="store_true", help="insist on the adapters of clients that trained alone")
    parser.add_argument(
        "--template", help=f"'{RUN}': every set in the run's template; '{PLAIN}': in its protocol's text; or a template"
    )
    parser.add_argument("--system-prompt", metavar="TEXT", help="instead of the recorded one; '' = the template's own")
    parser.add_argument("--out", type=Path, metavar="DIR", help="where tables and answers are written")
    parser.add_argument("--show", choices=_SHOWN, help="show saved answers: of the report directories that are named")
    parser.add_argument("--run-code", action="store_true", help="run code that models write, in a sandbox")
    parser.add_argument("--batch-size", type=positive_integer, default=0, metavar="N", help="rows (default: by length)")
    parser.add_argument("--threads", type=positive_integer, default=0, metavar="N", help="of the CPU (default: all)")
    parser.add_argument("--model", help="instead of the recorded base: a built-in name, a directory or a Hub id")
    parser.add_argument(
        "--quantization", choices=("none", "int8", "nf4"), help="of the base, instead of the recorded one"
    )
    parser.add_argument("--trust-remote-code", action="store_true", help="run code that comes with the base model")
    parser.add_argument("--include-path", type=Path, metavar="DIR", help="own tasks of lm-evaluation-harness")
    parser.set_defaults(command=_evaluate)


class EvaluateError(UserError):
    """Options that contradict each other."""


def _evaluate(parsed: argparse.Namespace, console: Console) -> int:
    if not parsed.list and not parsed.show:
        check_extra("fedllm evaluate", parsed.suite, parsed.only)
    from fedllm_app.evaluation import session  # imports torch
    from fedllm_app.evaluation.evaluate import Settings

    if parsed.list:
        session.list_suites(console)
        return 0
    if parsed.show:
        paths = [Path(name) for name in parsed.directories]
        session.show_saved(paths, parsed.show, parsed.limit or 10, console, parsed.only)
        return 0
    contestants = _checked(parsed)
    options = session.Options(
        suites=tuple(parsed.suite),
        only=tuple(parsed.only),
        data_dir=parsed.data_dir and expanded(parsed.data_dir).resolve(),
        settings=Settings(parsed.limit, tuple(range(parsed.seeds)), parsed.template or "", parsed.system_prompt),
        out=_out(parsed),
        run_code=parsed.run_code,
        batch_rows=parsed.batch_size,
        threads=parsed.threads,
        include_path=parsed.include_path and parsed.include_path.resolve(),
    )
    session.evaluate(contestants, _base(parsed, contestants), options, console)
    return 0


def _checked(parsed: argparse.Namespace) -> "list[Contestant]":
    from fedllm_app.evaluation.contestants import find_contestants

    if not parsed.suite:
        raise EvaluateError("--suite: name at least one suite; fedllm evaluate --list shows them")
    if parsed.seeds > 1 and not parsed.limit:
        raise EvaluateError("--seeds: other samples need a --limit; without one every question is asked each time")
    if not parsed.directories and not parsed.model:
        raise EvaluateError("nothing to evaluate: name a run directory or an adapter, or a base with --model")
    named = parsed.template if parsed.template not in (None, RUN, PLAIN) else None
    return find_contestants(
        [Path(name) for name in parsed.directories],
        parsed.clients,
        parsed.base or not parsed.directories,
        parsed.model,
        # Adapters trained elsewhere record no template; sets with a text of their own do not need one.
        named or ("none" if parsed.template == PLAIN else None),
        parsed.trust_remote_code,
        parsed.quantization,
    )


def _base(parsed: argparse.Namespace, contestants: "Sequence[Contestant]") -> ModelValues:
    first = next((contestant.source for contestant in contestants if contestant.source), None)
    if first:
        return first.model
    name = parsed.model
    if expanded(name).is_dir():
        name = str(expanded(name).resolve())
    return ModelValues(
        name, "auto", trust_remote_code=parsed.trust_remote_code, quantization=parsed.quantization or "none"
    )


def _out(parsed: argparse.Namespace) -> Path:
    if parsed.out:
        return expanded(parsed.out).resolve()
    return home() / "evaluations" / time.strftime("%Y%m%d-%H%M%S")
