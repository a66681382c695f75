"""Freed memory of a training step goes back to the system."""

import os
import subprocess
import sys

import pytest

CODE = """
import ctypes, os
import fedllm_app
from fedllm_app.training.allocator import return_large_blocks
told = return_large_blocks()
libc = ctypes.CDLL(None)
libc.malloc.restype, libc.malloc.argtypes = ctypes.c_void_p, [ctypes.c_size_t]
libc.free.argtypes = [ctypes.c_void_p]
def resident():
    return int(open("/proc/self/statm").read().split()[1]) * 4096
big = [libc.malloc(3 << 20) for _ in range(40)]
for block in big:
    ctypes.memset(block, 1, 3 << 20)
small = [libc.malloc(1000) for _ in range(1000)]  # above the large ones, where these lie in the heap
full = resident()
for block in big:
    libc.free(block)
print(told, full - resident() > 100 << 20, os.environ["THP_MEM_ALLOC_ENABLE"])
"""


def outcome(**environment) -> list[str]:
    ours = ("MALLOC_MMAP_THRESHOLD_", "THP_MEM_ALLOC_ENABLE")
    plain = {key: value for key, value in os.environ.items() if key not in ours}
    done = subprocess.run(
        [sys.executable, "-c", CODE], capture_output=True, text=True, env=plain | environment, check=True
    )
    return done.stdout.split()


@pytest.mark.skipif(sys.platform != "linux", reason="glibc's allocator")
def test_large_blocks_go_back_when_they_are_freed():
    """40 blocks of 3 MB. With a threshold of 32 MB they lie in the heap below smaller ones, and stay resident."""
    assert outcome() == ["True", "True", "1"]
    assert outcome(MALLOC_MMAP_THRESHOLD_="33554432", THP_MEM_ALLOC_ENABLE="0") == ["False", "False", "0"]
