"""What travels, and the check of what comes back."""

import numpy as np
import pytest
from flwr.app import Array, ArrayRecord, ConfigRecord, Error, Message, MetricRecord, RecordDict

from fedllm_app.messages import (
    Assignment,
    BadMessage,
    adapter_record,
    failure,
    read_vectors,
    record_bytes,
    reply,
    reply_problem,
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
    reference="r",
)


def request(**config):
    content = RecordDict({"arrays": SENT, "config": ConfigRecord(config)})
    return Message(content, dst_node_id=7, message_type="train")


def answer(arrays=None, metrics=GOOD, manifest=MANIFEST):
    return reply(request(), adapter_record(np.zeros(3)) if arrays is None else arrays, metrics, manifest)


def arrays(**named):
    return ArrayRecord({name.replace("_", "-"): Array(np.asarray(array)) for name, array in named.items()})


def test_assignment_round_trip():
    assert Assignment.from_message(request(**JOB.to_config())) == JOB


def test_assignment_takes_the_keys_of_strategies():
    config = JOB.to_config() | {"proximal-mu": 0.25, "pooled": True}
    read = Assignment.from_message(request(**config))
    assert (read.asked["proximal-mu"], read.pooled) == (0.25, True)


@pytest.mark.parametrize("key", JOB.to_config())
def test_assignment_names_a_missing_key(key):
    config = JOB.to_config()
    del config[key]
    with pytest.raises(BadMessage, match=f"'{key}'"):
        Assignment.from_message(request(**config))


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


def test_a_good_reply_may_pass():
    assert reply_problem(answer(), SENT, MANIFEST) is None
    two = arrays(adapter=np.ones(3, "f4"), control_delta=np.ones(3, "f4"))
    assert reply_problem(answer(two), SENT, MANIFEST) is None


def test_an_evaluation_needs_no_arrays():
    evaluated = reply(request(), None, GOOD, MANIFEST)
    assert reply_problem(evaluated, None, MANIFEST) is None
    assert "adapter" in reply_problem(evaluated, SENT, MANIFEST)


def test_error_replies_give_their_reason():
    assert reply_problem(failure(request(), "client 2: out of memory"), SENT, MANIFEST) == "client 2: out of memory"
    nameless = Message(Error(code=13), reply_to=request())
    assert "13" in reply_problem(nameless, SENT, MANIFEST)


def test_missing_records():
    without_metrics, without_config, without_arrays = answer(), answer(), answer()
    del without_metrics.content["metrics"]
    del without_config.content["config"]
    del without_arrays.content["arrays"]
    assert "num-examples" in reply_problem(without_metrics, SENT, MANIFEST)
    assert "num-examples" in reply_problem(answer(metrics={"train-loss": 1.0}), SENT, MANIFEST)
    assert "manifest" in reply_problem(without_config, SENT, MANIFEST)
    assert "adapter" in reply_problem(without_arrays, SENT, MANIFEST)
    assert "adapter" in reply_problem(answer(arrays(other=np.zeros(3, "f4"))), SENT, MANIFEST)


def test_another_manifest():
    assert "manifest" in reply_problem(answer(manifest="ffff"), SENT, MANIFEST)
    assert "manifest" in reply_problem(reply(request(), None, GOOD, "ffff"), None, MANIFEST)


@pytest.mark.parametrize("examples", [0, -1, float("nan"), float("inf")])
def test_examples_must_be_a_positive_number(examples):
    assert "num-examples" in reply_problem(answer(metrics=GOOD | {"num-examples": examples}), SENT, MANIFEST)


@pytest.mark.parametrize("value", [float("nan"), float("-inf"), [0.5, float("nan")]])
def test_metrics_must_be_finite(value):
    assert "train-loss" in reply_problem(answer(metrics=GOOD | {"train-loss": value}), SENT, MANIFEST)


BAD = {
    "shape (1,)": (np.zeros(1, "f4"), "shape"),
    "shape (1, 3)": (np.zeros((1, 3), "f4"), "shape"),
    "one too many": (np.zeros(4, "f4"), "shape"),
    "float64": (np.zeros(3), "float64"),
    "int32": (np.zeros(3, "i4"), "int32"),
    "nan": (np.array([0, np.nan, 0], "f4"), "finite"),
    "inf": (np.array([0, 0, -np.inf], "f4"), "finite"),
}


@pytest.mark.parametrize("bad", BAD)
def test_bad_arrays(bad):
    array, complaint = BAD[bad]
    problem = reply_problem(answer(arrays(adapter=array)), SENT, MANIFEST)
    assert "adapter" in problem
    assert complaint in problem


@pytest.mark.parametrize("bad", BAD)
def test_further_arrays_are_checked_alike(bad):
    array, complaint = BAD[bad]
    problem = reply_problem(answer(arrays(adapter=np.zeros(3, "f4"), control_delta=array)), SENT, MANIFEST)
    assert "control-delta" in problem
    assert complaint in problem


@pytest.mark.parametrize("metrics", [MetricRecord({"num-examples": [1, 2]}), ConfigRecord({"num-examples": "four"})])
def test_numbers_of_another_kind_are_a_problem_and_no_exception(metrics):
    strange = answer()
    strange.content["metrics"] = metrics
    assert "num-examples" in reply_problem(strange, SENT, MANIFEST)


@pytest.mark.parametrize("array", [np.zeros(1, "f4"), np.zeros(3)])
def test_arrays_that_are_not_what_they_say(array):
    """The label says float32 of shape (3,), the bytes hold another shape or dtype."""
    label = arrays(adapter=np.zeros(3, "f4"))["adapter"]
    record = ArrayRecord({"adapter": Array(label.dtype, label.shape, label.stype, Array(array).data)})
    assert reply_problem(answer(record), SENT, MANIFEST) is not None
