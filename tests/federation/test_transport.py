"""Asking clients and handing on their replies in order."""

import weakref

import numpy as np
import pytest
from flwr.app import Error, Message, RecordDict

from fedllm_app.federation import transport
from fedllm_app.federation.closing import Closing
from fedllm_app.federation.transport import LateReplies, NoReply, ask, wait_for_nodes
from fedllm_app.messages import adapter_record

NODES = {0: 900, 1: 70, 2: 8000}  # client -> node
REQUESTS = {client: (node, RecordDict({})) for client, node in NODES.items()}


def echo(message):
    """A reply whose only number is the node that it comes from."""
    return Message(RecordDict({"arrays": adapter_record(np.array([message.metadata.dst_node_id]))}), reply_to=message)


def node_of(reply):
    return int(reply.content["arrays"]["adapter"].numpy()[0])


def arriving(*clients):
    order = [NODES[client] for client in clients]
    return lambda message: order.index(message.metadata.dst_node_id)


@pytest.mark.parametrize("order", [(0, 1, 2), (0, 2, 1), (1, 0, 2), (1, 2, 0), (2, 0, 1), (2, 1, 0)])
@pytest.mark.parametrize("at_once", [1, 2, 3])
def test_replies_come_in_the_order_of_the_clients(make_grid, order, at_once):
    grid = make_grid(echo, arrival=arriving(*order), at_once=at_once)
    got = [(client, node_of(reply)) for client, reply in ask(grid, REQUESTS, "train", Closing(5.0))]
    assert got == [(0, 900), (1, 70), (2, 8000)]


def test_replies_come_as_early_as_the_order_allows(make_grid):
    """One reply a look, arriving 2, 0, 1: client 0 can be handed on after two looks, 1 and then 2 after three."""
    grid = make_grid(echo, arrival=arriving(2, 0, 1))
    assert [(client, grid.pulls) for client, _ in ask(grid, REQUESTS, "train", Closing(5.0))] == [
        (0, 2),
        (1, 3),
        (2, 3),
    ]


def test_messages_are_addressed_and_limited_in_time(make_grid):
    grid = make_grid(echo)
    list(ask(grid, REQUESTS, "query.identify", Closing(5.0)))
    assert [message.metadata.dst_node_id for message in grid.sent] == [900, 70, 8000]
    assert {message.metadata.message_type for message in grid.sent} == {"query.identify"}
    (ttl,) = {message.metadata.ttl for message in grid.sent}
    assert 5.0 < ttl < 60.0  # longer than they are waited for: the deadline that is told is ours, not Flower's


def test_one_node_may_serve_several_clients(make_grid):
    """Four clients on two nodes: each gets the reply to its own message, though they arrive backwards."""
    contents = [RecordDict({"arrays": adapter_record(np.array([client]))}) for client in range(4)]
    requests = {client: (10 + client % 2, content) for client, content in enumerate(contents)}

    def same(message):
        return Message(message.content, reply_to=message)

    order = {f"message-{number:04d}": -number for number in range(4)}
    grid = make_grid(same, arrival=lambda message: order[message.metadata.message_id])
    got = [(client, node_of(reply)) for client, reply in ask(grid, requests, "train", Closing(5.0))]
    assert got == [(0, 0), (1, 1), (2, 2), (3, 3)]


def test_whoever_is_silent_gives_none(make_grid):
    grid = make_grid(lambda message: None if message.metadata.dst_node_id == 70 else echo(message))
    got = dict(ask(grid, REQUESTS, "train", Closing(0.05)))
    assert list(got) == [0, 1, 2]
    assert got[1] is None
    assert node_of(got[0]) == 900
    assert node_of(got[2]) == 8000


def test_whoever_cannot_be_reached_gives_none_without_waiting(make_grid):
    """One reply a look: two looks bring all that can come, and there is no third."""
    grid = make_grid(echo, unreachable=[70])
    got = dict(ask(grid, REQUESTS, "train", Closing(0.2)))
    assert grid.pulls == 2
    assert got[1] is None
    assert {client for client, reply in got.items() if reply is not None} == {0, 2}


def test_whoever_cannot_be_reached_holds_nobody_back(make_grid):
    """One reply a look: client 0 after one look, 1 at once, 2 after two."""
    grid = make_grid(echo, unreachable=[70], arrival=arriving(0, 2))
    assert [(client, grid.pulls) for client, _ in ask(grid, REQUESTS, "train", Closing(5.0))] == [
        (0, 1),
        (1, 1),
        (2, 2),
    ]


def test_an_error_under_another_node_id_finds_its_client(make_grid):
    """Flower answers for a lost node in the name of the SuperLink, node 1."""

    def lost(message):
        if message.metadata.dst_node_id != 8000:
            return echo(message)
        reply = Message(Error(code=3, reason="node lost"), reply_to=message)
        reply.metadata._src_node_id = 1
        return reply

    got = dict(ask(make_grid(lost, arrival=arriving(2, 1, 0)), REQUESTS, "train", Closing(5.0)))
    assert got[2].error.reason == "node lost"
    assert node_of(got[0]) == 900


def test_a_reply_that_nobody_asked_for_is_left_out(make_grid):
    """Every look brings a reply to a message of an earlier round too."""
    grid = make_grid(echo)
    old = Message(RecordDict({}), dst_node_id=900, message_type="train")
    old.metadata._message_id = "from-before"
    pull = grid.pull_messages
    grid.pull_messages = lambda ids: [Message(RecordDict({}), reply_to=old), *pull(ids)]
    assert [(client, node_of(reply)) for client, reply in ask(grid, REQUESTS, "train", Closing(5.0))] == list(
        NODES.items()
    )


def test_a_reply_is_let_go_once_it_was_handed_on(make_grid):
    """When the grid is looked at again, no reply that was handed on before is alive."""
    grid = make_grid(echo)
    handed_on: list[weakref.ref] = []
    pull = grid.pull_messages

    def look(ids):
        assert not [ref for ref in handed_on if ref() is not None]
        return pull(ids)

    grid.pull_messages = look
    for _, reply in ask(grid, REQUESTS, "train", Closing(5.0)):
        handed_on.append(weakref.ref(reply.content["arrays"]["adapter"]))
        del reply
    assert len(handed_on) == 3


class Backwards:
    """A grid that makes replies when they are pulled, one a look, the last message first, and counts live arrays."""

    def __init__(self):
        self.sent, self.born = {}, []

    def push_messages(self, messages):
        for message in messages:
            message.metadata._message_id = f"message-{len(self.sent):04d}"
            self.sent[message.metadata.message_id] = message
        return [message.metadata.message_id for message in messages]

    def pull_messages(self, message_ids):
        assert not [array for array in self.born if array() is not None]
        last = sorted(self.sent)[-1]
        if last not in message_ids:
            return []
        replies = [echo(self.sent.pop(last))]
        self.born.append(weakref.ref(replies[0].content["arrays"]["adapter"]))
        return replies


def test_replies_that_wait_for_a_slow_first_are_not_in_memory(monkeypatch, tmp_path):
    """Forty replies arrive backwards. At every look none of their arrays is alive; all come whole and in order."""
    monkeypatch.setattr("fedllm_app.federation.transport._PULL_INTERVAL", 0.0)
    grid, clients = Backwards(), range(40)
    contents = {client: (client + 1, RecordDict({})) for client in clients}
    got = []
    for client, reply in ask(grid, contents, "train", Closing(60.0), directory=tmp_path):
        assert list(tmp_path.iterdir()) == []  # the file has no name
        got.append((client, node_of(reply)))
        del reply
    assert got == [(client, client + 1) for client in clients]
    assert len(grid.born) == len(clients)


def test_replies_wait_in_memory_where_they_cannot_be_written(make_grid, tmp_path, caplog):
    grid = make_grid(echo, arrival=arriving(2, 1, 0))
    got = [node_of(reply) for _, reply in ask(grid, REQUESTS, "train", Closing(5.0), directory=tmp_path / "nowhere")]
    assert got == [900, 70, 8000]
    assert "waits in memory" in caplog.text


def test_a_reply_that_flower_cannot_read_does_not_end_the_others(make_grid, caplog):
    """Its bytes make `pull_messages` raise; Flower then answers for it that it is unavailable."""
    grid = make_grid(echo)
    pull, broken = grid.pull_messages, [ValueError("no such dtype \x1b[2J"), KeyError("shape")]

    def look(ids):
        if broken:
            raise broken.pop()
        return pull(ids)

    grid.pull_messages = look
    assert [client for client, _ in ask(grid, REQUESTS, "train", Closing(5.0))] == [0, 1, 2]
    assert "Flower cannot read a reply: ValueError: no such dtype  [2J" in caplog.text


def test_waits_until_enough_nodes_are_there(make_grid):
    grid = make_grid(echo, looks=[[], [5], [5, 3], [5, 3, 4]])
    assert wait_for_nodes(grid, 2, 5.0) == [5, 3]


def test_looks_for_missing_nodes_grow_rare(make_grid, monkeypatch):
    """As those for replies: 3 s apart after 100 s, and the last one when the time is up."""
    clock, rests = [0.0], []

    def sleep(seconds):
        rests.append(seconds)
        clock[0] += seconds

    monkeypatch.setattr(transport, "_PULL_INTERVAL", 0.1)
    monkeypatch.setattr(transport.time, "monotonic", lambda: clock[0])
    monkeypatch.setattr(transport.time, "sleep", sleep)
    with pytest.raises(NoReply, match="1 of 2 clients connected"):
        wait_for_nodes(make_grid(echo, looks=[[5]]), 2, 3600.0)
    np.testing.assert_allclose(rests[:34], 0.1)
    np.testing.assert_allclose(rests[-100:-2], 3.0)


def test_too_few_nodes_in_time(make_grid):
    with pytest.raises(NoReply, match=r"1 of 2 clients connected within run\.wait-timeout = 0\.02 s"):
        wait_for_nodes(make_grid(echo, looks=[[5]]), 2, 0.02)


def test_a_reply_that_is_not_usable_is_let_go_and_does_not_count(make_grid):
    """Two usable replies of three close at once, and the third to arrive is the second usable one."""
    closing = Closing(5.0, enough=2, grace=0.0)
    seen = []

    def usable(client, reply):
        seen.append(client)
        return client != 1

    grid = make_grid(echo, arrival=arriving(0, 1, 2))
    assert [client for client, _ in ask(grid, REQUESTS, "train", closing, usable)] == [0, 2]
    assert seen == [0, 1, 2]


def test_enough_replies_close_and_a_late_one_is_told_and_never_another_rounds(make_grid):
    """Client 0 is slow: the first request closes with 1 and 2, and its reply arrives in the middle of the second."""
    told = []
    late = LateReplies(lambda *place: told.append(place))
    slow, grid = [], make_grid(echo)

    def answer(message):
        first = message.metadata.dst_node_id == 900 and not slow
        if first:
            slow.append(echo(message))
        return None if first else echo(message)

    grid.answer = answer
    late.server_round = 1
    closing = Closing(60.0, enough=2, grace=0.01)
    got = dict(ask(grid, REQUESTS, "train", closing, late=late))
    assert got[0] is None
    assert "clients.grace = 0.01 s after 2 of the clients" in closing.reason()
    assert late.message_ids() == [slow[0].metadata.reply_to_message_id]

    pull = grid.pull_messages
    grid.pull_messages = lambda ids: [*([slow.pop()] if slow else []), *pull(ids)]
    late.server_round = 2
    again = dict(ask(grid, REQUESTS, "train", Closing(5.0), late=late))
    assert told == [(1, 0)]
    assert late.message_ids() == []
    assert again[0].metadata.reply_to_message_id == grid.sent[3].metadata.message_id


@pytest.mark.parametrize("code", [3, 4, 5])
def test_what_flower_answers_for_a_message_that_is_gone_is_no_late_reply(make_grid, code):
    told = []
    late = LateReplies(lambda *place: told.append(place))
    late.expect({"message-0000": 1})
    old = Message(RecordDict({}), dst_node_id=900, message_type="train")
    old.metadata._message_id = "message-0000"
    late.came(Message(Error(code=code, reason="gone"), reply_to=old))
    assert (told, late.message_ids()) == ([], [])


def test_looks_grow_rare_while_a_reply_takes_long(make_grid, monkeypatch):
    """A reply that takes an hour, looks that take no time. A rest is 3 % of the time waited, from 0.1 to 3 s: 0.1 s
    until 3.4 s have gone by, 3 s from 100 s on, and the last one ends with the time that the reply has, 3600 s.

    There are 34 looks in the first 3.4 s. Then every rest makes the time waited 1.03 times as long, which takes
    ln(100 / 3.4) / ln(1.03) = 114 rests, and (3600 - 102) / 3 = 1166 more follow: about 1,315 looks instead of 36,000.
    """
    clock, rests = [0.0], []

    class Silent(make_grid):
        def pull_messages(self, message_ids):
            return []

    def sleep(seconds):
        rests.append(seconds)
        clock[0] += seconds

    monkeypatch.setattr(transport, "_PULL_INTERVAL", 0.1)
    monkeypatch.setattr(transport.time, "monotonic", lambda: clock[0])
    monkeypatch.setattr(transport.time, "sleep", sleep)
    requests = {1: (1, RecordDict({}))}
    assert list(ask(Silent(lambda _: None), requests, "train", Closing(3600.0))) == [(1, None)]
    np.testing.assert_allclose(rests[:34], 0.1)
    assert rests[40:130] == sorted(rests[40:130])
    np.testing.assert_allclose(rests[60] / rests[59], 1.03)
    np.testing.assert_allclose(rests[-100:-1], 3.0)
    assert clock[0] == 3600.0
    assert 1300 < len(rests) < 1330


def test_a_server_that_is_slow_to_say_that_there_is_nothing_is_left_alone_as_long(make_grid, monkeypatch):
    """Three clients, each looked for alone, because a reply as long as what was sent has more than 8 MB; 0.2 s a look.

    Each sweep brings one reply. The first has two looks in vain, so 0.4 s of rest; the second has one, 0.2 s.
    """
    clock, rests = [0.0], []
    long = adapter_record(np.zeros(3 << 20, np.float32))

    class Slow(make_grid):
        def pull_messages(self, message_ids):
            (one,) = message_ids
            clock[0] += 0.2
            comes = one == min(self._waiting) and len(self._waiting) == 3 - len(rests)
            return super().pull_messages([one]) if comes else []

    monkeypatch.setattr(transport.time, "monotonic", lambda: clock[0])
    monkeypatch.setattr(transport.time, "sleep", rests.append)
    grid = Slow(lambda message: Message(RecordDict({}), reply_to=message))
    requests = {client: (client, RecordDict({"arrays": long})) for client in (1, 2, 3)}
    assert [client for client, _ in ask(grid, requests, "train", Closing(1e9))] == [1, 2, 3]
    np.testing.assert_allclose(rests, [0.4, 0.2])
