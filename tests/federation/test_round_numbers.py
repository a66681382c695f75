"""What the journal says of a round's time and memory."""

import numpy as np
import pytest
from round_loop import Clients, events

from fedllm_app.messages import Assignment, reply
from fedllm_app.runs.directory import read_journal


class Measured(Clients):
    """Clients of 100 and 400 MB, and of 8 and 2 held-out rows."""

    def __call__(self, message):
        if message.metadata.message_type != "evaluate":
            return super().__call__(message)
        job = Assignment.from_message(message)
        numbers = {"num-examples": (8, 2)[job.client], "eval-loss": 1.0, "seconds": 99.0}
        numbers |= {"peak-memory-mb": (100.0, 400.0)[job.client], "peak-gpu-memory-mb": 0.0}
        return reply(message, None, numbers, job.manifest)


def test_peaks_are_the_largest_and_no_means(loop):
    """The mean of 100 and 400 weighted by 8 and 2 would be 160. In training the clients say 100 and 200 MB, and on
    their GPUs 300 and 200."""
    rounds = loop(Measured(), evaluate_every=1)
    rounds.run(np.float32([1, 2]))
    evaluations, (trained,) = events(rounds, "evaluation"), events(rounds, "round")
    assert [event["peak_memory_mb"] for event in evaluations] == [400.0, 400.0]
    assert (trained["peak_memory_mb"], trained["peak_gpu_memory_mb"]) == (200.0, 300.0)


def test_the_time_of_a_round_is_sending_waiting_and_the_rest(loop):
    """A client's own number of seconds is not that of the evaluation."""
    rounds = loop(Measured(), evaluate_every=1, rounds=2)
    rounds.run(np.float32([1, 2]))
    for event in events(rounds, "round"):
        parts = [event[f"{part}_seconds"] for part in ("send", "wait", "aggregate")]
        assert sum(parts) == pytest.approx(event["seconds"])
        assert min(parts) >= 0
    assert all(0 < event["seconds"] < 99 for event in events(rounds, "evaluation"))
    replies = events(rounds, "client", "client-evaluation")
    assert len(replies) == 2 * 2 + 3 * 2
    assert all(0 <= event["reply_seconds"] < 60 for event in replies)


def test_a_slow_reply_is_waited_for_and_its_time_is_told(loop, monkeypatch):
    """The clock goes on by one second at each look, so that replies come 1 s after each other at least."""
    now = [0.0]

    def clock() -> float:
        now[0] += 1.0
        return now[0]

    monkeypatch.setattr("fedllm_app.federation.exchange.time.monotonic", clock)
    rounds = loop(Measured(), timeout=1000.0)
    rounds.run(np.float32([1, 2]))
    first, second = events(rounds, "client")
    assert second["reply_seconds"] > first["reply_seconds"] > 0
    (trained,) = events(rounds, "round")
    assert trained["wait_seconds"] >= second["reply_seconds"] - first["reply_seconds"]


def test_totals_grow_and_are_called_so(loop):
    rounds = loop(Measured(), rounds=2)
    rounds.run(np.float32([1, 2]))
    once, twice = events(rounds, "round")
    assert twice["total_bytes_up"] == 2 * once["total_bytes_up"] > 0
    assert "bytes_up" not in once
    (client, *_) = [event for event in read_journal(rounds.directory.path) if event["event"] == "client"]
    assert client["bytes_up"] * 2 == once["total_bytes_up"]
