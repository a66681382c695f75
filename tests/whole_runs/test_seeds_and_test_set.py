"""Whole runs: what each seed changes, and a common test set."""

import json

import numpy as np
from in_process import run_in_process

from fedllm_app.runs.directory import read_journal


def held(directory) -> list[int]:
    """Tokens of every client's training rows: another division has others."""
    return [event["tokens"] for event in read_journal(directory) if event["event"] == "holds"]


def first_losses(directory) -> list[float]:
    return [event["first_loss"] for event in read_journal(directory) if event["event"] == "client"]


def test_the_seed_of_the_run_leaves_the_division_alone(run_config, tmp_path):
    """`run.seed` changes the order of rows and the adapter, `data.seed` who holds what."""
    rows = [{"prompt": str(n), "completion": "x" * (n % 17 + 1)} for n in range(60)]
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    flat = run_config | {
        "data.name": str(tmp_path / "rows.jsonl"),
        "clients.number": 3,
        "train.rounds": 1,
        "train.local-steps": 1,
        "evaluate.every": 0,
    }
    runs = {"plain": {}, "run": {"run.seed": 7}, "data": {"data.seed": 7}}
    for name, seed in runs.items():
        run_in_process(flat | seed, tmp_path / name)
    assert held(tmp_path / "run") == held(tmp_path / "plain")
    assert held(tmp_path / "data") != held(tmp_path / "plain")
    assert not np.allclose(first_losses(tmp_path / "run"), first_losses(tmp_path / "plain"))


def test_every_client_evaluates_on_the_common_test_set(run_config, tmp_path):
    """Beside its own held-out rows. The same adapter has the same loss there at every client."""
    rows = [{"prompt": f"p{n}", "completion": f"c{n}"} for n in range(5)]
    (tmp_path / "test.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (tmp_path / "rows.jsonl").write_text(
        "".join(json.dumps({"prompt": str(n), "completion": "x" * (n % 9 + 1)}) + "\n" for n in range(40))
    )
    flat = run_config | {
        "data.name": str(tmp_path / "rows.jsonl"),
        "data.test": str(tmp_path / "test.jsonl"),
        "clients.number": 2,
        "train.rounds": 1,
        "train.local-steps": 1,
    }
    run_in_process(flat, tmp_path / "run")
    journal = read_journal(tmp_path / "run")
    last = [event for event in journal if event["event"] == "client-evaluation" and event["round"] == 1]
    assert len({event["test_eval_loss"] for event in last}) == 1
    assert len({event["eval_loss"] for event in last}) == 2
    (mean,) = [event for event in journal if event["event"] == "evaluation" and event["round"] == 1]
    assert np.isclose(mean["test_eval_loss"], last[0]["test_eval_loss"])
