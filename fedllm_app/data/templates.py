"""Turn a conversation into the text that a model continues with its answer.

One rule holds for every template: a model that has read `render_prompt(turns)` generates exactly
`completion_prefix + answer + end`, and training uses these same three strings. The rendered prompt is complete but
for the beginning-of-text token, which some templates write and some leave to the tokenizer: `shards.encode_prompts` sees to
it that it stands there once.

`completion_prefix` is not written down anywhere: it is what a template puts between the prompt and an answer that is
already there. A format like `ASSISTANT: answer` puts a space there. That space belongs to the completion, because
most vocabularies hold " answer" as one token and a prompt that ends in a space leads a model astray. Where the
tokenizer adds the space by itself to the beginning of a text, as Llama 2's does, the prefix is empty.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from fedllm_app.errors import UserError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

Turn = tuple[str, str]
Renderer = Callable[[Sequence[Turn]], str]


class TemplateError(UserError):
    """A template is unknown, does not suit the tokenizer, or cannot render a conversation."""


@dataclass(frozen=True)
class Template:
    """A template bound to a tokenizer.

    Attributes
    ----------
    name : str
        As given in the configuration.
    completion_prefix : str
        What stands between the rendered prompt and the answer; belongs to the completion.
    end : str
        What ends a completion: the tokenizer's end token.
    """

    name: str
    completion_prefix: str
    end: str
    _render: Renderer

    def render_prompt(self, turns: Sequence[Turn], system_prompt: str | None) -> str:
        """Render the turns before an answer.

        Parameters
        ----------
        turns : Sequence[Turn]
            (role, content) pairs; the last one is the user's.
        system_prompt : str | None
            Put first where the turns have no system turn of their own. None leaves the template's own default,
            an empty string asks for an empty one.

        Raises
        ------
        TemplateError
            The last turn is not the user's, or the template refuses the conversation.
        """
        if not turns or turns[-1][0] != "user":
            raise TemplateError("a prompt must end with a user turn")
        if system_prompt is not None and turns[0][0] != "system":
            turns = [("system", system_prompt), *turns]
        return self._render(turns)


def get_template(name: str, tokenizer: PreTrainedTokenizerBase, source: str | None = None) -> Template:
    """Bind a template to a tokenizer.

    Parameters
    ----------
    name : str
        A name of `TEMPLATES`, or the absolute path of a `.jinja` file written as chat templates are: it reads
        `messages`, `add_generation_prompt`, `bos_token` and `eos_token`, and runs in a sandbox.
    tokenizer : PreTrainedTokenizerBase
        Gives the special tokens, and the chat template for `tokenizer`.
    source : str | None
        The text to use in place of the file's, such as the one recorded with an adapter; the file need not exist.

    Raises
    ------
    TemplateError
        Unknown name, relative or unreadable path, a template that cannot render a plain conversation, or a
        tokenizer without what is needed.
    """
    if not tokenizer.eos_token:
        raise TemplateError("the tokenizer has no end token (eos_token), so no completion could ever end")
    if name in TEMPLATES:
        render = TEMPLATES[name](tokenizer)
    else:
        render = _jinja(tokenizer, template_source(name) if source is None else source, f"the template {name}")
    return Template(name, _completion_prefix(render, tokenizer), tokenizer.eos_token, render)


def template_source(name: str) -> str | None:
    """The text of a template given as a `.jinja` file; None for one by name. `TemplateError` as in `get_template`."""
    if name in TEMPLATES:
        return None
    path = Path(name)
    if path.suffix != ".jinja":
        raise TemplateError(
            f"unknown template '{name}'; accepted are {', '.join(TEMPLATES)}, or the absolute path of a .jinja file"
        )
    if not path.is_absolute():
        raise TemplateError(f"the template path '{path}' is relative; give an absolute one")
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise TemplateError(f"the template {path} cannot be read: {error}") from error


def _completion_prefix(render: Renderer, tokenizer: PreTrainedTokenizerBase) -> str:
    """Find the white space that a template puts before an answer; "" where the tokenizer puts it there itself."""
    question, answer = ("user", "a"), "b"
    prompt = render([question])
    answered = render([question, ("assistant", answer)])
    if not answered.startswith(prompt):
        return ""
    rest = answered[len(prompt) :]
    prefix = rest[: len(rest) - len(rest.lstrip())]
    if not prefix or not rest[len(prefix) :].startswith(answer):
        return ""
    encode = partial(tokenizer.encode, add_special_tokens=False)
    alone, joined = encode(answer), encode(prompt + prefix + answer)
    return "" if encode(prompt) + alone == joined else prefix


def _jinja(tokenizer: PreTrainedTokenizerBase, source: str | None, what: str) -> Renderer:
    """Render with a chat template: the given source, or the tokenizer's own."""
    from jinja2 import TemplateError as JinjaError

    def render(turns: Sequence[Turn]) -> str:
        messages = [{"role": role, "content": content} for role, content in turns]
        try:
            return tokenizer.apply_chat_template(
                messages, chat_template=source, tokenize=False, add_generation_prompt=turns[-1][0] == "user"
            )
        except (JinjaError, TypeError, ValueError) as error:
            roles = ", ".join(role for role, _ in turns)
            raise TemplateError(f"{what} cannot render a conversation of {roles}: {error}") from error

    return render


def _own(tokenizer: PreTrainedTokenizerBase) -> Renderer:
    if not tokenizer.chat_template:
        raise TemplateError(
            "the tokenizer has no chat template; choose another template, such as chatml, or one of a .jinja file"
        )
    return _jinja(tokenizer, None, "the tokenizer's chat template")


Format = Callable[[str | None, Sequence[Turn], str, str], str]
"""Text of (system prompt or None for the default, turns without system, begin token, end token)."""


def _text(form: Format, tokenizer: PreTrainedTokenizerBase) -> Renderer:
    """Render with one of the formats below, after the begin token if the tokenizer is one that adds it."""
    begins = tokenizer.bos_token_id is not None and tokenizer.encode("a")[:1] == [tokenizer.bos_token_id]
    bos = tokenizer.bos_token if begins else ""

    def render(turns: Sequence[Turn]) -> str:
        system = turns[0][1] if turns[0][0] == "system" else None
        return form(system, turns[system is not None :], bos, tokenizer.eos_token)

    return render


_ALPACA = "Below is an instruction that describes a task. Write a response that appropriately completes the request."
_VICUNA = (
    "A chat between a curious user and an artificial intelligence assistant."
    " The assistant gives helpful, detailed, and polite answers to the user's questions."
)


def _alpaca(system: str | None, turns: Sequence[Turn], bos: str, eos: str) -> str:
    """Stanford Alpaca without an input; a line break follows `### Response:`. A system prompt replaces the preamble."""
    system = _ALPACA if system is None else system
    text = bos + (f"{system}\n\n" if system else "")
    for role, content in turns:
        text += f"### Instruction:\n{content}\n\n### Response:\n" if role == "user" else f"{content}{eos}\n\n"
    return text


def _vicuna(system: str | None, turns: Sequence[Turn], bos: str, eos: str) -> str:
    """Vicuna v1.1."""
    system = _VICUNA if system is None else system
    text = bos + (f"{system} " if system else "")
    for role, content in turns:
        text += f"USER: {content} ASSISTANT:" if role == "user" else f" {content}{eos}"
    return text


def _llama_2(system: str | None, turns: Sequence[Turn], bos: str, eos: str) -> str:
    """Llama 2 chat: the system prompt stands in the first user turn; every pair begins anew."""
    block = f"<<SYS>>\n{system}\n<</SYS>>\n\n" if system else ""
    text = ""
    for role, content in turns:
        if role == "user":
            text += f"{bos}[INST] {block}{content} [/INST]"
            block = ""
        else:
            text += f" {content} {eos}"
    return text


def _chatml(system: str | None, turns: Sequence[Turn], bos: str, eos: str) -> str:
    """ChatML, without a default system prompt."""
    spoken = [("system", system), *turns] if system else turns
    text = bos + "".join(f"<|im_start|>{role}\n{content}<|im_end|>\n" for role, content in spoken)
    return text + ("<|im_start|>assistant\n" if turns[-1][0] == "user" else "")


def _none(system: str | None, turns: Sequence[Turn], bos: str, eos: str) -> str:
    """The contents alone, one below the other."""
    contents = [system, *(content for _, content in turns)] if system else [content for _, content in turns]
    return bos + "\n".join(contents) + ("\n" if turns[-1][0] == "user" else "")


TEMPLATES: dict[str, Callable[[PreTrainedTokenizerBase], Renderer]] = {
    "tokenizer": _own,
    "alpaca": partial(_text, _alpaca),
    "vicuna": partial(_text, _vicuna),
    "llama-2": partial(_text, _llama_2),
    "chatml": partial(_text, _chatml),
    "none": partial(_text, _none),
}
"""Templates by name. To add one, write its format above and add one line."""
