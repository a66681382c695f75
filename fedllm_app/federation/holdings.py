"""What the clients said at the start that they hold: into the journal, and as a table for the log and the terminal."""

import io
from collections.abc import Iterable, Mapping, Sequence
from logging import INFO
from statistics import median

from flwr.supercore import log
from rich.console import Console
from rich.table import Table
from rich.text import Text

from fedllm_app.federation.notes import warn
from fedllm_app.messages import ClientHolding
from fedllm_app.runs.directory import RunDirectory

Holdings = dict[int, tuple[ClientHolding, list[str]]]
"""What every client holds, and the versions of its code and libraries, "name version", by client."""

_ROWS = 20  # lines of clients in a table; more are summed up
_COUNTS = {
    "examples": "examples",
    "held_out": "held-out",
    "duplicates": "duplicates",
    "dropped": "too long",
    "cut": "cut",
    "bad": "bad rows",
    "refused": "refused by template",
    "equal": "equal pairs",
    "tokens": "tokens",
}
_RARE = ("duplicates", "dropped", "cut", "refused", "equal")  # columns that are shown where a client has any
_NAMED = 3  # clients that a warning names
_FEW_ROWS = 8  # fewer training rows than that are worth a warning


def report_holdings(holdings: Holdings, directory: RunDirectory) -> None:
    """Journal and log what clients hold, the versions once for all that share them, and where those differ."""
    held = _journal_holdings(holdings, directory)
    log(INFO, "%s", _as_text(holdings_table(held)))
    for line in data_notes({client: holding.notes for client, holding in held.items()}):
        log(INFO, "%s", line)
    groups = version_groups({client: versions for client, (_, versions) in holdings.items()})
    for versions, clients in groups:
        directory.journal("versions", clients=clients, versions=versions)
        log(INFO, versions_line(versions, clients, len(holdings)))
    warn(directory, *row_warnings(held), version_warning(groups), held_out_warning(held))


def report_more_holdings(new: Holdings, before: Holdings, directory: RunDirectory) -> None:
    """Journal what clients hold that are drawn first in a later round, and warn of what is new about them.

    Versions that others have as well are not told again.
    """
    held = _journal_holdings(new, directory)
    known = [versions for _, versions in before.values()]
    groups = version_groups({client: versions for client, (_, versions) in new.items()})
    other = [(versions, clients) for versions, clients in groups if versions not in known]
    for versions, clients in other:
        directory.journal("versions", clients=clients, versions=versions)
    warn(directory, *row_warnings(held))
    if other:
        versions_of = {client: versions for client, (_, versions) in {**before, **new}.items()}
        warn(directory, version_warning(version_groups(versions_of)))
    warn(directory, held_out_warning(held))


def _journal_holdings(holdings: Holdings, directory: RunDirectory) -> dict[int, ClientHolding]:
    held = {client: holding for client, (holding, _) in holdings.items()}
    for client, holding in held.items():
        directory.journal("holds", client=client, **holding.to_journal())
    return held


def holdings_table(holdings: Mapping[int, ClientHolding], title: str = "what the clients hold") -> Table:
    """One line a client; of many clients the first ones, and smallest, median and largest of all."""
    table = Table(title=title)
    table.add_column("client", justify="right", no_wrap=True)
    for column in ("name", "schema"):
        table.add_column(column, overflow="fold")
    lines = list(holdings.items())
    columns = [name for name in _COUNTS if name not in _RARE or any(getattr(holding, name) for _, holding in lines)]
    for name in columns:
        heading = "\n".join(_COUNTS[name].rsplit(" ", 1))  # two short lines are narrow, and none is cut
        table.add_column(heading, justify="right", no_wrap=True)
    shown = lines if len(lines) <= _ROWS else lines[: _ROWS - 3]
    for client, holding in shown:
        counts = (f"{getattr(holding, name):,}" for name in columns)
        table.add_row(str(client), Text(holding.name), Text(holding.schema), *counts)
    if len(shown) < len(lines):
        table.add_section()
        for label, summary in (("smallest", min), ("median", median), ("largest", max)):
            counts = (summary([getattr(holding, name) for _, holding in lines]) for name in columns)
            table.add_row("", f"{label} of {len(lines)}", "", *(f"{count:,.0f}" for count in counts))
    return table


def row_warnings(holdings: Mapping[int, ClientHolding]) -> list[str]:
    """Sentences about rows that teach less than they seem to: refused, all cut, all labelled alike, too few."""
    warnings = []
    refused = {client: holding for client, holding in holdings.items() if holding.refused}
    if refused:
        rows = sum(holding.refused for holding in refused.values())
        named = "; ".join(f"client {client}: {refused[client].first_refused}" for client in list(refused)[:_NAMED])
        warnings.append(
            f"the template refuses {rows} rows of {_clients(list(refused))}, which are left out. First ones: {named}"
        )
    cut = [client for client, holding in holdings.items() if holding.cut_training == holding.examples]
    if cut:
        warnings.append(
            f"every completion of {_clients(cut)} is cut at train.max-length, so no row teaches the model to stop; "
            "raise train.max-length"
        )
    one_kind = [client for client, holding in holdings.items() if holding.one_kind]
    if one_kind:
        rows = "training rows have one kind of label only, so they teach no difference between good and bad answers"
        warnings.append(f"{_clients(one_kind)}: the {rows}")
    warnings += filter(None, [few_rows_warning({client: holding.examples for client, holding in holdings.items()})])
    return warnings


def few_rows_warning(rows: Mapping[int, int]) -> str:
    """A sentence that names the clients that train on few rows, given every client's number of them; "" for none."""
    few = [client for client, count in rows.items() if count < _FEW_ROWS]
    if not few:
        return ""
    return (
        f"{_clients(few)} would train on fewer than {_FEW_ROWS} rows, the least is {min(rows[k] for k in few)}; "
        "set data.minimum-rows to refuse such a division"
    )


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


def version_groups(versions_of: Mapping[int, Sequence[str]]) -> list[tuple[list[str], list[int]]]:
    """The different sets of versions, and the clients that have each, the most frequent set first."""
    groups: dict[tuple[str, ...], list[int]] = {}
    for client, versions in versions_of.items():
        groups.setdefault(tuple(versions), []).append(client)
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


def evaluating_clients(holdings: Mapping[int, ClientHolding]) -> frozenset[int]:
    """The clients that have held-out rows, so that they can evaluate."""
    return frozenset(client for client, holding in holdings.items() if holding.held_out)


def held_out_warning(holdings: Mapping[int, ClientHolding]) -> str:
    """A sentence that names the clients that cannot evaluate; "" where all can."""
    without = sorted(holdings.keys() - evaluating_clients(holdings))
    if not without:
        return ""
    has, takes = ("has", "takes") if len(without) == 1 else ("have", "take")
    return f"{_clients(without)} {has} no held-out rows and {takes} no part in evaluations"


def versions_line(versions: Iterable[str], clients: Sequence[int], total: int) -> str:
    """One line for the clients that share these versions."""
    owners = "all clients" if len(clients) == total else _clients(clients)
    return f"versions of {owners}: {', '.join(versions)}"


def _clients(clients: Sequence[int]) -> str:
    names = ", ".join(map(str, sorted(clients)[:8]))
    return f"client{'s' if len(clients) > 1 else ''} {names}" + (", …" if len(clients) > 8 else "")


def _as_text(table: Table) -> str:
    # In a notebook rich would show what is printed here, too, and the table stand there twice.
    console = Console(file=io.StringIO(), width=120, force_jupyter=False)
    console.print(table)
    return console.file.getvalue().rstrip()
