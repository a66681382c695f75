"""When a round is closed, how many usable replies make it a round, and what becomes of one that has fewer."""

import math
import time
from dataclasses import dataclass
from typing import Literal

from fedllm_app.config.sections import ClientsConfig

_ROUNDING = 1e-9  # 0.1 * 30 is a little more than 3


@dataclass(frozen=True)
class Quorum:
    """How many of the clients drawn for a round must give a usable reply, and how many are waited for.

    Attributes
    ----------
    minimum, enough : float
        Shares of the clients drawn: fewer than `minimum` make no round, and `enough` of them close it.
    grace : float
        Seconds that the others have once there are enough.
    too_few : str
        What becomes of a round with fewer than `minimum`: "repeat" or "skip".
    retries : int
        How often in a row.
    """

    minimum: float = 0.5
    enough: float = 1.0
    grace: float = 30.0
    too_few: Literal["repeat", "skip"] = "repeat"
    retries: int = 2

    @classmethod
    def of(cls, clients: ClientsConfig) -> "Quorum":
        """The quorum of a configuration."""
        return cls(clients.minimum, clients.enough, clients.grace, clients.too_few, clients.retries)

    def least(self, drawn: int, needed: int = 1) -> int:
        """The usable replies that a round needs, at least one, and as many as its strategy needs."""
        return max(_count(self.minimum, drawn), needed)

    def enough_of(self, drawn: int, needed: int = 1) -> int:
        """The usable replies at which the others have the grace time only."""
        return max(_count(self.enough, drawn), self.least(drawn, needed))


class TooFewReplies(Exception):
    """Ends the replies of a round that has too few usable ones, before its strategy takes a step; says who answered."""


class Closing:
    """Says when replies are no longer waited for: after `timeout` seconds, or `grace` after there are `enough`.

    Parameters
    ----------
    timeout, grace : float
        Seconds.
    enough : int | None
        Usable replies; None: all are waited for.
    timeout_key : str
        The key of the configuration that sets the time-out.
    """

    def __init__(
        self,
        timeout: float,
        *,
        enough: int | None = None,
        grace: float = 0.0,
        timeout_key: str = "run.round-timeout",
    ) -> None:
        self.timeout, self.enough, self.grace = timeout, enough, grace
        self._timeout_key = timeout_key
        self.began = 0.0  # on the monotonic clock
        self._usable = 0
        self._deadline = math.inf
        self._by_grace = False

    def begin(self) -> None:
        """The messages are sent: the time begins."""
        self.began = time.monotonic()
        self._deadline = self.began + self.timeout

    def usable(self) -> None:
        """Count a usable reply."""
        self._usable += 1
        if self._usable == self.enough and time.monotonic() + self.grace < self._deadline:
            self._deadline = time.monotonic() + self.grace
            self._by_grace = True

    def over(self) -> bool:
        """Whether the time is up."""
        return time.monotonic() >= self._deadline

    def left(self) -> float:
        """Seconds until the time is up; 0 from then on."""
        return max(0.0, self._deadline - time.monotonic())

    def reason(self) -> str:
        """Why a client that has not answered is waited for no longer."""
        if not self.over():
            return "its node could not be sent a message"
        if self._by_grace:
            return (
                f"no reply within clients.grace = {self.grace:g} s after {self.enough} of the clients (clients.enough) "
                "had answered"
            )
        return f"no reply within {self._timeout_key} = {self.timeout:g} s"


def _count(share: float, drawn: int) -> int:
    return max(1, math.ceil(share * drawn - _ROUNDING))
