"""What the clients said at the start that they hold: into the journal, and as a table for the log and the terminal."""

import io
from collections.abc import Iterable, Mapping, Sequence
from logging import INFO, WARNING
from statistics import median

from flwr.supercore import log
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from fedllm_app.runs.directory import RunDirectory

_ROWS = 20  # lines of clients in a table; more are summed up
_TEXTS = ("client", "name", "schema")
_COUNTS = {
    "examples": "examples",
    "held-out": "held-out",
    "duplicates": "duplicates",
    "dropped": "too long",
    "bad": "bad rows",
    "tokens": "tokens",
}


def report_holdings(held: Mapping[int, Mapping[str, object]], directory: RunDirectory) -> None:
    """Journal and log what every client holds, the versions once for all that share them, and where those differ."""
    for client, what in held.items():
        directory.journal("holds", client=client, **{key: value for key, value in what.items() if key != "versions"})
    table = holdings_table([{"client": client, **what} for client, what in held.items()])
    log(INFO, "%s", _as_text(table))
    for line in data_notes({client: str(what.get("notes", "")) for client, what in held.items()}):
        log(INFO, "%s", line)
    groups = version_groups(held)
    for versions, clients in groups:
        directory.journal("versions", clients=clients, versions=versions)
        log(INFO, versions_line(versions, clients, len(held)))
    warning = version_warning(groups)
    if warning:
        directory.journal("warning", reason=warning)
        log(WARNING, warning)


def holdings_table(lines: Sequence[Mapping[str, object]]) -> Table:
    """One line a client; of many clients the first ones, and smallest, median and largest of all."""
    table = Table(title="what the clients hold")
    for column in _TEXTS:
        table.add_column(column, justify="right" if column == "client" else "left")
    for title in _COUNTS.values():
        table.add_column(title, justify="right")
    shown = lines if len(lines) <= _ROWS else lines[: _ROWS - 3]
    for line in shown:
        counts = (f"{line.get(column, 0):,}" for column in _COUNTS)  # journals of older runs lack some
        table.add_row(*(escape(str(line[column])) for column in _TEXTS), *counts)
    if len(shown) < len(lines):
        table.add_section()
        for name, of in (("smallest", min), ("median", median), ("largest", max)):
            counts = (of([line.get(column, 0) for line in lines]) for column in _COUNTS)
            table.add_row("", f"{name} of {len(lines)}", "", *(f"{count:,.0f}" for count in counts))
    return table


def data_notes(notes: Mapping[int, str]) -> list[str]:
    """A line for the clients whose data was read in the same way: what was found out, and what was not read."""
    groups: dict[str, list[int]] = {}
    for client, text in notes.items():
        if text:
            groups.setdefault(text, []).append(client)
    lines = [
        f"data of {'all clients' if len(clients) == len(notes) else _clients(clients)}: {text}"
        for text, clients in groups.items()
    ]
    rest = len(lines) - _ROWS
    return lines if rest <= 0 else [*lines[:_ROWS], f"data of more clients: {rest} notes, in the journal (holds)"]


def version_groups(held: Mapping[int, Mapping[str, object]]) -> list[tuple[list[str], list[int]]]:
    """The different sets of versions, and the clients that have each, the most frequent set first."""
    groups: dict[tuple[str, ...], list[int]] = {}
    for client, what in held.items():
        groups.setdefault(tuple(what["versions"]), []).append(client)
    return sorted(((list(versions), clients) for versions, clients in groups.items()), key=lambda group: -len(group[1]))


def version_warning(groups: Sequence[tuple[Sequence[str], Sequence[int]]]) -> str:
    """A sentence that names the packages whose versions differ and who has which; "" where all are the same."""
    by_package: dict[str, dict[str, list[int]]] = {}
    for versions, clients in groups:
        for package, _, version in (entry.partition(" ") for entry in versions):
            by_package.setdefault(package, {}).setdefault(version, []).extend(clients)
    different = [
        f"{package} " + ", ".join(f"{version} ({_clients(clients)})" for version, clients in found.items())
        for package, found in by_package.items()
        if len(found) > 1
    ]
    return f"the clients have different versions of: {'; '.join(different)}" if different else ""


def versions_line(versions: Iterable[str], clients: Sequence[int], of: int) -> str:
    """One line for the clients that share these versions."""
    who = "all clients" if len(clients) == of else _clients(clients)
    return f"versions of {who}: {', '.join(versions)}"


def _clients(clients: Sequence[int]) -> str:
    names = ", ".join(map(str, sorted(clients)[:8]))
    return f"client{'s' if len(clients) > 1 else ''} {names}" + (", …" if len(clients) > 8 else "")


def _as_text(table: Table) -> str:
    console = Console(file=io.StringIO(), width=120)
    console.print(table)
    return console.file.getvalue().rstrip()
