"""Events as lines of a log: whole, once, in order, and from the server only."""

import pytest

from fedllm_app.runs.event_lines import EventReader, EventWriter


@pytest.fixture
def lines() -> list[str]:
    return []


@pytest.fixture
def write(lines):
    return EventWriter(lines.append)


def read(lines: list[str]) -> list[dict]:
    reader = EventReader()
    return [event for line in lines if (event := reader.read(line)) is not None]


def test_what_is_written_is_read(write, lines):
    events = [
        {"event": "warning", "reason": "a\nb\u2028c\x1b[31m ü"},
        {"event": "round", "train_loss": None, "clients": []},
    ]
    for event in events:
        write(event)
    assert all(len(line) < 4_100 and line.isascii() and line.isprintable() for line in lines)
    assert read(["other", f"INFO : {lines[0]}", "", *lines[1:]]) == events


def test_a_long_event_is_several_lines_and_whole(write, lines):
    event = {"event": "finished", "participation": [{"name": f"site {n}"} for n in range(2_000)]}
    write(event)
    assert len(lines) > 5
    assert read(lines) == [event]
    assert read(lines[1:]) == []  # its beginning is missing


def test_an_event_without_bounds_is_cut(write, lines):
    write({"event": "failed", "reason": "x" * 3_000_000, "participation": [1]})
    (event,) = read(lines)
    assert event["event"] == "failed"
    assert event["reason"] == "x" * 2_000
    assert event["left_out"] == ["participation"]


def test_lines_that_come_again_are_no_new_events(write, lines):
    for number in range(3):
        write({"event": "round", "round": number})
    assert [event["round"] for event in read([*lines[:2], *lines])] == [0, 1, 2]


def test_text_of_a_client_is_no_event(write, lines):
    """Without the run's mark, whatever its number is; what is not JSON is nothing."""
    write({"event": "settings"})
    mark = lines[0].split()[1]
    forged = 'fedllm-event 0123456789abcdef 2 1/1 {"event": "result"}'
    broken = f"fedllm-event {mark} 2 1/1 {{"
    write({"event": "round"})
    assert [event["event"] for event in read([lines[0], forged, broken, lines[1]])] == ["settings"]
    assert [event["event"] for event in read([lines[0], forged, lines[1]])] == ["settings", "round"]
