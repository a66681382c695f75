"""Files and directories are replaced as a whole, or not at all."""

import os
import stat
import subprocess
import sys

import pytest
from in_process import run_in_process
from places import ROOT

from fedllm_app.commands.main import main
from fedllm_app.commands.new_directory import check_home, new_directory
from fedllm_app.errors import UserError
from fedllm_app.paths import atomic_path, did_you_mean, expanded, home, lock_file, make_directory, opener, write_text


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
from fedllm_app.commands.main import main
from fedllm_app.commands.new_directory import check_home, new_directory
from fedllm_app.errors import UserError
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


def lax(path) -> list[str]:
    """What at a path and below it group or others may do anything with."""
    return [
        str(found) for found in [path, *path.rglob("*")] if found.lstat().st_mode & 0o077 and not found.is_symlink()
    ]


@pytest.fixture
def lax_umask():
    before = os.umask(0)
    yield
    os.umask(before)


def test_what_is_written_below_the_home_is_the_owners_whatever_the_umask(app_home, lax_umask):
    write_directory(app_home / "a" / "b" / "c", x="1")
    write_text(app_home / "d" / "e.txt", "1")
    with open(app_home / "log", "a", opener=opener) as file:
        file.write("1")
    make_directory(app_home / "f" / "g")
    assert len(list(app_home.rglob("*"))) == 9
    assert lax(app_home) == []


def test_what_is_written_elsewhere_is_as_the_umask_says(tmp_path, lax_umask):
    write_text(tmp_path / "runs" / "result.json", "{}")
    with open(tmp_path / "runs" / "journal", "a", opener=opener):
        pass
    modes = {path.name: stat.S_IMODE(path.stat().st_mode) for path in (tmp_path / "runs").iterdir()}
    assert modes == {"result.json": 0o666, "journal": 0o666}
    assert stat.S_IMODE((tmp_path / "runs").stat().st_mode) == 0o777


def test_a_home_that_others_may_read_is_closed_once_and_told(tmp_path, monkeypatch, caplog):
    """Links are left alone: what they lead to is not the app's."""
    old, outside = tmp_path / "old", tmp_path / "outside"
    (old / "shards").mkdir(parents=True)
    for file in (old / "shards" / "x.npy", outside):
        file.write_text("x")
        file.chmod(0o644)
    (old / "link").symlink_to(outside)
    old.chmod(0o755)
    monkeypatch.setenv("FEDLLM_HOME", str(old))
    for _ in range(2):
        home()
    assert lax(old) == []
    assert stat.S_IMODE(outside.stat().st_mode) == 0o644
    assert [record.getMessage() for record in caplog.records] == [
        f"{old} could be read by others; its files are now its owner's alone"
    ]


def test_a_home_that_cannot_be_closed_is_told_and_used(tmp_path, monkeypatch, caplog):
    old = tmp_path / "old"
    old.mkdir(mode=0o755)
    monkeypatch.setenv("FEDLLM_HOME", str(old))
    monkeypatch.setattr("pathlib.Path.chmod", lambda *_: (_ for _ in ()).throw(PermissionError(1, "not yours")))
    assert home() == old
    assert "can be read by others, and that cannot be changed" in caplog.text


def test_all_files_of_a_run_below_the_home_are_the_owners(app_home, run_config, lax_umask):
    """Tokens, converted rows, divisions, state of clients, checkpoints, journal and result."""
    rows = app_home.parent / f"{app_home.name}-rows.jsonl"
    rows.write_text("".join(f'{{"question": "q {n}", "answer": "{n}"}}\n' for n in range(40)))
    config = run_config | {"strategy.name": "scaffold", "update.compress": "int8", "clients.number": 2}
    config |= {"data.name": str(rows), "run.checkpoint-every": 1, "train.local-steps": 1, "train.rounds": 1}
    run_in_process(config, app_home / "runs" / "first")
    assert {path.name for path in app_home.iterdir()} >= {"sources", "partitions", "shards", "clients", "runs"}
    assert (app_home / "runs" / "first" / "journal.jsonl").stat().st_size
    assert lax(app_home) == []


@pytest.mark.parametrize("make", ["check", "directory", "run"])
def test_a_home_that_the_app_makes_is_the_owners_from_the_start(tmp_path, monkeypatch, caplog, make):
    """Whoever makes it, and under the usual umask; so nothing is told of it afterwards."""
    new = tmp_path / "user" / ".fedllm"
    monkeypatch.setenv("FEDLLM_HOME", str(new))
    before = os.umask(0o022)
    try:
        if make == "check":
            check_home(new)
        elif make == "directory":
            make_directory(new / "federations" / "trial")
        else:
            make_directory(new)
            monkeypatch.chdir(new)
            with new_directory("fedavg") as run:
                (run / "journal.jsonl").touch(mode=0o600)
    finally:
        os.umask(before)
    assert home() == new
    assert lax(new) == []
    assert caplog.records == []


def test_the_home_of_a_user_who_is_not_there_is_refused(monkeypatch, tmp_path):
    """Wherever a path may begin with it: pathlib's own error would end the command with a traceback."""
    with pytest.raises(UserError, match="~nobody-here/x: there is no user nobody-here on this machine"):
        expanded("~nobody-here/x")
    monkeypatch.setenv("HOME", "/home/me")
    monkeypatch.chdir(tmp_path)
    (tmp_path / "~nobody-here").mkdir()
    assert [str(expanded(path)) for path in ("~/x", "~nobody-here", "/d")] == ["/home/me/x", "~nobody-here", "/d"]


@pytest.mark.parametrize(
    ("command", "status"),
    [
        (["chat", "~nobody-here/run"], 2),
        (["evaluate", "~nobody-here/run", "--suite", "builtin"], 2),
        (["merge", "~nobody-here/run", "--out", "x"], 2),
        (["report", "~nobody-here/run"], 2),
        (["plan", "~nobody-here/app"], 2),
        (["run", ".", "-c", "~nobody-here/x.toml"], 2),
    ],
)
def test_no_command_ends_with_a_traceback_then(command, status, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert main(command) == status
    assert "there is no user nobody-here on this machine" in " ".join(capsys.readouterr().out.split())


@pytest.mark.parametrize(("umask", "mode"), [(0o022, 0o644), (0o077, 0o600), (0o002, 0o664)])
def test_locks_follow_the_umask(tmp_path, umask, mode):
    """Nobody else may write to the lock of a run and hold it. Below FEDLLM_HOME it is its owner's alone."""
    before = os.umask(umask)
    try:
        for place in (tmp_path / "lock", home() / "lock"):
            make_directory(place.parent)
            lock_file(place).acquire()
    finally:
        os.umask(before)
    assert stat.S_IMODE((tmp_path / "lock").stat().st_mode) == mode
    assert stat.S_IMODE((home() / "lock").stat().st_mode) == 0o600


def test_names_that_are_nearly_the_same_are_offered(tmp_path):
    """Also in other capitals; of a folder that is not there, nothing."""
    for name in ("tickets.csv", "other.csv"):
        (tmp_path / name).touch()
    assert did_you_mean(tmp_path / "ticket.csv") == f"; did you mean {tmp_path / 'tickets.csv'}?"
    assert did_you_mean(tmp_path / "Tickets.CSV") == f"; did you mean {tmp_path / 'tickets.csv'}?"
    assert did_you_mean(tmp_path / "nothing") == did_you_mean(tmp_path / "no" / "tickets.csv") == ""
