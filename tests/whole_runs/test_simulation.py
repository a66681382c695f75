"""End to end through Flower: the app in a simulation, as `fedllm run` and as plain `flwr run` start it."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
from in_process import run_in_process
from places import ROOT

from fedllm_app.commands.flower import LocalSuperLink, run_status, submit_run
from fedllm_app.commands.run import run_to_end
from fedllm_app.runs.directory import read_journal, read_result

pytestmark = pytest.mark.slow


@pytest.fixture(autouse=True)
def own_flower_home(flower_home):
    """No test here uses or changes a user's connections."""


def final_bytes(directory: Path) -> bytes:
    return (directory / "adapter" / "adapter_model.safetensors").read_bytes()


def test_a_run_from_start_to_finish(run_config, tmp_path, console):
    """Four clients on four nodes: files, journal, progress on the terminal; on two nodes the same bytes, and in one
    process.

    Flower draws node ids anew and replies arrive in another order, which must not show in the adapter.
    """
    four, two = tmp_path / "four", tmp_path / "two"
    assert run_to_end(ROOT, run_config | {"run.directory": str(four), "run.checkpoint-every": 1}, console)
    text = console.export_text()
    assert "round 2/2" in text
    assert "run finished" in text
    result, journal = read_result(four), read_journal(four)
    assert result["refused_replies"] == 0
    assert result["adapter_moved"] > 0
    clients = [event for event in journal if event["event"] == "client"]
    assert [(event["round"], event["client"]) for event in clients] == [(r, c) for r in (1, 2) for c in range(4)]
    assert {event["name"] for event in clients} == {"general", "math", "code", "finance"}
    assert sorted(path.name for path in (four / "checkpoints").iterdir()) == ["round-1", "round-2"]
    adapter_bytes = 4 * journal_value(journal, "ready", "parameters") + 128  # float32 and NumPy's header
    # Down: 2 rounds x 4 clients of training and 3 evaluations x 4 clients; up: training alone carries the adapter.
    assert result["bytes_down"] == adapter_bytes * (8 + 12)
    assert result["bytes_up"] == adapter_bytes * 8
    federation = "num-supernodes=2 client-resources-num-cpus=1"
    assert run_to_end(ROOT, run_config | {"run.directory": str(two)}, console, federation_config=federation)
    assert final_bytes(two) == final_bytes(four)
    assert run_in_process(run_config, tmp_path / "one-process") == final_bytes(four)


def journal_value(journal: list[dict], event: str, field: str):
    return next(line[field] for line in journal if line["event"] == event)


def test_a_failed_run_says_so(run_config, tmp_path, console):
    """No row has room for a completion in 8 tokens: every client says why, nothing is trained, the status is 1."""
    directory = tmp_path / "failed"
    assert not run_to_end(ROOT, run_config | {"run.directory": str(directory), "train.max-length": 8}, console)
    assert read_result(directory) is None
    text = console.export_text()
    assert "4 of 4 clients cannot take part" in text
    assert "train.max-length" in text


def test_plain_flwr_run(run_config, tmp_path, monkeypatch):
    """`flwr run .` with Flower's default federation of two nodes, and Ray, does the same run by itself."""
    monkeypatch.setenv("FEDLLM_FORK_SERVER", "")
    directory = tmp_path / "plain"
    overrides = tmp_path / "run.toml"
    flat = run_config | {"run.directory": str(directory), "train.rounds": 1}
    overrides.write_text("".join(f'"{key}" = {json.dumps(value)}\n' for key, value in flat.items()))
    with LocalSuperLink(tmp_path / "flower.log") as superlink:
        run_id = submit_run(ROOT, None, ["--run-config", str(overrides)], superlink.environment)
        log = subprocess.run(
            [str(Path(sys.executable).parent / "flwr"), "log", str(run_id), "--stream"],
            env=superlink.environment,
            capture_output=True,
            text=True,
            timeout=300,
            check=False,
        )
        status, _ = run_status(run_id, None, superlink.environment)
    assert status == "finished:completed", log.stdout[-2000:]
    assert read_result(directory)["rounds"] == 1
    assert len([event for event in read_journal(directory) if event["event"] == "client"]) == 4


def test_dpo_from_a_finished_run(run_config, tmp_path, console):
    """The paper's two stages: FedDPO starts from a FedIT run's directory, whose adapter is the reference policy.

    The first loss of every client is ln 2 = 0.6931 in round 1, because policy and reference are the same model.
    """
    first, second = tmp_path / "it", tmp_path / "va"
    run_in_process(run_config, first)
    flat = run_config | {"run.directory": str(second), "train.task": "dpo", "adapter.start": str(first)}
    assert run_to_end(ROOT, flat, console)
    losses = [event["first_loss"] for event in read_journal(second) if event["event"] == "client"]
    assert losses[:4] == pytest.approx([0.693147] * 4, abs=1e-4)
    assert all(abs(loss - 0.693147) > 1e-5 for loss in losses[4:])
    assert final_bytes(first) != final_bytes(second)
