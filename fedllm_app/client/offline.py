"""No downloads at a site that does not allow them: the Hub's libraries then read their cache only."""

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager

_VARIABLE = "HF_HUB_OFFLINE"


@contextmanager
def downloads(allowed: bool) -> Iterator[None]:
    """Within this block nothing is fetched from the Hub, unless it is allowed.

    Both libraries read the variable when they are imported, so what is imported already is told, too; a process that
    one starts within the block inherits it.
    """
    if allowed:
        yield
        return
    from huggingface_hub import constants

    before = constants.HF_HUB_OFFLINE, os.environ.get(_VARIABLE)
    os.environ[_VARIABLE] = "1"
    _tell(True)
    try:
        yield
    finally:
        _tell(before[0])
        if before[1] is None:
            del os.environ[_VARIABLE]
        else:
            os.environ[_VARIABLE] = before[1]


def _tell(offline: bool) -> None:
    from huggingface_hub import constants

    constants.HF_HUB_OFFLINE = offline
    if "datasets" in sys.modules:
        sys.modules["datasets"].config.HF_HUB_OFFLINE = offline
