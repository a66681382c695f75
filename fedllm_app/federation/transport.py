"""Sending one message to each of some clients and handing on the replies, over any Flower grid."""

import time
from collections import deque
from collections.abc import Iterable, Iterator, Mapping

from flwr.app import Message, RecordDict
from flwr.serverapp import Grid

from fedllm_app.errors import UserError

_PULL_INTERVAL = 0.1  # seconds between looks at the SuperLink


class NoReply(UserError):
    """What was waited for did not come in time."""


def wait_for_nodes(grid: Grid, number: int, timeout: float) -> list[int]:
    """The ids of the connected nodes, once there are `number` of them. `NoReply` after `timeout` seconds."""
    deadline = time.monotonic() + timeout
    while len(nodes := list(grid.get_node_ids())) < number:
        if time.monotonic() > deadline:
            raise NoReply(
                f"{len(nodes)} of {number} clients connected within run.wait-timeout = {timeout:g} s; "
                "start the missing SuperNodes, or lower clients.number"
            )
        time.sleep(_PULL_INTERVAL)
    return nodes


def ask(
    grid: Grid, requests: Mapping[int, tuple[int, RecordDict]], message_type: str, timeout: float
) -> Iterator[tuple[int, Message | None]]:
    """Send each client its content and yield `(client, reply)` in the order of the clients, as early as that allows.

    A fixed order makes sums over replies, and so the whole run, independent of who answers first; a reply that comes
    early waits for those before it and is let go as soon as it was handed on. None stands for a client that did not
    answer within `timeout` seconds, or that could not be reached.

    `requests` maps a client to (node id, content). Replies are matched by the message they answer, because Flower
    answers for a lost node under another node's id.
    """
    pending: dict[str, int] = {}
    for client, (node, content) in requests.items():
        message = Message(content, dst_node_id=node, message_type=message_type, ttl=timeout)
        for message_id in grid.push_messages([message]):
            if message_id is not None:
                pending[message_id] = client
    unreachable = requests.keys() - pending.values()
    yield from _in_order(list(requests), unreachable, _arrivals(grid, pending, timeout))


def _arrivals(grid: Grid, pending: dict[str, int], timeout: float) -> Iterator[tuple[int, Message]]:
    deadline = time.monotonic() + timeout
    late = False
    while pending and not late:
        late = time.monotonic() >= deadline  # one more look: a reply may have come while another was aggregated
        arrived = deque(grid.pull_messages(list(pending)))
        while arrived:  # popped as it is yielded: this generator must not keep a reply that was handed on
            client = pending.pop(arrived[0].metadata.reply_to_message_id, None)
            if client is None:
                arrived.popleft()
            else:
                yield client, arrived.popleft()
        if pending and not late:
            time.sleep(_PULL_INTERVAL)


def _in_order(
    clients: list[int], unreachable: Iterable[int], arrivals: Iterable[tuple[int, Message]]
) -> Iterator[tuple[int, Message | None]]:
    early: dict[int, Message | None] = dict.fromkeys(unreachable)
    arrivals = iter(arrivals)
    for client in clients:
        while client not in early:
            arrived = next(arrivals, None)
            if arrived is None:
                break
            early[arrived[0]] = arrived[1]
            del arrived
        yield client, early.pop(client, None)
