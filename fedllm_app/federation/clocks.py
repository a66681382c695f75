"""Sites whose clocks are ahead of the server's: their messages live longer, and somebody is told.

A node throws a message away, without a word, when the time at which it was made and its time to live (ttl) lie in the
past of the node's own clock. A clock that is an hour ahead so loses every message that may take less than an hour.
"""

import time
from collections.abc import Callable, Iterable

from flwr.app import Message
from flwr.serverapp import Grid

_UNKNOWN = 2 * 3600.0  # seconds that a first message lives longer: an hour for a wrong time zone, and some more
_TOLD = 60.0  # a clock that is so many seconds ahead is told


class ClockGrid(Grid):
    """A grid whose messages reach nodes with clocks that are ahead, by up to two hours.

    Parameters
    ----------
    grid : Grid
        Sends and receives.
    warn : Callable[[str], None]
        Told once of each node whose clock is ahead by more than a minute. A clock that is behind harms nothing.
    """

    def __init__(self, grid: Grid, warn: Callable[[str], None]) -> None:
        self._grid, self._warn = grid, warn
        self._ahead: dict[int, float] = {}  # seconds, by node; only of those that have answered

    def get_node_ids(self) -> Iterable[int]:
        """See Flower's grid, as the others."""
        return self._grid.get_node_ids()

    def push_messages(self, messages: Iterable[Message]) -> Iterable[str]:
        """Send messages, each with so much more time to live as the clock of its node is ahead."""
        messages = list(messages)
        for message in messages:
            message.metadata.ttl += self._ahead.get(message.metadata.dst_node_id, _UNKNOWN)
        return self._grid.push_messages(messages)

    def pull_messages(self, message_ids: Iterable[str]) -> Iterable[Message]:
        """Receive replies, whose times of making tell how far a clock is ahead at least."""
        replies = list(self._grid.pull_messages(message_ids))
        for reply in replies:
            if not reply.has_error():  # Flower itself makes the others
                self._note(reply.metadata.src_node_id, reply.metadata.created_at - time.time())
        return replies

    def _note(self, node: int, ahead: float) -> None:
        before = self._ahead.get(node)
        self._ahead[node] = max(0.0, ahead, before or 0.0)
        if self._ahead[node] > _TOLD and (before is None or before <= _TOLD):
            self._warn(
                f"the clock of node {node} is {ahead / 60:.0f} minutes ahead of the server's; its messages live "
                "so much longer. Set the clocks by NTP: with node keys, Flower refuses such a node"
            )

    @property
    def run(self):
        """The run."""
        return self._grid.run

    def set_run(self, *arguments, **options):
        """Flower's."""
        return self._grid.set_run(*arguments, **options)

    def create_message(self, *arguments, **options):
        """Flower's."""
        return self._grid.create_message(*arguments, **options)

    def send_and_receive(self, *arguments, **options):
        """Flower's, which waits for all replies; the app pushes and pulls."""
        return self._grid.send_and_receive(*arguments, **options)
