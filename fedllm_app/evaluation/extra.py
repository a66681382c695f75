"""The extra `eval`: libraries that some test sets need and nothing else does."""

import importlib.util
from collections.abc import Collection, Iterable

from fedllm_app.errors import UserError

_HARNESS = ("lm_eval", "sklearn")  # for tasks of lm-evaluation-harness itself


class MissingExtra(UserError):
    """What evaluation needs is not installed."""


def check_extra(reason: str, suites: Iterable[str], only: Collection[str] = ()) -> None:
    """Refuse to ask sets whose libraries are missing, before anything is loaded.

    Parameters
    ----------
    reason : str
        What asks for them, as a user writes it: "fedllm evaluate", "evaluate.suite = 'finance'".
    suites : Iterable[str]
        Names as `load_suite` takes them, or tasks of lm-evaluation-harness.
    only : Collection[str]
        The sets that are asked; none: all.

    Raises
    ------
    MissingExtra
        Names what is missing, and the sets that need it.
    UserError
        As `load_suite`.
    """
    needed: dict[str, list[str]] = {}
    for suite in suites:
        for asked, libraries in _needs(suite, only):
            for library in libraries:
                if importlib.util.find_spec(library) is None:
                    needed.setdefault(library, []).append(asked)
    if needed:
        asked = dict.fromkeys(name for names in needed.values() for name in names)
        raise MissingExtra(
            f"{reason} needs what is not installed: {', '.join(needed)} (for {', '.join(asked)}); "
            "pip install 'fedllm-app[eval]'"
        )


def _needs(suite: str, only: Collection[str]) -> Iterable[tuple[str, tuple[str, ...]]]:
    """What is asked, and the libraries for it."""
    from fedllm_app.evaluation.harness import PREFIX  # a run without a suite needs none of these
    from fedllm_app.evaluation.suite import DATA_FILE
    from fedllm_app.evaluation.suites import load_suite

    if suite.startswith(PREFIX):
        return [(suite, _HARNESS)]
    if suite.startswith(DATA_FILE):
        return []
    return [(task.name, task.needs) for task in load_suite(suite).tasks if not only or task.name in only]
