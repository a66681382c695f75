"""When replies are no longer waited for, and how many make a round."""

import pytest

from fedllm_app.federation.closing import Closing, Quorum


@pytest.mark.parametrize(
    ("share", "drawn", "least"),
    [(0.5, 4, 2), (0.5, 3, 2), (0.5, 1, 1), (0.0, 7, 1), (1.0, 5, 5), (0.1, 30, 3), (0.8, 5, 4), (0.8, 4, 4)],
)
def test_shares_are_rounded_up(share, drawn, least):
    """0.1 * 30 is 3.0000000000000004 in floating point, and 3 clients are a tenth of 30."""
    assert Quorum(minimum=share).least(drawn) == least
    assert Quorum(minimum=0.0, enough=share or 0.01).enough_of(drawn) == least


def test_a_strategy_may_need_more():
    assert Quorum(minimum=0.5).least(6, needed=5) == 5
    assert Quorum(minimum=0.5).least(6, needed=2) == 3
    assert Quorum(minimum=0.1, enough=0.2).enough_of(10, needed=7) == 7


@pytest.fixture
def clock(monkeypatch):
    """The seconds that have passed, in a list of one number."""
    now = [100.0]
    monkeypatch.setattr("fedllm_app.federation.closing.time.monotonic", lambda: now[0])
    return now


def test_the_time_begins_when_the_messages_are_sent(clock):
    closing = Closing(10.0)
    assert not closing.over()
    clock[0] += 50
    closing.begin()
    clock[0] += 9.9
    assert not closing.over()
    clock[0] += 0.1
    assert closing.over()
    assert closing.reason() == "no reply within run.round-timeout = 10 s"


def test_enough_usable_replies_leave_the_others_the_grace_time(clock):
    closing = Closing(100.0, enough=2, grace=5.0)
    closing.begin()
    closing.usable()
    clock[0] += 50
    assert not closing.over()
    closing.usable()
    clock[0] += 4.9
    closing.usable()  # a third one within the grace time does not lengthen it
    assert not closing.over()
    clock[0] += 0.2
    assert closing.over()
    assert "clients.grace = 5 s after 2 of the clients" in closing.reason()


def test_the_grace_time_never_outlasts_the_deadline(clock):
    closing = Closing(10.0, enough=1, grace=30.0)
    closing.begin()
    clock[0] += 8
    closing.usable()
    clock[0] += 2
    assert closing.over()
    assert closing.reason() == "no reply within run.round-timeout = 10 s"
