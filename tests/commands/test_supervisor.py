"""A process that is kept running."""

import os
import signal
import sys
import threading
import time

import psutil
import pytest

from fedllm_app.commands import supervisor
from fedllm_app.commands.supervisor import reason_of, supervise


def test_flowers_reason_is_found_in_a_log():
    log = ["\x1b[91mERROR\x1b[0m: Exit Code: 305", "Failed to initialize the connection", "[code: 7] not active", ""]
    assert reason_of(log) == "Flower's exit code 305: Failed to initialize the connection [code: 7] not active"
    assert reason_of(["INFO: bye"]) == ""


def test_it_is_started_again_and_ended_with_all_that_it_started(tmp_path, monkeypatch, console, capfd):
    """The first life is killed; the second starts a process of its own and is then interrupted."""
    monkeypatch.setattr(supervisor, "_DELAYS", (0.0,))
    child = "import subprocess, sys, time; print('lives', flush=True); p = subprocess.Popen(['sleep', '60']); p.wait()"
    lives = [
        [sys.executable, "-c", "import os, signal; os.kill(os.getpid(), signal.SIGKILL)"],
        [sys.executable, "-c", child],
    ]

    before = set(psutil.Process().children(recursive=True))  # such as the fork server of another test

    def new() -> set[psutil.Process]:
        return set(psutil.Process().children(recursive=True)) - before

    def interrupt() -> None:
        while not any(process.name() == "sleep" for process in new()):
            time.sleep(0.02)
        started.extend(new())
        os.kill(os.getpid(), signal.SIGINT)

    started: list[psutil.Process] = []
    threading.Thread(target=interrupt, daemon=True).start()
    with pytest.raises(KeyboardInterrupt):
        supervise(lambda: lives.pop(0), dict(os.environ), tmp_path, console)
    assert not lives
    assert not psutil.wait_procs(started, timeout=10)[1]
    assert "signal SIGKILL; it is started again" in console.export_text()
    assert "lives" in capfd.readouterr().out
