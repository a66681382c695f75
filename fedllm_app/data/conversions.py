"""From the cells of one row to an example or a preference pair: one function a layout.

Every function is given the row and the column of each field (`schemas.Schema`). It raises `BadRow` where the row cannot
be converted, and `UnwantedRow` where the row itself says that it is not to be learnt.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from itertools import pairwise
from typing import Any

from fedllm_app.data.errors import BadRow, UnwantedRow
from fedllm_app.data.examples import Document, Example, PreferencePair, RatedAnswer, Turns
from fedllm_app.data.turns import (
    Row,
    checked_text,
    history_of,
    optional_text,
    text_of,
    turns_of,
    weighted_turns,
)


def _starts_with_user(prompt: Turns, column: str) -> Turns:
    """Return the prompt, if it is one: an optional system turn, then user, ..., user."""
    spoken = [role for role, _ in prompt if role != "system"]
    if not spoken or spoken[0] != "user" or spoken[-1] != "user":
        raise BadRow(f"column '{column}' has no user turn before the answer, or starts with the assistant")
    return prompt


def _with_input(prompt: Turns, row: Row, columns: Mapping[str, str]) -> Turns:
    """The prompt with the input of the row below its last turn."""
    extra = optional_text(row, columns.get("input"))
    return (*prompt[:-1], ("user", f"{prompt[-1][1]}\n\n{extra}")) if extra else prompt


def _in_context(prompt: Turns, row: Row, columns: Mapping[str, str]) -> Turns:
    """The prompt after the history and the system prompt that columns of their own hold."""
    earlier = history_of(row, columns.get("history"))
    if earlier:
        kept = 1 if prompt[0][0] == "system" else 0
        prompt = _starts_with_user((*prompt[:kept], *earlier, *prompt[kept:]), columns["history"])
        roles = [role for role, _ in prompt]
        if "system" in roles[1:] or any(role == after for role, after in pairwise(roles)):
            raise BadRow(
                f"column '{columns['history']}' does not lead to the prompt: user and assistant must alternate"
            )
    system = optional_text(row, columns.get("system"))
    if system and prompt[0][0] != "system":
        return (("system", system), *prompt)
    if system and prompt[0][1].strip() != system.strip():
        raise BadRow(f"column '{columns['system']}' differs from the system message of the conversation")
    return prompt


def _check_label(row: Row, columns: Mapping[str, str]) -> None:
    """Refuse the row whose label says that its answer is not wanted."""
    if "label" not in columns:
        return
    label = row.get(columns["label"])
    if not is_flag(label):
        raise BadRow(f"column '{columns['label']}' is neither true nor false")
    if str(label).strip().lower() == "false":
        raise UnwantedRow(f"column '{columns['label']}' is false")


def is_flag(value: Any) -> bool:
    """Whether a value is true or false, or the text of it, as a CSV has it."""
    return isinstance(value, bool) or (isinstance(value, str) and value.strip().lower() in ("true", "false"))


def from_prompt(row: Row, columns: Mapping[str, str]) -> Example:
    """Prompt and completion, each a text or messages, with what the row has of input, history and system prompt."""
    _check_label(row, columns)
    prompt = _with_input(_prompt_turns(row, columns["prompt"]), row, columns)
    before, completion = _answer(row, columns["completion"])
    if before:
        raise BadRow(f"column '{columns['completion']}' holds more turns than the answer")
    return Example(_in_context(prompt, row, columns), completion)


def _prompt_turns(row: Row, column: str) -> Turns:
    """Return a prompt given as text or as a list of messages."""
    if isinstance(row.get(column), list):
        return _starts_with_user(turns_of(row[column], column), column)
    return (("user", text_of(row, column)),)


def _answer(row: Row, column: str) -> tuple[Turns, str]:
    """Return the turns before the answer (none if the column is text) and the answer itself."""
    if not isinstance(row.get(column), list):
        return (), text_of(row, column)
    turns, learnt = weighted_turns(row[column], column)
    if not turns or turns[-1][0] != "assistant":
        raise BadRow(f"column '{column}' does not end with an assistant turn")
    if not learnt[-1]:
        raise UnwantedRow(f"the answer in column '{column}' has the weight 0")
    return turns[:-1], turns[-1][1]


def from_chat(row: Row, columns: Mapping[str, str]) -> Example:
    """The last assistant turn whose weight is not 0 is the completion; what follows it is left out."""
    _check_label(row, columns)
    column = columns["messages"]
    if column not in row:
        raise BadRow(f"column '{column}' is missing")
    turns, learnt = weighted_turns(row[column], column)
    if not any(role == "assistant" for role, _ in turns):
        raise BadRow(f"column '{column}' has no assistant turn")
    last = max((index for index, (role, _) in enumerate(turns) if role == "assistant" and learnt[index]), default=None)
    if last is None:
        raise UnwantedRow(f"every assistant turn of column '{column}' has the weight 0")
    return Example(_in_context(_starts_with_user(turns[:last], column), row, columns), turns[last][1])


def _pair(prompt: Turns, chosen: str, rejected: str) -> PreferencePair:
    if chosen == rejected:
        raise BadRow("the chosen and the rejected answer are the same")
    return PreferencePair(prompt, chosen, rejected)


def from_preference(row: Row, columns: Mapping[str, str]) -> PreferencePair:
    """Answers given as messages may repeat the prompt (ultrafeedback-binarized) or hold the answer alone."""
    asked = _prompt_turns(row, columns["prompt"])
    prompt = _with_input(asked, row, columns)
    before, chosen = _answer(row, columns["chosen"])
    before_rejected, rejected = _answer(row, columns["rejected"])
    if before != before_rejected:
        raise BadRow("chosen and rejected answer different prompts")
    if before:
        tail = _stripped(before[-len(prompt) :])
        if tail not in (_stripped(asked), _stripped(prompt)):
            raise BadRow(f"column '{columns['prompt']}' differs from the turns before the chosen answer")
        prompt = _starts_with_user(before, columns["chosen"])
        if len([role for role, _ in before if role != "system"]) > len(asked):  # the history stands there already
            columns = {key: column for key, column in columns.items() if key != "history"}
    return _pair(_in_context(prompt, row, columns), chosen, rejected)


def _stripped(turns: Turns) -> list[tuple[str, str]]:
    return [(role, text.strip()) for role, text in turns]


_SPEAKER = re.compile(r"\n\n(Human|Assistant):")
_ANSWER = "\n\nAssistant:"


def from_dialogues(row: Row, columns: Mapping[str, str]) -> PreferencePair:
    r"""Two whole dialogues; as text (hh-rlhf), the prompt ends at the last `\n\nAssistant:` that both share.

    Where two answers open alike, the first differing character lies inside the answers: cutting there would
    put their common opening into the prompt.
    """
    if isinstance(row.get(columns["chosen"]), list):
        before, chosen = _answer(row, columns["chosen"])
        before_rejected, rejected = _answer(row, columns["rejected"])
        if before != before_rejected:
            raise BadRow("the dialogues part before their last answer")
        prompt = _in_context(_starts_with_user(before, columns["chosen"]), row, columns)
        return _pair(prompt, chosen, rejected)
    chosen, rejected = text_of(row, columns["chosen"]), text_of(row, columns["rejected"])
    cut = chosen.rfind(_ANSWER)
    while cut >= 0 and not rejected.startswith(chosen[: cut + len(_ANSWER)]):
        cut = chosen.rfind(_ANSWER, 0, cut)
    if cut < 0:
        raise BadRow(f"chosen and rejected share no '{_ANSWER.strip()}'")
    answers = []
    for side, dialogue in (("chosen", chosen), ("rejected", rejected)):
        answer = dialogue[cut + len(_ANSWER) :]
        if _SPEAKER.search(answer):
            raise BadRow(f"the dialogues part before the last answer of column '{columns[side]}'")
        answers.append(checked_text(answer, f"the answer in column '{columns[side]}'").strip())
    _, *parts = _SPEAKER.split(chosen[:cut])
    messages = [
        {"role": role.lower(), "content": text.strip()} for role, text in zip(parts[::2], parts[1::2], strict=True)
    ]
    prompt = _starts_with_user(turns_of(messages, columns["chosen"]), columns["chosen"])
    return _pair(_in_context(prompt, row, columns), *answers)


_THUMBS = {
    **dict.fromkeys(("true", "1", "1.0", "yes", "up", "thumb up", "thumbs up", "👍", "good", "desirable"), True),
    **dict.fromkeys(
        ("false", "0", "0.0", "no", "down", "thumb down", "thumbs down", "👎", "bad", "undesirable"), False
    ),
}
"""What a label may say, in small letters, with blanks for `_` and `-`."""

_EMOJI_STYLE = re.compile("[\ufe0f\U0001f3fb-\U0001f3ff]")  # how a thumb is drawn, and the colour of its skin


def from_rated(row: Row, columns: Mapping[str, str]) -> RatedAnswer:
    """Prompt and completion as `from_prompt` reads them, and the label: true or false, 1 or 0, or a word of
    `_THUMBS`."""
    column = columns["label"]
    value = row.get(column)
    if value is None or (isinstance(value, str) and not value.strip()):
        raise BadRow(f"column '{column}' is empty (null): the answer has no label")
    written = _EMOJI_STYLE.sub("", str(value)) if isinstance(value, str | int | float) else ""
    word = re.sub(r"[\s_-]+", " ", written.strip().lower())
    if word not in _THUMBS:
        raise BadRow(f"column '{column}' is no label; must be true or false, 1 or 0, or up or down")
    example = from_prompt(row, {key: name for key, name in columns.items() if key != "label"})
    return RatedAnswer(example.prompt, example.completion, _THUMBS[word])


def from_text(row: Row, columns: Mapping[str, str]) -> Document:
    """The text of a document."""
    return Document(text_of(row, columns["text"]))
