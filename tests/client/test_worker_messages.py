"""Messages as bytes: what the worker is handed and what it answers is what was sent."""

import math

import numpy as np
import pytest
from flwr.app import Array, ArrayRecord, ConfigRecord, Context, Error, Message, MetricRecord, RecordDict

from fedllm_app.client.worker_link import LinkBroken
from fedllm_app.client.worker_messages import pack_reply, pack_request, unpack_reply, unpack_request


@pytest.fixture
def request_message() -> Message:
    content = RecordDict(
        {
            "config": ConfigRecord({"client": 3, "rate": 0.1, "on": True, "name": "ä", "raw": b"\x00", "list": [1, 2]}),
            "arrays": ArrayRecord({"b": Array(np.arange(6, dtype=np.float32).reshape(2, 3)), "a": Array(np.ones(0))}),
        }
    )
    message = Message(content, dst_node_id=2**63, message_type="train", ttl=77.0)
    message.metadata._message_id = "asked"
    return message


CONTEXT = Context(9, 4, {"site": "oslo"}, RecordDict(), {"a.b": 1, "a.c": 0.1, "a.d": "x", "a.e": False})


def test_a_message_and_its_context_come_back(request_message):
    _, parts = pack_request(request_message, CONTEXT)
    message, context = unpack_request(parts)
    assert message.content == request_message.content
    assert list(message.content["arrays"]) == ["b", "a"]
    assert message.metadata == request_message.metadata
    assert (context.run_id, context.node_id) == (9, 4)
    assert (context.node_config, context.run_config) == (CONTEXT.node_config, CONTEXT.run_config)
    assert type(context.run_config["a.e"]) is bool
    assert len(request_message.content["arrays"]["b"].data) > 24, "the message that was sent is as it was"


def test_a_reply_comes_back_to_its_request(request_message):
    content = RecordDict({"metrics": MetricRecord({"loss": 0.1, "n": 2}), "arrays": request_message.content["arrays"]})
    said, parts = pack_reply(Message(content, reply_to=request_message))
    reply = unpack_reply(said, parts, request_message)
    assert reply.content == content
    assert reply.metadata.reply_to_message_id == "asked"
    assert reply.metadata.dst_node_id == request_message.metadata.src_node_id
    content["metrics"]["loss"] = math.inf
    assert unpack_reply(*pack_reply(Message(content, reply_to=request_message)), request_message).content == content


def test_an_error_comes_back(request_message):
    said, parts = pack_reply(Message(Error(2, "out of memory"), reply_to=request_message))
    error = unpack_reply(said, parts, request_message).error
    assert (error.code, error.reason) == (2, "out of memory")


@pytest.mark.parametrize("change", [lambda parts: parts[:1], lambda parts: parts[:-1], lambda parts: [*parts, b"x"]])
def test_missing_or_more_parts_are_refused(request_message, change):
    _, parts = pack_request(request_message, CONTEXT)
    with pytest.raises(LinkBroken, match="is no message"):
        unpack_request(change(parts))
    said, parts = pack_reply(Message(request_message.content, reply_to=request_message))
    with pytest.raises(LinkBroken, match="is no reply"):
        unpack_reply(said, change(parts)[-1:] if len(change(parts)) < 3 else change(parts), request_message)


def test_what_is_no_protocol_buffer_is_refused(request_message):
    with pytest.raises(LinkBroken, match="is no message"):
        unpack_request([b"\xff\xff", b"\xff"])
    with pytest.raises(LinkBroken, match="is no reply"):
        unpack_reply({"state": "reply"}, [b"\xff\xff"], request_message)
    with pytest.raises(LinkBroken, match="is no reply"):
        unpack_reply({"state": "reply"}, [], request_message)
