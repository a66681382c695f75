"""Where the app keeps files on this machine: everything below one directory."""

import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from fedllm_app.errors import UserError


def home() -> Path:
    """`$FEDLLM_HOME`, by default `~/.fedllm`: converted models, tokenized shards, client state and runs.

    UserError for a relative path: server and clients run in other working directories and would not find each other.
    """
    path = Path(os.environ.get("FEDLLM_HOME") or Path.home() / ".fedllm").expanduser()
    if not path.is_absolute():
        raise UserError(f"FEDLLM_HOME = {str(path)!r}: must be an absolute path")
    return path


@contextmanager
def atomic_path(path: Path) -> Iterator[Path]:
    """A temporary path beside `path` that replaces it when the block ends well and vanishes when it does not.

    A directory replaces a directory as a whole and is never merged with it.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=path.parent, prefix=f".{path.name}-") as scratch:
        temporary = Path(scratch) / path.name
        yield temporary
        if temporary.is_dir():
            _put_directory(temporary, path)
        else:
            os.replace(temporary, path)


def _put_directory(new: Path, path: Path) -> None:
    """Put `new` at `path`. No rename replaces a directory that is not empty, so an old one is moved aside first.

    What stops this between the two renames loses nothing: an exception puts the old one back, and a process that is
    killed leaves it whole beside `path`, as `.<name>-replaced`, until the next one is in place.
    """
    aside = path.with_name(f".{path.name}-replaced")
    if path.is_dir():
        if aside.exists():  # a process was killed before the last line; what is at `path` is newer
            shutil.rmtree(aside)
        os.replace(path, aside)
    try:
        os.replace(new, path)
    except BaseException:
        if aside.exists() and not path.exists():
            os.replace(aside, path)
        raise
    # The new one is in place. What cannot be removed, a link or a file that is still open, must not turn that into an
    # error.
    shutil.rmtree(aside, ignore_errors=True)


def write_text(path: Path, text: str) -> None:
    """Write a whole text file atomically."""
    with atomic_path(path) as temporary:
        temporary.write_text(text, encoding="utf-8")
