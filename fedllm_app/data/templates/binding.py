"""A template bound to a tokenizer: what it writes is looked at once, before anybody trains on it.

One rule holds for every template: a model that has read `render_prompt(turns)` generates exactly what `completion`
makes of the answer, and training uses these same strings. The rendered prompt is complete but for the
beginning-of-text token, which some templates write and some leave to the tokenizer: `encoding` sees to it that it
stands there once.

What a template does is found out, not assumed. A conversation of marked contents is rendered, and from it follow

* that the question and the answer come out, once and in order; a template that drops one is refused;
* `completion_prefix`, what stands between the prompt and an answer. A format like `ASSISTANT: answer` puts a space
  there. That space belongs to the completion, because most vocabularies hold " answer" as one token and a prompt that
  ends in a space leads a model astray. Where the tokenizer adds the space by itself to the beginning of a text, as
  Llama 2's does, the prefix is empty;
* `closing` and `end`, what stands behind an answer up to the first control token: that token ends a turn, be it the
  tokenizer's end token (Llama 2) or another (Gemma's `<end_of_turn>`, Phi-3's `<|end|>`).
"""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from fedllm_app.data.control_tokens import ControlTokens
from fedllm_app.data.templates.chat import Renderer, TemplateError, chat_renderer, own_template
from fedllm_app.data.templates.formats import FORMATS, Format, Turn

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

TEMPLATES = ("tokenizer", *FORMATS)
"""The names of templates: the tokenizer's own, and the formats."""

_SYSTEM, _QUESTION, _ANSWER, _NEXT = "qz3system", "qz3question", "qz3answer", "qz3next"
_ASKED = [("user", _QUESTION)]
_ANSWERED = [*_ASKED, ("assistant", _ANSWER)]
_ASKED_AGAIN = [*_ANSWERED, ("user", _NEXT)]
_REMEDY = (
    "choose another data.template, such as chatml, or the absolute path of a .jinja file that writes the content of "
    "every message"
)

# A thought that a prompt has opened, as <think> of DeepSeek R1, and one that is opened and closed.
_TAG = r"<([^<>/|\s]*(?:think|thought|reason)[^<>|\s]*)>"
_OPENED = re.compile(_TAG + r"\s*\Z")
_WHOLE = re.compile(_TAG + r"\s*</\1>")


@dataclass(frozen=True)
class Template:
    """A template bound to a tokenizer.

    Attributes
    ----------
    name : str
        As given in the configuration.
    completion_prefix, closing, end : str
        What stands before and behind an answer in a completion; `end` is the control token that ends the turn.
    stops : tuple[int, ...]
        Ids of tokens beside `end` at which generation stops: the tokenizer's end token, and those that the model's
        files name.
    controls : ControlTokens
        The tokenizer's control tokens.
    special_tokens_in_text : bool
        Whether control tokens that are spelled out in contents are meant as such.
    """

    name: str
    completion_prefix: str
    closing: str
    end: str
    stops: tuple[int, ...]
    controls: ControlTokens
    special_tokens_in_text: bool
    _render: Renderer
    _eos: str
    _header: str
    _thought: str
    _thought_is_open: bool
    _drops_system: bool
    _drops_history: bool

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
            The last turn is not the user's, or the template refuses the conversation or would drop a part of it.
        """
        if not turns or turns[-1][0] != "user":
            raise TemplateError("a prompt must end with a user turn")
        if system_prompt is not None and turns[0][0] != "system":
            turns = [("system", system_prompt), *turns]
        if self._drops_system and turns[0][0] == "system" and turns[0][1]:
            raise TemplateError(f"the template {self.name} leaves out the system message or repeats it; {_REMEDY}")
        if self._drops_history and sum(role == "user" for role, _ in turns) > 1:
            raise TemplateError(
                f"the template {self.name} leaves out or repeats the earlier turns of a conversation; {_REMEDY}"
            )
        return self._render(turns) + self._header

    def refusal(self, turns: Sequence[Turn], system_prompt: str | None) -> str:
        """Why `render_prompt` refuses this conversation, in words that hold nothing of its contents."""
        try:
            self.render_prompt([(role, "a") for role, _ in turns], system_prompt)
        except TemplateError as error:
            return str(error)
        return f"the template {self.name} cannot render what one of the turns says"

    def completion(self, answer: str) -> str:
        """What the model learns to generate for an answer: with what surrounds it, and with one end token."""
        text, prefix = self.without_end(answer), self.completion_prefix
        if self._thought and text.lstrip().startswith(self._thought):  # the answer has a thought of its own
            if self._thought_is_open:
                prefix, text = "", text.lstrip().removeprefix(self._thought).removeprefix("\n")
            else:
                prefix = prefix[: prefix.index(self._thought)]
        return prefix + text + self.closing + self.end

    def without_end(self, answer: str) -> str:
        """An answer without an end token that its text ends with already, as in data that was formatted before."""
        while (stripped := answer.rstrip()).endswith((self.end, self._eos)):
            answer = stripped.removesuffix(self.end if stripped.endswith(self.end) else self._eos)
        return answer


def get_template(
    name: str,
    tokenizer: PreTrainedTokenizerBase,
    source: str | None = None,
    *,
    special_tokens_in_text: bool = False,
    stops: Sequence[int] = (),
) -> Template:
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
    special_tokens_in_text : bool
        Whether control tokens that are spelled out in contents are meant as such; otherwise they are text.
    stops : Sequence[int]
        Ids at which the model's own files say that generation stops.

    Raises
    ------
    TemplateError
        Unknown name, relative or unreadable path, a tokenizer without what is needed, or a template that does not write
        what it is given: a question and its answer, once and in order, the same text every time.
    TokenizerError
        The tokenizer does not let prompt and completion be told apart.
    """
    if not tokenizer.eos_token:
        raise TemplateError("the tokenizer has no end token (eos_token), so no completion could ever end")
    controls = ControlTokens(tokenizer)
    if name in FORMATS:
        render, ignores_prompt = _format_renderer(FORMATS[name], tokenizer, controls), False
    else:
        called = "the tokenizer's chat template" if name == "tokenizer" else f"the template {name}"
        if name == "tokenizer":
            source = own_template(tokenizer)
        elif source is None:
            source = template_source(name)
        render, ignores_prompt = _faithful_renderer(tokenizer, source, called)
    seen = _Seen(render, controls, stops, name in FORMATS)
    prefix, header, thought, thought_is_open = seen.opening(ignores_prompt)
    closing, end = seen.ending()
    return Template(
        name=name,
        completion_prefix=prefix,
        closing=closing,
        end=end,
        stops=tuple(dict.fromkeys([tokenizer.eos_token_id, *stops])),
        controls=ControlTokens(tokenizer, [*seen.markers(thought), end]),
        special_tokens_in_text=special_tokens_in_text,
        _render=render,
        _eos=tokenizer.eos_token,
        _header=header,
        _thought=thought,
        _thought_is_open=thought_is_open,
        _drops_system=_drops(render, [("system", _SYSTEM), *_ASKED]),
        _drops_history=_drops(render, _ASKED_AGAIN),
    )


def template_source(name: str) -> str | None:
    """The text of a template given as a `.jinja` file; None for one by name. `TemplateError` as in `get_template`."""
    if name in TEMPLATES:
        return None
    path = Path(name)
    if path.suffix != ".jinja":
        raise TemplateError(
            f"unknown template '{name}'; it must be one of {', '.join(TEMPLATES)}, or the absolute path of a .jinja "
            "file"
        )
    if not path.is_absolute():
        raise TemplateError(f"the template path '{path}' is relative; give an absolute one")
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise TemplateError(f"the template {path} cannot be read: {error}") from error


def _format_renderer(form: Format, tokenizer: PreTrainedTokenizerBase, controls: ControlTokens) -> Renderer:
    """Render with one of the formats, after the begin token if the tokenizer is one that adds it."""
    begins = tokenizer.bos_token_id is not None and controls.begin[:1] == [tokenizer.bos_token_id]
    bos = tokenizer.bos_token if begins else ""

    def render(turns: Sequence[Turn]) -> str:
        system = turns[0][1] if turns[0][0] == "system" else None
        return form(system, turns[system is not None :], bos, tokenizer.eos_token)

    return render


def _faithful_renderer(tokenizer: PreTrainedTokenizerBase, source: str, name: str) -> tuple[Renderer, bool]:
    """Render a chat template with contents as it wants them, text or parts; refuse one that does not write them.

    The second value says whether the template ignores that it is asked to open an answer.
    """
    problems = []
    for parts in (False, True):
        render = chat_renderer(tokenizer, source, name, parts)
        try:
            problem = _problem(render)
        except TemplateError as error:
            problems.append(error)
            continue
        if problem is None:
            return render, chat_renderer(tokenizer, source, name, parts, prompts=False)(_ASKED) == render(_ASKED)
        problems.append(TemplateError(f"{name} {problem}; {_REMEDY}"))
    raise problems[0]


def _problem(render: Renderer) -> str | None:
    """What is wrong with what a template writes of a question and its answer."""
    for turns in (_ASKED, _ANSWERED):
        text = render(turns)
        for content, what in ((_QUESTION, "the user's message"), (_ANSWER, "the assistant's message"))[: len(turns)]:
            if content not in text:
                return f"leaves out {what}, or writes it in other letters"
            if text.count(content) > 1:
                return f"writes {what} {text.count(content)} times"
        if len(turns) > 1 and text.index(_ANSWER) < text.index(_QUESTION):
            return "writes the assistant's message before the user's"
        if any(render(turns) != text for _ in range(7)):
            return "does not write the same text every time"
    return None


def _drops(render: Renderer, turns: Sequence[Turn]) -> bool:
    """Whether a template leaves out or doubles a content of these turns; one that refuses them says so of every row."""
    try:
        text = render(turns)
    except TemplateError:
        return False
    places = [text.find(content) for _, content in turns]
    return places != sorted(places) or any(text.count(content) != 1 for _, content in turns)


def _between(render: Renderer) -> str:
    """What a template writes between an answer and the next question; "" if it takes single questions only."""
    try:
        text = render(_ASKED_AGAIN)
    except TemplateError:  # rows with several turns are refused one by one
        return ""
    found = re.search(f"{_ANSWER}(.*){_NEXT}", text, re.DOTALL)
    return found.group(1) if found else ""


class _Seen:
    """What a template writes around a question and its answer."""

    def __init__(self, render: Renderer, controls: ControlTokens, stops: Sequence[int], is_format: bool) -> None:
        self.controls, self.stops, self.is_format = controls, stops, is_format
        self.tokenizer = controls.tokenizer
        self.prompt, answered = render(_ASKED), render(_ANSWERED)
        self.lead, self.tail = answered.split(_ANSWER)
        self.between = _between(render)

    def opening(self, ignores_prompt: bool) -> tuple[str, str, str, bool]:
        """The completion's prefix; what to add to prompts; the tag of a thought, and whether prompts open one."""
        common = os.path.commonprefix([self.prompt, self.lead])
        unmatched, prefix = self.prompt[len(common) :], self.lead[len(common) :]
        opened = _OPENED.search(self.prompt)
        if opened and unmatched.strip():
            # Prompts open a thought that the answers of a conversation do not show: it is closed at once.
            if self.prompt[opened.start() :].strip() != unmatched.strip() or prefix.strip():
                raise self._unmatched(unmatched)
            line = "\n" if opened.group().endswith("\n") else ""
            return f"{line}</{opened.group(1)}>\n\n", "", f"<{opened.group(1)}>", True
        if unmatched.strip():
            raise self._unmatched(unmatched)
        if opened:
            return prefix, "", f"<{opened.group(1)}>", True
        if unmatched:
            return "", "", "", False
        if ignores_prompt and prefix.strip():
            # The template cannot open an answer; what it puts before one is no part of what a model says.
            header = prefix.rstrip(" ")
            return self._white_prefix(prefix[len(header) :], header), header, "", False
        whole = _WHOLE.search(prefix)
        if prefix.strip():
            return prefix, "", f"<{whole.group(1)}>" if whole else "", False
        return self._white_prefix(prefix, ""), "", "", False

    def _unmatched(self, unmatched: str) -> TemplateError:
        return TemplateError(
            f"the template ends a prompt with {unmatched!r}, which it does not write before the answers of a "
            f"conversation, so what comes between the two is not known; {_REMEDY}"
        )

    def _white_prefix(self, prefix: str, header: str) -> str:
        """The white space before an answer; "" where the tokenizer puts it there itself."""
        encode = partial(self.tokenizer.encode, add_special_tokens=False)
        prompt = self.prompt + header
        return "" if encode(prompt) + encode("b") == encode(prompt + prefix + "b") else prefix

    def ending(self) -> tuple[str, str]:
        """What stands behind an answer up to the token that ends the turn, and that token.

        Without a control token there, it is the tokenizer's end token; unless the next turn begins with a token at
        which generation stops, as GLM's do.
        """
        found = self.controls.delimiters(self.tail)
        if found:
            closing = self.tail[: self.tail.index(found[0])]
            return ("" if self.is_format else closing), found[0]
        known = set(self.stops)
        for name in self.controls.delimiters(self.between)[:1]:
            if self.tokenizer.convert_tokens_to_ids(name) in known and self.between.startswith(name):
                return "", name
        return "", self.tokenizer.eos_token

    def markers(self, thought: str) -> list[str]:
        """The control tokens that the template writes around turns, thoughts apart."""
        names = self.controls.delimiters(self.prompt + self.tail + self.between)
        return [name for name in dict.fromkeys(names) if name != thought]
