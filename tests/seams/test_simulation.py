"""Code from outside the package through `fedllm run`: the server and Ray's workers find it by PYTHONPATH."""

import os

import pytest
from places import ROOT

from fedllm_app.commands.run import run_to_end
from fedllm_app.runs.directory import read_journal, read_result

pytestmark = pytest.mark.slow


def test_all_four_from_a_relative_path(small, tmp_path, flower_home, monkeypatch, console):
    """PYTHONPATH=examples, as the examples say, in the project's directory: each leaves its mark in the journal."""
    monkeypatch.chdir(ROOT)
    entries = ["examples", *filter(None, os.environ.get("PYTHONPATH", "").split(os.pathsep))]
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(entries))
    directory = tmp_path / "run"
    flat = small | {
        "run.directory": str(directory),
        "strategy.name": "own_strategy.ProductMean",
        "train.corrections": "own_correction.Centralized",
        "update.steps": "own_update.ClipNorm",
        "train.task": "own_task.SPEC",
        "train.rounds": 1,
    }
    assert run_to_end(ROOT, flat, console), console.export_text()
    assert read_result(directory)["refused_replies"] == 0
    events = read_journal(directory)
    trained = [event for event in events if event["event"] == "client"]
    assert len(trained) == 3
    assert all({"centralized", "update_norm"} <= set(event) for event in trained)
    assert [0 < event["kept_energy"] < 1 for event in events if event["event"] == "round"] == [True]
