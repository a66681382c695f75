"""`fedllm report`: runs side by side on one page that opens anywhere, as Markdown or as CSV."""

import argparse
from datetime import datetime
from pathlib import Path

from rich.console import Console

from fedllm_app.commands.options import APP_HELP
from fedllm_app.commands.runs import size_text
from fedllm_app.errors import UserError
from fedllm_app.paths import expanded, write_text

_SUFFIXES = {"html": ".html", "markdown": ".md", "csv": ".csv"}


class ReportRefused(UserError):
    """A report cannot be written where it is asked for."""


def add_parser(subparsers) -> None:
    """Add `fedllm report`."""
    parser = subparsers.add_parser("report", help="runs side by side: a page, Markdown or CSV")
    parser.add_argument(
        "runs",
        nargs="+",
        type=Path,
        metavar="RUN",
        help="run directories, or that of a comparison or demo; fedllm runs shows them",
    )
    parser.add_argument(
        "--out", type=Path, metavar="FILE", help="where it is written (default: report.html, .md, .csv)"
    )
    parser.add_argument("--format", choices=list(_SUFFIXES), help="default: by the ending of --out, else html")
    parser.add_argument(
        "--evaluation",
        action="extend",
        nargs="+",
        type=Path,
        metavar="DIR",
        help="what fedllm evaluate saved (default: what is below FEDLLM_HOME of these runs)",
    )
    parser.add_argument("--app", type=Path, default=Path("."), metavar="DIR", help=APP_HELP)
    parser.set_defaults(command=_report)


def _report(parsed: argparse.Namespace, console: Console) -> int:
    if parsed.out:
        _check_out(expanded(parsed.out))
    kind = parsed.format or _kind_of(parsed.out)
    out = expanded(parsed.out or Path(f"report{_SUFFIXES[kind]}"))
    _check_out(out)
    from fedllm_app.report.gather import gather

    data = gather(parsed.runs, parsed.evaluation, parsed.app)
    written = datetime.now()
    if kind == "html":
        from fedllm_app.report.page import page

        text = page(data, written)
    elif kind == "markdown":
        from fedllm_app.report.markdown import markdown

        text = markdown(data, written)
    else:
        from fedllm_app.report.table_file import csv_text

        text = csv_text(data)
    try:
        write_text(out, text)
    except OSError as error:
        raise ReportRefused(
            f"--out {out} cannot be written: {error.strerror}; name a file in a directory of yours"
        ) from error
    told = f"report of {len(data.runs)} run{'s' if len(data.runs) > 1 else ''}"
    if data.evaluations:
        told += f" and {len(data.evaluations)} saved evaluation{'s' if len(data.evaluations) > 1 else ''}"
    if data.demos:
        told += f" and {len(data.demos)} demo{'s' if len(data.demos) > 1 else ''}"
    console.print(
        f"{told}: {out.resolve()} ({size_text(out.stat().st_size)})", markup=False, highlight=False, soft_wrap=True
    )
    return 0


def _kind_of(out: Path | None) -> str:
    if out is None:
        return "html"
    kinds = {suffix: kind for kind, suffix in _SUFFIXES.items()} | {".htm": "html", ".markdown": "markdown"}
    if out.suffix.lower() not in kinds:
        raise ReportRefused(
            f"--out {out}: the ending says no format; name a file in .html, .md or .csv, or give --format"
        )
    return kinds[out.suffix.lower()]


def _check_out(out: Path) -> None:
    if out.is_dir():
        raise ReportRefused(f"--out {out} is a directory; name a file, such as {out / 'report.html'}")
