"""The filter of system calls under which generated code runs, as a program for the Linux kernel (classic BPF).

It is a list of what is allowed: computing, memory of one's own, reading files, clocks. All else fails with EPERM:
sockets, new processes and threads, signals, and whatever creates, writes, renames or deletes a file. Numbers of calls:
asm/unistd_64.h (x86_64) and asm-generic/unistd.h (aarch64). Layout of the data and meaning of the return values:
linux/seccomp.h, linux/filter.h, linux/audit.h.
"""

import struct
from collections.abc import Iterable

_AUDIT_ARCH = {"x86_64": 0xC000003E, "aarch64": 0xC00000B7}

MACHINES = tuple(_AUDIT_ARCH)
"""The machines, as `platform.machine()` names them, that there is a table for."""

# Name, number on x86_64, number on aarch64; "-" where there is none.
_ALLOWED = """
read 0 63; write 1 64; readv 19 65; writev 20 66; pread64 17 67; preadv 295 69; lseek 8 62; close 3 57
stat 4 -; lstat 6 -; fstat 5 80; newfstatat 262 79; statx 332 291; statfs 137 43; fstatfs 138 44
access 21 -; faccessat 269 48; faccessat2 439 439; readlink 89 -; readlinkat 267 78; getcwd 79 17
getdents 78 -; getdents64 217 61; chdir 80 49; fchdir 81 50; dup 32 23; fadvise64 221 223; close_range 436 436
mmap 9 222; mprotect 10 226; munmap 11 215; mremap 25 216; madvise 28 233; brk 12 214
rt_sigaction 13 134; rt_sigprocmask 14 135; rt_sigreturn 15 139; rt_sigpending 127 136; rt_sigsuspend 130 133
rt_sigtimedwait 128 137; sigaltstack 131 132; pause 34 -; alarm 37 -; getitimer 36 102; setitimer 38 103
futex 202 98; set_robust_list 273 99; set_tid_address 218 96; rseq 334 293; membarrier 324 283; getcpu 309 168
sched_yield 24 124; sched_getaffinity 204 123; restart_syscall 219 128
poll 7 -; ppoll 271 73; select 23 -; pselect6 270 72
nanosleep 35 101; clock_nanosleep 230 115; clock_gettime 228 113; clock_getres 229 114; gettimeofday 96 169; time 201 -
times 100 153; getrusage 98 165; sysinfo 99 179; uname 63 160; getrandom 318 278
getpid 39 172; getppid 110 173; gettid 186 178; getuid 102 174; geteuid 107 175; getgid 104 176; getegid 108 177
exit 60 93; exit_group 231 94
"""

# These are "not there", so that the C library falls back on a call whose arguments a filter can see.
_UNKNOWN = "clone3 435 435; openat2 437 437"

# O_WRONLY, O_RDWR, O_CREAT, O_TRUNC, O_APPEND, O_ASYNC and the bit of O_TMPFILE: the same numbers on both machines.
_WRITING = 0x1 | 0x2 | 0x40 | 0x200 | 0x400 | 0x2000 | 0x400000
_WHOLE = 0xFFFFFFFF

# Calls that are allowed with some arguments only: by name and numbers, (word, mask, values) that must all hold. Word 2n
# is the lower half of argument n, and all that the kernel reads of an int; word 2n + 1 is the upper half.
_CONDITIONAL = {
    "open 2 -": ((2, _WRITING, (0,)),),
    "openat 257 56": ((4, _WRITING, (0,)),),
    "fcntl 72 25": ((2, _WHOLE, (0, 1, 2, 3, 1030)),),  # F_DUPFD, F_GETFD, F_SETFD, F_GETFL, F_DUPFD_CLOEXEC
    "ioctl 16 29": ((2, _WHOLE, (0x5401, 0x5451)),),  # TCGETS (is it a terminal?) and FIOCLEX
    # Asking for a limit of one's own: process 0 and no new limit.
    "prlimit64 302 261": ((0, _WHOLE, (0,)), (4, _WHOLE, (0,)), (5, _WHOLE, (0,))),
}

_LOAD, _AND, _JUMP_EQUAL, _RETURN = 0x20, 0x54, 0x15, 0x06
_ALLOW, _KILL, _ERRNO = 0x7FFF0000, 0x80000000, 0x00050000
_EPERM, _ENOSYS = 1, 38
_NUMBER_AT, _ARCH_AT, _ARGUMENTS_AT = 0, 4, 16  # in struct seccomp_data; the words of arguments, little-endian

Instruction = tuple[int, int, int, int]
"""Code, jump if true, jump if false, constant: struct sock_filter."""


def filter_program(machine: str) -> bytes:
    """The filter for a machine of `MACHINES`: an array of struct sock_filter, 8 bytes each. KeyError for others."""
    architecture = _AUDIT_ARCH[machine]
    column = 1 + MACHINES.index(machine)
    program: list[Instruction] = [
        (_LOAD, 0, 0, _ARCH_AT),
        (_JUMP_EQUAL, 1, 0, architecture),
        (_RETURN, 0, 0, _KILL),  # calls by another convention have other numbers
        (_LOAD, 0, 0, _NUMBER_AT),
    ]
    for number in _numbers(_ALLOWED, column):
        program += [(_JUMP_EQUAL, 0, 1, number), (_RETURN, 0, 0, _ALLOW)]
    for number in _numbers(_UNKNOWN, column):
        program += [(_JUMP_EQUAL, 0, 1, number), (_RETURN, 0, 0, _ERRNO | _ENOSYS)]
    for call, tests in _CONDITIONAL.items():
        block = _conditions(tests)
        for number in _numbers(call, column):
            program += [(_JUMP_EQUAL, 0, len(block), number), *block]
    program.append((_RETURN, 0, 0, _ERRNO | _EPERM))
    return b"".join(struct.pack("=HBBI", *instruction) for instruction in program)


def _numbers(table: str, column: int) -> list[int]:
    calls = [call.split() for line in table.strip().splitlines() for call in line.split(";")]
    return [int(call[column]) for call in calls if call[column] != "-"]


def _conditions(tests: Iterable[tuple[int, int, tuple[int, ...]]]) -> list[Instruction]:
    """Returns in any case: that the call is allowed if every test holds, else EPERM."""
    block: list[Instruction] = []
    for word, mask, values in tests:
        block += [(_LOAD, 0, 0, _ARGUMENTS_AT + 4 * word), (_AND, 0, 0, mask)]
        left = len(values)
        for value in values:
            block.append((_JUMP_EQUAL, left, 0, value))  # over the other values and the refusal
            left -= 1
        block.append((_RETURN, 0, 0, _ERRNO | _EPERM))
    return [*block, (_RETURN, 0, 0, _ALLOW)]
