"""What travels."""

import re

import numpy as np
import pytest
from flwr.app import ConfigRecord, Message, MetricRecord, RecordDict

from fedllm_app.messages import (
    Assignment,
    BadMessage,
    adapter_record,
    read_vectors,
    record_bytes,
    vector_hash,
    vectors_record,
)

MANIFEST = "a1b2"
SENT = adapter_record(np.array([1.0, 2.0, 3.0]))
GOOD = {"num-examples": 4, "train-loss": 0.5}
JOB = Assignment(
    client=2,
    clients=5,
    server_round=3,
    position=40,
    learning_rate=1e-4,
    manifest=MANIFEST,
    state_version=2,
    once={"reference": "f00d"},
    checkpoints=(1, 2),
    seconds=60.0,
    shares=3,
)


def request(**config):
    content = RecordDict({"arrays": SENT, "config": ConfigRecord(config)})
    return Message(content, dst_node_id=7, message_type="train")


def test_assignment_round_trip():
    assert Assignment.from_message(request(**JOB.to_config())) == JOB


def test_assignment_takes_the_keys_of_strategies():
    config = JOB.to_config() | {"proximal-mu": 0.25, "pooled": True}
    read = Assignment.from_message(request(**config))
    assert (read.config["proximal-mu"], read.pooled) == (0.25, True)


@pytest.mark.parametrize("key", [key for key in JOB.to_config() if key != "once.reference"])
def test_assignment_names_a_missing_key(key):
    config = JOB.to_config()
    del config[key]
    with pytest.raises(BadMessage, match=f"'{key}'"):
        Assignment.from_message(request(**config))


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("client", 5),
        ("client", -1),
        ("client", True),
        ("client", 1.0),
        ("client", "0"),
        ("clients", 0),
        ("clients", 10**13),
        ("server-round", -1),
        ("position", -3),
        ("position", 10**18),
        ("position", 2.5),
        ("learning-rate", -1e-4),
        ("learning-rate", float("nan")),
        ("learning-rate", float("inf")),
        ("learning-rate", 1e9),
        ("learning-rate", "1e-4"),
        ("manifest", "../../etc"),
        ("manifest", 5),
        ("state-version", 4),
        ("checkpoints", [9]),
        ("checkpoints", ["../1"]),
        ("checkpoints", 3),
        ("run", "../../../../home/site/.ssh/authorized_k"),
        ("run", "A" * 32),
        ("run", "a" * 31),
        ("run", "a" * 32 + "\n"),
        ("run", 7),
        ("seconds", -1.0),
        ("seconds", float("nan")),
        ("pooled", "yes"),
        ("once.reference", "/etc/passwd"),
        ("once.../../reference", "f00d"),
    ],
)
def test_a_field_of_another_type_or_range_is_refused(key, value):
    with pytest.raises(BadMessage, match=re.escape(key)):
        Assignment.from_message(request(**JOB.to_config() | {key: value}))


def test_records_are_float32_and_contiguous():
    record = vectors_record({"adapter": np.arange(6.0)[::2], "control-delta": np.array([1.5], np.float16)})
    assert list(record) == ["adapter", "control-delta"]
    assert {array.dtype for array in record.values()} == {"float32"}
    np.testing.assert_array_equal(record["adapter"].numpy(), [0.0, 2.0, 4.0])
    np.testing.assert_array_equal(record["control-delta"].numpy(), [1.5])


def test_read_vectors():
    read = read_vectors(request())
    assert list(read) == ["adapter"]
    np.testing.assert_array_equal(read["adapter"], [1.0, 2.0, 3.0])
    content = RecordDict({"arrays": vectors_record({"control": np.zeros(1)})})
    without = Message(content, dst_node_id=7, message_type="train")
    with pytest.raises(BadMessage, match="'adapter'"):
        read_vectors(without)


def test_vector_hash_is_that_of_the_float32_bytes():
    vector = np.array([1.0, 2.0, 3.0], np.float32)
    assert vector_hash(vector) == vector_hash(vector.astype(np.float64)) == vector_hash(np.repeat(vector, 2)[::2])
    assert vector_hash(vector) != vector_hash(vector[::-1])


def test_record_bytes_counts_every_array():
    record = vectors_record({"adapter": np.zeros(3), "control": np.zeros(50)})
    content = RecordDict({"arrays": record, "metrics": MetricRecord(GOOD)})
    assert record_bytes(content) == sum(len(array.data) for array in content["arrays"].values()) >= 4 * 53
