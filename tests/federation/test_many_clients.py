"""Many clients, few of them drawn: those of round 1 say what they hold before it, the others when they are drawn.

Six clients, two a round, three rounds. With seed 42 the rounds draw the clients that `Schedule` says; the tests ask it.
"""

import pytest
from in_process import resume_in_process, run_in_process

from fedllm_app.client.local_client import LocalClient
from fedllm_app.config.parse import parse_run_config
from fedllm_app.errors import UserError
from fedllm_app.federation.schedule import MANY_CLIENTS, Schedule
from fedllm_app.runs.journal import read_journal


@pytest.fixture
def six(run_config):
    return run_config | {
        "clients.number": 6,
        "clients.per-round": 2,
        "train.rounds": 3,
        "data.partition": "iid",
        "clients.describe": "drawn",
    }


def drawn(flat) -> list[list[int]]:
    return [plan.clients for plan in Schedule.of(parse_run_config(flat), 6).training()]


def test_each_client_is_asked_once_and_when_it_is_drawn_first(six, tmp_path):
    rounds = drawn(six)
    assert len({client for clients in rounds for client in clients}) > 2, "later rounds must draw others"
    run_in_process(six, tmp_path / "run")
    events = read_journal(tmp_path / "run")
    assert [event["clients"] for event in events if event["event"] == "describing"] == [rounds[0]]
    held, began = [], 0
    for event in events:
        if event["event"] == "round-started":
            began = event["round"]
        if event["event"] == "holds":
            held.append((event["client"], began))
    expected, seen = [], set()
    for number, clients in enumerate(rounds, 1):
        expected += [(client, 0 if number == 1 else number) for client in clients if client not in seen]
        seen |= {*clients}
    assert held == expected
    assert sorted(line["client"] for line in events[-1]["participation"]) == sorted(seen)
    assert not [event for event in events if event["event"] in ("returned", "refused")]
    assert len([event for event in events if event["event"] == "versions"]) == 1


def test_who_is_asked_when_changes_no_byte(six, tmp_path):
    drawn_first = run_in_process(six, tmp_path / "drawn")
    assert run_in_process(six | {"clients.describe": "all"}, tmp_path / "all") == drawn_first
    held = [event["client"] for event in read_journal(tmp_path / "all") if event["event"] == "holds"]
    assert held == list(range(6))


def test_a_run_goes_on_with_those_of_its_next_round(six, tmp_path):
    """At a constant learning rate a run of two rounds is the beginning of one of three."""
    steady = six | {"train.learning-rate": 1e-3, "train.min-learning-rate": 1e-3}
    whole = run_in_process(steady, tmp_path / "whole")
    run_in_process(steady | {"train.rounds": 2}, tmp_path / "part")
    assert resume_in_process(steady, tmp_path / "part") == whole
    everything = read_journal(tmp_path / "part", everything=True)
    asked = [event["clients"] for event in everything if event["event"] == "describing"]
    assert asked == [drawn(six)[0], drawn(six)[2]]
    known = [event["client"] for event in read_journal(tmp_path / "part") if event["event"] == "holds"]
    assert sorted(known) == sorted({client for clients in drawn(six) for client in clients})


def test_a_client_that_cannot_take_part_is_refused_when_it_is_drawn(six, tmp_path, monkeypatch):
    """One that is not drawn in round 1; the run goes on with the other client of that round."""
    first, *later = drawn(six)
    broken = next(client for clients in later for client in clients if client not in first)
    describe = LocalClient.describe

    def fails(self, client, pooled=False):
        if client == broken:
            raise UserError("no rows")
        return describe(self, client, pooled)

    monkeypatch.setattr(LocalClient, "describe", fails)
    run_in_process(six, tmp_path / "run")
    events = read_journal(tmp_path / "run")
    refused = [(event["round"], event["client"]) for event in events if event["event"] == "refused"]
    expected = [(number, broken) for number, clients in enumerate(drawn(six), 1) if broken in clients]
    assert list(dict.fromkeys(refused)) == expected
    (line,) = [line for line in events[-1]["participation"] if line["client"] == broken]
    assert (line["name"], line["drawn"], line["took_part"]) == ("", len(expected), 0)


@pytest.mark.parametrize(
    ("describe", "simulation", "clients", "everybody"),
    [
        ("auto", True, MANY_CLIENTS, True),
        ("auto", True, MANY_CLIENTS + 1, False),
        ("auto", False, MANY_CLIENTS + 1, True),
        ("all", True, 1000, True),
        ("drawn", False, 4, False),
    ],
)
def test_sites_and_small_simulations_are_asked_all_at_once(run_config, describe, simulation, clients, everybody):
    config = parse_run_config(run_config | {"clients.number": clients, "clients.per-round": 2})
    schedule = Schedule.of(config, clients)
    first = schedule.described_first(describe, simulation)
    assert first == (list(range(clients)) if everybody else schedule.round(1).clients)
