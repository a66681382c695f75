"""`fedllm runs`: the runs on this disk, how far they came and how they ended; and deletes what is not needed."""

import argparse
import time
from collections.abc import Sequence
from datetime import datetime
from pathlib import Path

from rich.console import Console, Group
from rich.table import Table
from rich.text import Text

from fedllm_app.commands.options import not_negative
from fedllm_app.errors import UserError
from fedllm_app.messages import plain_text
from fedllm_app.paths import home, last_parts
from fedllm_app.runs.measures import ALONE, metric_text
from fedllm_app.runs.overview import (
    FAILED,
    FINISHED,
    RUNNING,
    UNREADABLE,
    RunOverview,
    delete_run,
    find_runs,
    overview,
)

_STYLES = {RUNNING: "cyan", FINISHED: "green", FAILED: "red", UNREADABLE: "red"}
_DAY = 24 * 3600.0
_LONGEST = 160  # characters of a reason
_COLUMNS = ("run", "began", "strategy", "data", "rounds", "state", "held-out", "size")
_DROPPED, _WIDE = ("began", "data", "size"), 110  # columns that a terminal of fewer characters has no room for
_LEAST = {"run": 12, "data": 8}  # characters of the columns that may wrap


class RunsError(UserError):
    """Options that contradict each other, or a place that is not there."""


def add_parser(subparsers) -> None:
    """Add `fedllm runs`."""
    parser = subparsers.add_parser("runs", help="the runs on this disk")
    parser.add_argument(
        "places",
        nargs="*",
        type=Path,
        metavar="DIR",
        help="where to look (default: runs/ of this directory, and <FEDLLM_HOME>/runs)",
    )
    parser.add_argument("--prune", action="store_true", help="delete runs, by default those that did not finish")
    parser.add_argument("--unfinished", action="store_true", help="with --prune: failed and stopped runs")
    parser.add_argument(
        "--older-than", type=not_negative, metavar="DAYS", help="with --prune: whose last event is older"
    )
    parser.add_argument("--keep", type=_count, metavar="N", help="with --prune: all but the newest N")
    parser.add_argument("--yes", action="store_true", help="with --prune: do not ask")
    parser.set_defaults(command=_runs)


def _runs(parsed: argparse.Namespace, console: Console) -> int:
    chosen = {"--unfinished": parsed.unfinished, "--older-than": parsed.older_than, "--keep": parsed.keep}
    given = [name for name, value in chosen.items() if value is not None and value is not False]
    if given and not parsed.prune:
        raise RunsError(f"{given[0]} chooses what --prune deletes; add --prune")
    if parsed.yes and not parsed.prune:
        raise RunsError("--yes answers the question of --prune; add --prune")
    for place in parsed.places:
        if not place.is_dir():
            raise RunsError(f"{place} is no directory; name one that holds runs, or a run")
    places = parsed.places or [Path("runs"), home() / "runs"]
    found = [overview(path) for path in find_runs(places)]
    if not found:
        looked = ", ".join(str(place) for place in places)
        console.print(f"no runs in {looked}", markup=False, highlight=False, soft_wrap=True)
        return 0
    if not parsed.prune:
        console.print(
            runs_table(found, f"{_number_of(found)}, {size_text(sum(run.size for run in found))}", console.width)
        )
        return 0
    return _prune(
        prunable(found, bool(parsed.unfinished or not given), parsed.older_than, parsed.keep), parsed, console
    )


def _prune(unwanted: Sequence[RunOverview], parsed: argparse.Namespace, console: Console) -> int:
    if not unwanted:
        console.print("nothing to delete")
        return 0
    size = size_text(sum(run.size for run in unwanted))
    console.print(runs_table(unwanted, f"to delete: {_number_of(unwanted)}, {size}", console.width))
    if not parsed.yes and not _confirmed(console, f"{_number_of(unwanted)} ({size})"):
        console.print("nothing was deleted")
        return 0
    left = 0
    for run in unwanted:
        try:
            delete_run(run.path)
            console.print(f"deleted: {run.path}", markup=False, highlight=False, soft_wrap=True)
        except UserError as error:
            left += 1
            console.print(str(error), style="red", markup=False, highlight=False, soft_wrap=True)
    return 1 if left else 0


def _confirmed(console: Console, what: str) -> bool:
    try:
        answer = console.input(f"delete {what} with all files? [y/N] ", markup=False)
    except EOFError:  # no terminal and nothing piped in
        console.print()
        return False
    return answer.strip().lower() in ("y", "yes")


def prunable(
    found: Sequence[RunOverview],
    unfinished: bool = True,
    older_than: float | None = None,
    keep: int | None = None,
    now: float | None = None,
) -> list[RunOverview]:
    """The runs that all of the conditions name; a run that goes on never.

    Parameters
    ----------
    unfinished : bool
        Failed, stopped and unreadable ones alone.
    older_than : float | None
        Whose last event is that many days ago.
    keep : int | None
        All but the newest `keep` of `found`, by their first event.
    now : float | None
        Seconds since the epoch; None: the clock's.
    """
    now = time.time() if now is None else now
    newest = sorted(found, key=lambda run: run.began, reverse=True)[: keep or 0]
    return [
        run
        for run in found
        if run.state != RUNNING
        and not (unfinished and run.state == FINISHED)
        and (older_than is None or now - run.ended > older_than * _DAY)
        and (keep is None or run not in newest)
    ]


def runs_table(found: Sequence[RunOverview], title: str, width: int = 160) -> Group:
    """One line a run; on a narrow terminal without when it began, its data and size. Names and reasons are plain text.

    The path of a run loses its middle where there is no room for it, and never its name. Why runs failed stands below.
    """
    columns = [name for name in _COLUMNS if width >= _WIDE or name not in _DROPPED]
    rows = [_cells(run) for run in found]
    taken = (_LEAST.get(name) or max(len(name), *(_length(row[name]) for row in rows)) for name in columns[1:])
    room = max(_LEAST["run"], width - 1 - 3 * len(columns) - sum(taken))
    paths = [cut_path(str(row["run"]), room) for row in rows]
    table = Table(title=title)
    table.add_column("run", overflow="fold", min_width=min(room, max(map(len, paths))))
    for name in columns[1:]:
        justify = "right" if name in ("rounds", "size") else "left"
        table.add_column(name, justify=justify, overflow="fold", no_wrap=name not in _LEAST)
    for path, row in zip(paths, rows, strict=True):
        table.add_row(Text(path), *(row[name] for name in columns[1:]))
    return Group(table, *(_why(run) for run in found if run.reason))


def _why(run: RunOverview) -> Text:
    reason = plain_text(" ".join(run.reason.split()), _LONGEST)
    return Text.assemble(f"{_short(run.path)}: ", (run.state, _STYLES.get(run.state, "yellow")), f": {reason}")


def cut_path(path: str, most: int) -> str:
    """A path with … for as much of its directories as there is no room for; its last name stays whole."""
    name = path.rpartition("/")[2]
    if len(path) <= most:
        return path
    kept = most - len(name) - 2
    return f"{path[:kept]}…/{name}" if kept >= 0 else name


def _length(cell: Text | str) -> int:
    return max(map(len, str(cell).splitlines()), default=0)


def _cells(run: RunOverview) -> dict[str, Text | str]:
    """What stands in the columns for a run."""
    reached = f"{run.metric[0]} {metric_text(*run.metric)}" if run.metric else "-"
    if run.metric and run.strategy == ALONE:
        reached += "\neach on own rows"  # a mean of models that each know one client's rows, and no common model's
    return {
        "run": _short(run.path),
        "began": f"{datetime.fromtimestamp(run.began):%Y-%m-%d %H:%M}" if run.began else "-",
        "strategy": Text(plain_text(run.strategy) or "-"),
        "data": Text(plain_text(last_parts(run.data)) or "-"),
        "rounds": f"{run.done}/{run.asked}" if run.asked else "-",
        "state": Text(run.state, style=_STYLES.get(run.state, "yellow")),
        "held-out": reached,
        "size": size_text(run.size),
    }


def _number_of(runs: Sequence[RunOverview]) -> str:
    return "1 run" if len(runs) == 1 else f"{len(runs)} runs"


def _short(path: Path) -> str:
    """The path as one would type it from here."""
    here = Path.cwd()
    return str(path.relative_to(here)) if path.is_relative_to(here) and path != here else str(path)


def size_text(size: int) -> str:
    """Bytes in the unit that suits them."""
    for unit in ("B", "kB", "MB"):
        if size < 1000:
            return f"{size:.0f} {unit}" if unit == "B" else f"{size:.1f} {unit}"
        size /= 1000
    return f"{size:.1f} GB"


def _count(text: str) -> int:
    """Parse a whole number of at least 0."""
    if not text.isdecimal():
        raise argparse.ArgumentTypeError(f"{text}: must be a whole number, 0 or more")
    return int(text)
