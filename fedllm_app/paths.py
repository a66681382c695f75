"""Where the app keeps files on this machine: everything below one directory, which its owner alone can read.

Whatever the umask is, directories below FEDLLM_HOME get the mode 0700 and files 0600. Files elsewhere, such as a run
directory that the user names, get what the umask leaves.
"""

import difflib
import hashlib
import logging
import os
import shutil
import stat
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from fedllm_app.errors import UserError

if TYPE_CHECKING:
    from filelock import FileLock

_log = logging.getLogger(__name__)
_ALIKE = 0.75  # of 1: from there on a name is likely to be meant by another
_OTHERS = 0o077  # what group and others may do
_closed: set[str] = set()  # homes that this process has found open and closed


def home() -> Path:
    """`$FEDLLM_HOME`, by default `~/.fedllm`: converted models, tokenized shards, client state and runs.

    One that others may read, as an earlier version left it, is closed to them with all that is in it.
    UserError for a relative path: server and clients run in other working directories and would not find each other.
    """
    path = expanded(os.environ.get("FEDLLM_HOME") or Path.home() / ".fedllm")
    if not path.is_absolute():
        raise UserError(f"FEDLLM_HOME = {str(path)!r}: must be an absolute path")
    if str(path) not in _closed and path.is_dir() and path.stat().st_mode & _OTHERS:
        _closed.add(str(path))
        try:
            keep_to_owner(path)
            _log.warning("%s could be read by others; its files are now its owner's alone", path)
        except OSError as error:
            _log.warning("%s can be read by others, and that cannot be changed: %s", path, error)
    return path


def expanded(path: str | Path) -> Path:
    """A path with the home of the user that its "~" or "~name" means. UserError if there is no such user."""
    try:
        return Path(path).expanduser()
    except RuntimeError as error:  # what pathlib raises of a user whom the machine does not know
        if Path(path).exists():  # its name begins so
            return Path(path)
        user = Path(path).parts[0].removeprefix("~")
        raise UserError(f"{path}: there is no user {user} on this machine; write the path of the directory") from error


def did_you_mean(path: Path) -> str:
    """Of a path that is not there: files beside it whose names are nearly the same, as the end of a sentence."""
    try:
        names = [entry.name for entry in os.scandir(path.parent)]
    except OSError:
        return ""
    lower = {name.lower(): name for name in names}
    near = [lower[name] for name in difflib.get_close_matches(path.name.lower(), lower, n=2, cutoff=_ALIKE)]
    return f"; did you mean {' or '.join(str(path.with_name(name)) for name in near)}?" if near else ""


def is_private(path: Path) -> bool:
    """Whether a path lies below FEDLLM_HOME, so that its owner alone may read it."""
    return path.absolute().is_relative_to(home())


def keep_to_owner(path: Path) -> None:
    """Take from group and others whatever they may do with a file, or a directory and all below it; links stay."""
    for directory, _, names in os.walk(path):
        _close(Path(directory))
        for name in names:
            _close(Path(directory) / name)
    if not path.is_dir():
        _close(path)


def _close(path: Path) -> None:
    try:
        mode = path.lstat().st_mode
        if mode & _OTHERS and not stat.S_ISLNK(mode):
            path.chmod(stat.S_IMODE(mode) & ~_OTHERS)
    except FileNotFoundError:  # another process has removed or renamed it
        pass


def make_directory(path: Path) -> None:
    """Create a directory with those above it, unless it is there; below FEDLLM_HOME for its owner alone."""
    if not is_private(path):
        path.mkdir(parents=True, exist_ok=True)
        return
    for directory in reversed([path, *path.parents]):
        directory.mkdir(exist_ok=True, mode=0o700 if is_private(directory) else 0o777)


def file_mode(path: Path) -> int:
    """The mode of a new file, before the umask."""
    return 0o600 if is_private(path) else 0o666


def lock_file(path: Path) -> "FileLock":
    """A lock by a file, not yet taken. Its mode is that of any other file: what the umask leaves, or 0600.

    `FileLock` sets a mode that it is given past the umask. 0666 would let everybody write to the file, and hold a run.
    """
    from filelock import FileLock

    return FileLock(path, mode=file_mode(path)) if is_private(path) else FileLock(path)


def opener(path: str, flags: int) -> int:
    """Of `open(…, opener=opener)`, for files that are not written by `atomic_path`, such as those that grow."""
    return os.open(path, flags, file_mode(Path(path)))


@contextmanager
def atomic_path(path: Path, durable: bool = False) -> Iterator[Path]:
    """A temporary path beside `path` that replaces it when the block ends well and vanishes when it does not.

    A directory replaces a directory as a whole and is never merged with it.

    Parameters
    ----------
    durable : bool
        Wait until it is on the disk before and after it takes its place, so that a power cut leaves the old or the new.
    """
    make_directory(path.parent)
    with tempfile.TemporaryDirectory(dir=path.parent, prefix=f".{path.name}-") as scratch:
        temporary = Path(scratch) / path.name
        yield temporary
        if is_private(path):
            keep_to_owner(temporary)
        if durable:
            _flush_tree(temporary)
        if temporary.is_dir():
            _put_directory(temporary, path)
        else:
            os.replace(temporary, path)
        if durable:
            _flush(path.parent)


def _flush_tree(path: Path) -> None:
    for folder, _, names in os.walk(path):
        for name in names:
            _flush(Path(folder) / name)
        _flush(Path(folder))
    if path.is_file():
        _flush(path)


def _flush(path: Path) -> None:
    """Wait until a file's contents, or a directory's entries, are on the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


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


def file_sha256(path: Path) -> str:
    """SHA-256 of a file's contents, 64 hexadecimal digits. It is read in blocks, however large it is."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def write_text(path: Path, text: str) -> None:
    """Write a whole text file atomically."""
    with atomic_path(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def last_parts(names: str) -> str:
    """Names that may be paths, separated by commas, without their directories."""
    return ", ".join(one.strip().rstrip("/").rpartition("/")[2] for one in names.split(","))
