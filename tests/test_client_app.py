"""The ClientApp at its boundary: what goes wrong in a client comes back as a reply that names it."""

import pytest
import torch
from flwr.app import ConfigRecord, Context, Message, RecordDict

from fedllm_app import client_app
from fedllm_app.fingerprint import code_hash
from fedllm_app.messages import CONFIG
from fedllm_app.training import resident


@pytest.fixture
def context(run_config):
    """A simulated node, second of four."""
    client_app.build_local_client.cache_clear()
    yield Context(
        run_id=3, node_id=11, node_config={"partition-id": 1, "num-partitions": 4}, state=RecordDict(), run_config=run_config
    )
    client_app.build_local_client.cache_clear()
    resident.release()


def ask(context, kind: str, **config) -> Message:
    message = Message(RecordDict({CONFIG: ConfigRecord(config)}), dst_node_id=11, message_type=kind)
    message.metadata._message_id = "asked"
    return client_app.app(message, context)


def test_identify_says_partition_and_code_without_loading(context):
    answer = ask(context, "query.identify").content[CONFIG]
    assert (answer["partition"], answer["partitions"], answer["code"]) == (1, 4, code_hash())
    assert resident._resident is None


def test_describe_says_what_a_client_holds(context):
    """Any node can act for any client of a simulation: node 1 describes client 3, finance."""
    answer = ask(context, "query.describe", client=3, clients=4).content[CONFIG]
    assert answer["name"] == "finance"
    assert answer["examples"] + answer["held-out"] + answer["dropped"] == 16 + 4
    assert answer["examples"] > 0
    assert answer["tokens"] > answer["examples"]


@pytest.mark.parametrize(
    ("error", "told"),
    [
        (RuntimeError("no such thing"), "client 2: RuntimeError: no such thing"),
        (MemoryError(), "client 2: out of memory"),
        (torch.OutOfMemoryError("CUDA out of memory"), "lower train.batch-size"),
        (torch.OutOfMemoryError("CUDA out of memory"), "train.gradient-checkpointing"),
        (torch.OutOfMemoryError("CUDA out of memory"), "model.quantization"),
    ],
)
def test_an_exception_becomes_an_error_reply(context, monkeypatch, error, told):
    """The process survives, the reply names client and cause; out of memory says what helps and lets the model go."""
    ask(context, "query.describe", client=2, clients=4)
    assert resident._resident is not None

    def fail(*_args):
        raise error

    monkeypatch.setattr(client_app, "_local_client", fail)
    answer = ask(context, "query.describe", client=2, clients=4)
    assert answer.has_error()
    assert told in answer.error.reason
    assert (resident._resident is None) == ("out of memory" in answer.error.reason.lower())


def test_a_site_is_named(context, monkeypatch):
    context.node_config["site"] = "north"
    answer = ask(context, "query.describe", client=0)
    assert answer.has_error()
    assert answer.error.reason.startswith("client 0 (north): ")
