"""glibc's allocator, told not to keep large blocks that a training step has freed."""

import ctypes
import os

_THRESHOLD = -3  # M_MMAP_THRESHOLD of malloc.h
_LARGE = 2 << 20  # bytes


def return_large_blocks() -> bool:
    """Let blocks of 2 MB and more be mapped alone, so that they go back to the system when they are freed.

    Without a word glibc raises that size to 32 MB and keeps the holes between smaller blocks. Together with huge pages
    (`THP_MEM_ALLOC_ENABLE`, which the package sets for torch) it costs no time; without those, every page of a block
    would have to be asked for anew. `MALLOC_MMAP_THRESHOLD_` of the environment is left as it is. Returns whether the
    allocator was told: other C libraries have no such option.
    """
    if "MALLOC_MMAP_THRESHOLD_" in os.environ:
        return False
    try:
        return bool(ctypes.CDLL(None).mallopt(_THRESHOLD, _LARGE))
    except (AttributeError, OSError, TypeError):
        return False
