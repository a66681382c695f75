"""Keep one Flower process running: pass its output on, start it again when it dies, end it with all that it started."""

import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import IO

from rich.console import Console

from fedllm_app.commands.flower import end_process_tree

_DELAYS = (2.0, 5.0, 10.0, 15.0, 20.0, 30.0)  # seconds before the next start, after the first death, the second, …
_STEADY = 120.0  # a process that lived as long is one of a new series
_REMEMBERED = 60  # lines of output, in which the reason is looked for
_COLOR = re.compile(r"\x1b\[[0-9;]*m")


def supervise(command: Callable[[], Sequence[str]], environment: dict[str, str], cwd: Path, console: Console) -> None:
    """Run a command until this process is interrupted, and then end it.

    Parameters
    ----------
    command : Callable[[], Sequence[str]]
        Asked before every start, so that each can have a free port.
    """
    deaths = 0
    while True:
        began = time.monotonic()
        status, said = _run(command(), environment, cwd)
        deaths = 1 if time.monotonic() - began > _STEADY else deaths + 1
        delay = _DELAYS[min(deaths, len(_DELAYS)) - 1]
        reason = reason_of(said) or (f"signal {signal.Signals(-status).name}" if status < 0 else f"status {status}")
        line = f"{time.strftime('%H:%M:%S')} the process ended: {reason}; it is started again in {delay:g} s"
        console.print(line, style="yellow", markup=False, highlight=False, soft_wrap=True)
        time.sleep(delay)


def reason_of(lines: Sequence[str]) -> str:
    """Flower's exit code and the words that follow it in a log; "" where there are none."""
    plain = [_COLOR.sub("", line).strip() for line in lines]
    for place in range(len(plain) - 1, -1, -1):
        if found := re.search(r"Exit Code: (\d+)", plain[place]):
            words = [line for line in plain[place + 1 : place + 4] if line and "http" not in line]
            return f"Flower's exit code {found[1]}: {' '.join(words)}"
    return ""


def _run(command: Sequence[str], environment: dict[str, str], cwd: Path) -> tuple[int, list[str]]:
    """One life of the process: its exit status and its last lines."""
    process = subprocess.Popen(
        command,
        cwd=cwd,
        env=environment,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        start_new_session=True,  # an interrupt of the terminal reaches this process alone, which then ends the other
    )
    said: deque[str] = deque(maxlen=_REMEMBERED)
    reader = threading.Thread(target=_pass_on, args=(process.stdout, said), daemon=True)
    reader.start()
    try:
        status = process.wait()
    finally:
        end_process_tree(process.pid)
        _end_group(process.pid)
        reader.join(timeout=5.0)
    return status, list(said)


def _pass_on(output: IO[bytes], said: deque[str]) -> None:
    for line in output:
        said.append(line.decode(errors="replace").rstrip())
        sys.stdout.buffer.write(line)
        sys.stdout.buffer.flush()


def _end_group(group: int) -> None:
    """What outlived its parent, so that nothing of an earlier life answers a message."""
    try:
        os.killpg(group, signal.SIGKILL)
    except (ProcessLookupError, PermissionError):
        return
