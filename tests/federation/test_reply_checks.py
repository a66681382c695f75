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
    found = reply_problem(answer, MANIFEST, client=0)
    if found is not None or not arrays:
        return found
    vectors = {name: array.numpy() for name, array in answer.content.get("arrays", {}).items()}
    return array_problem(vectors, 3, ["adapter", *(["control-delta"] if "control-delta" in vectors else [])])


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


def test_more_examples_than_the_client_holds():
    """One client that says 1e18 would be the global model."""
    claimed = answer(metrics=GOOD | {"num-examples": 10**18})
    assert "more than 1000000000000" in reply_problem(claimed, MANIFEST, client=0)
    assert "the client said before round 1 that it holds 16" in reply_problem(claimed, MANIFEST, 0, most_examples=16)
    assert reply_problem(answer(), MANIFEST, 0, most_examples=4) is None


def test_a_reply_in_another_clients_name():
    assert reply_problem(answer(metrics=GOOD | {"client": 3}), MANIFEST, client=3) is None
    assert "names client 3, and client 1 was asked" in reply_problem(answer(metrics=GOOD | {"client": 3}), MANIFEST, 1)


@pytest.mark.parametrize("name", ["round", "name", "event", "time", "bytes-up", "bytes_down"])
def test_metrics_with_names_of_the_journal(name):
    assert f"the metric {name} has the name of a field" in problem(answer(metrics=GOOD | {name: 1.0}))


def test_further_records():
    """Flower's strategies insist on one record of each kind, so a second one would end the run of all."""
    more = answer()
    more.content["more"] = ArrayRecord({"x": Array(np.zeros(3, "f4"))})
    assert "records that were not asked for" in problem(more)


def test_what_a_client_writes_is_shortened_and_printable():
    """Control characters and line breaks become blanks; 5,000 characters become 1,000 and a note of the length."""
    told = problem(failure(request(), "\x1b[31mred\nnew line" + "x" * 5000))
    assert told.startswith(" [31mred new line")
    assert told.endswith("… (5017 characters)")
    assert len(told) < 1030
