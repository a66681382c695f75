"""Whether a client should still go on: asked between two steps of training."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from fedllm_app.errors import UserError

_reasons: list[Callable[[], str]] = []


class Stopped(UserError):
    """The client has ended its work before the end; the message says why. It says nothing of the site's data."""


@contextmanager
def stop_when(reason: Callable[[], str]) -> Iterator[None]:
    """Within this block `check_stop` raises once `reason` gives a sentence; "" lets the work go on."""
    _reasons.append(reason)
    try:
        yield
    finally:
        _reasons.remove(reason)


def time_is_over(seconds: float) -> Callable[[], str]:
    """A reason to stop so many seconds from now: the server has closed the round, and what comes later is not used."""
    deadline = time.monotonic() + seconds
    return lambda: f"the round's time of {seconds:g} s is over" if time.monotonic() > deadline else ""


def check_stop(where: str = "") -> None:
    """Raise Stopped if what this process does is wanted no longer; `where` says how far it came."""
    for reason in _reasons:
        if said := reason():
            text = f"stopped {where}: {said}" if where else said
            raise Stopped(text, public=text)
