"""What a reply is checked for."""

import numpy as np
import pytest
from flwr.app import Array, ArrayRecord, ConfigRecord, Error, Message, MetricRecord, RecordDict

from fedllm_app.federation.reply_checks import array_problem, reply_problem
from fedllm_app.messages import adapter_record, failure, reply

MANIFEST = "a1b2"
SENT = adapter_record(np.array([1.0, 2.0, 3.0]))
GOOD = {"num-examples": 4, "train-loss": 0.5}


def request(**config):
    content = RecordDict({"arrays": SENT, "config": ConfigRecord(config)})
    return Message(content, dst_node_id=7, message_type="train")


def answer(arrays=None, metrics=GOOD, manifest=MANIFEST):
    return reply(request(), adapter_record(np.zeros(3)) if arrays is None else arrays, metrics, manifest)


def arrays(**named):
    return ArrayRecord({name.replace("_", "-"): Array(np.asarray(array)) for name, array in named.items()})


def problem(answer: Message, arrays: bool = True) -> str | None:
    """What is wrong with a reply to SENT, of an adapter of three numbers."""
    found = reply_problem(answer, MANIFEST)
    if found is not None or not arrays:
        return found
    vectors = {name: array.numpy() for name, array in answer.content.get("arrays", {}).items()}
    return array_problem(vectors, 3, ("adapter",))


def test_a_good_reply_may_pass():
    assert problem(answer()) is None
    two = arrays(adapter=np.ones(3, "f4"), control_delta=np.ones(3, "f4"))
    assert problem(answer(two)) is None


def test_an_evaluation_needs_no_arrays():
    evaluated = reply(request(), None, GOOD, MANIFEST)
    assert problem(evaluated, arrays=False) is None
    assert "adapter" in problem(evaluated)


def test_error_replies_give_their_reason():
    assert problem(failure(request(), "client 2: out of memory")) == "client 2: out of memory"
    nameless = Message(Error(code=13), reply_to=request())
    assert "13" in problem(nameless)


def test_missing_records():
    without_metrics, without_config, without_arrays = answer(), answer(), answer()
    del without_metrics.content["metrics"]
    del without_config.content["config"]
    del without_arrays.content["arrays"]
    assert "num-examples" in problem(without_metrics)
    assert "num-examples" in problem(answer(metrics={"train-loss": 1.0}))
    assert "manifest" in problem(without_config)
    assert "adapter" in problem(without_arrays)
    assert "adapter" in problem(answer(arrays(other=np.zeros(3, "f4"))))


def test_another_manifest():
    assert "manifest" in problem(answer(manifest="ffff"))
    assert "manifest" in problem(reply(request(), None, GOOD, "ffff"), arrays=False)


@pytest.mark.parametrize("examples", [0, -1, float("nan"), float("inf")])
def test_examples_must_be_a_positive_number(examples):
    assert "num-examples" in problem(answer(metrics=GOOD | {"num-examples": examples}))


@pytest.mark.parametrize("value", [float("nan"), float("-inf"), [0.5, float("nan")]])
def test_metrics_must_be_finite(value):
    assert "train-loss" in problem(answer(metrics=GOOD | {"train-loss": value}))


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
    found = problem(answer(arrays(adapter=array)))
    assert "adapter" in found
    assert complaint in found


@pytest.mark.parametrize("bad", BAD)
def test_further_arrays_are_checked_alike(bad):
    array, complaint = BAD[bad]
    found = problem(answer(arrays(adapter=np.zeros(3, "f4"), control_delta=array)))
    assert "control-delta" in found
    assert complaint in found


@pytest.mark.parametrize("metrics", [MetricRecord({"num-examples": [1, 2]}), ConfigRecord({"num-examples": "four"})])
def test_numbers_of_another_kind_are_a_problem_and_no_exception(metrics):
    strange = answer()
    strange.content["metrics"] = metrics
    assert "num-examples" in problem(strange)


@pytest.mark.parametrize("array", [np.zeros(1, "f4"), np.zeros(3)])
def test_arrays_that_are_not_what_they_say(array):
    """The label says float32 of shape (3,), the bytes hold another shape or dtype."""
    label = arrays(adapter=np.zeros(3, "f4"))["adapter"]
    record = ArrayRecord({"adapter": Array(label.dtype, label.shape, label.stype, Array(array).data)})
    assert problem(answer(record)) is not None
