"""Rows of test sets from the Hub, or from what an earlier load left in the Hub's cache.

Without a network, every load would try again for half a minute. So it is tried once whether the Hub answers; if it does
not, or HF_HUB_OFFLINE is set, only the cache is read.
"""

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from functools import cached_property
from typing import Any

from fedllm_app.data.errors import BadRow, DataError
from fedllm_app.data.readers.arrow import read_tables, validated
from fedllm_app.data.readers.base import BATCH
from fedllm_app.evaluation.suite import TestSet

_PATIENCE = 5.0  # seconds for the Hub to answer


class NotOnHub(DataError):
    """A set cannot be loaded from the Hub; the message says why."""


class HubReader:
    """Reads sets of the Hub, and asks once at most whether it can be reached."""

    def rows(self, test: TestSet) -> list[dict[str, Any]]:
        """All rows of a set, each with `subset`, the configuration; a column of that name stays as it is.

        Raises
        ------
        NotOnHub
            It is neither on the Hub nor in its cache, or cannot be loaded.
        DataError
            A row cannot be read.
        """
        if not test.hub_id:
            raise NotOnHub("it is not on the Hub")
        import datasets
        from datasets.exceptions import DatasetsError

        rows = []
        with nullcontext() if self._reachable else _offline():
            for config in test.configs or (None,):
                try:
                    part = datasets.load_dataset(test.hub_id, config, split=test.split)
                except (OSError, ValueError, RuntimeError, DatasetsError) as error:
                    # No such set, configuration or split; needs its own code; damaged; not in the cache.
                    raise NotOnHub(self._reason(error)) from error
                name = f"{test.hub_id} {config or test.split}"
                for where, row in read_tables(validated(part.with_format("arrow").iter(BATCH)), name):
                    if isinstance(row, BadRow):
                        raise DataError(f"{test.name}: {where}: {row}")
                    rows.append({"subset": config or "", **row})
        return rows

    def _reason(self, error: Exception) -> str:
        if not self._reachable:
            return "the Hub cannot be reached, and its cache does not hold it"
        return f"it cannot be loaded from the Hub: {' '.join(str(error).split())}"

    @cached_property
    def _reachable(self) -> bool:
        import httpx
        from huggingface_hub import constants
        from huggingface_hub.utils import get_session

        if constants.HF_HUB_OFFLINE:
            return False
        try:
            get_session().head(constants.ENDPOINT, timeout=_PATIENCE)
        except (httpx.HTTPError, OSError):
            return False
        return True


@contextmanager
def _offline() -> Iterator[None]:
    """As with HF_HUB_OFFLINE, which both libraries read when they are imported."""
    import datasets
    from huggingface_hub import constants

    before = datasets.config.HF_HUB_OFFLINE, constants.HF_HUB_OFFLINE
    datasets.config.HF_HUB_OFFLINE = constants.HF_HUB_OFFLINE = True
    try:
        yield
    finally:
        datasets.config.HF_HUB_OFFLINE, constants.HF_HUB_OFFLINE = before
