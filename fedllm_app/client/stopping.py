"""Whether a client should still go on: asked between two steps of training."""

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


def check_stop() -> None:
    """Raise Stopped if what this process does is wanted no longer."""
    for reason in _reasons:
        if said := reason():
            raise Stopped(said, public=said)
