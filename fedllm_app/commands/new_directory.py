"""A new run directory below the working directory, which no other run has."""

from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime
from itertools import count
from pathlib import Path

from fedllm_app.errors import UserError
from fedllm_app.paths import is_private, make_directory


class NoPlace(UserError):
    """A directory that a command needs cannot be made or written."""


@contextmanager
def new_directory(name: str) -> Iterator[Path]:
    """`runs/<time>-<name>`, made here; with a number if another command of this second has that. Left empty, it goes.

    Raises
    ------
    NoPlace
        It cannot be made here.
    """
    parent = Path("runs").resolve()
    stem = f"{datetime.now():%Y%m%d-%H%M%S}-{name}"
    try:
        made_parent = not parent.exists()
        make_directory(parent)
        path = first_free(parent / stem)
    except OSError as error:
        raise NoPlace(
            f"{parent / stem} cannot be made: {error.strerror}; work in a directory that you may write to, or set "
            "run.directory to an absolute path in one"
        ) from error
    try:
        yield path
    finally:
        remove_empty(path)
        if made_parent:
            remove_empty(parent)


def check_home(home: Path) -> None:
    """Refuse a FEDLLM_HOME that cannot be written: everything that a run keeps on this machine goes there."""
    try:
        make_directory(home)
        probe = home / ".writable"
        probe.touch()
        probe.unlink(missing_ok=True)
    except OSError as error:
        raise NoPlace(
            f"FEDLLM_HOME = {str(home)!r} cannot be written: {error.strerror}; set the environment variable "
            "FEDLLM_HOME to the absolute path of a directory that you may write to"
        ) from error


def first_free(path: Path) -> Path:
    """Make a directory; with a number after its name if there is one already."""
    for number in count(1):
        candidate = path if number == 1 else path.with_name(f"{path.name}-{number}")
        try:
            candidate.mkdir(mode=0o700 if is_private(candidate) else 0o777)
        except FileExistsError:
            continue
        return candidate
    raise AssertionError("count() has no end")


def remove_empty(path: Path) -> None:
    """Remove a directory that was made for what did not come about."""
    if path.is_dir() and not any(path.iterdir()):
        path.rmdir()
