"""Runs a program that a model wrote, in a process of its own that can do no harm.

What it cannot do, whatever it tries: reach a network; start a process or a thread; signal another process; create,
write, rename or delete a file; take more than its time, its memory, its open files. The kernel refuses that (`seccomp`,
resource limits), for root as well. It sees nothing of the user's environment, an empty working directory of its own and
no standard input; what it prints is thrown away, and of an exception only the name of a built-in class comes back.

What it can do: compute, and read files. Where the kernel has Landlock (Linux 5.13 and later, if switched on), these are
Python's own files, its packages and the system's libraries; elsewhere, whatever the user can read, but there is nowhere
that it could be sent or stored.

Passing is proved by random bytes, which a program cannot print or guess; ending early with exit code 0 is no proof. A
program that knows this very file can still find the proof, as one whose answers equal everything passes any test: the
tests run in its own process. It gains a wrong figure by that and nothing else.
"""

import builtins
import contextlib
import functools
import json
import os
import platform
import secrets
import select
import signal
import struct
import subprocess
import sys
import tempfile
import threading
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from fedllm_app.errors import UserError
from fedllm_app.evaluation.graders.guarded import PROOF_BYTES, READY
from fedllm_app.evaluation.graders.seccomp import MACHINES, filter_program

_GUARD = Path(__file__).with_name("guarded.py")
_START_SECONDS = 60.0  # for Python to start on a busy machine; not part of a program's time
_RESULT_BYTES = 4096  # no result is longer

# What must fail before anything runs; what does not fail ends the probe before its proof.
_PROBE = """
import ctypes, os, socket

def refused(attempt, *arguments):
    try:
        attempt(*arguments)
    except PermissionError:
        return True
    return False

def forked():
    if os.fork() == 0:
        os._exit(0)

def killed():
    os.kill(os.getppid(), 0)

assert refused(socket.socket), "a socket"
assert refused(forked), "another process"
assert refused(killed), "a signal"
assert refused(open, "file", "w"), "a file"
assert refused(os.mkdir, "directory"), "a directory"
assert refused(os.execv, "/bin/true", ["/bin/true"]), "another program"
assert set(os.environ) <= {"OPENBLAS_NUM_THREADS"}, "the environment"
"""


class SandboxError(UserError):
    """Generated code cannot be run safely here, so it is not run."""


@dataclass(frozen=True)
class Outcome:
    """How a program ended.

    Attributes
    ----------
    end : str
        "passed": it ran to the end of its tests.
    error : str
        Of one that failed: the built-in class of its exception, "exit" if it ended by itself before the tests were
        over, or "killed" with the signal ("killed by SIGSEGV").
    """

    end: Literal["passed", "failed", "timed out", "syntax error"]
    error: str = ""


def run_program(program: str, timeout: float, memory_mb: int, tests: str = "") -> Outcome:
    """Run a program, and then `tests` in the same module, in a sandbox (see above).

    Parameters
    ----------
    program, tests : str
        Python. Compiled apart: an open string in the program cannot swallow its tests.
    timeout : float
        Seconds by the clock, without the start of Python; then the process is killed.
    memory_mb : int
        Address space of the process in MiB, Python included.

    Raises
    ------
    SandboxError
        Where `sandbox_problem` names a problem, or the process could not be restricted.
    """
    problem = sandbox_problem()
    if problem:
        raise SandboxError(problem)
    return _run(program, tests, timeout, memory_mb)


def sandbox_problem() -> str:
    """Why generated code cannot be run safely here; "" if it can. Tried out once per process, with a probe."""
    with _probing:
        return _find_problem()


_probing = threading.Lock()


@functools.cache
def _find_problem() -> str:
    machine = platform.machine()
    if sys.platform != "linux" or machine not in MACHINES or struct.calcsize("P") != 8:
        return (
            f"generated code runs only on Linux on {' or '.join(MACHINES)} (this is {sys.platform} on {machine}), "
            "where the kernel can deny it network, processes and files: leave --run-code out, or evaluate on Linux"
        )
    if not sys.executable:
        return "generated code cannot run: the path of the Python interpreter is not known (sys.executable is empty)"
    try:
        outcome = _run(_PROBE, "", _START_SECONDS, 512)
    except SandboxError as error:
        return str(error)
    except OSError as error:
        return f"generated code cannot run, because its process could not be started: {error}"
    if outcome.end != "passed":
        return (
            f"generated code cannot run safely: the kernel did not refuse all that it must ({outcome.end} "
            f"{outcome.error}); leave --run-code out, or evaluate on another machine"
        )
    return ""


def _run(program: str, tests: str, timeout: float, memory_mb: int) -> Outcome:
    proof = secrets.token_bytes(PROOF_BYTES)
    request = {
        "program": program,
        "tests": tests,
        "filter": filter_program(platform.machine()).hex(),
        "seconds": timeout,
        "memory_mb": memory_mb,
    }
    with contextlib.ExitStack() as stack:
        # A file, not a pipe: a process that does not read cannot hold up this one.
        request_file = stack.enter_context(tempfile.TemporaryFile())
        request_file.write(json.dumps(request).encode())
        request_file.seek(0)
        directory = stack.enter_context(tempfile.TemporaryDirectory(prefix="fedllm-"))
        proof_read, proof_write = _pipe(stack)
        result_read, result_write = _pipe(stack)
        proof_write.write(proof)
        proof_write.close()
        process = subprocess.Popen(
            # The environment is ours alone, so that -I would add nothing but other hash values of texts every time, and
            # with them another order of sets.
            [sys.executable, "-s", "-P", "-B", str(_GUARD), str(result_write.fileno()), str(proof_read.fileno())],
            stdin=request_file,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            cwd=directory,
            env={"PYTHONHASHSEED": "0"},
            pass_fds=(result_write.fileno(), proof_read.fileno()),
            start_new_session=True,
        )
        try:
            result_write.close()
            result, in_time = _read_result(process, result_read.fileno(), timeout)
        finally:
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()
    return _outcome(result, proof, in_time, process.returncode)


def _pipe(stack: contextlib.ExitStack) -> tuple:
    read, write = os.pipe()
    return tuple(stack.enter_context(open(end, mode, buffering=0)) for end, mode in ((read, "rb"), (write, "wb")))


def _read_result(process: subprocess.Popen, pipe: int, timeout: float) -> tuple[bytes, bool]:
    """What the process wrote, and whether it ended in time. It has `_START_SECONDS` for its first byte."""
    poll = select.poll()
    poll.register(pipe, select.POLLIN)
    deadline = time.monotonic() + _START_SECONDS
    result = b""
    while len(result) < _RESULT_BYTES:
        left = deadline - time.monotonic()
        if left <= 0 or not poll.poll(1000 * left):
            return result, False
        chunk = os.read(pipe, _RESULT_BYTES)
        if not chunk:
            break
        if not result:
            deadline = time.monotonic() + timeout
        result += chunk
    try:
        process.wait(max(0.0, deadline - time.monotonic()))
    except subprocess.TimeoutExpired:
        return result, False
    return result, True


def _outcome(result: bytes, proof: bytes, in_time: bool, status: int) -> Outcome:
    if not result.startswith(READY):
        reason = result.decode(errors="replace") or ("it did not start" if in_time else "it did not start in time")
        raise SandboxError(f"generated code cannot run, because its process could not be restricted: {reason}")
    told = result[len(READY) :]
    if secrets.compare_digest(told, proof):
        return Outcome("passed")
    if not in_time:
        return Outcome("timed out")
    if told == b"SyntaxError":
        return Outcome("syntax error", "SyntaxError")
    if status < 0:
        return Outcome("failed", f"killed by {signal.Signals(-status).name}")
    kind = getattr(builtins, told.decode("ascii", errors="replace"), None)
    if isinstance(kind, type) and issubclass(kind, BaseException):
        return Outcome("failed", kind.__name__)
    return Outcome("failed", "exit")
