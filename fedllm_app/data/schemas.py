"""Recognise the schema of a row set from its column names, and convert its rows.

`SCHEMAS` is the table: to read another layout, add one line. Where the columns of a set fit several schemas of
the task, the first line of the table that fits is taken; naming columns (`Columns`) overrules that.
"""

from __future__ import annotations

import difflib
import json
import re
from collections.abc import Callable, Collection, Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from fedllm_app.data.examples import Document, Example, PreferencePair, RatedAnswer, Turns
from fedllm_app.errors import UserError

Row = Mapping[str, Any]

ROLES = {
    "system": "system",
    "user": "user",
    "human": "user",
    "assistant": "assistant",
    "gpt": "assistant",
    "chatgpt": "assistant",
    "model": "assistant",
}
"""Role names found in published chat sets, and the role each one means."""


class DataError(UserError):
    """The data named in the configuration cannot be used; the message says why and what to change."""


class UnknownColumn(DataError):
    """A column named in the configuration is not in the data."""


class UnknownSchema(DataError):
    """The columns of the data fit no schema of the task."""


class BadRow(DataError):
    """One row cannot be converted; the message is the reason."""


@dataclass(frozen=True)
class Columns:
    """Names of the columns to read; an empty name means: recognise it."""

    prompt: str = ""
    input: str = ""
    completion: str = ""
    messages: str = ""
    chosen: str = ""
    rejected: str = ""
    text: str = ""
    label: str = ""

    def given(self) -> dict[str, str]:
        """Return the names that were given, by field."""
        return {key: name for key, name in asdict(self).items() if name}


def _text(row: Row, column: str) -> str:
    """Return the text of a column as it stands; raise `BadRow` if it is missing, blank or not text."""
    if column not in row:
        raise BadRow(f"column '{column}' is missing")
    return _checked(row[column], f"column '{column}'")


def _checked(value: Any, what: str) -> str:
    if value is None:
        raise BadRow(f"{what} is empty (null)")
    if not isinstance(value, str):
        raise BadRow(f"{what} holds {type(value).__name__}, not text")
    if not value.strip():
        raise BadRow(f"{what} is empty")
    if not value.isascii():
        try:
            value.encode()
        except UnicodeEncodeError:
            raise BadRow(f"{what} holds half a surrogate pair, which is not text") from None
    return value


def _content(value: Any, what: str) -> str:
    """Return the text of a message, whose content may be a list of text parts."""
    if isinstance(value, list) and value:
        if not all(isinstance(part, Mapping) and isinstance(part.get("text"), str) for part in value):
            raise BadRow(f"{what} holds parts that are not text")
        value = "".join(part["text"] for part in value)
    return _checked(value, what)


def _turns(value: Any, column: str) -> Turns:
    """Convert a list of messages (role and content, or from and value) to turns.

    A blank system message counts as none. Apart from a leading system turn, user and assistant must alternate:
    most chat templates refuse anything else.
    """
    if isinstance(value, str) and value.lstrip().startswith("["):  # a CSV cell
        try:
            value = json.loads(value)
        except ValueError as error:
            raise BadRow(f"column '{column}' holds broken JSON: {error}") from None
    if not isinstance(value, list):
        raise BadRow(f"column '{column}' holds {type(value).__name__}, not a list of messages")
    turns = []
    for number, message in enumerate(value, 1):
        what = f"message {number} of column '{column}'"
        if not isinstance(message, Mapping):
            raise BadRow(f"{what} is {type(message).__name__}, not a message")
        name = message.get("role", message.get("from"))
        role = ROLES.get(name.lower()) if isinstance(name, str) else None
        if role is None:
            raise BadRow(f"{what} has the role {name!r}; known are {', '.join(ROLES)}")
        content = message.get("content", message.get("value"))
        if role == "system" and (content is None or content == "" or str(content).isspace()):
            continue
        if role == "system" and turns:
            raise BadRow(f"{what} is a system message after the conversation has begun")
        if turns and turns[-1][0] == role:
            raise BadRow(f"{what} is the second {role} turn in a row")
        turns.append((role, _content(content, what)))
    return tuple(turns)


def _starts_with_user(prompt: Turns, column: str) -> Turns:
    """Return the prompt, if it is one: an optional system turn, then user, ..., user."""
    spoken = [role for role, _ in prompt if role != "system"]
    if not spoken or spoken[0] != "user" or spoken[-1] != "user":
        raise BadRow(f"column '{column}' has no user turn before the answer, or starts with the assistant")
    return prompt


def _from_prompt(row: Row, columns: Mapping[str, str]) -> Example:
    prompt = _prompt_turns(row, columns["prompt"])
    extra = row.get(columns["input"]) if "input" in columns else None
    if extra is not None and extra != "":
        if not isinstance(extra, str):
            raise BadRow(f"column '{columns['input']}' holds {type(extra).__name__}, not text")
        if extra.strip():
            extra = _checked(extra, f"column '{columns['input']}'")
            prompt = (*prompt[:-1], ("user", f"{prompt[-1][1]}\n\n{extra}"))
    before, completion = _answer(row, columns["completion"])
    if before:
        raise BadRow(f"column '{columns['completion']}' holds more turns than the answer")
    return Example(prompt, completion)


def _prompt_turns(row: Row, column: str) -> Turns:
    """Return a prompt given as text or as a list of messages."""
    if isinstance(row.get(column), list):
        return _starts_with_user(_turns(row[column], column), column)
    return (("user", _text(row, column)),)


def _answer(row: Row, column: str) -> tuple[Turns, str]:
    """Return the turns before the answer (none if the column is text) and the answer itself."""
    if not isinstance(row.get(column), list):
        return (), _text(row, column)
    turns = _turns(row[column], column)
    if not turns or turns[-1][0] != "assistant":
        raise BadRow(f"column '{column}' does not end with an assistant turn")
    return turns[:-1], turns[-1][1]


def _from_chat(row: Row, columns: Mapping[str, str]) -> Example:
    """The last assistant turn is the completion; a user turn after it was never answered and is left out."""
    column = columns["messages"]
    if column not in row:
        raise BadRow(f"column '{column}' is missing")
    turns = _turns(row[column], column)
    if turns and turns[-1][0] == "user":
        turns = turns[:-1]
    if not turns or turns[-1][0] != "assistant":
        raise BadRow(f"column '{column}' has no assistant turn")
    return Example(_starts_with_user(turns[:-1], column), turns[-1][1])


def _pair(prompt: Turns, chosen: str, rejected: str) -> PreferencePair:
    if chosen == rejected:
        raise BadRow("the chosen and the rejected answer are the same")
    return PreferencePair(prompt, chosen, rejected)


def _from_preference(row: Row, columns: Mapping[str, str]) -> PreferencePair:
    """Answers given as messages may repeat the prompt (ultrafeedback-binarized) or hold the answer alone."""
    prompt = _prompt_turns(row, columns["prompt"])
    before, chosen = _answer(row, columns["chosen"])
    before_rejected, rejected = _answer(row, columns["rejected"])
    if before != before_rejected:
        raise BadRow("chosen and rejected answer different prompts")
    if before:
        tail = before[-len(prompt) :]
        if [(role, text.strip()) for role, text in tail] != [(role, text.strip()) for role, text in prompt]:
            raise BadRow(f"column '{columns['prompt']}' differs from the turns before the chosen answer")
        prompt = _starts_with_user(before, columns["chosen"])
    return _pair(prompt, chosen, rejected)


_SPEAKER = re.compile(r"\n\n(Human|Assistant):")
_ANSWER = "\n\nAssistant:"


def _from_dialogues(row: Row, columns: Mapping[str, str]) -> PreferencePair:
    r"""Two whole dialogues; as text (hh-rlhf), the prompt ends at the last `\n\nAssistant:` that both share.

    Where two answers open alike, the first differing character lies inside the answers: cutting there would
    put their common opening into the prompt.
    """
    if isinstance(row.get(columns["chosen"]), list):
        before, chosen = _answer(row, columns["chosen"])
        before_rejected, rejected = _answer(row, columns["rejected"])
        if before != before_rejected:
            raise BadRow("the dialogues part before their last answer")
        return _pair(_starts_with_user(before, columns["chosen"]), chosen, rejected)
    chosen, rejected = _text(row, columns["chosen"]), _text(row, columns["rejected"])
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
        answers.append(_checked(answer, f"the answer in column '{columns[side]}'").strip())
    _, *parts = _SPEAKER.split(chosen[:cut])
    messages = [
        {"role": role.lower(), "content": text.strip()} for role, text in zip(parts[::2], parts[1::2], strict=True)
    ]
    return _pair(_starts_with_user(_turns(messages, columns["chosen"]), columns["chosen"]), *answers)


_THUMBS = {
    **dict.fromkeys(("true", "1", "1.0", "yes", "up", "thumb up", "thumbs up", "👍", "good", "desirable"), True),
    **dict.fromkeys(
        ("false", "0", "0.0", "no", "down", "thumb down", "thumbs down", "👎", "bad", "undesirable"), False
    ),
}
"""What a label may say, in small letters, with blanks for `_` and `-`."""

_EMOJI_STYLE = re.compile("[\ufe0f\U0001f3fb-\U0001f3ff]")  # how a thumb is drawn, and the colour of its skin


def _thumb(row: Row, column: str) -> bool:
    """Return whether a label is a thumb up: a truth value, 1 or 0, or a word of `_THUMBS`."""
    value = row.get(column)
    if value is None or (isinstance(value, str) and not value.strip()):
        raise BadRow(f"column '{column}' is empty (null): the answer has no label")
    written = _EMOJI_STYLE.sub("", str(value)) if isinstance(value, str | int | float) else ""
    word = re.sub(r"[\s_-]+", " ", written.strip().lower())
    if word not in _THUMBS:
        raise BadRow(f"column '{column}' is no label; must be true or false, 1 or 0, or up or down")
    return _THUMBS[word]


def _from_rated(row: Row, columns: Mapping[str, str]) -> RatedAnswer:
    """Prompt and completion as `_from_prompt` reads them, and the label."""
    asked = _from_prompt(row, {key: column for key, column in columns.items() if key != "label"})
    return RatedAnswer(asked.prompt, asked.completion, _thumb(row, columns["label"]))


def _from_text(row: Row, columns: Mapping[str, str]) -> Document:
    return Document(_text(row, columns["text"]))


@dataclass(frozen=True)
class Schema:
    """One accepted layout: for every field, the column names that are recognised, best first."""

    name: str
    rows: str
    required: Mapping[str, tuple[str, ...]]
    convert: Callable[[Row, Mapping[str, str]], Example | PreferencePair | RatedAnswer | Document]
    optional: Mapping[str, tuple[str, ...]] = field(default_factory=dict)

    def bind(self, columns: Collection[str], named: Mapping[str, str]) -> dict[str, str] | None:
        """Return the column of every field, or None where the columns do not fit."""
        if not set(named) <= {*self.required, *self.optional}:
            return None
        bound = {}
        for key, aliases in {**self.required, **self.optional}.items():
            column = named.get(key) or next((alias for alias in aliases if alias in columns), None)
            if column is None and key in self.required:
                return None
            if column is not None:
                bound[key] = column
        return bound

    def describe(self) -> str:
        """Return the columns this schema needs, for error messages."""
        parts = ["|".join(aliases) for aliases in self.required.values()]
        parts += [f"[{'|'.join(aliases)}]" for aliases in self.optional.values()]
        return f"{self.name} ({' + '.join(parts)})"


_CONTEXT = {"input": ("input", "context")}
_ANSWERS = {"chosen": ("chosen",), "rejected": ("rejected",)}

SCHEMAS = (
    Schema(
        "prompt-completion",
        "example",
        {"prompt": ("prompt", "inputs"), "completion": ("completion", "response", "targets")},
        _from_prompt,
    ),
    Schema(
        "instruction",
        "example",
        {"prompt": ("instruction",), "completion": ("output", "response")},
        _from_prompt,
        _CONTEXT,
    ),
    Schema(
        "question-answer",
        "example",
        {"prompt": ("question", "query"), "completion": ("answer", "response")},
        _from_prompt,
    ),
    Schema("problem-solution", "example", {"prompt": ("problem",), "completion": ("solution", "answer")}, _from_prompt),
    Schema("chat", "example", {"messages": ("messages", "conversations", "conversation")}, _from_chat),
    Schema("preference", "pair", {"prompt": ("prompt", "question", "instruction"), **_ANSWERS}, _from_preference),
    Schema("hh-rlhf", "pair", _ANSWERS, _from_dialogues),
    Schema(
        "rated-answer",
        "rated",
        {
            "prompt": ("prompt", "instruction", "question"),
            "completion": ("completion", "response", "output", "answer"),
            "label": ("label", "desirable", "thumb"),
        },
        _from_rated,
        _CONTEXT,
    ),
    Schema("text", "document", {"text": ("text",)}, _from_text),
)
"""Accepted layouts in the order of choice. `preference` also reads ultrafeedback-binarized."""


@dataclass(frozen=True)
class Binding:
    """A schema together with the columns it reads."""

    schema: Schema
    columns: Mapping[str, str]

    def convert(self, row: Row) -> Example | PreferencePair | RatedAnswer | Document:
        """Convert one row; raise `BadRow` with the reason if it cannot be."""
        return self.schema.convert(row, self.columns)


def column_fields(rows: str) -> set[str]:
    """The fields of `Columns` that some schema of a row kind reads."""
    return {field for schema in SCHEMAS if schema.rows == rows for field in (*schema.required, *schema.optional)}


def recognise(columns: Collection[str], rows: str, named: Columns = Columns()) -> Binding:
    """Choose the first schema of a row kind that fits the columns.

    Parameters
    ----------
    columns : Collection[str]
        The column names of the row set.
    rows : str
        A name of `ROW_KINDS`.
    named : Columns
        Names the user gave; they replace the recognised ones, and only schemas that read all of them fit.

    Raises
    ------
    UnknownColumn
        A name the user gave is not among the columns.
    UnknownSchema
        No schema fits.
    """
    present = ", ".join(sorted(columns)) or "none"
    for key, name in named.given().items():
        if name not in columns:
            near = difflib.get_close_matches(name, list(columns), n=1)
            hint = f" Did you mean '{near[0]}'?" if near else ""
            raise UnknownColumn(f"data has no column '{name}' (given for {key}); its columns are: {present}.{hint}")
    fitting = [schema for schema in SCHEMAS if schema.rows == rows]
    for schema in fitting:
        bound = schema.bind(columns, named.given())
        if bound is not None:
            return Binding(schema, bound)
    chosen = ", ".join(f"{key} = '{name}'" for key, name in named.given().items())
    raise UnknownSchema(
        f"the columns ({present}) fit no schema of {rows} rows"
        + (f" with {chosen}" if chosen else "")
        + f". Accepted: {'; '.join(schema.describe() for schema in fitting)}."
        + " Rename the columns, or name every column to read in the configuration."
    )
