"""The parent of Flower's processes on this machine: ends all of them when the command that started it is gone.

`fedllm run` may be killed, and then it cannot clean up. So it does not start Flower itself, but this small program, and
keeps one end of a pipe. The operating system closes that end when `fedllm run` ends, however it ends. Processes whose
own parent died become children of this one, so none is missed.
"""

import ctypes
import os
import select
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import psutil

_LOOK_EVERY = 0.2  # seconds
_STOP_TIMEOUT = 20.0  # seconds that a process has to end after it was asked to
_PR_SET_PDEATHSIG, _PR_SET_CHILD_SUBREAPER = 1, 36


def reaper_command(command: Sequence[str], run_directory: Path | None) -> list[str]:
    """The command line that runs `command` below a reaper, whose standard input is the pipe.

    Parameters
    ----------
    run_directory : Path | None
        The run whose journal is told that it was interrupted, if it has not ended by then.
    """
    # By path: the environment that `command` gets must stay as it is.
    package = str(Path(__file__).parents[2])
    start = (
        f"import sys; sys.path.insert(0, {package!r}); from fedllm_app.commands.reaper import main; sys.exit(main())"
    )
    return [sys.executable, "-P", "-c", start, str(run_directory or ""), *command]


def main() -> int:
    """Run the command, wait until it ends or the pipe is closed, end all processes below; the command's status."""
    run_directory, *command = sys.argv[1:]
    asked: list[int] = []
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, lambda number, _frame: asked.append(number))
    _control(_PR_SET_CHILD_SUBREAPER)
    child = subprocess.Popen(command, stdin=subprocess.DEVNULL, preexec_fn=die_with_parent)
    while child.poll() is None and not asked and not _closed(sys.stdin.fileno()):
        pass
    end_descendants()
    child.wait()
    if run_directory:
        from fedllm_app.runs.interruption import journal_interruption  # imports NumPy, which the wait does not need

        journal_interruption(Path(run_directory))
    return child.returncode


def end_descendants() -> None:
    """End all processes below this one: asked first, forced after a while, also those that start meanwhile."""
    this, deadline = psutil.Process(), time.monotonic() + _STOP_TIMEOUT
    asked: set[psutil.Process] = set()
    while processes := this.children(recursive=True):
        forced = time.monotonic() > deadline
        for process in processes:
            if forced or process not in asked:
                asked.add(process)
                _send(process, signal.SIGKILL if forced else signal.SIGTERM)
        psutil.wait_procs(processes, timeout=_LOOK_EVERY)


def _send(process: psutil.Process, number: int) -> None:
    try:
        process.send_signal(number)
    except psutil.NoSuchProcess:
        return


def _closed(descriptor: int) -> bool:
    """Whether the other end of a pipe is closed; waits a moment. Nobody writes to it."""
    return bool(select.select([descriptor], [], [], _LOOK_EVERY)[0]) and not os.read(descriptor, 1)


def die_with_parent() -> None:
    """To be called in a new process: it ends when the one that started it does. Its own children are not meant."""
    _control(_PR_SET_PDEATHSIG, signal.SIGTERM)


def _control(option: int, value: int = 1) -> None:
    """Ask the kernel for something that only Linux has; elsewhere the pipe alone must do."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(option, value, 0, 0, 0)
