"""What a key accepts, in words: pydantic's own are a programmer's."""

from collections.abc import Mapping
from typing import Any

_KINDS = {
    "int": "a whole number, such as 3",
    "float": "a number, such as 0.5",
    "bool": "true or false",
    "string": "text",
    "tuple": "a list",
    "list": "a list",
    "dict": "a table of keys and values",
    "finite": "a finite number",
}
"""By the beginning of pydantic's name of an error, as in `int_type` and `int_from_float`."""

_BOUNDS = {
    "greater_than_equal": ("ge", "at least"),
    "greater_than": ("gt", "more than"),
    "less_than_equal": ("le", "at most"),
    "less_than": ("lt", "less than"),
}


def accepted(entry: Mapping[str, Any]) -> str:
    """What the value of one of pydantic's errors must be."""
    kind = str(entry["type"])
    if kind in _BOUNDS:
        name, words = _BOUNDS[kind]
        return f"{words} {entry['ctx'][name]:g}"
    found = _KINDS.get(kind.partition("_")[0])
    return found or entry["msg"].removeprefix("Input should be ").removeprefix("Value error, ")
