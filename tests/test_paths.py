"""Files and directories are replaced as a whole, or not at all."""

import os
import subprocess
import sys

import pytest
from places import ROOT

from fedllm_app.paths import atomic_path, write_text


def write_directory(path, **files):
    with atomic_path(path) as temporary:
        temporary.mkdir()
        for name, text in files.items():
            (temporary / name).write_text(text)


def content(path):
    return {file.name: file.read_text() for file in path.iterdir()}


def test_a_directory_replaces_an_older_one_and_is_not_merged_with_it(tmp_path):
    write_directory(tmp_path / "round-5", adapter="old", state="old")
    write_directory(tmp_path / "round-5", adapter="new")
    assert content(tmp_path / "round-5") == {"adapter": "new"}
    assert [path.name for path in tmp_path.iterdir()] == ["round-5"]


def test_an_older_directory_stays_if_the_new_one_is_not_finished(tmp_path):
    write_directory(tmp_path / "round-5", adapter="old")
    with pytest.raises(RuntimeError, match="disk"), atomic_path(tmp_path / "round-5") as temporary:
        temporary.mkdir()
        raise RuntimeError("disk full")
    assert content(tmp_path / "round-5") == {"adapter": "old"}
    assert [path.name for path in tmp_path.iterdir()] == ["round-5"]


@pytest.mark.parametrize("done", [False, True])
def test_interrupted_between_the_renames(done, tmp_path, monkeypatch):
    """The second of three renames is interrupted before or after it is done: the old or the new one is there, whole."""
    write_directory(tmp_path / "round-5", adapter="old")
    rename, calls = os.replace, []

    def interrupted(source, target):
        calls.append(target)
        if len(calls) != 2 or done:
            rename(source, target)
        if len(calls) == 2:
            raise KeyboardInterrupt

    with monkeypatch.context() as patched, pytest.raises(KeyboardInterrupt):
        patched.setattr(os, "replace", interrupted)
        write_directory(tmp_path / "round-5", adapter="new")
    assert content(tmp_path / "round-5") == {"adapter": "new" if done else "old"}
    write_directory(tmp_path / "round-5", adapter="newer")
    assert content(tmp_path / "round-5") == {"adapter": "newer"}
    assert [path.name for path in tmp_path.iterdir()] == ["round-5"]


KILLED = """
import os, pathlib, sys
from fedllm_app.paths import atomic_path
rename, calls = os.replace, []
def killed(source, target):
    calls.append(target)
    if len(calls) == 2:
        os._exit(9)
    rename(source, target)
os.replace = killed
with atomic_path(pathlib.Path(sys.argv[1])) as temporary:
    temporary.mkdir()
"""


def test_killed_between_the_renames(tmp_path):
    """No handler runs: the old directory lies whole beside its place, until the next one has taken that."""
    target = tmp_path / "round-5"
    write_directory(target, adapter="old")
    assert subprocess.run([sys.executable, "-c", KILLED, str(target)], check=False, cwd=ROOT).returncode == 9
    assert not target.exists()
    assert content(tmp_path / ".round-5-replaced") == {"adapter": "old"}
    write_directory(target, adapter="new")
    assert content(target) == {"adapter": "new"}
    assert not (tmp_path / ".round-5-replaced").exists()


def test_a_file_does_not_replace_a_directory(tmp_path):
    write_directory(tmp_path / "notes", a="kept")
    with pytest.raises(IsADirectoryError):
        write_text(tmp_path / "notes", "text")
    assert content(tmp_path / "notes") == {"a": "kept"}
