"""`fedllm compare`: strategies and settings under several seeds, run one after the other, evaluated together."""

import argparse
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from rich.console import Console

from fedllm_app.commands.cluster import add_ray, asked_cluster
from fedllm_app.commands.new_directory import new_directory
from fedllm_app.commands.options import APP_HELP, add_run_config, positive_integer, run_config
from fedllm_app.commands.overrides import Value, read_overrides, resolve_paths
from fedllm_app.commands.run import run_to_end
from fedllm_app.commands.start_checks import check_start
from fedllm_app.comparison.grid import BadGrid, Cell, Settings, held, make_grid
from fedllm_app.config.app_files import app_directory
from fedllm_app.config.parse import parse_run_config
from fedllm_app.config.sections import FlatConfig
from fedllm_app.data.named_sets import BUILT_IN
from fedllm_app.evaluation.extra import check_extra
from fedllm_app.evaluation.own_file import trained_on
from fedllm_app.evaluation.suite import DATA_FILE
from fedllm_app.paths import expanded

_NO_SUITE = "none"
_SHOWN = 3  # worked examples
_SUITE_HELP = (
    "as fedllm evaluate, or 'none': only the held-out metrics of the runs (default: builtin for the built-in corpus, "
    "else none)"
)
_FAILED, _INCOMPLETE = 1, 3  # exit statuses


def add_parser(subparsers) -> None:
    """Add `fedllm compare`."""
    parser = subparsers.add_parser("compare", help="strategies and settings under several seeds, run and evaluated")
    parser.add_argument(
        "config",
        nargs="*",
        help="the configuration of all runs: TOML or YAML files and key=value pairs, as -c; a directory is the app's",
    )
    add_run_config(parser)
    parser.add_argument("--app", help=APP_HELP)
    parser.add_argument("--strategies", metavar="A,B", help="(default: that of the configuration)")
    parser.add_argument(
        "--seeds", default="1", metavar="N", help="how many, from run.seed on; or a list, such as 1,5,9"
    )
    parser.add_argument(
        "--set", action="append", default=[], metavar="KEY=A,B", help="values of a key that varies; repeat for others"
    )
    parser.add_argument("--out", type=Path, metavar="DIR", help="again with the same DIR, it goes on")
    parser.add_argument("--suite", "-s", metavar="SUITE", help=_SUITE_HELP)
    parser.add_argument("--data-dir", type=Path, metavar="DIR", help="where local copies of the suite's sets are")
    parser.add_argument("--limit", type=positive_integer, default=0, metavar="N", help="questions of each set")
    parser.add_argument(
        "--shown", type=int, default=_SHOWN, metavar="N", help=f"worked examples for the base, 0: none ({_SHOWN})"
    )
    parser.add_argument("--run-code", action="store_true", help="run code that models write, in a sandbox")
    parser.add_argument("--threads", type=positive_integer, default=0, metavar="N", help="for asking (default: all)")
    parser.add_argument("--federation-config", help="as fedllm run")
    add_ray(parser)
    parser.set_defaults(command=_compare)


def _compare(parsed: argparse.Namespace, console: Console) -> int:
    base = base_config(parsed)
    app = app_directory(parsed.app)
    cluster = asked_cluster(parsed)
    seeds = read_seeds(parsed.seeds, int(base["run.seed"]))
    strategies = _names(parsed.strategies) if parsed.strategies else [str(base["strategy.name"])]
    settings = read_settings(parsed.set, base)
    if not 0 <= parsed.shown <= 16:
        raise BadGrid(f"--shown {parsed.shown}: must be a whole number from 0 to 16")
    # What is wrong is told before a directory is made; seeds make no difference to it.
    for cell in make_grid(base, strategies, seeds[:1], settings, Path()):
        check_start(parse_run_config(cell.flat), local=True, console=console)

    from fedllm_app.comparison.asking import Asking, checked_suite  # imports torch

    data_dir = parsed.data_dir and expanded(parsed.data_dir).resolve()
    name = parsed.suite or (BUILT_IN if base["data.name"] == BUILT_IN else _NO_SUITE)
    if name != _NO_SUITE:
        check_extra(f"fedllm compare --suite {name}", [name])
    suite = None if name == _NO_SUITE else checked_suite(_absolute(name), data_dir, parsed.run_code)
    if suite is None and not base["evaluate.every"]:
        raise BadGrid("evaluate.every = 0: the runs measure nothing; name a --suite, or set evaluate.every above 0")
    asking = Asking(suite, data_dir, parsed.limit, parsed.shown, parsed.run_code, threads=parsed.threads)
    with _directory(parsed.out) as out, held(out, base):
        cells = make_grid(base, strategies, seeds, settings, out)
        go_on = f"if you stop them, --out {out} in the same command goes on"
        console.print(
            f"{len(cells)} runs, one after the other, in {out}; {go_on}", markup=False, highlight=False, soft_wrap=True
        )
        if warning := trained_on(name, {"these runs": str(base["data.name"])}):
            console.print(warning, style="yellow", markup=False, highlight=False, soft_wrap=True)

        told: set[str] = set()

        def run(flat: FlatConfig) -> bool:
            where = {"federation_config": parsed.federation_config, "cluster": cluster}
            return bool(run_to_end(app, dict(flat), console, **where, told=told))

        return run_and_compare(cells, run, asking, out, console)


def run_and_compare(cells: Sequence[Cell], run, asking, out: Path, console: Console) -> int:
    """Run the cells, compare what is finished, print the table; the exit status."""
    from fedllm_app.comparison.cell import is_incomplete, run_cells
    from fedllm_app.comparison.compare import compare, report

    failed = run_cells(cells, run, console)
    console.rule("evaluation")
    found = compare(cells, failed, asking, out, console)
    if found is None:
        console.print("nothing to compare: no run has finished", style="red")
        for name, reason in failed.items():
            console.print(f"  {name}: {reason}", markup=False, highlight=False)
        return _FAILED
    report(found[0], out, console)
    if failed:
        console.print(f"{len(failed)} of {len(cells)} runs failed", style="red")
        return _FAILED
    return _INCOMPLETE if any(map(is_incomplete, cells)) else 0


def base_config(parsed: argparse.Namespace) -> dict[str, Value]:
    """The configuration of all runs; the app's directory is the one that is named, or this one."""
    folders = [text for text in parsed.config if Path(text).is_dir()]
    if len(folders) > 1 or (folders and parsed.app):
        raise BadGrid(f"{' and '.join(folders)}: name one directory of the app")
    parsed.app = parsed.app or (folders[0] if folders else ".")
    parsed.run_config = [text for text in parsed.config if text not in folders] + (parsed.run_config or [])
    base = run_config(parsed)
    given = [f"{key}; {option}" for key, option in _ELSEWHERE.items() if base[key]]
    if given:
        raise BadGrid(f"the configuration sets {given[0]}")
    parse_run_config(base)
    return base


_ELSEWHERE = {
    "run.directory": "a comparison makes a directory for each run, below --out",
    "run.resume": "a comparison goes on by itself if it is called again with the same --out",
    "run.fetch": "that brings the files of a run; fedllm fetch does that",
}


def read_seeds(text: str, first: int) -> list[int]:
    """`--seeds`: a number of seeds from `first` on, or a list of them."""
    items = _names(text)
    if not items or not all(item.isdecimal() for item in items):
        raise BadGrid(f"--seeds {text}: must be a number of seeds, such as 3, or a list of them, such as 1,5,9")
    if len(items) > 1 or text.strip().endswith(","):
        return [int(item) for item in items]
    if not 1 <= int(text) <= 1000:
        raise BadGrid(f"--seeds {text}: must be from 1 to 1000; one seed alone is written with a comma: {text},")
    return list(range(first, first + int(text)))


def read_settings(given: Sequence[str], base: FlatConfig) -> Settings:
    """`--set KEY=A,B`, each as often as there are keys: the values of each. Text with commas needs quotes."""
    settings: dict[str, list[Value]] = {}
    for text in given:
        key, sign, values = text.partition("=")
        key = key.strip()
        if not sign or not values.strip():
            raise BadGrid(f"--set {text}: must be a key and its values: --set train.local-steps=5,10")
        if key in settings:
            raise BadGrid(f"--set {key}: is there twice; give all its values at once: --set {key}=A,B")
        settings[key] = [_value(key, item, base) for item in _items(values)]
    return settings


def _value(key: str, text: str, base: FlatConfig) -> Value:
    return resolve_paths({**base, **read_overrides([f"{key}={text}"], base)}, Path.cwd(), True)[key]


def _items(text: str) -> list[str]:
    """What commas separate, but those in quotes."""
    items = [item.strip() for item in re.split(r""",(?=(?:[^'"]|'[^']*'|"[^"]*")*$)""", text)]
    if not all(items):
        raise BadGrid(f"--set: {text} has a value without text; write '' for an empty one")
    return items


def _names(text: str) -> list[str]:
    return [name.strip() for name in text.split(",") if name.strip()]


def _absolute(suite: str) -> str:
    """A suite by a path that is valid in every directory."""
    if suite.startswith(DATA_FILE):
        return DATA_FILE + str(expanded(suite.removeprefix(DATA_FILE)).resolve())
    return str(expanded(suite).resolve()) if suite.endswith(".py") else suite


@contextmanager
def _directory(out: Path | None) -> Iterator[Path]:
    if out:
        yield expanded(out).resolve()
        return
    with new_directory("compare") as path:
        yield path
