"""Federated fine-tuning of language models: one Flower app for simulation and deployment."""

import importlib

__all__ = ["Run", "run"]


def __getattr__(name: str) -> object:
    """What is imported when it is first asked for: Flower loads this package in processes that need no more of it."""
    if name in __all__:
        return getattr(importlib.import_module("fedllm_app.api"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
