"""A run's way of writing prompts as a chat template in Jinja, for programs that load a model and do not know this app.

What such a program makes of a template differs from what training read in three ways, and the template makes up for
them: it puts the run's system prompt first, writes what the tokenizer puts before every text (nothing is added to the
text of a chat template), and keeps the date at which the prompts were trained. Whether it then gives the same tokens is
tried, not assumed.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product
from typing import TYPE_CHECKING

from fedllm_app.data.encoding import encode_prompts
from fedllm_app.data.templates import Template, TemplateError, Turn
from fedllm_app.data.templates.chat import with_fixed_date

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

_ASKED = [("user", "Which of these is 4?\n")]
_TRIED: tuple[list[Turn], ...] = (
    _ASKED,
    [("system", "Answer  briefly. "), *_ASKED],
    [*_ASKED, ("assistant", "2 + 2"), ("user", "And 5?")],
)
"""A single question, which every template writes; and conversations that some refuse."""


@dataclass(frozen=True)
class ChatTemplate:
    """A chat template in Jinja. `parts`: it wants contents as lists of parts, not as texts."""

    source: str
    parts: bool = False


def chat_template(template: Template, tokenizer: PreTrainedTokenizerBase, system_prompt: str | None) -> ChatTemplate:
    """A chat template in Jinja by which `tokenizer.apply_chat_template` gives the tokens that the run read.

    Control tokens that are spelled out in a message are the one exception: programs differ in what they take them for.

    Parameters
    ----------
    system_prompt : str | None
        Put before conversations without a system message of their own. None leaves the template's own default.

    Raises
    ------
    TemplateError
        There is no such template.
    """
    # Contents are texts; a few templates of models that read images want them as lists of parts.
    for parts, begun in product((False, True), repeat=2):
        found = ChatTemplate(_written(template, tokenizer, system_prompt, parts, begun), parts)
        if _agrees(found, template, tokenizer, system_prompt):
            return found
    raise TemplateError(
        f"the prompts of the template {template.name} cannot be written as a chat template: transformers would give "
        "the model other tokens than those it was trained with"
        + ("; the system prompt holds a control token" if template.controls.in_text(system_prompt or "") else "")
    )


def _written(
    template: Template, tokenizer: PreTrainedTokenizerBase, system_prompt: str | None, parts: bool, begun: bool
) -> str:
    """The template's source with what stands around it; `begun`: behind what the tokenizer puts before every text."""
    # What is put in front ends with a line break behind a block, which renderers of chat templates drop: the template
    # then begins at the beginning of a line, as by itself.
    source = with_fixed_date(template.source)
    if system_prompt is not None:
        content = f"[{{'type': 'text', 'text': {ascii(system_prompt)}}}]" if parts else ascii(system_prompt)
        source = (
            "{% if messages[0]['role'] != 'system' %}"
            f"{{% set messages = [{{'role': 'system', 'content': {content}}}] + messages %}}{{% endif %}}\n{source}"
        )
    if begun:
        begin = "".join(tokenizer.convert_ids_to_tokens(template.controls.begin))
        source = f"{{{{ {ascii(begin)} }}}}{{% if true %}}{{% endif %}}\n{source}"
    if template.header:
        source += f"{{% if add_generation_prompt %}}{{{{ {ascii(template.header)} }}}}{{% endif %}}"
    return source


def _agrees(
    found: ChatTemplate, template: Template, tokenizer: PreTrainedTokenizerBase, system_prompt: str | None
) -> bool:
    """Whether a chat template gives the tokens of training, for every conversation that training would not refuse."""
    from jinja2 import TemplateError as JinjaError

    for turns in _TRIED:
        try:
            (expected,) = encode_prompts([turns], template, tokenizer, system_prompt)
        except TemplateError:
            if turns is _ASKED:
                raise
            continue
        try:
            given = prompt_ids(tokenizer, found, turns)
        except (JinjaError, TypeError, ValueError, LookupError, AttributeError):
            return False
        if given != expected:
            return False
    return True


def prompt_ids(tokenizer: PreTrainedTokenizerBase, template: ChatTemplate, turns: Sequence[Turn]) -> list[int]:
    """What transformers makes of a conversation that waits for an answer. Whatever the template raises is raised."""
    messages = [
        {"role": role, "content": [{"type": "text", "text": content}] if template.parts else content}
        for role, content in turns
    ]
    return tokenizer.apply_chat_template(
        messages, chat_template=template.source, add_generation_prompt=True, return_dict=False
    )
