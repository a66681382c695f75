"""Whether the disk has room for what a run will write."""

import shutil
from pathlib import Path

from fedllm_app.errors import UserError


class NoRoom(UserError):
    """The disk of the run directory has no room for a checkpoint and the final adapter."""


def check_space(directory: Path, adapter_bytes: int, state_bytes: int, checkpoints: int) -> str:
    """Compare what a run writes with what is free, before its first round.

    Parameters
    ----------
    adapter_bytes : int
        Of the whole adapter.
    state_bytes : int
        Of a strategy's state, in vectors of the adapter that travels: as far as it is known before the first round.
    checkpoints : int
        How many the run will write.

    Returns
    -------
    str
        A sentence if there is room for some checkpoints and not for all; "" if there is for all.

    Raises
    ------
    NoRoom
        There is no room for one checkpoint, its replacement and the final adapter.
    """
    one = adapter_bytes + state_bytes
    least, all_of_them = 2 * one + adapter_bytes, checkpoints * one + adapter_bytes
    free = shutil.disk_usage(directory).free
    if free < least:
        raise NoRoom(
            f"the disk of {directory} has {_mb(free)} free, and a checkpoint with the final adapter takes {_mb(least)}"
            ": make room, or name another run.directory"
        )
    if free < all_of_them:
        return (
            f"the disk of {directory} has {_mb(free)} free, and {checkpoints} checkpoints take {_mb(all_of_them)}: "
            "make room, or raise run.checkpoint-every; a run that stops on a full disk can be resumed"
        )
    return ""


def _mb(size: int) -> str:
    return f"{size / 2**20:,.1f} MB"
