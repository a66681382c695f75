"""Values in Python's notation, `{'a': None}`, which programs write where JSON was meant, as `DataFrame.to_csv` does."""

import ast
import re
import warnings
from typing import Any

_OPENED = re.compile(r"\s*[\[{]")


def python_literal(text: str) -> Any:
    """The list or dict that a text holds in Python's notation. No code runs: only literals are read.

    Raises
    ------
    ValueError
        The text holds something else.
    """
    if not _OPENED.match(text):
        raise ValueError("no list or dict")
    try:
        with warnings.catch_warnings():
            for category in (SyntaxWarning, DeprecationWarning):
                warnings.simplefilter("ignore", category)  # backslashes that escape nothing
            return ast.literal_eval(text.strip())
    except (SyntaxError, TypeError, MemoryError, RecursionError) as error:  # whatever hostile text makes it raise
        raise ValueError("not in Python's notation") from error
