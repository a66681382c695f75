"""Whatever one client answers, its reply is refused with the reason and the others' mean stands, bit for bit."""

import io
import random

import numpy as np
import pytest
from flwr.app import Array, ArrayRecord, ConfigRecord, Error, Message, MetricRecord, RecordDict

from fedllm_app.federation.closing import Quorum
from fedllm_app.federation.exchange import PlainExchange
from fedllm_app.federation.ledger import Ledger
from fedllm_app.federation.rounds import Rounds
from fedllm_app.federation.schedule import Schedule
from fedllm_app.federation.sent_once import SentOnce
from fedllm_app.federation.wire_arrays import UnreadableArray, read_arrays
from fedllm_app.messages import Assignment, failure, read_vectors, reply, vectors_record
from fedllm_app.runs.directory import RunDirectory, read_journal
from fedllm_app.strategies.registry import build_strategy
from fedllm_app.updates.chain import UpdateChain
from fedllm_app.updates.update import UpdateStep

START = np.array([1.0, 2.0], np.float32)
BAD = 1  # the client whose replies are spoilt
HELD = 16


def honest(message):
    """Client k moves by (k + 1) / 10."""
    job = Assignment.from_message(message)
    metrics = {
        "num-examples": 4,
        "client": job.client,
        "train-loss": 1.0,
        "peak-memory-mb": 1.0,
        "peak-gpu-memory-mb": 0.0,
    }
    if message.metadata.message_type == "evaluate":
        return reply(message, None, metrics | {"eval-loss": 1.0}, job.manifest)
    vectors = {name: np.full(2, (job.client + 1) / 10, np.float32) for name in ("adapter", "control-delta")}
    vectors["adapter"] += read_vectors(message)["adapter"]
    if "control" not in read_vectors(message):
        del vectors["control-delta"]
    return reply(message, vectors_record(vectors), metrics, job.manifest)


@pytest.fixture
def outcome(tmp_path, make_grid):
    """A function that gives the final adapter and the journal of a run whose client BAD answers what `spoil` makes of
    its reply."""

    def run(spoil, strategy="fedavg", clients=4, rounds=1, evaluate=0, chain=None, everyone=None):
        def answer(message):
            good = honest(message)
            if everyone is not None:
                failed = everyone(good, message.content["config"]["client"])
                return failure(message, failed) if failed else good
            if message.content["config"]["client"] != BAD:
                return good
            return spoil(good) or good

        directory = RunDirectory(tmp_path / f"run-{len(list(tmp_path.iterdir()))}")
        directory.create({})
        made = build_strategy(strategy, {}, clients)
        ledger = Ledger(directory, clients)
        ledger.know({client: f"owner {client}" for client in range(clients)})
        chain, once = chain or UpdateChain(), SentOnce({}, range(clients))
        exchange = PlainExchange(
            make_grid(answer, at_once=clients),
            {client: 500 - client for client in range(clients)},
            manifest="m",
            required=made.reply_arrays,
            timeout=60.0,
            ledger=ledger,
            chain=chain,
            once=once,
            examples=dict.fromkeys(range(clients), HELD),
            held_out=dict.fromkeys(range(clients), HELD),
        )
        schedule = Schedule(
            clients=clients,
            rounds=rounds,
            per_round=0,
            local_steps=1,
            max_learning_rate=1e-3,
            min_learning_rate=1e-4,
            evaluate_every=evaluate,
            checkpoint_every=0,
            seed=7,
        )
        loop = Rounds(
            made, schedule, exchange, ledger, chain, once, "m", lambda point: None, quorum=Quorum(minimum=0.0)
        )
        return loop.run(START), read_journal(directory.path)

    return run


def refused(journal):
    return [event for event in journal if event["event"] == "refused"]


def npy(array, **options):
    file = io.BytesIO()
    np.save(file, array, **options)
    return file.getvalue()


def raw(data, stype="numpy.ndarray", **more):
    return ArrayRecord({"adapter": Array("float32", (2,), stype, data), **more})


def put(key, value):
    def spoil(answer):
        answer.content[key] = value

    return spoil


def numbers(drop=(), **more):
    def spoil(answer):
        kept = {name: value for name, value in answer.content["metrics"].items() if name not in drop}
        answer.content["metrics"] = MetricRecord(kept | {name.replace("_", "-"): value for name, value in more.items()})

    return spoil


def values(array, name="adapter"):
    return put("arrays", ArrayRecord({name: Array(np.asarray(array))}))


def smuggled(**metrics):
    """Metrics that a MetricRecord would refuse, as a client that is not Flower's could send them."""

    def spoil(answer):
        dict.update(answer.content["metrics"].__dict__["_data"], metrics)

    return spoil


GOOD = npy(np.ones(2, np.float32))
NAMED = {
    "bytes that are no array": (put("arrays", raw(b"garbage")), "adapter of the reply cannot be read"),
    "no bytes": (put("arrays", raw(b"")), "cannot be read"),
    "a pickled array": (put("arrays", raw(npy(np.array([{}], object), allow_pickle=True))), "dtype object"),
    "a header of 1e12 values": (
        put("arrays", raw(GOOD.replace(b"(2,), }          ", b"(1000000000000,), }"[:17]))),
        "cannot be read",
    ),
    "more bytes than its header says": (put("arrays", raw(GOOD + b"\0" * 4)), "cannot be read"),
    "fewer bytes": (put("arrays", raw(GOOD[:-1])), "cannot be read"),
    "another serialization": (put("arrays", raw(GOOD, "pickle")), "serialization is 'pickle'"),
    "a ConfigRecord as arrays": (put("arrays", ConfigRecord({"adapter": "x"})), "records that were not asked for"),
    "metrics as a ConfigRecord": (put("metrics", ConfigRecord({"num-examples": 1})), "no num-examples"),
    "a list of metrics as config": (put("config", MetricRecord({"manifest": 1})), "another adapter manifest"),
    "a manifest of bytes": (put("config", ConfigRecord({"manifest": b"m"})), "another adapter manifest"),
    "a second ArrayRecord": (put("more", ArrayRecord({})), "records that were not asked for"),
    "a second MetricRecord": (put("more", MetricRecord({"x": 1.0})), "records that were not asked for"),
    "no arrays": (lambda answer: answer.content.pop("arrays"), "carries no adapter"),
    "an array of another name": (values(np.ones(2, "f4"), "other"), "carries no adapter"),
    "a further array": (put("arrays", raw(GOOD, more=Array(np.ones(2, "f4")))), "array more, which was not asked for"),
    "float64": (values(np.ones(2)), "dtype float64"),
    "another shape": (values(np.ones(3, "f4")), "shape (3,)"),
    "a matrix": (values(np.ones((1, 2), "f4")), "shape (1, 2)"),
    "big endian": (values(np.ones(2, ">f4")), "dtype >f4"),
    "complex": (values(np.ones(2, "c8")), "dtype complex64"),
    "NaN": (values(np.array([0, np.nan], "f4")), "not finite"),
    "minus infinity": (values(np.array([0, -np.inf], "f4")), "not finite"),
    "1e30": (values(np.array([0, 1e30], "f4")), "magnitude 1e+30, more than 1e+06"),
    "-2e6": (values(np.array([-2e6, 0], "f4")), "magnitude 2e+06, more than 1e+06"),
    "a count of 0": (numbers(num_examples=0), "whole number of at least 1"),
    "a count of -3": (numbers(num_examples=-3), "whole number of at least 1"),
    "a count of a half": (numbers(num_examples=0.5), "whole number of at least 1"),
    "a count of NaN": (numbers(num_examples=float("nan")), "whole number of at least 1"),
    "a count of 1e18": (numbers(num_examples=10**18), "holds 16"),
    "one example too many": (numbers(num_examples=HELD + 1), "holds 16"),
    "a list of counts": (numbers(num_examples=[1, 2]), "num-examples is a list"),
    "a count that is true": (smuggled(**{"num-examples": True}), "num-examples is a bool"),
    "a count that is text": (smuggled(**{"num-examples": "four"}), "num-examples is a str"),
    "no count": (numbers(drop=["num-examples"]), "no num-examples"),
    "a loss that is text": (smuggled(**{"train-loss": "low"}), "train-loss is a str"),
    "a loss of infinity": (numbers(train_loss=float("inf")), "train-loss is not finite"),
    "a loss of 1e300": (numbers(train_loss=1e300), "more than 1e+290"),
    "a list as peak memory": (numbers(peak_memory_mb=[1.0]), "peak-memory-mb is a list"),
    "a list of 100,000": (numbers(x=[1.0] * 100_000), "x is a list of 100000"),
    "5,000 metrics": (numbers(**{f"x{n}": 1.0 for n in range(5000)}), "5005 metrics"),
    "a metric named with a bell": (numbers(**{"\a": 1.0}), "cannot be printed"),
    "a metric named right to left": (numbers(**{"x\u202ey": 1.0}), "cannot be printed"),
    "a metric of a long name": (numbers(**{"x" * 100_000: 1.0}), "100000 characters"),
    "another client's name": (numbers(client=3), "names client 3"),
    **{
        f"a metric called {name}": (numbers(**{name: 9}), "name of a field of the journal")
        for name in ("round", "event", "name", "time", "bytes_down", "clients", "file", "self")
    },
}


def without_the_bad_client(outcome, **how):
    final, journal = outcome(lambda answer: Message(Error(code=2, reason="client 1: absent"), reply_to=asked()), **how)
    assert {event["reason"] for event in refused(journal)} == {"client 1: absent"}
    return final.tobytes()


def asked():
    """The request of client BAD, which is the second message of the only round."""
    message = Message(RecordDict({}), dst_node_id=500 - BAD, message_type="train")
    message.metadata._message_id = f"message-{BAD:04d}"
    return message


@pytest.fixture
def expected(outcome):
    return without_the_bad_client(outcome)


@pytest.mark.parametrize("what", NAMED)
def test_a_bad_reply_is_refused_with_its_reason(outcome, expected, what):
    spoil, reason = NAMED[what]
    final, journal = outcome(lambda answer: spoil(answer) and None)
    (event,) = refused(journal)
    assert reason in event["reason"]
    assert (event["client"], event["during"], len(event["reason"]) < 500) == (BAD, "train", True)
    assert final.tobytes() == expected


def test_error_texts_are_shortened_and_cleaned(outcome, expected):
    text = "client 1: \x1b[2J\u202e[/x]" + "A" * 5_000_000
    final, journal = outcome(lambda answer: Message(Error(code=2, reason=text), reply_to=asked()))
    (event,) = refused(journal)
    assert event["reason"].startswith("client 1:  [2J [/x]AAA")
    assert len(event["reason"]) < 1100
    assert final.tobytes() == expected


def mutated(answer, draw):
    """Spoil a reply at random: bits of its bytes, types and values of its numbers, records and names."""

    def bits():
        data = bytearray(answer.content["arrays"]["adapter"].data)
        for _ in range(draw.choice((1, 1, 3, 20))):
            data[draw.randrange(len(data))] = draw.randrange(256)
        answer.content["arrays"] = raw(
            bytes(data[: draw.choice((len(data), len(data), draw.randrange(len(data) + 1)))])
        )

    def number():
        strange = [0, -1, 2**63 - 1, 1e308, float("nan"), True, None, "x", b"x", [], [1e9] * 99, {}, 10**400, (1,)]
        name = draw.choice(
            ["num-examples", "client", "train-loss", "peak-memory-mb", "é", "", "a b", "[/x]", "seconds"]
        )
        smuggled(**{name: draw.choice(strange)})(answer)

    def record():
        records = [ArrayRecord({}), MetricRecord({}), ConfigRecord({}), MetricRecord({"num-examples": [3]}), None, "x"]
        key = draw.choice(["arrays", "metrics", "config", "", "\0", "more"])
        answer.content.__dict__["_data"][key] = draw.choice(records)

    def drop():
        answer.content.pop(draw.choice(["arrays", "metrics", "config"]), None)

    def array():
        kind = draw.choice(["f4", "f8", "f2", "i8", "u1", "c8", "?", "S4", "M8[s]", ">f4", "V8"])
        shape = draw.choice([(2,), (), (0,), (1, 2), (2, 1), (3,)])
        answer.content["arrays"] = ArrayRecord({draw.choice(["adapter", "", "x"]): Array(np.zeros(shape, kind))})

    def header():
        shape = draw.choice(["(-2,)", "(2**9,)", "2", "(2.0,)", "(True,)", "(10**30,)", "((2,),)", "('2',)"])
        described = f"{{'descr': '<f4', 'fortran_order': {draw.choice(['True', '0', '[]'])}, 'shape': {shape}, }}\n"
        head = b"\x93NUMPY" + bytes([draw.choice([0, 1, 2, 3, 255]), 0]) + len(described).to_bytes(2, "little")
        answer.content["arrays"] = raw(head + described.encode() + b"\0" * 8)

    draw.choice([bits, number, record, drop, array, header])()


MUTATED = 300


@pytest.mark.parametrize("strategy", ["fedavg", "fedmedian"])
def test_no_mutation_of_a_reply_ends_the_run(outcome, strategy):
    """Every client but three spoils its reply in a way of its own. Those that are refused might as well have said that
    they failed: bit for bit the same adapter."""

    def spoil(answer, client):
        if client > 2:
            mutated(answer, random.Random(client))

    final, journal = outcome(None, strategy=strategy, clients=MUTATED, everyone=spoil)
    told = {event["client"]: event["reason"] for event in refused(journal)}
    assert 150 < len(told) < MUTATED - 3
    assert all(reason.isprintable() and len(reason) < 500 for reason in told.values())

    def absent(answer, client):
        return "absent" if client in told else spoil(answer, client)

    again, journal = outcome(None, strategy=strategy, clients=MUTATED, everyone=absent)
    assert [event["client"] for event in refused(journal)] == sorted(told)
    assert np.isfinite(final).all()
    assert final.tobytes() == again.tobytes()


@pytest.mark.parametrize("strategy", ["fedavg", "fedadam", "scaffold", "fedmedian", "flwr.serverapp.strategy.FedAvg"])
def test_metrics_that_others_lack_or_have_end_no_round(outcome, strategy):
    """Flower's strategies insist on the same names from all."""
    for spoil in (numbers(own=1.0), numbers(drop=["train-loss", "eval-loss"])):
        final, journal = outcome(lambda answer, spoil=spoil: spoil(answer), strategy=strategy, rounds=2, evaluate=1)
        assert not refused(journal)
        assert len([event for event in journal if event["event"] == "evaluation"]) >= 2
        plain, _ = outcome(lambda answer: None, strategy=strategy, rounds=2)
        assert final.tobytes() == plain.tobytes()


def test_an_evaluation_is_looked_at_as_carefully(outcome):
    """Three spoilt evaluations before and after the rounds leave training as it is."""
    plain, _ = outcome(lambda answer: None, rounds=2)

    def spoil(answer):
        if "eval-loss" in answer.content["metrics"]:
            next(spoilings)(answer)

    spoilings = iter([numbers(clients=1.0), numbers(num_examples=HELD + 1), values(np.ones(2, "f4"))])
    final, journal = outcome(spoil, rounds=2, evaluate=1)
    assert [(event["client"], event["during"]) for event in refused(journal)] == [(BAD, "evaluate")] * 3
    assert final.tobytes() == plain.tobytes()


def test_encoded_arrays_are_bounded_before_they_are_decoded():
    """An update step's bytes may have any shape, but no more of them than twice the vector and 64 kB."""
    small, large = (ArrayRecord({"adapter": Array(np.zeros(size, "u1"))}) for size in (300, 70_000))
    assert read_arrays(small, 2, encoded=True)["adapter"].shape == (300,)
    with pytest.raises(UnreadableArray, match="adapter takes 70000 bytes, the adapter 8"):
        read_arrays(large, 2, encoded=True)
    with pytest.raises(UnreadableArray, match=r"shape \(300,\)"):
        read_arrays(small, 2, encoded=False)


class Counting(UpdateStep):
    """Passes updates on, and counts the replies that the server read."""

    name = "counting"

    def __init__(self):
        self.replies = 0

    def on_server(self, arrays, size):
        self.replies += 1
        return arrays


def test_a_steps_own_state_advances_once_a_reply(outcome):
    step = Counting()
    outcome(lambda answer: None, chain=UpdateChain((step,)), clients=4, rounds=3)
    assert step.replies == 12
