"""Training that is stopped between two steps: the reply says why, and the next training is as if it had not been."""

import numpy as np
import pytest
from flwr.app import ConfigRecord, Context, Message, RecordDict

from fedllm_app import client_app
from fedllm_app.client.stopping import stop_when
from fedllm_app.messages import ARRAYS, CONFIG, Assignment, adapter_record
from fedllm_app.process_cache import PROCESS_CACHE


@pytest.fixture
def train(run_config):
    """Trains the same adapter of client 0 for round 1 and gives the reply."""
    PROCESS_CACHE.clear()
    config = run_config | {"train.local-steps": 3}
    context = Context(3, 11, {"partition-id": 0, "num-partitions": 4}, RecordDict(), config)
    manifest = client_app._local_client(context, 4).model.manifest
    assignment = Assignment(client=0, clients=4, server_round=1, position=0, learning_rate=1e-2, manifest=manifest.hash)

    def ask() -> Message:
        content = RecordDict({CONFIG: ConfigRecord(assignment.to_config())})
        content[ARRAYS] = adapter_record(np.full(manifest.size, 0.01, np.float32))
        message = Message(content, dst_node_id=11, message_type="train")
        message.metadata._message_id = "asked"
        return client_app.app(message, context)

    yield ask
    PROCESS_CACHE.clear()


def test_a_stop_between_two_steps_leaves_nothing(train):
    undisturbed, looks = train(), []

    def enough() -> str:
        looks.append(1)
        return "the round is over" if len(looks) > 2 else ""

    with stop_when(enough):
        stopped = train()
    assert stopped.error.reason == "client 0: Stopped: stopped before step 3 of 3: the round is over"
    assert len(looks) == 3, "asked before each of the steps, and not once more"
    assert train().content[ARRAYS] == undisturbed.content[ARRAYS]


def test_a_client_that_is_too_slow_stops_itself(train, monkeypatch):
    """The round has 3600 seconds; the clock jumps by as much at the third look, which is before step 2."""
    looks = iter([0.0, 1.0, 2.0])
    monkeypatch.setattr("fedllm_app.client.stopping.time.monotonic", lambda: next(looks, 3601.0))
    stopped = train()
    assert stopped.error.reason == "client 0: Stopped: stopped before step 3 of 3: the round's time of 3600 s is over"
