"""Progress of local training, for whoever watches on the same machine: JSON lines below FEDLLM_HOME, one a step.

A simulation's clients are other processes than the one that the user started, and their output passes through Flower's
logs; a file that all append to is what `fedllm run` can follow at once.
"""

import json
import os
import shutil
import time
from pathlib import Path

from fedllm_app.paths import home, make_directory, opener

STEPS_FILE = "steps.jsonl"
"""In the run directory of a local run that has ended: a line a step."""


def progress_file(run_id: int) -> Path:
    """The file that the clients of a run on this machine append to."""
    return home() / "progress" / f"{run_id}.jsonl"


def report(run_id: int, **fields: object) -> None:
    """Append one line. Lines are short and the file is opened for appending, so processes do not mix them."""
    path = progress_file(run_id)
    make_directory(path.parent)
    line = json.dumps({"time": time.time(), **fields}) + "\n"
    descriptor = opener(str(path), os.O_WRONLY | os.O_APPEND | os.O_CREAT)
    try:
        os.write(descriptor, line.encode())
    finally:
        os.close(descriptor)


def keep_steps(run_id: int, run: Path) -> None:
    """Move what the clients of a run on this machine reported to `steps.jsonl` in its directory, behind what is there.

    Rounds that a resumed run does again stand there twice.
    """
    file = progress_file(run_id)
    if not file.is_file():
        return
    with open(file, "rb") as reported, open(run / STEPS_FILE, "ab", opener=opener) as kept:
        shutil.copyfileobj(reported, kept)
    file.unlink()


class Tail:
    """Reads what was appended to a file of JSON lines since the last look; a line not yet ended waits.

    Where another file has taken its place, that one is read from its beginning.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._offset = 0
        self._file = 0  # the inode

    def new(self) -> list[dict]:
        """The complete lines that are new, oldest first."""
        if not self.path.is_file():
            return []
        with open(self.path, "rb") as file:
            identity = os.fstat(file.fileno()).st_ino
            if identity != self._file:
                self._file, self._offset = identity, 0
            file.seek(self._offset)
            complete = file.read().rpartition(b"\n")[0]
        if not complete:
            return []
        self._offset += len(complete) + 1
        return [json.loads(line) for line in complete.splitlines()]
