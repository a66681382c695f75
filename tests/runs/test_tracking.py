"""Experiment trackers: TensorBoard's files read back, and trackers that are missing or fail."""

import pytest
from in_process import run_in_process
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from fedllm_app.config.parse import parse_run_config
from fedllm_app.config.sections import ConfigError
from fedllm_app.runs.directory import read_journal
from fedllm_app.runs.tracking import NoTracker, check_tracking, scalars


@pytest.fixture
def small(run_config):
    return run_config | {"clients.number": 2, "train.local-steps": 1, "tracking.backend": "tensorboard"}


def test_the_journal_and_tensorboard_have_the_same_numbers(small, tmp_path):
    """Losses of the rounds and of each client, and what was held out, from round 0 on."""
    run_in_process(small, tmp_path / "run")
    events = EventAccumulator(str(tmp_path / "run" / "tracking" / "run")).Reload()

    def tracked(name: str) -> list[tuple[int, float]]:
        return [(point.step, pytest.approx(point.value, rel=1e-6)) for point in events.Scalars(name)]

    def journaled(kind: str, field: str, **of: object) -> list[tuple[int, float]]:
        lines = [
            line for line in read_journal(tmp_path / "run") if line["event"] == kind and of.items() <= line.items()
        ]
        return [(line["round"], line[field]) for line in lines]

    assert journaled("round", "train_loss") == tracked("round/train_loss")
    assert journaled("evaluation", "eval_loss") == tracked("evaluation/eval_loss")
    assert [step for step, _ in tracked("evaluation/eval_loss")] == [0, 1, 2]
    assert journaled("client", "train_loss", client=1) == tracked("client-1-math/train_loss")


def test_what_is_a_number_of_a_round():
    client = {"event": "client", "time": 1.0, "round": 2, "client": 0, "name": "a", "train_loss": 0.5, "code": "x"}
    suite = {"event": "suite", "round": 1, "suite": "math", "figures": {"gsm8k accuracy": 0.25}, "seconds": 3}
    assert scalars(client) == {"client-0-a/train_loss": 0.5}
    assert scalars(suite) == {"suite/gsm8k accuracy": 0.25, "suite/seconds": 3.0}
    assert scalars({"event": "round", "round": 1, "train_loss": None, "clients": [0]}) == {}
    assert scalars({"event": "ready", "seconds": 3.0}) == {}


def test_a_package_that_is_missing_is_said_before_the_run(small, tmp_path, monkeypatch):
    monkeypatch.setattr("fedllm_app.runs.tracking.importlib.util.find_spec", lambda _name: None)
    with pytest.raises(NoTracker, match="'tensorboard': the package tensorboard is not installed .*pip install"):
        check_tracking(parse_run_config(small).tracking)
    with pytest.raises(NoTracker):
        run_in_process(small, tmp_path / "run")
    assert [event["event"] for event in read_journal(tmp_path / "run")] == ["failed"]
    check_tracking(parse_run_config(small | {"tracking.backend": "none"}).tracking)


def test_a_tracker_that_fails_is_told_once_and_the_run_goes_on(small, tmp_path, monkeypatch):
    def full(*_arguments: object, **_options: object) -> None:
        raise OSError("no space left")

    whole = run_in_process(small | {"tracking.backend": "none"}, tmp_path / "whole")
    monkeypatch.setattr("accelerate.tracking.TensorBoardTracker.log", full)
    assert run_in_process(small, tmp_path / "run") == whole
    warnings = [event["reason"] for event in read_journal(tmp_path / "run") if event["event"] == "warning"]
    told = "the run goes on without its tracker, which failed: OSError: no space left"
    assert [reason for reason in warnings if "tracker" in reason] == [told]


def test_a_backend_that_there_is_not(small):
    with pytest.raises(ConfigError, match="tracking.backend"):
        parse_run_config(small | {"tracking.backend": "comet"})


def test_mlflow_has_the_numbers_of_the_journal(small, tmp_path, monkeypatch):
    """Where it is installed: read back from the data base in the run directory."""
    mlflow = pytest.importorskip("mlflow", reason="mlflow is not installed")
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    run_in_process(small | {"tracking.backend": "mlflow"}, tmp_path / "run")
    events = read_journal(tmp_path / "run")
    assert not [event for event in events if event["event"] == "warning"]
    client = mlflow.MlflowClient(f"sqlite:///{tmp_path / 'run' / 'tracking' / 'mlflow.db'}")
    (project,) = [one for one in client.search_experiments() if one.name == "fedllm"]
    (run,) = client.search_runs([project.experiment_id])
    losses = [(point.step, point.value) for point in client.get_metric_history(run.info.run_id, "round/train_loss")]
    assert losses == [(event["round"], event["train_loss"]) for event in events if event["event"] == "round"]
    assert run.data.params["strategy.name"] == "fedavg"


def test_wandb_without_a_network_keeps_the_run_for_later(small, tmp_path, monkeypatch):
    """Where it is installed: WANDB_MODE is honoured, and what `wandb sync` sends lies in the run directory."""
    pytest.importorskip("wandb", reason="wandb is not installed")
    monkeypatch.setenv("WANDB_MODE", "offline")
    run_in_process(small | {"tracking.backend": "wandb"}, tmp_path / "run")
    assert not [event for event in read_journal(tmp_path / "run") if event["event"] == "warning"]
    assert list((tmp_path / "run" / "tracking" / "wandb").glob("offline-run-*/*.wandb"))


def test_trackio_has_the_run(small, tmp_path, monkeypatch):
    """Where it is installed: in its own directory, where its pages show the runs of a project together."""
    storage = pytest.importorskip("trackio.sqlite_storage", reason="trackio is not installed").SQLiteStorage
    monkeypatch.setattr("trackio.sqlite_storage.TRACKIO_DIR", tmp_path / "pages")
    run_in_process(small | {"tracking.backend": "trackio"}, tmp_path / "run")
    assert not [event for event in read_journal(tmp_path / "run") if event["event"] == "warning"]
    logs = storage.get_logs("fedllm", "run")
    losses = [entry["round/train_loss"] for entry in logs if "round/train_loss" in entry]
    assert losses == [e["train_loss"] for e in read_journal(tmp_path / "run") if e["event"] == "round"]
