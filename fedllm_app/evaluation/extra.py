"""The extra `eval`: libraries that suites of test sets need and nothing else does."""

import importlib.util

from fedllm_app.errors import UserError

EXTRA = ("lm_eval", "sklearn")
"""Names that are imported."""


class MissingExtra(UserError):
    """What evaluation needs is not installed."""


def check_extra(reason: str) -> None:
    """Refuse to start without the extra, before anything is loaded.

    Parameters
    ----------
    reason : str
        What asks for it, as a user writes it: "fedllm evaluate", "evaluate.suite = 'finance'".

    Raises
    ------
    MissingExtra
        Names what is missing.
    """
    missing = [name for name in EXTRA if importlib.util.find_spec(name) is None]
    if missing:
        raise MissingExtra(
            f"{reason} needs what is not installed: {', '.join(missing)}; pip install 'fedllm-app[eval]'"
        )
