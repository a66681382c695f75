"""What the options of several subcommands tell before anything starts."""

import argparse

import pytest
from places import ROOT
from rich.console import Console

from fedllm_app.commands.options import run_config, warn_of_unread


@pytest.mark.parametrize(
    ("given", "told"),
    [
        (["strategy.fedprox.mu=0.1"], "warning: strategy.fedprox.mu is not read: it belongs to strategy.name"),
        (["strategy.fedprox.mu=0.1 strategy.name=fedprox"], ""),
        ([str(ROOT / "conf" / "fedit-finance.toml")], ""),  # a file holds the values of every strategy
    ],
)
def test_pairs_that_are_not_read_are_told(given, told):
    console = Console(record=True, width=200)
    parsed = argparse.Namespace(app=str(ROOT), run_config=given)
    warn_of_unread(parsed, run_config(parsed), console)
    text = console.export_text()
    assert told in text
    assert bool(text) == bool(told)
