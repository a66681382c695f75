"""The journal: whole lines, and each round once."""

import errno
import os

import pytest

from fedllm_app.runs import journal
from fedllm_app.runs.journal import append_event, cut_torn_line, journal_frame, read_journal


def events(run, everything=False) -> list[tuple[str, int | None]]:
    return [(event["event"], event.get("round")) for event in read_journal(run, everything)]


def write(run, *lines: tuple[str, int | None]) -> None:
    for event, server_round in lines:
        append_event(run / "journal.jsonl", event, **({} if server_round is None else {"round": server_round}))


def test_rounds_that_were_done_again_stand_once(tmp_path):
    """Killed in round 4 after the checkpoint of round 2; of round 3 the second attempt counts."""
    first = [("started", None), ("holds", None), ("ready", None), ("evaluation", 0)]
    write(tmp_path, *first, *(("round", number) for number in (1, 2, 3)), ("client", 4), ("failed", None))
    write(tmp_path, ("resumed", 2), ("holds", None), ("ready", None), ("round", 3), ("round", 4))
    assert events(tmp_path) == [
        ("started", None),
        ("evaluation", 0),
        ("round", 1),
        ("round", 2),
        ("resumed", 2),
        ("holds", None),
        ("ready", None),
        ("round", 3),
        ("round", 4),
    ]
    assert len(events(tmp_path, everything=True)) == 14


def test_a_run_that_begins_anew_evaluates_anew(tmp_path):
    write(tmp_path, ("started", None), ("evaluation", 0), ("round", 1), ("resumed", 0), ("evaluation", 0))
    assert events(tmp_path) == [("started", None), ("resumed", 0), ("evaluation", 0)]


def test_a_line_without_an_end_is_left_out_and_cut(tmp_path):
    write(tmp_path, ("started", None), ("round", 1))
    file = tmp_path / "journal.jsonl"
    assert not cut_torn_line(file)
    whole = file.read_bytes()
    file.write_bytes(whole + b'{"event": "rou')
    assert events(tmp_path) == [("started", None), ("round", 1)]
    assert cut_torn_line(file)
    assert file.read_bytes() == whole


def test_a_full_disk_leaves_no_half_line(tmp_path, monkeypatch):
    """The disk takes ten bytes of the line; the next event is still a line of its own."""
    write(tmp_path, ("started", None))
    with monkeypatch.context() as patched:
        write_some = os.write
        patched.setattr(journal.os, "write", lambda descriptor, line: write_some(descriptor, line[:10]))
        with pytest.raises(OSError, match=os.strerror(errno.ENOSPC)):
            write(tmp_path, ("round", 1))
    write(tmp_path, ("round", 2))
    assert events(tmp_path) == [("started", None), ("round", 2)]


def test_a_journal_as_a_table(tmp_path):
    """Whole numbers stay whole where some are missing, ids of earlier versions become text, times points in time."""
    file = tmp_path / "journal.jsonl"
    append_event(file, "started", run_id=7416247408835186297, rounds=2)
    append_event(file, "client", round=1, client=3, train_loss=0.5)
    append_event(file, "round", round=1, clients=[3], train_loss=None)
    append_event(file, "resumed", run_id="8", round=1)
    append_event(file, "client", round=2, client=3, train_loss=0.25)
    frame = journal_frame(tmp_path)
    assert list(frame["event"]) == ["started", "client", "round", "resumed", "client"]
    assert frame["run_id"].dropna().tolist() == ["7416247408835186297", "8"]
    assert str(frame["round"].dtype) == "Int64"
    assert frame["round"].dropna().tolist() == [1, 1, 1, 2]
    assert str(frame["time"].dt.tz) == "UTC"
    assert abs(frame["time"].iloc[0].timestamp() - read_journal(tmp_path)[0]["time"]) < 1e-3
    assert frame["clients"].dropna().tolist() == [[3]]
    clients = journal_frame(tmp_path, "client")
    assert list(clients.columns) == ["event", "time", "round", "client", "train_loss"]
    assert clients["train_loss"].sum() == 0.75
    assert len(journal_frame(tmp_path, "nothing")) == 0


def test_a_table_has_each_round_once(tmp_path):
    write(tmp_path, ("started", None), ("round", 1), ("round", 2), ("resumed", 1), ("round", 2))
    assert journal_frame(tmp_path, "round")["round"].tolist() == [1, 2]
    assert journal_frame(tmp_path, "round", everything=True)["round"].tolist() == [1, 2, 2]
