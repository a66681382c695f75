"""End to end on real Flower processes: a SuperNode is killed in the middle of a round and comes back with more rows."""

import time
from collections.abc import Callable
from functools import partial

import pytest
from flower_sites import CONNECTION, Sites
from meanwhile import meanwhile
from places import ROOT

from fedllm_app.commands.run import exit_status, run_to_end
from fedllm_app.runs.directory import read_result
from fedllm_app.runs.journal import read_journal

pytestmark = pytest.mark.slow


def lose_and_bring_back(sites: Sites, name: str, rows: int, over: Callable[[], bool]) -> None:
    """Kill a site at its first step, and start it again with other rows."""
    while not sites.trains(name):
        assert not over(), f"{name} never trained"
        time.sleep(0.05)
    sites.kill(name)
    sites.write_rows(name, rows)
    sites.node(name)


def test_a_killed_site_costs_a_round_and_takes_part_again(run_config, flower_home, tiny_model, tmp_path, console):
    """Flower goes on listing the dead node for a minute. The round closes when enough have answered, and the next one
    finds the site under another node id, with 30 rows instead of 20."""
    directory = tmp_path / "run"
    flat = run_config | {
        "run.directory": str(directory),
        "clients.number": 2,
        "clients.enough": 0.5,
        "clients.grace": 12.0,
        "data.template": "none",
        "evaluate.every": 0,
        "train.local-steps": 60,
    }
    with Sites(tmp_path, flower_home, {"athens": 20, "berlin": 20}, tiny_model) as sites:
        with meanwhile(partial(lose_and_bring_back, sites, "berlin", 30)):
            outcome = run_to_end(ROOT, flat, console, connection=CONNECTION)
        assert outcome, console.export_text()
    journal = read_journal(directory)
    assert [event["clients"] for event in journal if event["event"] == "round"] == [[0], [0, 1]]
    (refused,) = [event for event in journal if event["event"] == "refused"]
    assert (refused["round"], refused["name"]) == (1, "berlin")
    assert "clients.grace = 12 s after 1 of the clients" in refused["reason"]
    (back,) = [event for event in journal if event["event"] == "returned"]
    assert (back["round"], back["client"], back["changed"]["examples"]) == (2, 1, [16, 26])
    (told,) = [event for event in journal if event["event"] == "client" and event["client"] == 1]
    assert told["num_examples"] == 26
    assert [line["took_part"] for line in read_result(directory)["participation"]] == [2, 1]
    assert exit_status(outcome) == 0
