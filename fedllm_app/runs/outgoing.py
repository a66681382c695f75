"""The files of a run directory as events, so that they can travel through Flower's log to whoever may submit runs."""

import base64
import os
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

from fedllm_app.errors import UserError
from fedllm_app.paths import file_sha256
from fedllm_app.runs.checkpoints import FOLDER as CHECKPOINTS
from fedllm_app.runs.directory import is_run

LARGEST = 200_000_000  # bytes of all files together
CHUNK = 90_000  # bytes of an event
_PAUSE_EVERY, _PAUSE = 1_000_000, 0.1  # bytes, seconds: Flower sends what it has all at once, and keeps it in memory


class NotSent(UserError):
    """The files of a directory are not sent; the message says why."""


def send_run(path: Path, tell: Callable[[Mapping[str, object]], None], checkpoints: bool) -> None:
    """Tell the files of a run directory: `files` with their sizes and hashes, `chunk` after `chunk`, and `sent`.

    Links, and files whose name begins with a dot, stay here. `checkpoints` says whether those go, too.

    Raises
    ------
    NotSent
        It is no run directory, or too large.
    """
    if not path.is_absolute() or path.is_symlink() or not is_run(path):
        raise NotSent(
            f"run.fetch = {str(path)!r}: is no run directory; it must be an absolute path with its config.json"
        )
    files = list(_files(path, checkpoints))
    total = sum(file.stat().st_size for file in files)
    if total > LARGEST:
        raise NotSent(
            f"run.fetch = {str(path)!r}: has {total:,} bytes, and at most {LARGEST:,} go through Flower's log; copy "
            "the directory with scp or rsync"
        )
    listed = [
        {"path": file.relative_to(path).as_posix(), "bytes": file.stat().st_size, "sha256": file_sha256(file)}
        for file in files
    ]
    tell({"event": "files", "directory": str(path), "files": listed})
    since_pause = 0
    for number, file in enumerate(files):
        with open(file, "rb") as content:
            while data := content.read(CHUNK):
                tell({"event": "chunk", "file": number, "data": base64.b64encode(data).decode()})
                since_pause += len(data)
                if since_pause > _PAUSE_EVERY:
                    since_pause = 0
                    time.sleep(_PAUSE)
    tell({"event": "sent"})


def _files(path: Path, checkpoints: bool) -> Iterator[Path]:
    for folder, folders, names in os.walk(path):
        at_top = Path(folder) == path
        folders[:] = sorted(
            name
            for name in folders
            if not name.startswith(".") and (checkpoints or not (at_top and name == CHECKPOINTS))
        )
        for name in sorted(names):
            file = Path(folder) / name
            if file.is_file() and not file.is_symlink() and not name.startswith("."):
                yield file
