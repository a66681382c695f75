"""Whole runs in one process: a round that is repeated leaves no trace, on the server and on the clients' disks."""

import pytest
from flwr.app import Error, Message
from in_process import InProcessGrid, resume_in_process, run_in_process

from fedllm_app.federation.rounds import RunFailed
from fedllm_app.runs.directory import read_journal

LOST = {(1, 0), (2, 1), (2, 2)}  # (round, client)


class Losing(InProcessGrid):
    """Loses what the clients of `LOST` have trained the first time: they trained, and their state is on their disks."""

    def __init__(self, *arguments) -> None:
        super().__init__(*arguments)
        self.lost = set(LOST)

    def push_messages(self, messages):
        messages = list(messages)
        ids = super().push_messages(messages)
        for message, message_id in zip(messages, ids, strict=True):
            asked = message.content["config"]
            place = (asked.get("server-round"), asked.get("client"))
            if message.metadata.message_type == "train" and place in self.lost:
                self.lost.remove(place)
                self.replies[message_id] = Message(Error(code=2, reason="lost on the way"), reply_to=message)
        return ids


class Deaf(Losing):
    """Loses what client 1 has trained in round 2, always."""

    def push_messages(self, messages):
        self.lost = {(2, 1)}
        return super().push_messages(messages)


def test_a_repeated_round_ends_with_the_same_bytes(run_config, tmp_path):
    """Both rounds are repeated: control variates, rounding errors and positions are those of a calm run, to the bit.

    So are those of a run that failed in round 2, without a checkpoint due, and was resumed.
    """
    flat = run_config | {
        "strategy.name": "scaffold",
        "update.compress": "int8",
        "clients.number": 3,
        "clients.minimum": 1.0,
        "evaluate.every": 0,
        "run.checkpoint-every": 0,
    }
    calm = run_in_process(flat, tmp_path / "calm")
    troubled = run_in_process(flat, tmp_path / "troubled", Losing)
    assert [event["round"] for event in read_journal(tmp_path / "troubled") if event["event"] == "too-few"] == [1, 2]
    assert troubled == calm

    with pytest.raises(RunFailed, match="2 of 3 clients gave a usable reply"):
        run_in_process(flat, tmp_path / "failed", Deaf)
    assert resume_in_process(flat, tmp_path / "failed") == calm
