"""What is known of an adapter is found beside it: its run, its place in it, and saved evaluations."""

import json
import os
import time

import pytest

from fedllm_app.paths import home
from fedllm_app.runs.card import Base
from fedllm_app.runs.card_facts import NoEvaluation, gather_facts, saved_evaluations


def facts_of(adapter):
    return gather_facts(adapter, "title", Base("tiny"), None, ["use"])


def save_report(directory, when="2026-01-01 10:00:00", suite="builtin", **models):
    directory.mkdir(parents=True, exist_ok=True)
    report = {"suite": suite, "models": models, "figures": [], "settings": {"time": when}}
    (directory / "report.json").write_text(json.dumps(report))
    return report


def test_the_final_adapter_a_checkpoint_and_a_client(save_run):
    run = save_run(clients=2, strategy__name="local")
    final, client, checkpoint = (
        facts_of(run / place) for place in ("adapter", "adapters/client-1", "checkpoints/round-1/adapter")
    )
    assert [(facts.server_round, facts.client) for facts in (final, client, checkpoint)] == [
        (None, None),
        (None, 1),
        (1, None),
    ]
    assert final.result == {"rounds": 2, "participation": []}
    assert checkpoint.result is None  # it is of the end
    for facts in (final, client, checkpoint):
        assert facts.config["strategy.name"] == "local"
        assert facts.settings["peft_type"] == "LORA"
        assert facts.journal[0]["event"] == "started"
        assert facts.versions.keys() == {"Python", "fedllm-app", "torch", "transformers", "peft"}


def test_an_adapter_of_elsewhere(save_run, tmp_path):
    (save_run() / "adapter").rename(tmp_path / "client-1")
    facts = facts_of(tmp_path / "client-1")
    assert (facts.config, facts.result, facts.journal, facts.client) == (None, None, (), None)


def test_evaluations_are_found_at_home_and_in_the_run(save_run):
    """By the path of the adapter; of a suite that was asked twice, the later one."""
    run = save_run()
    adapter = run / "adapter"
    save_report(home() / "evaluations" / "1", first=str(adapter), base="the base model alone")
    new = save_report(home() / "evaluations" / "0" / "math", "2026-01-02 09:00:00", again=str(adapter))
    save_report(home() / "evaluations" / "2", other="/other/adapter")
    code = save_report(run / "report", suite="code", own=str(adapter))
    (run / "broken").mkdir()
    (run / "broken" / "report.json").write_text("{")
    assert saved_evaluations(adapter) == [(new, "again"), (code, "own")]
    assert saved_evaluations(run / "checkpoints" / "round-1" / "adapter") == []


def test_an_evaluation_from_before_the_run_went_on_does_not_count(save_run, tmp_path):
    """A run that is resumed with more rounds ends with another adapter in the same place. Who names it, knows."""
    adapter = save_run() / "adapter"
    report = save_report(home() / "evaluations" / "1", first=str(adapter))
    weights = adapter / "adapter_model.safetensors"
    os.utime(weights, (weights.stat().st_atime, time.time() + 60))
    assert saved_evaluations(adapter) == []
    assert saved_evaluations(adapter, [home() / "evaluations"]) == [(report, "first")]


def test_named_evaluations_alone_count(save_run, tmp_path):
    adapter = save_run() / "adapter"
    save_report(home() / "evaluations" / "1", "2027-01-01", first=str(adapter))
    named = save_report(tmp_path / "own", first=str(adapter))
    assert saved_evaluations(adapter, [tmp_path / "own"]) == [(named, "first")]


@pytest.mark.parametrize(
    ("write", "said"),
    [
        (lambda _directory: None, "holds no report of fedllm evaluate"),
        (lambda directory: save_report(directory, x="/other"), "was not asked there, but /other"),
        (lambda directory: (directory / "report.json").write_text("{"), "cannot be read as a report"),
        (lambda directory: (directory / "report.json").write_text("[1]"), "is no report"),
        (lambda directory: (directory / "report.json").write_text('{"models": 1}'), "is no report"),
        (lambda directory: (directory / "report.json").write_text('{"a": 1}'), "cannot be read as a report"),
    ],
)
def test_a_named_directory_must_hold_an_evaluation_of_the_adapter(save_run, tmp_path, write, said):
    adapter = save_run() / "adapter"
    (tmp_path / "named").mkdir()
    write(tmp_path / "named")
    with pytest.raises(NoEvaluation, match=said):
        saved_evaluations(adapter, [tmp_path / "named"])
