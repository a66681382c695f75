"""Sending one message to each of some clients and handing on the replies, over any Flower grid."""

import time
from collections import deque
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from logging import WARNING
from pathlib import Path

from flwr.app import Message, RecordDict
from flwr.common.constant import ErrorCode
from flwr.serverapp import Grid
from flwr.supercore import log
from google.protobuf.message import DecodeError

from fedllm_app.errors import UserError
from fedllm_app.federation.closing import Closing
from fedllm_app.federation.spool import Spool, Waiting
from fedllm_app.messages import plain_text, record_bytes

_AT_ONCE = 16  # messages that are looked at together, at most: so many replies can be in memory at once
_BYTES_AT_ONCE = 1 << 23  # and that many bytes, unless a single reply has more
_UNREADABLE = (ValueError, LookupError, TypeError, AttributeError, DecodeError)
_PULL_INTERVAL = 0.1  # seconds between looks at the SuperLink, at least
_LONGEST_INTERVAL = 3.0  # seconds; a look costs Flower's server a search of its database
_SHARE_OF_WAIT = 0.03  # so long a part of the time waited may go by until what comes is seen
_MARGIN = (
    10.0  # seconds that a message outlives its closing, so that Flower's "message expired" never comes before ours
)
_GONE = (ErrorCode.MESSAGE_UNAVAILABLE, ErrorCode.REPLY_MESSAGE_UNAVAILABLE, ErrorCode.NODE_UNAVAILABLE)


class NoReply(UserError):
    """What was waited for did not come in time."""


class LateReplies:
    """Replies that come after their round was closed: received, told and thrown away, never another round's reply.

    Parameters
    ----------
    note : Callable[[int, int], None]
        Given the round and the client of a late reply.
    """

    def __init__(self, note: Callable[[int, int], None]) -> None:
        self._note = note
        self._waiting: dict[str, tuple[int, int]] = {}
        self.server_round = 0

    def expect(self, messages: Mapping[str, int]) -> None:
        """Messages of `server_round`, id to client, that nobody waits for any more."""
        self._waiting |= {message_id: (self.server_round, client) for message_id, client in messages.items()}

    def message_ids(self) -> list[str]:
        """What may still be answered."""
        return list(self._waiting)

    def came(self, reply: Message) -> None:
        """Throw a reply away. What Flower answers for a message that expired, or for a lost node, is nobody's reply."""
        place = self._waiting.pop(reply.metadata.reply_to_message_id, None)
        if place is not None and not (reply.has_error() and reply.error.code in _GONE):
            self._note(*place)


def wait_for_nodes(
    grid: Grid,
    number: int,
    timeout: float,
    lost: Collection[int] = (),
    tell: Callable[[int], None] = lambda _: None,
) -> list[int]:
    """The ids of the connected nodes, once there are `number` of them. `NoReply` after `timeout` seconds.

    `lost` nodes are left out, though Flower may still list them. While nodes are missing, `tell` is told how many are
    there, whenever that changes.
    """
    began, told = time.monotonic(), None
    deadline = began + timeout
    while len(nodes := [node_id for node_id in grid.get_node_ids() if node_id not in lost]) < number:
        if len(nodes) != told:
            told = len(nodes)
            tell(told)
        if time.monotonic() >= deadline:
            raise NoReply(
                f"{len(nodes)} of {number} clients connected within run.wait-timeout = {timeout:g} s; "
                "start the missing SuperNodes, or lower clients.number"
            )
        now = time.monotonic()
        time.sleep(min(_rest(now - began), max(0.0, deadline - now)))
    return nodes


def ask(
    grid: Grid,
    requests: Mapping[int, tuple[int, RecordDict]],
    message_type: str,
    closing: Closing,
    usable: Callable[[int, Message], bool] | None = None,
    late: LateReplies | None = None,
    directory: Path | None = None,
) -> Iterator[tuple[int, Message | None]]:
    """Send each client its content and yield `(client, reply)` in the order of the clients, as early as that allows.

    A fixed order makes sums over replies, and so the whole run, independent of who answers first; a reply that comes
    early waits for those before it, its arrays on disk, and is let go as soon as it was handed on. None stands for a
    client that did not answer before the closing, or that could not be reached.

    Parameters
    ----------
    requests : Mapping[int, tuple[int, RecordDict]]
        By client, node id and content. Replies are matched by the message they answer, because Flower answers for a
        lost node under another node's id.
    closing : Closing
        When replies are no longer waited for. It is told of usable ones.
    usable : Callable[[int, Message], bool] | None
        Looks at every reply when it arrives; one that is not usable is let go and not yielded. None: all are.
    late : LateReplies | None
        Takes note of the messages that were not answered before the closing, and of the replies that come after all.
    directory : Path | None
        Where arrays wait, in a file without a name; None: the system's temporary directory.
    """
    pending: dict[str, int] = {}
    for client, (node, content) in requests.items():
        message = Message(content, dst_node_id=node, message_type=message_type, ttl=closing.timeout + _MARGIN)
        for message_id in grid.push_messages([message]):
            if message_id is not None:
                pending[message_id] = client
    unreachable = requests.keys() - pending.values()
    closing.begin()
    largest = max((record_bytes(content) for _, content in requests.values()), default=0)
    at_once = max(1, min(_AT_ONCE, _BYTES_AT_ONCE // max(largest, 1)))  # replies are as long as what was sent
    arrivals = _arrivals(grid, pending, closing, late, at_once)
    spool = Spool(directory)
    try:
        yield from _in_order(list(requests), unreachable, arrivals, closing, usable, spool)
    finally:
        spool.close()
    if late is not None:
        late.expect(pending)


def _arrivals(
    grid: Grid, pending: dict[str, int], closing: Closing, late: LateReplies | None, at_once: int
) -> Iterator[tuple[int, Message]]:
    over, last = False, time.monotonic()
    while pending and not over:
        over = closing.over()  # one more look: a reply may have come while another was aggregated
        in_vain = 0.0
        message_ids = [*pending, *(late.message_ids() if late else ())]
        for some in range(0, len(message_ids), at_once):
            began = time.monotonic()
            arrived = _pull(grid, message_ids[some : some + at_once])
            now = time.monotonic()
            in_vain, last = (in_vain, now) if arrived else (in_vain + now - began, last)
            while arrived:  # popped as it is yielded: this generator must not keep a reply that was handed on
                client = pending.pop(arrived[0].metadata.reply_to_message_id, None)
                if client is not None:
                    yield client, arrived.popleft()
                elif late is not None:
                    late.came(arrived.popleft())
                else:
                    arrived.popleft()
        if pending and not over:  # Flower's server gets as much time for others as it took to say that there is nothing
            time.sleep(min(max(_rest(time.monotonic() - last), in_vain), closing.left()))


def _rest(waited: float) -> float:
    """Seconds until the next look at the SuperLink, after so many in which nothing came."""
    return max(_PULL_INTERVAL, min(_SHARE_OF_WAIT * waited, _LONGEST_INTERVAL))


def _pull(grid: Grid, message_ids: list[str]) -> deque[Message]:
    """The replies that have come to some messages; none where Flower cannot read one of them.

    It takes them from the SuperLink before it reads them: at the next look it answers itself for those, as unavailable.
    """
    try:
        return deque(grid.pull_messages(message_ids))
    except _UNREADABLE as error:
        log(WARNING, "Flower cannot read a reply: %s", plain_text(f"{type(error).__name__}: {error}"))
        return deque()


def _in_order(
    clients: list[int],
    unreachable: Iterable[int],
    arrivals: Iterable[tuple[int, Message]],
    closing: Closing,
    usable: Callable[[int, Message], bool] | None,
    spool: Spool,
) -> Iterator[tuple[int, Message | None]]:
    early: dict[int, Waiting] = {client: Waiting(None) for client in unreachable}
    dropped: set[int] = set()
    arrivals = iter(arrivals)
    for client in clients:
        while client not in early and client not in dropped:
            arrived = next(arrivals, None)
            if arrived is None:
                break
            if usable is None or usable(*arrived):
                closing.usable()
                whose, reply = arrived
                early[whose] = Waiting(reply) if whose == client else spool.put(reply)
                del reply
            else:
                dropped.add(arrived[0])
            del arrived
        if client not in dropped:
            yield client, spool.take(early.pop(client, Waiting(None)))
