"""Recognise the schema of a row set from its column names, and convert its rows.

`SCHEMAS` is the table: to read another layout, add one line. Where the columns of a set fit several schemas of
the task, the first line of the table that fits is taken; naming columns (`Columns`) overrules that.
"""

from __future__ import annotations

import difflib
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import asdict, dataclass, field, fields, replace
from functools import cached_property
from typing import Any

from fedllm_app.data.conversions import (
    from_chat,
    from_dialogues,
    from_preference,
    from_prompt,
    from_rated,
    from_text,
    is_flag,
)
from fedllm_app.data.errors import DataError, listed
from fedllm_app.data.examples import Row as AnyRow
from fedllm_app.data.turns import Row, is_history, messages_in, note_unread_keys


class UnknownColumn(DataError):
    """A column named in the configuration is not in the data."""


class UnknownSchema(DataError):
    """The columns of the data fit no schema of that kind of rows."""


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


_NAMED_AS = {
    "example": "data.prompt-column and data.completion-column, or data.messages-column",
    "pair": "data.prompt-column, data.chosen-column and data.rejected-column",
    "rated": "data.prompt-column, data.completion-column and data.label-column",
    "document": "data.text-column",
}
"""The keys that name the columns of each kind of rows."""


def _plain_names(columns: Collection[str]) -> dict[str, str]:
    """Columns by their names without capitals and blanks; without those that are then no longer told apart."""
    plain: dict[str, list[str]] = {}
    for column in columns:
        plain.setdefault("_".join(str(column).lower().replace("-", " ").split()), []).append(column)
    return {name: same[0] for name, same in plain.items() if len(same) == 1}


def nearest_column(name: str, columns: Collection[str]) -> str:
    """The column that is likely to be meant by a name that none has: other capitals, or a few other letters; or ""."""
    plain = "_".join(name.lower().replace("-", " ").split())
    return _plain_names(columns).get(plain) or next(iter(difflib.get_close_matches(name, columns, 1)), "")


@dataclass(frozen=True)
class Schema:
    """One accepted layout: for every field, the column names that are recognised, best first."""

    name: str
    rows: str
    required: Mapping[str, tuple[str, ...]]
    convert: Callable[[Row, Mapping[str, str]], AnyRow]
    optional: Mapping[str, tuple[str, ...]] = field(default_factory=dict)

    def bind(self, columns: Collection[str], named: Mapping[str, str]) -> dict[str, str] | None:
        """Return the column of every field, or None where the columns do not fit."""
        if not set(named) <= {*self.required, *self.optional}:
            return None
        bound, plain = {}, _plain_names(columns)
        for key, aliases in {**self.required, **self.optional}.items():
            column = named.get(key) or next((alias for alias in aliases if alias in columns), None)
            column = column or next((plain[alias] for alias in aliases if alias in plain), None)
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


_SYSTEM = {"system": ("system", "system_prompt", "system_message")}
_LABEL = {"label": ("label",)}
_CONTEXT = {"input": ("input", "context"), **_SYSTEM, "history": ("history",)}
_ANSWERS = {"chosen": ("chosen",), "rejected": ("rejected",)}
_FROM_PROMPT = {"rows": "example", "convert": from_prompt, "optional": {**_CONTEXT, **_LABEL}}

SCHEMAS = (
    Schema(
        "prompt-completion",
        required={"prompt": ("prompt", "inputs"), "completion": ("completion", "response", "targets")},
        **_FROM_PROMPT,
    ),
    Schema("instruction", required={"prompt": ("instruction",), "completion": ("output", "response")}, **_FROM_PROMPT),
    Schema(
        "question-answer",
        required={"prompt": ("question", "query"), "completion": ("answer", "response")},
        **_FROM_PROMPT,
    ),
    Schema("problem-solution", required={"prompt": ("problem",), "completion": ("solution", "answer")}, **_FROM_PROMPT),
    Schema(
        "chat", "example", {"messages": ("messages", "conversations", "conversation")}, from_chat, {**_SYSTEM, **_LABEL}
    ),
    Schema(
        "preference", "pair", {"prompt": ("prompt", "question", "instruction"), **_ANSWERS}, from_preference, _CONTEXT
    ),
    Schema("hh-rlhf", "pair", _ANSWERS, from_dialogues, _SYSTEM),
    Schema(
        "rated-answer",
        "rated",
        {
            "prompt": ("prompt", "instruction", "question"),
            "completion": ("completion", "response", "output", "answer"),
            "label": ("label", "desirable", "thumb"),
        },
        from_rated,
        _CONTEXT,
    ),
    Schema("text", "document", {"text": ("text",)}, from_text),
)
"""Accepted layouts in the order of choice. `preference` also reads ultrafeedback-binarized."""

_OPTIONAL_VALUES: dict[str, Callable[[Any], bool]] = {
    "input": lambda value: isinstance(value, str),
    "system": lambda value: isinstance(value, str),
    "history": is_history,
    "label": is_flag,
}
"""What an optional field holds; a column of the same name that holds something else is another thing."""

_MESSAGES = frozenset({"prompt", "completion", "messages", "chosen", "rejected"})
"""Fields that may hold messages."""

_OPENING = ("[", "{", " ", "\n", "\t", "\r")
"""How a text may begin that holds messages."""


@dataclass(frozen=True)
class Binding:
    """A schema together with the columns it reads."""

    schema: Schema
    columns: Mapping[str, str]

    def convert(self, row: Row, unread_keys: set[str] | None = None) -> AnyRow:
        """Convert one row, and add to `unread_keys` the keys of its messages that are not read.

        Raises
        ------
        BadRow
            It cannot be converted.
        UnwantedRow
            It is marked as not to be learnt.
        """
        changed = {}
        for column, required in self._message_columns:
            value = row.get(column)
            if type(value) is str and value[:1] not in _OPENING and not required:
                continue
            messages = messages_in(value, column, required)
            if messages is not value:
                changed[column] = messages
            if unread_keys is not None and isinstance(messages, list):
                note_unread_keys(messages, unread_keys)
        return self.schema.convert({**row, **changed} if changed else row, self.columns)

    @cached_property
    def _message_columns(self) -> list[tuple[str, bool]]:
        """The columns that may hold messages, and whether they can hold nothing else."""
        return [(column, key == "messages") for key, column in self.columns.items() if key in _MESSAGES]

    def fitting(self, rows: Iterable[Row], named: Columns) -> Binding:
        """Without the optional columns that nobody named and whose values, in these rows, are mostly of another kind.

        A column called `label` may hold classes, and one called `history` a patient's.
        """
        rows, kept = list(rows), {}
        for key, column in self.columns.items():
            values = [row[column] for row in rows if row.get(column) not in (None, "")]
            optional = key in _OPTIONAL_VALUES and key in self.schema.optional
            fits = 2 * sum(map(_OPTIONAL_VALUES[key], values)) > len(values) if optional else True
            # Without a value, a label says of no row that it is wanted; the other columns may have values further on.
            if key in named.given() or fits or (not values and not (optional and key == "label")):
                kept[key] = column
        return replace(self, columns=kept)


def column_fields(rows: str) -> set[str]:
    """The fields of `Columns` that some schema of a row kind reads."""
    read = {name for schema in SCHEMAS if schema.rows == rows for name in (*schema.required, *schema.optional)}
    return read & {column.name for column in fields(Columns)}


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
    present = listed(sorted(map(str, columns))) or "none"
    for key, name in named.given().items():
        if name not in columns:
            near = nearest_column(name, columns)
            hint = f" Did you mean '{near}'?" if near else ""
            raise UnknownColumn(
                f"data has no column '{name}' (given for {key}); its columns are: {present}.{hint}",
                public=f"none of the {len(columns)} columns has the name that was given for {key}",
            )
    fitting = [schema for schema in SCHEMAS if schema.rows == rows]
    for schema in fitting:
        bound = schema.bind(columns, named.given())
        if bound is not None:
            return Binding(schema, bound)
    chosen = ", ".join(f"{key} = '{name}'" for key, name in named.given().items())
    no_fit = f"fit no schema of {rows} rows"
    remedy = (
        f". Accepted: {'; '.join(schema.describe() for schema in fitting)}."
        f" Rename the columns, or name them in the configuration: {_NAMED_AS[rows]}. A table whose first line is a row"
        " already needs a line of column names above it."
    )
    raise UnknownSchema(
        f"the columns ({present}) {no_fit}{f' with {chosen}' if chosen else ''}{remedy}",
        public=f"the {len(columns)} columns {no_fit}{remedy}",
    )
