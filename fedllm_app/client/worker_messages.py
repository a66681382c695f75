"""A message of Flower as a text and parts of bytes, and back: what travels between the ClientApp and the worker.

The first parts are Flower's own serialisation (protocol buffers) of all but the arrays; these follow as they are. So
nothing is unpickled, and the 2 GiB of a protocol buffer are no limit of an adapter.
"""

from collections.abc import Iterator
from copy import copy
from itertools import repeat

from flwr.app import Array, ArrayRecord, Context, Message, RecordDict
from flwr.app.error import Error
from flwr.common.serde import (
    context_from_proto,
    context_to_proto,
    message_from_proto,
    message_to_proto,
    recorddict_from_proto,
    recorddict_to_proto,
)
from flwr.proto.message_pb2 import Context as ProtoContext
from flwr.proto.message_pb2 import Message as ProtoMessage
from flwr.proto.recorddict_pb2 import RecordDict as ProtoRecordDict
from flwr.supercore import log
from google.protobuf.message import DecodeError

from fedllm_app.client.worker_link import MOST_BYTES, Link, LinkBroken

Packed = tuple[dict, list[bytes]]


def pack_request(message: Message, context: Context) -> Packed:
    """A message to a client and the context of its run; the app keeps nothing in the context's state."""
    proto = message_to_proto(_with_content(message, _without_data(message.content)))
    plain = Context(context.run_id, context.node_id, context.node_config, RecordDict(), context.run_config)
    return {"state": "message"}, [
        proto.SerializeToString(),
        context_to_proto(plain).SerializeToString(),
        *_data(message.content),
    ]


def unpack_request(parts: list[bytes]) -> tuple[Message, Context]:
    """Read `pack_request`. LinkBroken if it is none."""
    try:
        message = message_from_proto(ProtoMessage.FromString(parts[0]))
        context = context_from_proto(ProtoContext.FromString(parts[1]))
        return _with_content(message, _with_data(message.content, iter(parts[2:]))), context
    except (DecodeError, IndexError, StopIteration, ValueError) as error:
        raise LinkBroken(f"what was handed over is no message ({type(error).__name__})") from error


def exchange(link: Link, message: Message, context: Context) -> Message:
    """Send a message and wait for its answer; log lines that come before it appear in this process's log. LinkBroken if
    the other end goes."""
    link.send(*pack_request(message, context))
    while (frame := link.receive(MOST_BYTES))[0]["state"] == "log":
        log(int(frame[0]["level"]), "%s", frame[0]["text"])
    return unpack_reply(*frame, message)


def pack_reply(reply: Message) -> Packed:
    """A client's answer, without its metadata: those are the business of the process that asked."""
    if reply.has_error():
        return {"state": "reply", "code": reply.error.code, "reason": reply.error.reason}, []
    proto = recorddict_to_proto(_without_data(reply.content))
    return {"state": "reply"}, [proto.SerializeToString(), *_data(reply.content)]


def unpack_reply(said: dict, parts: list[bytes], request: Message) -> Message:
    """Read `pack_reply`, as the answer to `request`. LinkBroken if it is none."""
    try:
        if not parts:
            return Message(Error(code=int(said["code"]), reason=str(said["reason"])), reply_to=request)
        content = recorddict_from_proto(ProtoRecordDict.FromString(parts[0]))
        return Message(_with_data(content, iter(parts[1:])), reply_to=request)
    except (DecodeError, KeyError, StopIteration, ValueError) as error:
        raise LinkBroken(f"what the worker answered is no reply ({type(error).__name__})") from error


def _with_content(message: Message, content: RecordDict) -> Message:
    """The message with other content, beside the one that is given.

    Flower notes in the metadata that a message was delivered, and a new message with the same object would undo that.
    """
    return Message(metadata=copy(message.metadata), content=content)


def _data(content: RecordDict) -> list[bytes]:
    """The bytes of all arrays, in order."""
    records = [record for record in content.values() if isinstance(record, ArrayRecord)]
    return [array.data for record in records for array in record.values()]


def _without_data(content: RecordDict) -> RecordDict:
    """The same records, with arrays that have no bytes."""
    return _replaced(content, repeat(b""))


def _with_data(content: RecordDict, data: Iterator[bytes]) -> RecordDict:
    """The same records, with arrays of these bytes. ValueError if some are left, StopIteration if some are missing."""
    filled = _replaced(content, data)
    if next(data, None) is not None:
        raise ValueError("more parts than arrays")
    return filled


def _replaced(content: RecordDict, data: Iterator[bytes]) -> RecordDict:
    records = {}
    for name, record in content.items():
        if isinstance(record, ArrayRecord):
            record = ArrayRecord({key: _array(array, next(data)) for key, array in record.items()})
        records[name] = record
    return RecordDict(records)


def _array(array: Array, data: bytes) -> Array:
    return Array(array.dtype, tuple(array.shape), array.stype, data)
