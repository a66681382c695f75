"""The two kinds of training rows, as every later stage sees them."""

from __future__ import annotations

from dataclasses import dataclass

Turns = tuple[tuple[str, str], ...]
"""A conversation: (role, content) pairs, the role one of system, user, assistant."""


@dataclass(frozen=True)
class Example:
    """One row of instruction tuning.

    Attributes
    ----------
    prompt : Turns
        The turns before the answer; the last one is the user's.
    completion : str
        The assistant's answer, never blank.
    """

    prompt: Turns
    completion: str


@dataclass(frozen=True)
class PreferencePair:
    """One row of value alignment: two answers to one prompt.

    Attributes
    ----------
    prompt : Turns
        The turns before the answers; the last one is the user's.
    chosen, rejected : str
        The preferred and the other answer, never blank and never equal.
    """

    prompt: Turns
    chosen: str
    rejected: str
