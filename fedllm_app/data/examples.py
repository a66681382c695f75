"""The kinds of rows, as every later stage sees them, and how each kind is kept as text cells in a converted set."""

import json
from dataclasses import dataclass
from typing import ClassVar

Turns = tuple[tuple[str, str], ...]
"""A conversation: (role, content) pairs, the role one of system, user, assistant."""


def _dump(prompt: Turns) -> str:
    return json.dumps(prompt)


def _load(cell: str) -> Turns:
    return tuple((role, content) for role, content in json.loads(cell))


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

    kind: ClassVar[str] = "example"
    cell_names: ClassVar[tuple[str, ...]] = ("prompt", "completion")

    prompt: Turns
    completion: str

    def cells(self) -> tuple[str, ...]:
        """The row as text, in the order of `cell_names`."""
        return (_dump(self.prompt), self.completion)

    @classmethod
    def from_cells(cls, prompt: str, completion: str) -> "Example":
        """The inverse of `cells`."""
        return cls(_load(prompt), completion)


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

    kind: ClassVar[str] = "pair"
    cell_names: ClassVar[tuple[str, ...]] = ("prompt", "chosen", "rejected")

    prompt: Turns
    chosen: str
    rejected: str

    def cells(self) -> tuple[str, ...]:
        """The row as text, in the order of `cell_names`."""
        return (_dump(self.prompt), self.chosen, self.rejected)

    @classmethod
    def from_cells(cls, prompt: str, chosen: str, rejected: str) -> "PreferencePair":
        """The inverse of `cells`."""
        return cls(_load(prompt), chosen, rejected)


@dataclass(frozen=True)
class RatedAnswer:
    """One answer with a thumb up or down.

    Attributes
    ----------
    prompt : Turns
        The turns before the answer; the last one is the user's.
    completion : str
        The answer, never blank.
    desirable : bool
        Thumb up.
    """

    kind: ClassVar[str] = "rated"
    cell_names: ClassVar[tuple[str, ...]] = ("prompt", "completion", "desirable")

    prompt: Turns
    completion: str
    desirable: bool

    def cells(self) -> tuple[str, ...]:
        """The row as text, in the order of `cell_names`."""
        return (_dump(self.prompt), self.completion, str(int(self.desirable)))

    @classmethod
    def from_cells(cls, prompt: str, completion: str, desirable: str) -> "RatedAnswer":
        """The inverse of `cells`."""
        return cls(_load(prompt), completion, desirable == "1")


@dataclass(frozen=True)
class Document:
    """Raw text, for continued pretraining; never blank."""

    kind: ClassVar[str] = "document"
    cell_names: ClassVar[tuple[str, ...]] = ("text",)

    text: str

    def cells(self) -> tuple[str, ...]:
        """The row as text, in the order of `cell_names`."""
        return (self.text,)

    @classmethod
    def from_cells(cls, text: str) -> "Document":
        """The inverse of `cells`."""
        return cls(text)


Row = Example | PreferencePair | RatedAnswer | Document

ROW_KINDS: dict[str, type[Row]] = {kind.kind: kind for kind in (Example, PreferencePair, RatedAnswer, Document)}
"""Row kinds by name. A task trains on one of them."""
