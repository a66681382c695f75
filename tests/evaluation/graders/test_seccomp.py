"""The filter's decisions on both machines, by a small interpreter of its instructions."""

import struct

import pytest

from fedllm_app.evaluation.graders.seccomp import MACHINES, filter_program

ALLOW, KILL, EPERM, ENOSYS = 0x7FFF0000, 0x80000000, 0x00050001, 0x00050026
ARCH = {"x86_64": 0xC000003E, "aarch64": 0xC00000B7}
READ_ONLY, WRITE, CREATE, TRUNCATE, TEMPORARY = 0, 1, 0x40, 0x200, 0x400000
# Of asm/unistd_64.h and asm-generic/unistd.h.
NUMBERS = {
    "x86_64": {
        "read": 0, "mmap": 9, "openat": 257, "fcntl": 72, "ioctl": 16, "prlimit64": 302, "clone3": 435, "openat2": 437,
        "socket": 41, "connect": 42, "clone": 56, "execve": 59, "kill": 62, "tgkill": 234, "unlinkat": 263,
        "renameat": 264, "mkdirat": 258, "ptrace": 101, "io_uring_setup": 425, "prctl": 157, "setrlimit": 160,
        "ftruncate": 77, "memfd_create": 319, "unlink": 87, "fork": 57, "creat": 85,
    },
    "aarch64": {
        "read": 63, "mmap": 222, "openat": 56, "fcntl": 25, "ioctl": 29, "prlimit64": 261, "clone3": 435,
        "openat2": 437, "socket": 198, "connect": 203, "clone": 220, "execve": 221, "kill": 129, "tgkill": 131,
        "unlinkat": 35, "renameat": 38, "mkdirat": 34, "ptrace": 117, "io_uring_setup": 425, "prctl": 167,
        "setrlimit": 164, "ftruncate": 46, "memfd_create": 279,
    },
}  # fmt: skip
both = pytest.mark.parametrize("machine", MACHINES)


def decide(machine: str, number: int, *arguments: int, arch: int = 0) -> int:
    """What the filter returns: struct seccomp_data is number, architecture, instruction pointer, six arguments."""
    padded = [*arguments, 0, 0, 0, 0, 0, 0][:6]
    data = struct.pack("<IIQ6Q", number, arch or ARCH[machine], 0, *padded)
    program = list(struct.iter_unpack("=HBBI", filter_program(machine)))
    held, at = 0, 0
    while True:
        code, if_true, if_false, constant = program[at]
        at += 1
        if code == 0x20:  # load a word
            held = struct.unpack_from("<I", data, constant)[0]
        elif code == 0x54:  # and
            held &= constant
        elif code == 0x15:  # jump if equal
            at += if_true if held == constant else if_false
        else:
            assert code == 0x06  # return
            return constant


@both
def test_computing_is_allowed(machine):
    for name in ("read", "mmap"):
        assert decide(machine, NUMBERS[machine][name]) == ALLOW


@both
def test_all_that_is_not_listed_is_refused(machine):
    numbers = NUMBERS[machine]
    listed = {"read", "mmap", "openat", "fcntl", "ioctl", "prlimit64", "clone3", "openat2"}
    for name in numbers.keys() - listed:
        assert decide(machine, numbers[name]) == EPERM, name
    assert decide(machine, 9999) == EPERM


@both
def test_files_open_for_reading_only(machine):
    openat = NUMBERS[machine]["openat"]
    assert decide(machine, openat, 0, 0, READ_ONLY) == ALLOW
    assert decide(machine, openat, 0, 0, READ_ONLY | 0x80000) == ALLOW  # O_CLOEXEC
    for flags in (WRITE, 2, CREATE, TRUNCATE, TEMPORARY, WRITE | CREATE | TRUNCATE):
        assert decide(machine, openat, 0, 0, flags) == EPERM, flags


@both
def test_calls_whose_arguments_no_filter_sees_are_not_there(machine):
    for name in ("clone3", "openat2"):
        assert decide(machine, NUMBERS[machine][name]) == ENOSYS


@both
def test_some_calls_are_allowed_with_some_arguments(machine):
    """fcntl: F_GETFL 3 and not F_SETOWN 8; ioctl: TCGETS 0x5401 and not TIOCSTI 0x5412."""
    numbers = NUMBERS[machine]
    assert decide(machine, numbers["fcntl"], 0, 3) == ALLOW
    assert decide(machine, numbers["fcntl"], 0, 1030) == ALLOW
    assert decide(machine, numbers["fcntl"], 0, 8) == EPERM
    assert decide(machine, numbers["ioctl"], 0, 0x5401) == ALLOW
    assert decide(machine, numbers["ioctl"], 0, 0x5412) == EPERM


@both
def test_limits_can_be_read_and_not_set(machine):
    """Process, resource, new limit, old limit. A pointer may have a lower half of 0."""
    call = NUMBERS[machine]["prlimit64"]
    assert decide(machine, call, 0, 9, 0, 0x7FFF0000) == ALLOW
    assert decide(machine, call, 0, 9, 0x7FFF0000, 0) == EPERM
    assert decide(machine, call, 0, 9, 1 << 32, 0) == EPERM
    assert decide(machine, call, 1, 9, 0, 0) == EPERM


@both
def test_calls_by_another_convention_end_the_process(machine):
    """0x40000003 is 32-bit x86, where number 9 is link, not mmap. Numbers of x32 begin at 0x40000000."""
    assert decide(machine, 9, arch=0x40000003) == KILL
    assert decide(machine, 0x40000000 + 9) == EPERM


def test_other_machines_have_no_filter():
    with pytest.raises(KeyError):
        filter_program("riscv64")
