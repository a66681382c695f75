"""The hash of the app's own code, by which server and clients notice that they run different versions."""

import functools
import hashlib
from pathlib import Path


@functools.cache
def code_hash() -> str:
    """SHA-256 over the names and contents of the package's Python files."""
    root = Path(__file__).parent
    digest = hashlib.sha256()
    for path in sorted(root.rglob("*.py")):
        digest.update(str(path.relative_to(root)).encode() + b"\0" + path.read_bytes() + b"\0")
    return digest.hexdigest()
