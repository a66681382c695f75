"""Whatever a command started ends with it, also when the command is killed and its processes hide."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from fedllm_app.commands.reaper import reaper_command
from fedllm_app.runs.directory import RunDirectory
from fedllm_app.runs.journal import read_journal

# A child with a session of its own, whose parent is gone: no longer below the command that started it.
HIDES = """
import subprocess, sys, time
grandchild = "import os, time; open(sys.argv[1] + '/hidden', 'w').write(str(os.getpid())); time.sleep(600)"
child = f'''import subprocess, sys
subprocess.Popen([sys.executable, "-c", "import sys; " + {grandchild!r}, sys.argv[1]], start_new_session=True)'''
subprocess.run([sys.executable, "-c", child, sys.argv[1]])
open(sys.argv[1] + "/shown", "w").write(str(__import__("os").getpid()))
time.sleep(600)
"""
STUBBORN = (
    "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); print('on', flush=True); time.sleep(600)"
)


def until(condition, seconds: float = 30.0):
    """What a condition gives, once it gives anything."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if value := condition():
            return value
        time.sleep(0.05)
    pytest.fail("it did not happen")


def number(file: Path) -> int | None:
    return int(file.read_text()) if file.is_file() and file.read_text() else None


@pytest.mark.skipif(sys.platform != "linux", reason="orphans are adopted on Linux only")
@pytest.mark.parametrize("kill", [signal.SIGKILL, signal.SIGTERM])
def test_a_killed_command_leaves_no_process_and_a_journal_that_says_so(tmp_path, kill):
    """The command is killed; what it started, and a process that had left its tree, are gone."""
    run = RunDirectory(tmp_path / "run")
    run.create({})
    run.journal("started", run_id=1)
    start = (
        f"import subprocess, time\n"
        f"subprocess.Popen({reaper_command([sys.executable, '-c', HIDES, str(tmp_path)], run.path)!r}, "
        f"stdin=subprocess.PIPE, start_new_session=True)\n"
        f"time.sleep(600)"
    )
    command = subprocess.Popen([sys.executable, "-c", start])
    started = [psutil.Process(until(lambda name=name: number(tmp_path / name))) for name in ("hidden", "shown")]
    os.kill(command.pid, kill)
    command.wait()
    _, alive = psutil.wait_procs(started, timeout=30)
    assert not alive
    failed = until(lambda: [event for event in read_journal(run.path) if event["event"] == "failed"])
    assert "interrupted" in failed[0]["reason"]


def test_a_command_that_ends_by_itself_gives_its_status(tmp_path):
    process = subprocess.Popen(
        reaper_command([sys.executable, "-c", "raise SystemExit(7)"], None), stdin=subprocess.PIPE
    )
    assert process.wait(timeout=30) == 7
    process.stdin.close()


def test_a_process_that_does_not_end_when_asked_is_killed(monkeypatch):
    from fedllm_app.commands import reaper

    monkeypatch.setattr(reaper, "_STOP_TIMEOUT", 0.3)
    with subprocess.Popen([sys.executable, "-c", STUBBORN], stdout=subprocess.PIPE) as process:
        process.stdout.readline()
        monkeypatch.setattr(psutil.Process, "children", lambda self, recursive: living(process.pid))
        reaper.end_descendants()
        assert not living(process.pid)


def living(pid: int) -> list[psutil.Process]:
    """This process alone: tests beside this one have children, too."""
    process = psutil.Process(pid) if psutil.pid_exists(pid) else None
    return [process] if process and process.status() != psutil.STATUS_ZOMBIE else []
