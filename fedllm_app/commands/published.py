"""What `fedllm merge` and `fedllm export` share: a new directory that is written whole, its card, its licences."""

import os
import shutil
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from fedllm_app.errors import UserError
from fedllm_app.models.licence import Licence
from fedllm_app.models.packaged import PACKAGED_MODELS
from fedllm_app.paths import atomic_path, expanded
from fedllm_app.runs.card import Base, shown_name


class NotWritten(UserError):
    """The directory of `--out` cannot be made, or holds something."""


def add_options(parser) -> None:
    """Options that both commands have."""
    parser.add_argument("run", metavar="RUN", help="a run directory, a checkpoint of one, or any PEFT directory")
    parser.add_argument("--out", required=True, metavar="DIR", help="a new directory, or an empty one")
    parser.add_argument("--client", type=int, metavar="K", help="with strategy.name='local': whose model")
    parser.add_argument(
        "--evaluation",
        action="extend",
        nargs="+",
        default=[],
        type=Path,
        metavar="REPORT",
        help="reports of fedllm evaluate for the card (default: those in FEDLLM_HOME/evaluations)",
    )


def absolute(given: str) -> Path:
    """The absolute path of what a user names; a `~name` of nobody is a name like others."""
    return expanded(given).resolve()


def checked_output(given: str) -> Path:
    """The absolute path of `--out`. NotWritten if it holds something or cannot be made."""
    out = absolute(given)
    if out == Path.cwd():
        raise NotWritten(f"--out {given}: is the working directory, which is not replaced; name a new directory")
    if out.exists() and not out.is_dir():
        raise NotWritten(f"--out {given}: is a file; name a new directory")
    above = next(parent for parent in out.parents if parent.exists())
    if not above.is_dir() or not os.access(above, os.W_OK | os.X_OK):
        problem = "no new directory can be made there" if above.is_dir() else "it is no directory"
        raise NotWritten(f"--out {given}: {above}: {problem}; name one in a directory that you may write to")
    _check_empty(out)
    return out


def _check_empty(out: Path) -> None:
    if out.exists() and any(out.iterdir()):
        raise NotWritten(f"--out {out} is not empty: name a new directory")


@contextmanager
def written_whole(out: Path) -> Iterator[Path]:
    """A new directory that becomes `out` when the block ends well, and vanishes when it does not.

    Raises
    ------
    NotWritten
        It cannot be written, or somebody else has put something there meanwhile.
    """
    from safetensors import SafetensorError

    try:
        with atomic_path(out) as directory:
            directory.mkdir()
            yield directory
            _check_empty(out)
            _give_usual_modes(directory)
    except (OSError, SafetensorError) as error:
        reason = (isinstance(error, OSError) and error.strerror) or str(error)
        raise NotWritten(f"--out {out} cannot be written: {reason}; nothing was left there") from error


def _give_usual_modes(directory: Path) -> None:
    """Files of weights are written for their owner alone; these are to be read by whoever serves the model."""
    probe = directory / ".mode"
    probe.touch()
    usual = stat.S_IMODE(probe.stat().st_mode)
    probe.unlink()
    for file in directory.rglob("*"):
        if file.is_file():
            file.chmod(usual)


def check_room(out: Path, size: int) -> None:
    """Refuse to write `size` bytes where there is no room for them."""
    above = next(parent for parent in out.parents if parent.exists())
    free = shutil.disk_usage(above).free
    if free < size:
        raise NotWritten(
            f"--out {out}: the model takes {size / 1e6:,.1f} MB, and the disk has {free / 1e6:,.1f} MB free: make "
            "room, or name a directory on another disk"
        )


def card_base(name: str, licence: Licence) -> Base:
    """A base model, by the name that the run recorded, as its card calls it."""
    if name in PACKAGED_MODELS:
        model = PACKAGED_MODELS[name]
        file = Path(model.file).name
        remark = f"its copy in the Python package {model.distribution} ({file}), whose weights are rounded"
        return Base(name, model.hub_id, licence, remark)
    return Base(shown_name(name), "" if Path(name).is_absolute() else name, licence)


def copy_licences(licence: Licence, directory: Path) -> None:
    """Put the texts that come with the base beside what is made of it."""
    for file in licence.files:
        shutil.copyfile(file, directory / file.name)


def files_and_bytes(directory: Path) -> tuple[int, int]:
    """How many files a directory holds, and their bytes."""
    sizes = [file.stat().st_size for file in directory.rglob("*") if file.is_file()]
    return len(sizes), sum(sizes)
