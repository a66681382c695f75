"""How a configuration turns rows into tokens."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Tokenization:
    """The values that tokens depend on, beside rows and tokenizer. A `system_prompt` of None leaves the template's own.

    `packing` is of documents: whether a window may hold several.
    """

    template: str
    system_prompt: str | None
    max_length: int
    packing: bool = True
