"""The files of a run: whole or not there."""

import json
import stat
from pathlib import Path

import numpy as np
import pytest

from fedllm_app.adapters.layout import AdapterSettings, Layout, Manifest
from fedllm_app.adapters.peft_directory import load_peft_directory
from fedllm_app.runs import directory as run_directory
from fedllm_app.runs.directory import (
    Checkpoint,
    PromptRecord,
    RunDirectory,
    RunDirectoryExists,
    client_adapters,
    read_journal,
    read_result,
    read_run_config,
    recorded_template,
    run_of,
)

MANIFEST = Manifest(("base_model.model.q.lora_A.weight",), ((2, 3),))
VECTOR = np.arange(6, dtype=np.float32)


@pytest.fixture
def settings():
    return AdapterSettings('{"peft_type": "LORA", "r": 2, "target_modules": ["q"]}')


def test_the_lock_of_a_run_is_not_for_everybody_to_write(tmp_path):
    """Whoever can write to it could hold the run of somebody else."""
    run = RunDirectory(tmp_path / "run")
    with run.held():
        assert not (run.path / ".lock").stat().st_mode & stat.S_IWOTH


@pytest.fixture
def directory(tmp_path) -> RunDirectory:
    made = RunDirectory(tmp_path / "runs" / "one")
    made.create({"train.rounds": 2, "model.name": "x"})
    return made


def after(server_round, adapter, strategy, positions) -> Checkpoint:
    """A checkpoint of a run whose clients all took part in its last round."""
    return Checkpoint(server_round, adapter, strategy, {}, positions, dict.fromkeys(positions, server_round))


def files(directory: RunDirectory) -> set[str]:
    return {str(path.relative_to(directory.path)) for path in directory.path.rglob("*") if path.is_file()}


def test_begins_with_the_configuration(directory):
    assert files(directory) == {"config.json"}
    assert json.loads((directory.path / "config.json").read_text()) == {"train.rounds": 2, "model.name": "x"}


def test_a_relative_path_is_refused(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(RunDirectoryExists, match="absolute path"):
        RunDirectory(Path("runs/one")).create({})
    assert list(tmp_path.iterdir()) == []


def test_a_directory_of_another_run_is_refused_and_left_as_it_is(directory):
    directory.journal("started")
    directory.journal("ready")
    with pytest.raises(RunDirectoryExists, match="holds another run"):
        RunDirectory(directory.path).create({"train.rounds": 9})
    assert json.loads((directory.path / "config.json").read_text())["train.rounds"] == 2


def test_a_run_that_never_began_leaves_its_directory_free(directory):
    """Its journal is kept under another name."""
    directory.journal("started")
    directory.journal("failed", reason="no such model")
    RunDirectory(directory.path).create({"train.rounds": 9})
    assert files(directory) == {"config.json", "failed-start.jsonl"}
    assert json.loads((directory.path / "config.json").read_text())["train.rounds"] == 9


def test_two_runs_at_a_time_cannot_have_one_directory(tmp_path):
    """The second is refused before it writes; when the first has ended, the directory is free."""
    first, second = RunDirectory(tmp_path / "one"), RunDirectory(tmp_path / "one")
    with first.held():
        first.create({"train.rounds": 2})
        first.journal("started")
        with pytest.raises(RunDirectoryExists, match="in use by a run that has not ended"), second.held():
            second.create({"train.rounds": 9})
        assert [event["event"] for event in read_journal(first.path)] == ["started"]
        assert read_run_config(first.path) == {"train.rounds": 2}
    with second.held():
        second.create({"train.rounds": 9})
    assert read_run_config(first.path) == {"train.rounds": 9}


def test_a_directory_with_a_log_only_is_taken(tmp_path):
    """`fedllm run` writes Flower's log there before the run begins."""
    (tmp_path / "flower.log").touch()
    RunDirectory(tmp_path).create({})
    assert (tmp_path / "config.json").is_file()


def test_journal(directory):
    directory.journal("started", run_id=5)
    directory.journal("refused", reason='a "quoted"\nreason', clients=[0, 2])
    first, second = read_journal(directory.path)
    assert (first["event"], first["run_id"]) == ("started", 5)
    assert (second["reason"], second["clients"]) == ('a "quoted"\nreason', [0, 2])
    assert first["time"] <= second["time"]


def test_a_checkpoint_is_whole(directory, settings):
    directory.checkpoint(after(3, VECTOR, {"momentum": VECTOR * 2}, {0: 15, 1: 10}), VECTOR, Layout(MANIFEST, settings))
    made = directory.path / "checkpoints" / "round-3"
    np.testing.assert_array_equal(load_peft_directory(made / "adapter", MANIFEST), VECTOR)
    with np.load(made / "strategy.npz") as state:
        assert list(state) == ["momentum"]
        np.testing.assert_array_equal(state["momentum"], VECTOR * 2)
    assert json.loads((made / "state.json").read_text()) == {
        "round": 3,
        "positions": {"0": 15, "1": 10},
        "versions": {"0": 3, "1": 3},
        "participation": [],
        "totals": {},
    }


def test_a_checkpoint_left_by_another_process_is_replaced(directory, settings):
    """Whole: nothing of what it held beside stays."""
    directory.checkpoint(after(3, VECTOR * 5, {"momentum": VECTOR}, {0: 5}), VECTOR * 5, Layout(MANIFEST, settings))
    made = directory.path / "checkpoints" / "round-3"
    (made / "left").touch()
    directory.checkpoint(after(3, VECTOR, {}, {0: 15}), VECTOR, Layout(MANIFEST, settings))
    assert not (made / "left").exists()
    assert json.loads((made / "state.json").read_text()) == {
        "round": 3,
        "positions": {"0": 15},
        "versions": {"0": 3},
        "participation": [],
        "totals": {},
    }
    np.testing.assert_array_equal(load_peft_directory(made / "adapter", MANIFEST), VECTOR)
    assert [path.name for path in (directory.path / "checkpoints").iterdir()] == ["round-3"]


def test_nothing_of_a_checkpoint_is_left_if_its_last_file_fails(directory, settings):
    with pytest.raises(TypeError):
        directory.checkpoint(after(3, VECTOR, {}, {0: object()}), VECTOR, Layout(MANIFEST, settings))
    assert files(directory) == {"config.json"}
    assert list((directory.path / "checkpoints").iterdir()) == []


def test_every_adapter_says_how_its_prompts_were_written(tmp_path, settings):
    made = RunDirectory(tmp_path / "run", PromptRecord.of("alpaca", "Be brief."))
    made.create({})
    made.checkpoint(after(1, VECTOR, {}, {}), VECTOR, Layout(MANIFEST, settings))
    made.finish(VECTOR, {2: VECTOR}, Layout(MANIFEST, settings), {})
    for adapter in ("adapter", "adapters/client-2", "checkpoints/round-1/adapter"):
        assert recorded_template(made.path / adapter) == PromptRecord("alpaca", "Be brief.", None)
        np.testing.assert_array_equal(load_peft_directory(made.path / adapter, MANIFEST), VECTOR)


def test_the_text_of_a_jinja_template_is_kept(tmp_path, settings):
    file = tmp_path / "own.jinja"
    file.write_text("{{ messages }} – ü", encoding="utf-8")
    made = RunDirectory(tmp_path / "run", PromptRecord.of(str(file), ""))
    made.finish(VECTOR, {}, Layout(MANIFEST, settings), {})
    file.unlink()
    assert recorded_template(made.path / "adapter") == PromptRecord(str(file), "", "{{ messages }} – ü")
    assert PromptRecord.of(str(file), "").text is None  # a template that lies on the clients' machines only


def test_a_name_is_no_file(tmp_path, monkeypatch):
    """A file in the working directory that is called as a template is."""
    (tmp_path / "alpaca").write_text("no template")
    monkeypatch.chdir(tmp_path)
    assert PromptRecord.of("alpaca", "").text is None


def test_the_run_of_an_adapter(directory, settings, tmp_path):
    directory.journal("started")
    directory.checkpoint(after(2, VECTOR, {}, {}), VECTOR, Layout(MANIFEST, settings))
    directory.finish(VECTOR, {10: VECTOR, 9: VECTOR}, Layout(MANIFEST, settings), {})
    for adapter in ("adapter", "adapters/client-9", "checkpoints/round-2/adapter"):
        assert run_of(directory.path / adapter) == directory.path
    assert run_of(tmp_path / "elsewhere" / "adapter") is None
    assert list(client_adapters(directory.path)) == [9, 10]
    assert client_adapters(directory.path / "adapter") == {}
    assert read_run_config(directory.path) == {"train.rounds": 2, "model.name": "x"}


def test_an_adapter_of_elsewhere_says_nothing(directory, settings):
    directory.finish(VECTOR, {}, Layout(MANIFEST, settings), {})
    assert recorded_template(directory.path / "adapter") is None


def test_the_result_is_written_last(directory, settings, monkeypatch):
    save, saved = run_directory.save_peft_directory, []

    def watched(path, *arguments):
        assert not directory.result_file.exists()
        save(path, *arguments)
        saved.append(path.name)

    monkeypatch.setattr(run_directory, "save_peft_directory", watched)
    assert read_result(directory.path) is None
    directory.finish(VECTOR, {0: VECTOR + 1, 3: VECTOR + 3}, Layout(MANIFEST, settings), {"rounds": 2})
    assert saved == ["adapter", "client-0", "client-3"]
    assert read_result(directory.path) == {"rounds": 2}
    np.testing.assert_array_equal(load_peft_directory(directory.path / "adapters" / "client-3", MANIFEST), VECTOR + 3)


def test_no_result_and_no_half_adapter_if_saving_fails(directory, settings, monkeypatch):
    def full_disk(*_arguments, **_options):
        raise OSError("no space left")

    monkeypatch.setattr(type(settings), "save_pretrained", full_disk)
    with pytest.raises(OSError, match="no space"):
        directory.finish(VECTOR, {}, Layout(MANIFEST, settings), {"rounds": 2})
    assert read_result(directory.path) is None
    assert [path.name for path in directory.path.iterdir()] == ["config.json"]


def test_no_half_result(directory, settings):
    with pytest.raises(TypeError):
        directory.finish(VECTOR, {}, Layout(MANIFEST, settings), {"rounds": object()})
    assert read_result(directory.path) is None
