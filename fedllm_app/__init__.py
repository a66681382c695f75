"""Federated fine-tuning of language models: one Flower app for simulation and deployment."""

import importlib
import os

# OpenMP's threads wait for each other in a loop, by default for a millisecond. Where other programs use the same cores,
# each product of small matrices then waits for a turn of the scheduler, and writing answers took up to 20 times as
# long. A shorter loop costs nothing on a quiet machine (`benchmarks/spinning.py`). Torch reads this when it is loaded.
os.environ.setdefault("GOMP_SPINCOUNT", "1000")
# Torch puts large tensors on huge pages then, which do not break up the memory of the allocator
# (`training/allocator.py`, `benchmarks/client_memory.py`).
os.environ.setdefault("THP_MEM_ALLOC_ENABLE", "1")

__all__ = ["Run", "run"]


def __getattr__(name: str) -> object:
    """What is imported when it is first asked for: Flower loads this package in processes that need no more of it."""
    if name in __all__:
        return getattr(importlib.import_module("fedllm_app.api"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
