"""The process in which one generated program runs: gives up its rights, then runs it. Started by `sandbox` as a script.

It imports the standard library only, and nothing of this package: it must start fast and hold little. Standard input is
the request (JSON: program, tests, filter, seconds, memory_mb); the arguments are two file descriptors: where the result
goes, and a pipe with the proof. The proof stays in the pipe, in the kernel's memory, until the tests have ended: while
the program runs, no object of this process holds it.
"""

import ctypes
import json
import os
import resource
import struct
import sys
import time
import types

READY = b"R"
"""First byte of the result: all restrictions hold, and the program begins. Behind it: the proof, or how it ended."""

PROOF_BYTES = 32

_PR_SET_PDEATHSIG, _PR_SET_DUMPABLE, _PR_SET_SECCOMP, _PR_SET_NO_NEW_PRIVS = 1, 4, 22, 38
_SECCOMP_MODE_FILTER, _SIGKILL = 2, 9
_CREATE_RULESET, _ADD_RULE, _RESTRICT_SELF = 444, 445, 446  # of Landlock, on every machine
_EXECUTE, _READ_FILE, _READ_DIRECTORY, _ALL_RIGHTS = 1, 1 << 2, 1 << 3, (1 << 13) - 1  # linux/landlock.h, version 1
_READABLE = ("/usr/lib", "/usr/lib64", "/lib", "/lib64", "/etc/ld.so.cache", "/usr/share/zoneinfo", "/dev/urandom")
_OPEN_FILES = 64


class _SockFprog(ctypes.Structure):
    _fields_ = (("length", ctypes.c_ushort), ("filter", ctypes.c_void_p))


def main() -> None:
    """Read the request, restrict this process, run the program, write how it ended."""
    result, proof = int(sys.argv[1]), int(sys.argv[2])
    try:
        request = json.loads(sys.stdin.buffer.read())
        _hide_request()
        _limit(request["seconds"], request["memory_mb"])
        _restrict(bytes.fromhex(request["filter"]))
    except BaseException as error:  # whatever it is: nothing runs unguarded
        os.write(result, f"{type(error).__name__}: {error}".encode(errors="replace")[:1000])
        os._exit(1)
    _run(request["program"], request["tests"], result, proof)


def _hide_request() -> None:
    nothing = os.open(os.devnull, os.O_RDONLY)
    os.dup2(nothing, 0)
    os.close(nothing)
    os.environ.clear()
    os.environ["OPENBLAS_NUM_THREADS"] = "1"  # NumPy's library starts threads else, and ends the process without them
    sys.argv[:] = [""]


def _limit(seconds: float, memory_mb: int) -> None:
    """Limits that the process itself cannot raise again, because the filter forbids the call."""
    memory = memory_mb * 2**20
    limits = {
        resource.RLIMIT_CPU: int(time.process_time() + seconds) + 2,  # in case that nobody is left who kills it
        resource.RLIMIT_AS: memory,
        resource.RLIMIT_FSIZE: 0,
        resource.RLIMIT_CORE: 0,
        resource.RLIMIT_NPROC: 0,
        resource.RLIMIT_NOFILE: _OPEN_FILES,
    }
    for limit, value in limits.items():
        hard = resource.getrlimit(limit)[1]
        if hard != resource.RLIM_INFINITY:
            value = min(value, hard)
        resource.setrlimit(limit, (value, value))


def _restrict(program: bytes) -> None:
    """No new rights, no reading outside Python's own files (where the kernel has Landlock), and the filter. OSError."""
    libc = ctypes.CDLL(None, use_errno=True)

    def control(option: int, *values: object) -> None:
        if libc.prctl(option, *values, *[ctypes.c_ulong(0)] * (4 - len(values))):
            code = ctypes.get_errno()
            raise OSError(code, f"prctl {option}: {os.strerror(code)}")

    control(_PR_SET_PDEATHSIG, ctypes.c_ulong(_SIGKILL))
    control(_PR_SET_DUMPABLE, ctypes.c_ulong(0))
    control(_PR_SET_NO_NEW_PRIVS, ctypes.c_ulong(1))
    _confine_reading(libc)
    buffer = ctypes.create_string_buffer(program, len(program))
    filter_of_calls = _SockFprog(len(program) // 8, ctypes.addressof(buffer))
    control(_PR_SET_SECCOMP, ctypes.c_ulong(_SECCOMP_MODE_FILTER), ctypes.byref(filter_of_calls))


def _confine_reading(libc: ctypes.CDLL) -> None:
    """Only Python, its packages, the system's libraries and the working directory can be read, if Landlock is there."""
    attributes = struct.pack("=Q", _ALL_RIGHTS)
    ruleset = libc.syscall(_CREATE_RULESET, attributes, ctypes.c_size_t(len(attributes)), 0)
    if ruleset < 0:
        return
    for path in {sys.prefix, sys.base_prefix, sys.exec_prefix, sys.base_exec_prefix, os.getcwd(), *_READABLE}:
        try:
            place = os.open(path, os.O_PATH | os.O_CLOEXEC)
        except FileNotFoundError:
            continue
        rights = _EXECUTE | _READ_FILE | (_READ_DIRECTORY if os.path.isdir(path) else 0)
        rule = struct.pack("=Qi", rights, place)
        if libc.syscall(_ADD_RULE, ruleset, 1, rule, 0):
            raise OSError(ctypes.get_errno(), "landlock_add_rule failed")
        os.close(place)
    if libc.syscall(_RESTRICT_SELF, ruleset, 0):
        raise OSError(ctypes.get_errno(), "landlock_restrict_self failed")
    os.close(ruleset)


def _run(program: str, tests: str, result: int, proof: int) -> None:
    """Run the program, then its tests in the same module.

    They are compiled apart, so that no end of a program (an open string, an open bracket) can swallow its tests. What
    is called after them is held in local names: a program may well replace functions of `os`. `os._exit` runs nothing
    that the program left behind.
    """
    read, write, leave = os.read, os.write, os._exit
    # Not "__main__": published harnesses do not run what stands under `if __name__ == "__main__"` either.
    module = types.ModuleType("solution")
    sys.modules["solution"] = sys.modules["__main__"] = module
    write(result, READY)
    try:
        code = compile(program, "<program>", "exec", dont_inherit=True)
        checks = compile(tests, "<tests>", "exec", dont_inherit=True)
    except (SyntaxError, ValueError):  # ValueError: a zero byte
        write(result, b"SyntaxError")
        leave(0)
    except BaseException as error:
        write(result, _built_in(error))
        leave(0)
    try:
        exec(code, module.__dict__)
        exec(checks, module.__dict__)
    except BaseException as error:  # SystemExit, too: the tests have not ended
        write(result, _built_in(error))
        leave(0)
    write(result, read(proof, PROOF_BYTES))
    leave(0)


def _built_in(error: BaseException) -> bytes:
    """The name of its nearest built-in class. Its own name or text could be anything that the program has read."""
    kind = next(kind for kind in type(error).__mro__ if kind.__module__ == "builtins")
    return kind.__name__.encode()


if __name__ == "__main__":
    main()
