"""What a template writes around a question and its answer, found by rendering a conversation of marked contents."""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

from fedllm_app.data.control_tokens import ControlTokens
from fedllm_app.data.templates.chat import Renderer, TemplateError, chat_renderer
from fedllm_app.data.templates.formats import Turn

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

_SYSTEM, _QUESTION, _ANSWER, _NEXT = "qz3system", "qz3question", "qz3answer", "qz3next"
_ASKED = [("user", _QUESTION)]
_ANSWERED = [*_ASKED, ("assistant", _ANSWER)]
_ASKED_AGAIN = [*_ANSWERED, ("user", _NEXT)]
REMEDY = (
    "choose another data.template, such as chatml, or the absolute path of a .jinja file that writes the content of "
    "every message"
)

# A thought that a prompt has opened, as <think> of DeepSeek R1, and one that is opened and closed.
_TAG = r"<([^<>/|\s]*(?:think|thought|reason)[^<>|\s]*)>"
_OPENED = re.compile(_TAG + r"\s*\Z")
_WHOLE = re.compile(_TAG + r"\s*</\1>")


@dataclass(frozen=True)
class Opening:
    """What comes before an answer.

    Attributes
    ----------
    prefix : str
        What the completion begins with.
    header : str
        What is added to prompts, because the template leaves it out of them.
    thought : str
        The tag that opens a thought, such as `<think>`; "" where the template has none.
    thought_is_open : bool
        Whether prompts end with that tag.
    """

    prefix: str = ""
    header: str = ""
    thought: str = ""
    thought_is_open: bool = False


def faithful_renderer(tokenizer: PreTrainedTokenizerBase, source: str, name: str) -> tuple[Renderer, bool]:
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
        problems.append(TemplateError(f"{name} {problem}; {REMEDY}"))
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


class Probe:
    """Looks at what a template writes.

    Parameters
    ----------
    stops : Sequence[int]
        Ids at which the model's files say that generation stops.
    ignores_prompt : bool
        Whether the template cannot be asked to open an answer.
    is_format : bool
        Whether it is one of the formats, whose answers end with the end token and nothing before it.
    """

    def __init__(
        self, render: Renderer, controls: ControlTokens, stops: Sequence[int], ignores_prompt: bool, is_format: bool
    ) -> None:
        self.render, self.controls, self.stops = render, controls, stops
        self.ignores_prompt, self.is_format = ignores_prompt, is_format
        self.tokenizer = controls.tokenizer
        self.prompt, answered = render(_ASKED), render(_ANSWERED)
        self.lead, self.tail = answered.split(_ANSWER)
        self.between = _between(render)

    @property
    def drops_system(self) -> bool:
        """Whether the template leaves out or repeats a system message."""
        return _drops(self.render, [("system", _SYSTEM), *_ASKED])

    @property
    def drops_history(self) -> bool:
        """Whether the template leaves out or repeats earlier turns."""
        return _drops(self.render, _ASKED_AGAIN)

    def opening(self) -> Opening:
        """What comes before an answer."""
        common = os.path.commonprefix([self.prompt, self.lead])
        unmatched, prefix = self.prompt[len(common) :], self.lead[len(common) :]
        opened = _OPENED.search(self.prompt)
        if opened and unmatched.strip():
            # Prompts open a thought that the answers of a conversation do not show: it is closed at once.
            if self.prompt[opened.start() :].strip() != unmatched.strip() or prefix.strip():
                raise self._unmatched(unmatched)
            line = "\n" if opened.group().endswith("\n") else ""
            return Opening(f"{line}</{opened.group(1)}>\n\n", thought=f"<{opened.group(1)}>", thought_is_open=True)
        if unmatched.strip():
            raise self._unmatched(unmatched)
        if opened:
            return Opening(prefix, thought=f"<{opened.group(1)}>", thought_is_open=True)
        if not prefix.strip():  # a prompt may have a line break that a conversation has not
            return Opening("" if unmatched else self._white_prefix(prefix, ""))
        if self.ignores_prompt:
            # The template cannot open an answer; what it puts before one is no part of what a model says.
            header = prefix.rstrip(" ")
            return Opening(self._white_prefix(prefix[len(header) :], header), header)
        whole = _WHOLE.search(prefix)
        return Opening(prefix, thought=f"<{whole.group(1)}>" if whole else "")

    def _unmatched(self, unmatched: str) -> TemplateError:
        return TemplateError(
            f"the template ends a prompt with {unmatched!r}, which it does not write before the answers of a "
            f"conversation, so what comes between the two is not known; {REMEDY}"
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
