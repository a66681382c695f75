"""The errors of data: a whole set that cannot be used, one row of it that cannot, one row that is not to be learnt."""

from collections.abc import Collection

from fedllm_app.errors import UserError

_NAME_LENGTH = 48


class DataError(UserError):
    """The data named in the configuration cannot be used; the message says why and what to change."""


class BadRow(DataError):
    """One row cannot be converted; the message is the reason. It may travel to the server, so it holds no value."""


class UnwantedRow(DataError):
    """The row itself says that it is not to be learnt, by a label of false or a weight of 0. That is no damage."""


def _shown(name: str) -> str:
    if len(name) > _NAME_LENGTH:
        return f"(a name of {len(name)} characters)"
    return " ".join(name.encode(errors="replace").decode().split())


def listed(names: Collection[str], limit: int = 20) -> str:
    """Names separated by commas: of many the first ones, and none that is long, because it may be a value of a row."""
    shown = [_shown(name) for name in names]
    return ", ".join(shown[:limit]) + (f" and {len(shown) - limit} more" if len(shown) > limit else "")
