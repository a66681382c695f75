"""From the cells of a row to the turns of a conversation: texts, messages, messages written as text, histories.

The reasons of `BadRow` name column, message and key, and never the value: they may leave the site.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Any

from fedllm_app.data.errors import BadRow
from fedllm_app.data.examples import Turns
from fedllm_app.data.literals import python_literal

Row = Mapping[str, Any]

ROLES = {
    "system": "system",
    "developer": "system",
    "user": "user",
    "human": "user",
    "prompter": "user",
    "assistant": "assistant",
    "gpt": "assistant",
    "chatgpt": "assistant",
    "bot": "assistant",
    "model": "assistant",
}
"""Role names found in published chat sets, and the role each one means."""

_ROLE_KEYS = ("role", "from")
_TEXT_KEYS = frozenset((*_ROLE_KEYS, "content", "value"))
_WEIGHT_KEYS = ("weight", "train", "loss")  # of OpenAI, axolotl and ms-swift: 0 or false means "do not learn this"
_TEXT_PARTS = (None, "text", "input_text", "output_text")

# A text that begins as a message or a list of messages does, in JSON or in Python's notation.
_MESSAGES_TEXT = re.compile(r"\s*\[?\s*\{\s*['\"](role|from|content|value)['\"]\s*:")


def text_of(row: Row, column: str) -> str:
    """The text of a column as it stands; `BadRow` if it is missing, blank or not text."""
    if column not in row:
        raise BadRow(f"column '{column}' is missing")
    return checked_text(row[column], f"column '{column}'")


def checked_text(value: Any, place: str) -> str:
    """The value, if it is text that is not blank; otherwise `BadRow`, which names its `place`."""
    if value is None:
        raise BadRow(f"{place} is empty (null)")
    if not isinstance(value, str):
        raise BadRow(f"{place} holds {type(value).__name__}, not text")
    if not value.strip():
        raise BadRow(f"{place} is empty")
    if not value.isascii():
        try:
            value.encode()
        except UnicodeEncodeError:
            raise BadRow(f"{place} holds half a surrogate pair, which is not text") from None
    return value


def optional_text(row: Row, column: str | None) -> str:
    """The text of a column that may be blank, null or missing; "" then."""
    value = row.get(column) if column else None
    if value is None or (isinstance(value, str) and not value.strip()):
        return ""
    return checked_text(value, f"column '{column}'")


def is_messages(value: Any) -> bool:
    """Whether a value is a list of messages, each an object with a role."""
    return isinstance(value, list) and bool(value) and all(_is_message(message) for message in value)


def _is_message(value: Any) -> bool:
    return isinstance(value, Mapping) and any(key in value for key in _ROLE_KEYS)


def messages_in(value: Any, column: str, required: bool) -> Any:
    """The list of messages that a cell stands for; the value itself where it stands for none.

    A CSV cell holds messages as JSON, or in Python's notation (`DataFrame.to_csv`). A single answer may be one message,
    and a set saved by `datasets` may hold an object of lists. A text that only looks alike is text.

    Raises
    ------
    BadRow
        The text can only be meant as messages (`required`, or it begins like them) and cannot be read as such.
    """
    if isinstance(value, str):
        if not (_MESSAGES_TEXT.match(value) or (required and value.lstrip()[:1] in ("[", "{"))):
            return value
        value = _parsed_messages(value, column)
    if isinstance(value, Mapping):
        if value and all(isinstance(part, list) for part in value.values()):
            columns = list(value.values())
            if len({len(part) for part in columns}) > 1:
                raise BadRow(f"column '{column}' holds an object of lists that differ in length")
            return [dict(zip(value, parts, strict=True)) for parts in zip(*columns, strict=True)]
        return [value] if _is_message(value) else value
    return value


def _parsed_messages(text: str, column: str) -> Any:
    try:
        return json.loads(text)
    except RecursionError:
        raise BadRow(f"column '{column}' holds broken JSON: nested too deeply") from None
    except ValueError as error:
        try:
            return python_literal(text)
        except ValueError:
            reason = error.msg if isinstance(error, json.JSONDecodeError) else "a number is too long"
            raise BadRow(
                f"column '{column}' holds broken JSON where messages are meant: {reason}; write the list of messages "
                "with json.dumps"
            ) from None


def note_unread_keys(messages: Any, unread: set[str]) -> None:
    """Add the keys of messages that hold something and are not read."""
    for message in messages:
        if isinstance(message, Mapping) and not message.keys() <= _TEXT_KEYS:
            for key in message.keys() - _TEXT_KEYS:
                value = message[key]
                if key in _WEIGHT_KEYS:
                    unread.update([f"{key} other than 0 and 1"] if value is not None and value not in (0, 1) else [])
                elif value is not None and value not in ("", [], {}, False):
                    unread.add(str(key))


def turns_of(value: Any, column: str) -> Turns:
    """Convert a list of messages (role and content, or from and value) to turns; see `weighted_turns`."""
    return weighted_turns(value, column)[0]


def weighted_turns(value: Any, column: str) -> tuple[Turns, list[bool]]:
    """Convert a list of messages to turns, and say which of them may be learnt.

    A blank system message counts as none. Apart from a leading system turn, user and assistant must alternate:
    most chat templates refuse anything else.
    """
    if not isinstance(value, list):
        raise BadRow(f"column '{column}' holds {type(value).__name__}, not a list of messages")
    turns: list[tuple[str, str]] = []
    learnt: list[bool] = []
    for number, message in enumerate(value, 1):
        place = f"message {number} of column '{column}'"
        if not isinstance(message, Mapping):
            raise BadRow(f"{place} is {type(message).__name__}, not a message")
        # Arrow gives every message all keys, so that one that is null is one that is not there.
        name = message.get("role")
        name = message.get("from") if name is None else name
        role = ROLES.get(name.lower()) if isinstance(name, str) else None
        if role is None:
            raise BadRow(
                f"{place} has {'no role' if name is None else 'an unknown role'}; known are {', '.join(ROLES)}"
            )
        content = message.get("content")
        content = message.get("value") if content is None else content
        if role == "system" and (content is None or content == "" or str(content).isspace()):
            continue
        if role == "system" and turns:
            raise BadRow(f"{place} is a system message after the conversation has begun")
        if turns and turns[-1][0] == role:
            raise BadRow(f"{place} is the second {role} turn in a row")
        turns.append((role, _content(content, place)))
        learnt.append(len(message) <= 2 or not any(message.get(key) == 0 for key in _WEIGHT_KEYS))
    return tuple(turns), learnt


def _content(value: Any, place: str) -> str:
    """The text of a message, whose content may be a list of text parts."""
    if isinstance(value, list) and value:
        if not all(_is_text_part(part) for part in value):
            raise BadRow(f"{place} holds parts that are not text")
        value = "".join(part["text"] for part in value)
    return checked_text(value, place)


def _is_text_part(part: Any) -> bool:
    return isinstance(part, Mapping) and isinstance(part.get("text"), str) and part.get("type") in _TEXT_PARTS


def is_history(value: Any) -> bool:
    """Whether a value can be an earlier conversation: a list, or a text that holds one."""
    return isinstance(value, list) or (isinstance(value, str) and value.lstrip()[:1] == "[")


def history_of(row: Row, column: str | None) -> Turns:
    """The turns before a prompt, from a list of [user, assistant] pairs or of messages or from its text."""
    value = row.get(column) if column else None
    if isinstance(value, str) and value.strip():
        value = _parsed_messages(value, column)
    if not value or (isinstance(value, str) and not value.strip()):
        return ()
    if is_messages(value):
        return turns_of(value, column)
    turns: list[tuple[str, str]] = []
    for number, pair in enumerate(value if isinstance(value, list) else [value], 1):
        if not isinstance(pair, list | tuple) or len(pair) != 2:
            raise BadRow(f"column '{column}' must be a list of [user, assistant] pairs, which part {number} is not")
        for role, text in zip(("user", "assistant"), pair, strict=True):
            turns.append((role, checked_text(text, f"the {role}'s part of pair {number} of column '{column}'")))
    return tuple(turns)
