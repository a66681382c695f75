"""Chat templates written in Jinja: a tokenizer's own, or a file of the user's.

They are code of somebody else's that nobody here has read, so what they write is checked when they are bound
(`binding`). Three things are settled here: contents are given as text or, where a template wants it, as lists of parts;
the date is always the same one, because prompts that change overnight cannot be tokenized, cached and compared; and
whatever a template raises becomes a `TemplateError`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from fedllm_app.data.templates.formats import Turn
from fedllm_app.errors import UserError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

Renderer = Callable[[Sequence[Turn]], str]


class TemplateError(UserError):
    """A template is unknown, does not suit the tokenizer, or cannot render a conversation."""

    public = "the template is not there, or does not go with the tokenizer and the turns that it is given"


# Put before a template that asks for the time. It is the date that Llama's templates fall back on.
_FIXED_DATE = (
    "{% macro strftime_now(format) %}"
    "{% set ns = namespace(text=format | replace('%-d', '26') | replace('%-m', '7')) %}"
    "{% for code, value in [('%d', '26'), ('%e', '26'), ('%m', '07'), ('%b', 'Jul'), ('%B', 'July'), ('%Y', '2024'),"
    " ('%y', '24'), ('%a', 'Fri'), ('%A', 'Friday'), ('%H', '12'), ('%M', '00'), ('%S', '00'), ('%F', '2024-07-26')] %}"
    "{% set ns.text = ns.text | replace(code, value) %}"
    "{% endfor %}"
    "{% if '%' in ns.text %}{{ raise_exception('the date format ' ~ format ~ ' is not known here') }}{% endif %}"
    "{{ ns.text }}{% endmacro %}\n"
)


def chat_renderer(
    tokenizer: PreTrainedTokenizerBase, source: str, name: str, parts: bool = False, prompts: bool = True
) -> Renderer:
    """Render with a chat template.

    Parameters
    ----------
    source : str
        The template.
    name : str
        What errors call it.
    parts : bool
        Give contents as lists of one text part, as templates of models that read images may want them.
    prompts : bool
        After a user's turn, ask the template to open the answer.
    """
    from jinja2 import TemplateError as JinjaError

    source = with_fixed_date(source)

    def render(turns: Sequence[Turn]) -> str:
        messages = [
            {"role": role, "content": [{"type": "text", "text": content}] if parts else content}
            for role, content in turns
        ]
        asks = prompts and turns[-1][0] == "user"
        try:
            return tokenizer.apply_chat_template(
                messages, chat_template=source, tokenize=False, add_generation_prompt=asks
            )
        # What a template can do wrong: its own complaints, and operations on values that are not what it expects.
        except (JinjaError, TypeError, ValueError, ArithmeticError, LookupError, AttributeError) as error:
            roles = ", ".join(role for role, _ in turns)
            raise TemplateError(f"{name} cannot render a conversation of {roles}: {error}") from error

    return render


def with_fixed_date(source: str) -> str:
    """The template with a date of its own, which is always the same; as it is where it asks for none."""
    return _FIXED_DATE + source if "strftime_now" in source else source


def tokenizer_template(tokenizer: PreTrainedTokenizerBase) -> str:
    """The chat template that comes with the tokenizer; of several, the default one."""
    if not tokenizer.chat_template:
        raise TemplateError(
            "the tokenizer has no chat template; choose another template, such as chatml, or one of a .jinja file"
        )
    try:
        return tokenizer.get_chat_template()
    except ValueError as error:
        raise TemplateError(
            f"the tokenizer has several chat templates and none is the default: {error}; save the one you mean as a "
            ".jinja file and give data.template its absolute path"
        ) from error
