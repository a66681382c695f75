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

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from fedllm_app.data.control_tokens import ControlTokens
from fedllm_app.data.templates.chat import Renderer, TemplateError, tokenizer_template
from fedllm_app.data.templates.formats import FORMATS, Turn
from fedllm_app.data.templates.jinja import jinja_format
from fedllm_app.data.templates.probe import REMEDY, Opening, Probe, faithful_renderer

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

TEMPLATES = ("tokenizer", *FORMATS)
"""The names of templates: the tokenizer's own, and the formats."""


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
    source : str
        The template in Jinja. Prompts have `header` behind it.
    """

    name: str
    completion_prefix: str
    closing: str
    end: str
    stops: tuple[int, ...]
    controls: ControlTokens
    special_tokens_in_text: bool
    source: str
    _render: Renderer
    _eos: str
    _opening: Opening
    _drops_system: bool
    _drops_history: bool

    @property
    def header(self) -> str:
        """What prompts end with beside what the template writes, because it cannot be asked to open an answer."""
        return self._opening.header

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
            raise TemplateError(f"the template {self.name} leaves out the system message or repeats it; {REMEDY}")
        if self._drops_history and sum(role == "user" for role, _ in turns) > 1:
            raise TemplateError(
                f"the template {self.name} leaves out or repeats the earlier turns of a conversation; {REMEDY}"
            )
        return self._render(turns) + self._opening.header

    def refusal(self, turns: Sequence[Turn], system_prompt: str | None) -> str:
        """Why `render_prompt` refuses this conversation, in words that hold nothing of its contents."""
        try:
            self.render_prompt([(role, "a") for role, _ in turns], system_prompt)
        except TemplateError as error:
            return str(error)
        return f"the template {self.name} cannot render what one of the turns says"

    def completion(self, answer: str) -> str:
        """What the model learns to generate for an answer: with what surrounds it, and with one end token."""
        text, prefix, thought = self.without_end(answer), self.completion_prefix, self._opening.thought
        if thought and text.lstrip().startswith(thought):  # the answer has a thought of its own
            if self._opening.thought_is_open:
                prefix, text = "", text.lstrip().removeprefix(thought).removeprefix("\n")
            else:
                prefix = prefix[: prefix.index(thought)]
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
        (render, source), ignores_prompt = _format(name, tokenizer, controls), False
    else:
        own = name == "tokenizer"
        source = tokenizer_template(tokenizer) if own else template_source(name) if source is None else source
        called = "the tokenizer's chat template" if own else f"the template {name}"
        render, ignores_prompt = faithful_renderer(tokenizer, source, called)
    probe = Probe(render, controls, stops, ignores_prompt, is_format=name in FORMATS)
    opening, (closing, end) = probe.opening(), probe.ending()
    return Template(
        name=name,
        completion_prefix=opening.prefix,
        closing=closing,
        end=end,
        stops=tuple(dict.fromkeys([tokenizer.eos_token_id, *stops])),
        controls=ControlTokens(tokenizer, [*probe.markers(opening.thought), end]),
        special_tokens_in_text=special_tokens_in_text,
        source=source,
        _render=render,
        _eos=tokenizer.eos_token,
        _opening=opening,
        _drops_system=probe.drops_system,
        _drops_history=probe.drops_history,
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


def _format(name: str, tokenizer: PreTrainedTokenizerBase, controls: ControlTokens) -> tuple[Renderer, str]:
    """Renders with one of the formats, after the begin token if the tokenizer is one that adds it; and its Jinja."""
    form = FORMATS[name]
    begins = tokenizer.bos_token_id is not None and controls.begin[:1] == [tokenizer.bos_token_id]
    bos = tokenizer.bos_token if begins else ""

    def render(turns: Sequence[Turn]) -> str:
        system = turns[0][1] if turns[0][0] == "system" else None
        return form(system, turns[system is not None :], bos, tokenizer.eos_token)

    return render, jinja_format(name, begins)
