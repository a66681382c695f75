"""What a check of a site found: one line each."""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Literal

from fedllm_app.errors import UserError


@dataclass(frozen=True)
class Finding:
    """One line of a check.

    Attributes
    ----------
    level : str
        "ok", "warning" (a run may work) or "fails" (no run will).
    subject : str
        What was looked at, a word or two.
    text : str
        What was found and, unless it is ok, what to do.
    """

    level: Literal["ok", "warning", "fails"]
    subject: str
    text: str


def ok(subject: str, text: str) -> Finding:
    return Finding("ok", subject, text)


def warning(subject: str, text: str) -> Finding:
    return Finding("warning", subject, text)


def fails(subject: str, text: str) -> Finding:
    return Finding("fails", subject, text)


def guarded(subject: str, check: Callable[[], Iterable[Finding]]) -> Iterator[Finding]:
    """The findings of a check. An error that it raises is one more, so that the checks after it are made as well."""
    try:
        yield from check()
    except UserError as error:
        yield fails(subject, str(error))
    except OSError as error:
        yield fails(subject, f"{type(error).__name__}: {error}")
