"""What server and clients compare to notice that they run different versions of the app or of its libraries."""

import functools
import hashlib
import os
import platform
from importlib.metadata import version
from pathlib import Path

import psutil

import fedllm_app

PROTOCOL = 4
"""The version of what server and clients say to each other, and of what both compute.

Raise it when a message's records or keys change, or when the same configuration gives other numbers: a deployment
refuses sites of another version. Other code with the same version is told and goes on.
"""

_PACKAGES = ("flwr", "torch", "transformers", "peft", "trl")


@functools.cache
def code_hash() -> str:
    """SHA-256 over the names and contents of the package's Python files."""
    root = Path(fedllm_app.__file__).parent  # the whole package, wherever this file lies
    digest = hashlib.sha256()
    for path in sorted(root.rglob("*.py")):
        digest.update(str(path.relative_to(root)).encode() + b"\0" + path.read_bytes() + b"\0")
    return digest.hexdigest()


@functools.cache
def package_versions() -> list[str]:
    """The app's code and the libraries that decide what a client computes, as "name version"."""
    return [f"fedllm_app {code_hash()[:12]}", *(f"{name} {version(name)}" for name in _PACKAGES)]


def environment() -> dict[str, str | int | float | list[str]]:
    """What the server runs on, by the journal's names."""
    return {
        "python": platform.python_version(),
        "system": platform.platform(),
        "cpus": os.cpu_count() or 0,
        "memory_mb": psutil.virtual_memory().total / 2**20,
        "versions": package_versions(),
    }
