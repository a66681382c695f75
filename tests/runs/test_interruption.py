"""What a journal says of a run that was ended from outside."""

import json

import pytest

from fedllm_app.runs.directory import RunDirectory
from fedllm_app.runs.interruption import REASON, journal_interruption
from fedllm_app.runs.journal import read_journal


@pytest.fixture
def run(tmp_path) -> RunDirectory:
    directory = RunDirectory(tmp_path / "run")
    directory.create({})
    return directory


def kinds(run: RunDirectory) -> list[str]:
    return [event["event"] for event in read_journal(run.path)]


def test_an_open_run_is_journaled_once(run):
    run.journal("started", run_id=1)
    assert journal_interruption(run.path)
    assert read_journal(run.path)[-1]["reason"] == REASON
    assert not journal_interruption(run.path)
    assert kinds(run) == ["started", "failed"]


def test_a_line_that_was_being_written_is_cut(run):
    run.journal("started", run_id=1)
    with open(run.journal_file, "a") as file:
        file.write('{"event": "rou')
    assert journal_interruption(run.path)
    assert kinds(run) == ["started", "failed"]


def test_a_run_that_never_began_says_so_too(run):
    assert journal_interruption(run.path)
    assert kinds(run) == ["failed"]
    assert not run.began()


def test_a_run_that_failed_before_and_was_started_again(run):
    for event in ("started", "failed", "started"):
        run.journal(event)
    assert journal_interruption(run.path)


@pytest.mark.parametrize("ends", ["a result", "its own reason", "no directory", "another run"])
def test_what_is_left_alone(run, ends):
    run.journal("started", run_id=1)
    if ends == "a result":
        run.result_file.write_text(json.dumps({}))
    elif ends == "its own reason":
        run.journal("failed", reason="its own")
    elif ends == "no directory":
        assert not journal_interruption(run.path / "nowhere")
        assert not (run.path / "nowhere").exists()
        return
    before = kinds(run)
    if ends == "another run":
        with run.held():
            assert not journal_interruption(run.path)
    else:
        assert not journal_interruption(run.path)
    assert kinds(run) == before


def test_an_end_without_a_result_is_none(run):
    """Killed between the journal's last line and the result."""
    run.journal("started", run_id=1)
    run.journal("finished")
    assert journal_interruption(run.path)
