"""From rows to token ids: prompts, completions, and where in them the learnt tokens are.

Prompt and completion are tokenized apart and joined, so the first completion token is known and nothing is searched for
in token ids. The same functions write the prompts of training, of evaluation and of a chat.
"""

from __future__ import annotations

import secrets
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from fedllm_app.data.control_tokens import Text, TokenizerError, Tokens
from fedllm_app.data.templates import Template, TemplateError, Turn

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

LearnTurns = Literal["last", "all"]

_NONCE = f"k{secrets.token_hex(8)}"
_FIRST, _END = f"{_NONCE}f", f"{_NONCE}e"  # around an answer, while the text in which it stands is rendered

Span = tuple[int, int]
"""The first of a range of characters or tokens, and the one behind its last."""


@dataclass(frozen=True)
class Encoded:
    """Token ids of a prompt and of the completions to it, and the spans of the prompt that are learnt, too."""

    prompt: list[int]
    completions: list[list[int]]
    learnt: list[Span]


@dataclass(frozen=True)
class Refused:
    """A row that cannot be written as tokens. The reason holds nothing of what the row says."""

    reason: str


def encode_prompts(
    conversations: Sequence[Sequence[Turn]],
    template: Template,
    tokenizer: PreTrainedTokenizerBase,
    system_prompt: str | None,
) -> list[list[int]]:
    """Token ids of conversations up to the answer: what a model reads in training, in evaluation and in a chat.

    Raises
    ------
    TemplateError
        The template or the tokenizer refuses a conversation.
    """
    texts = [_prompt(template, turns, system_prompt) for turns in conversations]
    try:
        return [_begun(tokens.ids, template) for tokens in template.controls.encode(texts)]
    except TokenizerError as error:
        raise TemplateError(str(error)) from error


def encode_rows(
    rows: Sequence[tuple[Sequence[Turn], Sequence[str]]],
    template: Template,
    system_prompt: str | None,
    learn_turns: LearnTurns = "last",
) -> list[Encoded | Refused]:
    """Token ids of rows, each a prompt and the answers to it.

    Parameters
    ----------
    learn_turns : LearnTurns
        "last": the completions are learnt; "all": the answers within the prompt, too.
    """
    encoded: list[Encoded | Refused | None] = [None] * len(rows)
    written: list[tuple[int, list[Text], list[Span]]] = []
    for place, (turns, answers) in enumerate(rows):
        try:
            texts, spans = _written(template, turns, answers, system_prompt, learn_turns)
            written.append((place, texts, spans))
        except TemplateError:
            encoded[place] = Refused(template.refusal(turns, system_prompt))
        except _NotLearnt as error:
            encoded[place] = Refused(str(error))
    # Plain rows together, and those with control tokens in their text, for which the tokenizer may have to be copied.
    for plain in (True, False):
        group = [row for row in written if plain is not any(text.respelled for text in row[1])]
        try:
            prompts = template.controls.encode([texts[0] for _, texts, _ in group], offsets=learn_turns == "all")
            completions = template.controls.encode([text for _, texts, _ in group for text in texts[1:]])
        except TokenizerError as error:
            if plain:  # not for a row's sake
                raise
            encoded = [Refused(str(error)) if row is None else row for row in encoded]
            continue
        rest = iter(completions)
        for (place, texts, spans), prompt in zip(group, prompts, strict=True):
            answers = [next(rest).ids for _ in texts[1:]]
            ids = _begun(prompt.ids, template)
            learnt = _token_spans(prompt, spans, len(ids) - len(prompt.ids))
            encoded[place] = Encoded(ids, answers, learnt) if ids else Refused("its prompt has no tokens")
    return encoded


class _NotLearnt(Exception):
    """An answer of a row is nothing to learn, or cannot be found again in what the template writes."""


def _written(
    template: Template,
    turns: Sequence[Turn],
    answers: Sequence[str],
    system_prompt: str | None,
    learn_turns: LearnTurns,
) -> tuple[list[Text], list[Span]]:
    """The texts of a prompt and of the completions to it, and the spans of the learnt answers in the prompt."""
    if any(not template.without_end(answer).strip() for answer in answers):
        raise _NotLearnt("its answer is nothing but the token that ends a turn")
    prompt, spans = _prompt(template, turns, system_prompt), []
    if learn_turns == "all" and any(role == "assistant" for role, _ in turns):
        spans = _answer_spans(template, turns, system_prompt, prompt)
    return [prompt, *(_completion(template, answer) for answer in answers)], spans


def _prompt(template: Template, turns: Sequence[Turn], system_prompt: str | None) -> Text:
    """The prompt's text: what looks like a control token in a content stays text, unless it is meant."""
    turns = [(role, template.without_end(content) if role == "assistant" else content) for role, content in turns]
    contents = [content for _, content in turns] + [system_prompt or ""]
    if template.special_tokens_in_text or not any(map(template.controls.in_text, contents)):
        return Text(template.render_prompt(turns, system_prompt))
    hide = template.controls.hide
    hidden = None if system_prompt is None else hide(system_prompt)
    return template.controls.respell(template.render_prompt([(role, hide(text)) for role, text in turns], hidden))


def _completion(template: Template, answer: str) -> Text:
    answer = template.without_end(answer)
    if template.special_tokens_in_text or not template.controls.in_text(answer):
        return Text(template.completion(answer))
    return template.controls.respell(template.completion(template.controls.hide(answer)))


def _answer_spans(template: Template, turns: Sequence[Turn], system_prompt: str | None, prompt: Text) -> list[Span]:
    """Where in the prompt's text its answers stand, each with the white space before it and the token that ends it.

    The prompt is rendered again with marks around every answer, inside the white space that a template may trim.
    Without the marks it must be the same text.
    """
    marked, spaces = [], []
    for role, content in turns:
        if role == "assistant":
            space, core, rest = _stripped(template.without_end(content))
            spaces.append(space)
            content = f"{space}{_FIRST}{core}{_END}{rest}"
        marked.append((role, content))
    pieces = _prompt(template, marked, system_prompt).text.split(_FIRST)
    text, spans = pieces[0], []
    for piece, space in zip(pieces[1:], spaces, strict=False):
        answer, end, rest = piece.partition(_END)
        spans.append(_widened(template, text, space, answer, rest, prompt.respelled) if end else (0, 0))
        text += answer + rest
    if text != prompt.text or len(spans) != len(spaces):
        raise _NotLearnt(
            "the template changes an earlier answer of the conversation, so data.learn-turns = 'all' cannot learn it"
        )
    return spans


def _stripped(text: str) -> tuple[str, str, str]:
    """White space, text, white space."""
    core = text.strip()
    first = text.index(core)
    return text[:first], core, text[first + len(core) :]


def _widened(template: Template, before: str, space: str, answer: str, rest: str, respelled: bool) -> Span:
    """The span of an answer: from its own white space and the prefix to the token that ends its turn."""
    prefix, ending = template.completion_prefix, template.closing + template.end
    if respelled:
        prefix, ending = (template.controls.respell(part).text for part in (prefix, ending))
    first = end = len(before)
    for piece in (space, prefix):
        first -= len(piece) if before[:first].endswith(piece) else 0
    end += len(answer)
    ending, white = ending.lstrip(), len(rest) - len(rest.lstrip())
    return first, end + (white + len(ending) if rest[white:].startswith(ending) else 0)


def _begun(ids: list[int], template: Template) -> list[int]:
    """A prompt behind what the tokenizer puts before every text; a chat template may have written that itself."""
    begin = template.controls.begin
    return ids if ids[: len(begin)] == begin else [*begin, *ids]


def _token_spans(tokens: Tokens, spans: Iterable[Span], shift: int) -> list[Span]:
    """The tokens that begin within spans of characters, `shift` places further on."""
    found, token = [], 0
    for first, end in spans:
        while token < len(tokens.offsets) and tokens.offsets[token][0] < first:
            token += 1
        start = token
        while token < len(tokens.offsets) and tokens.offsets[token][0] < end:
            token += 1
        if token > start:
            found.append((start + shift, token + shift))
    return found
