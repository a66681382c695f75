"""Room on the disk, before a run and during it."""

import errno
from collections import namedtuple

import pytest
from in_process import resume_in_process, run_in_process

from fedllm_app.federation.saver import NotSaved
from fedllm_app.runs import space
from fedllm_app.runs.directory import read_journal, read_result
from fedllm_app.runs.space import NoRoom, check_space

Usage = namedtuple("Usage", "total used free")


@pytest.mark.parametrize(
    ("free", "told"),
    [(2**20 * 100, ""), (2**20 * 40, "10 checkpoints take 52.0 MB"), (2**20 * 11, None)],
)
def test_before_the_first_round(free, told, tmp_path, monkeypatch):
    """An adapter of 2 MB with a state of 3 MB: ten checkpoints and the adapter take 52 MB, two and it 12 MB."""
    monkeypatch.setattr(space.shutil, "disk_usage", lambda _: Usage(0, 0, free))
    if told is None:
        with pytest.raises(NoRoom, match=r"has 11\.0 MB free, and a checkpoint with the final adapter takes 12\.0 MB"):
            check_space(tmp_path, 2 * 2**20, 3 * 2**20, 10)
    else:
        said = check_space(tmp_path, 2 * 2**20, 3 * 2**20, 10)
        assert told in said
        assert bool(said) == bool(told)


def test_a_run_without_room_does_not_begin(run_config, tmp_path, monkeypatch):
    monkeypatch.setattr(space.shutil, "disk_usage", lambda _: Usage(0, 0, 1000))
    with pytest.raises(NoRoom):
        run_in_process(run_config, tmp_path / "run")
    events = [event["event"] for event in read_journal(tmp_path / "run")]
    assert "failed" in events
    assert "ready" not in events


def test_a_disk_that_fills_up_stops_the_run_with_its_last_checkpoint(run_config, tmp_path, monkeypatch):
    """Full at the third checkpoint; with room again the run ends with an undisturbed one's bytes."""
    flat = run_config | {"train.rounds": 4, "train.local-steps": 1, "run.checkpoint-every": 1, "evaluate.every": 0}
    flat |= {"strategy.name": "fedadam", "clients.number": 2}
    whole = run_in_process(flat, tmp_path / "whole")
    space_left = 2

    def filling(file, **arrays):
        nonlocal space_left
        if not space_left:
            raise OSError(errno.ENOSPC, "No space left on device")
        space_left -= 1
        return plain(file, **arrays)

    from fedllm_app.runs import checkpoints

    plain = checkpoints.np.savez
    with monkeypatch.context() as patched:
        patched.setattr(checkpoints.np, "savez", filling)
        with pytest.raises(NotSaved, match=r"of round 3 could not be written: No space left.*whole one is of round 2"):
            run_in_process(flat, tmp_path / "run")
    assert sorted(path.name for path in (tmp_path / "run" / "checkpoints").iterdir()) == ["round-1", "round-2"]
    assert read_result(tmp_path / "run") is None
    assert "fedllm run --resume" in read_journal(tmp_path / "run")[-1]["reason"]
    assert resume_in_process(flat, tmp_path / "run") == whole
