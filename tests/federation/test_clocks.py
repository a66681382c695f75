"""Clocks of sites that are ahead: their messages live longer, and it is told once."""

import time

import pytest
from flwr.app import ConfigRecord, Message, RecordDict

from fedllm_app.federation.clocks import ClockGrid


@pytest.fixture
def clocked(make_grid):
    """Given seconds by node, a `ClockGrid` over nodes whose clocks are so much ahead, and what it has warned of."""

    def make(ahead: dict[int, float]):
        def answer(message: Message) -> Message:
            reply = Message(RecordDict({"config": ConfigRecord({})}), reply_to=message)
            reply.metadata.created_at = time.time() + ahead[message.metadata.dst_node_id]
            return reply

        warned: list[str] = []
        return ClockGrid(make_grid(answer, at_once=9), warned.append), warned

    return make


def sent(grid: ClockGrid, node: int) -> float:
    """The time to live of a message of 100 s, once it has been answered."""
    message = Message(RecordDict(), dst_node_id=node, message_type="train", ttl=100.0)
    assert list(grid.pull_messages(grid.push_messages([message])))
    return message.metadata.ttl


def test_the_first_message_to_a_node_lives_two_hours_longer(clocked):
    grid, _ = clocked({1: 0.0})
    assert sent(grid, 1) == 100.0 + 2 * 3600


def test_later_ones_live_as_much_longer_as_the_clock_is_ahead(clocked):
    """Node 1 is an hour ahead, node 2 two hours behind, node 3 is right."""
    grid, warned = clocked({1: 3600.0, 2: -7200.0, 3: 0.0})
    for node in (1, 2, 3):
        sent(grid, node)
    assert sent(grid, 1) == pytest.approx(3700.0, abs=2.0)
    assert sent(grid, 2) == 100.0
    assert sent(grid, 3) == pytest.approx(100.0, abs=2.0)
    assert [line.startswith("the clock of node 1 is 60 minutes ahead of the server's") for line in warned] == [True]


def test_a_reply_that_waited_does_not_shorten_it(clocked):
    """The second answer says half an hour, because the server looked at it half an hour after it was made."""
    ahead = {1: 3600.0}
    grid, warned = clocked(ahead)
    sent(grid, 1)
    ahead[1] = 1800.0
    sent(grid, 1)
    assert sent(grid, 1) == pytest.approx(3700.0, abs=2.0)
    assert len(warned) == 1


def test_what_flower_answers_tells_nothing(make_grid):
    """An error for a node that is gone is made on the server."""
    from flwr.app import Error

    def answer(message: Message) -> Message:
        reply = Message(Error(code=3, reason="gone"), reply_to=message)
        reply.metadata.created_at = time.time() + 3600
        return reply

    warned: list[str] = []
    grid = ClockGrid(make_grid(answer), warned.append)
    assert sent(grid, 1) == sent(grid, 1) == 100.0 + 2 * 3600
    assert warned == []
