"""Run directories of their own, and what cannot be written is said before Flower starts."""

from datetime import datetime
from pathlib import Path

import pytest
from places import ROOT

from fedllm_app.commands import new_directory as module
from fedllm_app.commands import run as run_command
from fedllm_app.commands.main import main
from fedllm_app.commands.new_directory import new_directory


@pytest.fixture(autouse=True)
def one_second(tmp_path, monkeypatch):
    """All of it happens within one second, in an empty directory."""

    class Clock(datetime):
        @classmethod
        def now(cls, tz=None):
            return cls(2026, 1, 2, 3, 4, 5)

    monkeypatch.setattr(module, "datetime", Clock)
    monkeypatch.chdir(tmp_path)


def test_runs_of_one_second_do_not_share_a_directory(tmp_path):
    with new_directory("fedavg") as first, new_directory("fedavg") as second, new_directory("fedavg") as third:
        assert [path.name for path in (first, second, third)] == [
            f"20260102-030405-fedavg{number}" for number in ("", "-2", "-3")
        ]
        (second / "journal.jsonl").touch()
    assert [path.name for path in (tmp_path / "runs").iterdir()] == [second.name]  # the others were left empty


def test_nothing_is_left_of_a_directory_that_was_not_used(tmp_path):
    with pytest.raises(ZeroDivisionError), new_directory("fedavg") as path:
        assert path.is_dir()
        raise ZeroDivisionError
    assert list(tmp_path.iterdir()) == []


@pytest.fixture
def starts_nothing(monkeypatch):
    monkeypatch.setattr(run_command, "is_local", lambda connection: True)
    for name in ("LocalSuperLink", "submit_run"):
        monkeypatch.setattr(run_command, name, lambda *_, **__: pytest.fail("a process of Flower was started"))


@pytest.mark.parametrize(
    ("directory", "reason"),
    [
        ("{here}/file/run", "Not a directory"),
        ("{here}/file", "File exists"),
        ("{here}/" + "x" * 300, "File name too long"),
        ("/proc/run", "No such file or directory"),
        ("{here}", "Is a directory"),  # it is there, and the run's lock cannot be made in it
    ],
)
def test_a_run_directory_that_cannot_be_written_ends_with_2(
    starts_nothing, tiny_model, tmp_path, capsys, directory, reason
):
    (tmp_path / "file").touch()
    (tmp_path / ".lock").mkdir()
    path = directory.format(here=tmp_path)
    assert main(["run", str(ROOT), "-c", f"model.name='{tiny_model}' run.directory='{path}'"]) == 2
    said = " ".join(capsys.readouterr().out.split())
    assert "run.directory = " in said
    assert f"cannot be written: {reason}" in said
    assert "name the absolute path of a directory that this user may write to" in said


def test_a_working_directory_that_cannot_be_written_ends_with_2(starts_nothing, tmp_path, capsys):
    (tmp_path / "runs").touch()
    assert main(["run", str(ROOT)]) == 2
    assert "runs/20260102-030405-fedavg cannot be made: " in "".join(capsys.readouterr().out.splitlines())


def test_a_home_that_cannot_be_written_ends_with_2(starts_nothing, tmp_path, capsys, monkeypatch):
    (tmp_path / "file").touch()
    monkeypatch.setenv("FEDLLM_HOME", str(tmp_path / "file" / "home"))
    assert main(["run", str(ROOT)]) == 2
    assert "set the environment variable FEDLLM_HOME" in " ".join(capsys.readouterr().out.split())
    assert not Path(tmp_path / "runs").exists()
