"""What the clients hold, as journal, log and table."""

import io
from dataclasses import replace

import pytest
from rich.console import Console

from fedllm_app.federation import holdings, notes
from fedllm_app.federation.holdings import (
    data_notes,
    evaluating_clients,
    held_out_warning,
    holdings_table,
    report_holdings,
    row_warnings,
    version_groups,
    version_warning,
)
from fedllm_app.messages import ClientHolding
from fedllm_app.runs.directory import RunDirectory, read_journal

SAME = ["fedllm_app c0de", "flwr 1.41.0", "torch 2.13.0"]


def north(examples=10) -> ClientHolding:
    return ClientHolding(
        "north",
        "chat",
        examples,
        held_out=2,
        dropped=1,
        bad=3,
        tokens=100 * examples,
        duplicates=4,
        notes="columns not read: id",
    )


def text(table) -> str:
    console = Console(file=io.StringIO(), width=160)
    console.print(table)
    return console.file.getvalue()


@pytest.fixture
def logged(monkeypatch) -> list[str]:
    """What Flower's log gets."""
    lines: list[str] = []
    for module in (holdings, notes):
        monkeypatch.setattr(module, "log", lambda level, message, *arguments: lines.append(message % arguments))
    return lines


def test_one_line_a_client_and_one_for_the_versions_of_all(tmp_path, logged):
    """50 clients of one machine: 50 journal lines of what they hold, one of versions, no warning."""
    report_holdings({client: (north(10 + client), SAME) for client in range(50)}, RunDirectory(tmp_path))
    journal = read_journal(tmp_path)
    assert [line["event"] for line in journal] == ["holds"] * 50 + ["versions"]
    assert (journal[7]["client"], journal[7]["examples"], journal[7]["bad"], journal[7]["held_out"]) == (7, 17, 3, 2)
    assert "versions" not in journal[7]
    assert (journal[-1]["versions"], len(journal[-1]["clients"])) == (SAME, 50)
    assert logged[1:] == [
        "data of all clients: columns not read: id",
        "versions of all clients: fedllm_app c0de, flwr 1.41.0, torch 2.13.0",
    ]
    assert (journal[7]["duplicates"], journal[7]["notes"]) == (4, "columns not read: id")
    assert len(logged[0].splitlines()) < 30


def test_other_versions_are_named_in_journal_and_log(tmp_path, logged):
    other = ["fedllm_app c0de", "flwr 1.41.0", "torch 2.12.0"]
    report_holdings({0: (north(), SAME), 1: (north(), other), 2: (north(), SAME)}, RunDirectory(tmp_path))
    told = "the clients have different versions of: torch 2.13.0 (clients 0, 2), 2.12.0 (client 1)"
    assert read_journal(tmp_path)[-1]["reason"] == told
    assert logged[-1] == told
    assert [line["clients"] for line in read_journal(tmp_path) if line["event"] == "versions"] == [[0, 2], [1]]


def test_no_warning_where_all_are_alike():
    assert version_warning(version_groups({0: SAME, 1: SAME})) == ""


def test_many_clients_are_summed_up():
    """21 clients with 10 to 30 examples: 17 lines, then the smallest, the median 20 and the largest."""
    shown = text(holdings_table({client: north(10 + client) for client in range(21)}))
    assert shown.count("north") == 17
    lines = {word: line for line in shown.splitlines() for word in ("smallest", "median", "largest") if word in line}
    assert " 10 " in lines["smallest"]
    assert " 20 " in lines["median"]
    assert " 30 " in lines["largest"]
    assert "median" not in text(holdings_table({client: north() for client in range(20)}))


def test_rows_that_teach_less_are_columns_where_there_are_any():
    """Cut answers always; rows that the template refuses, and pairs that are equal, where a client has some."""
    plain = text(holdings_table({0: north(), 1: replace(north(), cut=7)}))
    assert "cut" in plain
    assert "refused by" not in plain
    assert "equal" not in plain
    shown = text(holdings_table({0: north(), 1: replace(north(), refused=4, equal=5)}))
    assert "refused by" in shown
    assert "equal" in shown


def test_refused_rows_are_told_in_journal_and_log(tmp_path, logged):
    """How many, of whom, and the first of the first clients; nothing where there are none."""
    some = {client: replace(north(), refused=client, first_refused=f"row {client}: why") for client in range(6)}
    report_holdings({client: (holding, SAME) for client, holding in some.items()}, RunDirectory(tmp_path))
    (told,) = [line["reason"] for line in read_journal(tmp_path) if line["event"] == "warning"]
    assert told == (
        "the template refuses 15 rows of clients 1, 2, 3, 4, 5, which are left out. First ones: client 1: row 1: why; "
        "client 2: row 2: why; client 3: row 3: why"
    )
    assert logged[-1] == told
    assert row_warnings({0: north()}) == []


def test_a_client_whose_answers_are_all_cut_is_named():
    """It teaches the model never to stop. Held-out rows do not count: of 12 cut answers, ten are trained on."""
    every, most = replace(north(), cut=12, cut_training=10), replace(north(), cut=11, cut_training=9)
    (told,) = row_warnings({0: most, 3: every})
    assert "every completion of client 3 is cut at train.max-length" in told


def test_a_client_whose_rated_answers_are_all_alike_is_named():
    (told,) = row_warnings({0: north(), 2: replace(north(), one_kind=True)})
    assert told.startswith("client 2: the training rows have one kind of label only")


def test_notes_on_data_stand_once_for_the_clients_that_share_them():
    """Two clients of one set, a third with a file of its own, a fourth of which there is nothing to tell."""
    shared = "columns not read: id"
    assert data_notes({0: shared, 1: "files not read: b.csv", 2: shared, 3: ""}) == [
        f"data of clients 0, 2: {shared}",
        "data of client 1: files not read: b.csv",
    ]
    assert data_notes({0: "", 1: ""}) == []
    many = data_notes({client: f"note {client}" for client in range(30)})
    assert (len(many), many[-1]) == (21, "data of more clients: 10 notes, in the journal (holds)")


def test_the_numbers_of_a_line():
    (line,) = [line for line in text(holdings_table({0: north()})).splitlines() if "north" in line]
    assert line.replace("│", " ").split() == ["0", "north", "chat", "10", "2", "4", "1", "3", "1,000"]  # none is cut


def held_out(**rows) -> dict[int, ClientHolding]:
    """Holdings of clients by their numbers of held-out rows, `c0=2`."""
    return {int(name[1:]): replace(north(), held_out=count) for name, count in rows.items()}


def test_clients_without_held_out_rows_are_named(tmp_path, logged):
    """They train, and take no part in evaluations: a warning in journal and log, once."""
    some = held_out(c0=2, c1=0, c2=5, c3=0)
    assert evaluating_clients(some) == {0, 2}
    told = "clients 1, 3 have no held-out rows and take no part in evaluations"
    assert held_out_warning(some) == told
    report_holdings({client: (holding, SAME) for client, holding in some.items()}, RunDirectory(tmp_path))
    assert [line["reason"] for line in read_journal(tmp_path) if line["event"] == "warning"] == [told]
    assert logged.count(told) == 1
    assert held_out_warning(held_out(c0=1, c1=0)) == "client 1 has no held-out rows and takes no part in evaluations"
    assert held_out_warning(held_out(c0=1, c1=2)) == ""


def test_a_narrow_terminal_cuts_no_heading():
    """All columns of counts on 80 columns; names wrap instead."""
    held = replace(north(), name="hospital-north-1", schema="prompt-completion", examples=303, tokens=35328)
    held = replace(held, dropped=19, cut=59, bad=1, duplicates=2)
    console = Console(file=io.StringIO(), width=80)
    console.print(holdings_table({0: held}))
    text = console.file.getvalue()
    assert "…" not in text
    for word in ("examples", "held-out", "duplicates", "long", "rows", "tokens", "35,328"):
        assert word in text
