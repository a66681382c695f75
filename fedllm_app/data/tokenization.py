"""How a configuration turns rows into tokens."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from fedllm_app.data.templates import Template, get_template

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


@dataclass(frozen=True)
class Tokenization:
    """The values that tokens depend on, beside rows and tokenizer. A `system_prompt` of None leaves the template's own.

    `packing` is of documents: whether a window may hold several. `special_tokens_in_text` says whether control tokens
    that are spelled out in rows are meant as such, `learn_turns` which of a conversation's answers are learnt.
    """

    template: str
    system_prompt: str | None
    max_length: int
    packing: bool = True
    special_tokens_in_text: bool = False
    learn_turns: Literal["last", "all"] = "last"

    def bind(self, tokenizer: "PreTrainedTokenizerBase", stops: Sequence[int] = ()) -> Template:
        """The template bound to a tokenizer; `stops` as for `get_template`."""
        return get_template(self.template, tokenizer, special_tokens_in_text=self.special_tokens_in_text, stops=stops)
