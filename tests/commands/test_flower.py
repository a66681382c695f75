"""The environment of Flower's processes."""

import os
from pathlib import Path

from fedllm_app.commands.flower import flower_environment


def test_relative_entries_of_the_python_path_become_absolute(monkeypatch, tmp_path):
    """The SuperLink works elsewhere; in the order given, without the empty entries that would mean that place."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(["examples", "", "/absolute"]))
    assert flower_environment()["PYTHONPATH"].split(os.pathsep) == [str(tmp_path / "examples"), "/absolute"]


def test_without_a_python_path_there_is_none(monkeypatch):
    monkeypatch.delenv("PYTHONPATH", raising=False)
    assert flower_environment()["PYTHONPATH"] == ""
    assert Path(flower_environment()["PATH"].split(os.pathsep)[0], "python").exists()
