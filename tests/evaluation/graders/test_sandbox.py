"""Programs that try to do harm, or to pass without passing, each run in the sandbox."""

import ctypes
import functools
import platform
import socket
import sys
import threading

import pytest

from fedllm_app.evaluation.graders import sandbox
from fedllm_app.evaluation.graders.sandbox import Outcome, SandboxError, run_program, sandbox_problem
from fedllm_app.evaluation.graders.seccomp import MACHINES

pytestmark = pytest.mark.skipif(
    sys.platform != "linux" or platform.machine() not in MACHINES, reason="generated code runs only on Linux"
)

PASSED = Outcome("passed")
FORBIDDEN = Outcome("failed", "PermissionError")


def run(program: str, tests: str = "", timeout: float = 20.0, memory_mb: int = 512) -> Outcome:
    return run_program(program, timeout, memory_mb, tests)


def test_a_right_program_passes_and_a_wrong_one_fails():
    assert run("def double(x):\n    return 2 * x", "assert double(3) == 6") == PASSED
    assert run("def double(x):\n    return 3 * x", "assert double(3) == 6") == Outcome("failed", "AssertionError")


def test_the_sandbox_holds_on_this_machine():
    assert sandbox_problem() == ""


def test_an_infinite_loop_is_killed():
    assert run("while True:\n    pass", timeout=0.3) == Outcome("timed out")


def test_a_program_that_sleeps_is_killed():
    assert run("import time\ntime.sleep(1000)", timeout=0.3) == Outcome("timed out")


def test_a_loop_that_catches_everything_and_closes_all_its_files_is_killed():
    program = """
import os, signal
signal.signal(signal.SIGTERM, signal.SIG_IGN)
os.closerange(0, 64)
while True:
    try:
        while True:
            pass
    except BaseException:
        pass
"""
    assert run(program, timeout=0.3) == Outcome("timed out")


def test_a_fork_bomb_starts_no_process():
    assert run("import os\nwhile True:\n    os.fork()") == FORBIDDEN


def test_a_fork_bomb_that_goes_on_after_errors_starts_no_process():
    """The program passes only if every one of its attempts failed, by whatever way of starting a process."""
    program = """
import multiprocessing, os, subprocess, threading
started = 0
for attempt in (
    os.fork,
    os.forkpty,
    lambda: os.posix_spawn("/bin/true", ["true"], {}),
    lambda: subprocess.run(["/bin/true"]),
    lambda: multiprocessing.Process(target=print).start(),
    lambda: threading.Thread(target=print).start(),
):
    try:
        attempt()
        started += 1
    except (OSError, RuntimeError):
        pass
assert os.system("true") != 0
"""
    assert run(program, "assert started == 0") == PASSED


def test_a_file_outside_cannot_be_deleted_or_renamed_or_changed(tmp_path):
    kept = tmp_path / "kept"
    kept.write_text("as it was")
    for attempt in (
        "os.remove(path)",
        "os.rename(path, path + '2')",
        "os.link(path, path + '2')",
        "os.symlink(path, path + '2')",
        "os.truncate(path, 0)",
        "os.chmod(path, 0)",
        "os.utime(path)",
        "open(path, 'w')",
        "open(path, 'a')",
        "open(path, 'r+')",
        "os.open(path, os.O_RDONLY | os.O_TRUNC)",
        "shutil.rmtree(os.path.dirname(path))",
        "shutil.copy(sys.executable, os.path.dirname(path))",
    ):
        assert run(f"import os, shutil, sys\npath = {str(kept)!r}\n{attempt}") == FORBIDDEN, attempt
    assert [path.name for path in tmp_path.iterdir()] == ["kept"]
    assert kept.read_text() == "as it was"


def test_no_file_can_be_created_anywhere(tmp_path):
    for attempt in (f"open({str(tmp_path / 'new')!r}, 'w')", "open('here', 'w')", f"os.mkdir({str(tmp_path / 'd')!r})"):
        assert run(f"import os\n{attempt}") == FORBIDDEN, attempt
    assert list(tmp_path.iterdir()) == []


def test_a_local_server_is_not_reached():
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        assert run(f"import socket\nsocket.create_connection(('127.0.0.1', {port}))") == FORBIDDEN
        server.setblocking(False)
        with pytest.raises(BlockingIOError):
            server.accept()


def test_a_memory_hog_gets_no_memory():
    assert run("hog = bytearray(2**30)", memory_mb=256) == Outcome("failed", "MemoryError")
    assert run("hog = bytearray(2**27)", memory_mb=512) == PASSED


def test_the_memory_limit_cannot_be_raised():
    assert run("import resource\nresource.setrlimit(resource.RLIMIT_AS, (2**40, 2**40))").end == "failed"


def test_ending_before_the_tests_is_no_pass():
    tests = "assert False"
    assert run("import sys\nsys.exit(0)", tests) == Outcome("failed", "SystemExit")
    assert run("import os\nos._exit(0)", tests) == Outcome("failed", "exit")
    assert run("raise KeyboardInterrupt", tests) == Outcome("failed", "KeyboardInterrupt")
    assert run("def solve():\n    exit()", "solve()") == Outcome("failed", "SystemExit")


def test_printing_or_writing_to_every_open_file_is_no_pass():
    program = """
import os
print("passed")
for number in range(64):
    for text in (b"passed", b"R", b"0" * 32):
        try:
            os.write(number, text)
        except OSError:
            pass
"""
    assert run(program + "os._exit(0)", "assert False") == Outcome("failed", "exit")
    assert run("print('x' * 10**7)") == PASSED


def test_the_proof_is_in_no_object_of_the_process():
    """Of all objects and frames that Python can find, none is a text of 32 bytes that the guard holds."""
    program = """
import gc, sys
frame, seen = sys._getframe(), []
while frame:
    seen += frame.f_locals.values()
    frame = frame.f_back
seen += [value for kept in gc.get_objects() if isinstance(kept, dict) for value in list(kept.values())]
candidates = [value for value in seen if isinstance(value, bytes) and len(value) == 32]
"""
    assert run(program, "assert not candidates, candidates") == PASSED


def test_another_program_cannot_take_its_place():
    assert run("import os\nos.execv('/bin/true', ['true'])") == FORBIDDEN
    assert run("import os, sys\nos.execv(sys.executable, [sys.executable, '-c', ''])") == FORBIDDEN


def test_system_calls_through_ctypes_are_refused():
    """Calls by number (x86_64; socket and fork, aarch64: socket and clone): each returns -1 with EPERM, which is 1."""
    numbers = (41, 57) if platform.machine() == "x86_64" else (198, 220)
    program = f"""
import ctypes
libc = ctypes.CDLL(None, use_errno=True)
found = [(libc.syscall(number, 2, 1, 0), ctypes.get_errno()) for number in {numbers}]
"""
    assert run(program, "assert found == [(-1, 1), (-1, 1)]") == PASSED


def test_signals_to_others_are_refused():
    assert run("import os, signal\nos.kill(os.getppid(), signal.SIGTERM)") == FORBIDDEN


def test_no_secret_of_the_environment_is_seen(monkeypatch):
    monkeypatch.setenv("SECRET_API_KEY", "hush")
    tests = """
import os
assert "SECRET_API_KEY" not in os.environ and "hush" not in str(dict(os.environ))
assert "HOME" not in os.environ and os.listdir(".") == []
"""
    assert run("", tests) == PASSED


def test_files_of_others_are_not_read_where_the_kernel_has_landlock(tmp_path):
    version = ctypes.CDLL(None).syscall(444, None, ctypes.c_size_t(0), 1)  # landlock_create_ruleset: which version?
    if version < 1:
        pytest.skip("this kernel has no Landlock")
    secret = tmp_path / "secret"
    secret.write_text("hush")
    for path in (str(secret), "/proc/self/environ", "/etc/passwd"):
        assert run(f"open({path!r})") == FORBIDDEN, path
    assert run("import this, json, sqlite3, zoneinfo") == PASSED


def test_nothing_that_a_program_says_comes_back(tmp_path):
    """The class of an exception is one of Python's own, whatever the program calls its own classes."""
    assert run("raise type('hush', (ValueError,), {})('hush')") == Outcome("failed", "ValueError")
    assert run("class hush(BaseException):\n    pass\nraise hush('hush')") == Outcome("failed", "BaseException")
    assert run(
        "import os\nfor n in range(3, 64):\n    try: os.write(n, b'hush')\n    except OSError: pass\nos._exit(0)"
    ) == (Outcome("failed", "exit"))


def test_what_is_not_python_is_a_syntax_error():
    assert run("def f(:", "assert True") == Outcome("syntax error", "SyntaxError")
    assert run("    x = 1\n  y = 2") == Outcome("syntax error", "SyntaxError")
    assert run("x = '\0'") == Outcome("syntax error", "SyntaxError")
    assert run("x = '\ud800'") == Outcome("syntax error", "SyntaxError")  # half of a character


def test_an_open_string_does_not_swallow_the_tests():
    """As one text, the program below would be a string that ends within its tests, and pass."""
    assert run('text = """', 'assert False  # """').end == "syntax error"


def test_a_program_that_replaces_functions_still_gets_its_result():
    program = "import os, sys\nos.write = os.read = os._exit = sys.exit = None\nanswer = 1"
    assert run(program, "assert answer == 1") == PASSED


def test_a_main_block_does_not_run():
    assert run("if __name__ == '__main__':\n    raise ValueError") == PASSED


def test_a_crash_of_the_interpreter_is_a_failure():
    assert run("import ctypes\nctypes.string_at(0)").error == "killed by SIGSEGV"


def test_sets_of_texts_have_one_order():
    """Texts hash alike in every process, so that the same answer has the same result in every evaluation."""
    probe = "found = hash('federated')"
    assert run(probe, f"assert found == {_hash_with_seed_zero()}") == PASSED


def _hash_with_seed_zero() -> int:
    import subprocess

    command = [sys.executable, "-c", "print(hash('federated'))"]
    return int(subprocess.run(command, env={"PYTHONHASHSEED": "0"}, capture_output=True, check=True).stdout)


def test_programs_run_side_by_side():
    found = {}

    def work(number: int) -> None:
        found[number] = run(f"x = {number}", f"assert x == {number} and x % 2 == 0").end

    threads = [threading.Thread(target=work, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == {0: "passed", 1: "failed", 2: "passed", 3: "failed"}


@pytest.fixture
def forgotten(monkeypatch):
    """`sandbox_problem` as if it had not been asked before, here only."""
    monkeypatch.setattr(sandbox, "_find_problem", functools.cache(sandbox._find_problem.__wrapped__))


def test_nothing_runs_where_the_system_cannot_be_told(forgotten, monkeypatch):
    monkeypatch.setattr(sys, "platform", "darwin")
    assert "this is darwin" in sandbox_problem()
    with pytest.raises(SandboxError, match="only on Linux"):
        run("x = 1")


def test_nothing_runs_under_a_filter_that_does_not_hold(forgotten, monkeypatch):
    """A filter that allows everything: one instruction, return (6) "allow" (0x7FFF0000)."""
    monkeypatch.setattr(sandbox, "filter_program", lambda _machine: bytes.fromhex("060000000000ff7f"))
    assert "the kernel did not refuse" in sandbox_problem()
    with pytest.raises(SandboxError, match="did not refuse"):
        run("x = 1")


def test_nothing_runs_if_the_filter_is_not_taken(forgotten, monkeypatch):
    """No kernel takes a filter whose instruction has a code that does not exist. What would run calls a server."""
    monkeypatch.setattr(sandbox, "filter_program", lambda _machine: b"\xff" * 8)
    with socket.create_server(("127.0.0.1", 0)) as server:
        call = f"import socket\nsocket.create_connection(('127.0.0.1', {server.getsockname()[1]}))"
        monkeypatch.setattr(sandbox, "_PROBE", call)
        assert "could not be restricted" in sandbox_problem()
        with pytest.raises(SandboxError, match="prctl 22"):
            run(call)
        server.setblocking(False)
        with pytest.raises(BlockingIOError):
            server.accept()
