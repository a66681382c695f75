"""Following a run over a connection: its events come out of Flower's log, once each, whatever happens to the stream."""

import io

import pytest
from rich.console import Console

from fedllm_app.commands import follow as module
from fedllm_app.commands import log_stream
from fedllm_app.commands.attach import follow_connection
from fedllm_app.commands.follow import Outcome, exit_status, follow, say_end
from fedllm_app.commands.log_stream import LogEvents, printable
from fedllm_app.commands.watch import Watch
from fedllm_app.runs.event_lines import EventWriter

SETTINGS = {
    "event": "settings",
    "directory": "/far/run",
    "rounds": 2,
    "per_round": 0,
    "local_steps": 1,
    "metrics": {"eval_loss": "loss"},
}
STARTED = {"event": "started", "run_id": 7, "rounds": 2, "strategy": "fedavg"}
RESULT = dict.fromkeys(
    ("seconds", "seconds_of_rounds", "bytes_down", "bytes_up", "peak_client_memory_mb", "peak_client_gpu_memory_mb"),
    1.0,
) | {"event": "result", "strategy": "fedavg", "rounds": 2, "refused_replies": 0}


class Stream:
    """A log that gives the lines of one look after the other."""

    def __init__(self, *looks: list[str]) -> None:
        self.looks = list(looks)
        self.complete = False

    def lines(self) -> list[str]:
        if len(self.looks) <= 1:
            self.complete = True
        return self.looks.pop(0) if self.looks else []

    def close(self) -> None:
        self.closed = True


def lines_of(*events: dict) -> list[str]:
    lines: list[str] = []
    writer = EventWriter(lambda line: lines.append(f"\x1b[92mINFO \x1b[0m:      {line}"))
    for event in events:
        writer(event)
    return lines


@pytest.fixture
def console():
    return Console(file=io.StringIO(), width=300)


@pytest.fixture(autouse=True)
def no_waiting(monkeypatch):
    for name in ("_LOOK_EVERY", "_LAST_WORDS"):
        monkeypatch.setattr(module, name, 0.0)
    monkeypatch.setattr(log_stream, "_HELD", 0.0)


def followed(console, *looks: list[str], status=("finished:completed", "")) -> tuple[Outcome, str]:
    outcome = follow(7, [LogEvents(Stream(*looks))], Watch(console), lambda: status)
    return outcome, console.file.getvalue()


def test_a_run_of_another_machine_looks_as_one_of_this(console):
    lines = lines_of(
        SETTINGS,
        STARTED,
        {"event": "round", "round": 1, "train_loss": 1.5, "clients": [0], "seconds": 3.0},
        {"event": "evaluation", "round": 1, "eval_loss": 0.25},
        RESULT,
    )
    outcome, said = followed(console, lines[:2], [], lines[2:])
    assert outcome and outcome.directory == "/far/run"
    assert outcome.result["bytes_up"] == 1.0
    for part in ("run 7: 2 rounds of fedavg", "round 1/2: training loss 1.500", "after round 1: loss 0.250"):
        assert part in said


def test_a_run_that_ended_while_flower_was_asked_is_not_taken_for_a_dead_one(console):
    """Its process is gone, and its last words are there: they are read before anybody says that it died."""
    lines = lines_of(SETTINGS, STARTED, RESULT)
    arguments = [7, [LogEvents(Stream(lines[:2], lines[2:]))], Watch(console), lambda: ("running", "")]
    outcome = follow(*arguments, gone=lambda: "its process was ended")
    assert outcome and "was ended" not in console.file.getvalue()
    outcome = follow(7, [LogEvents(Stream(lines[:2], []))], Watch(console), lambda: ("running", ""), lambda: "it died")
    assert not outcome and outcome.told and "it died" in console.file.getvalue()


def test_a_stream_that_breaks_repeats_no_event(console):
    """Opened again, it begins at the run's first line."""
    lines = lines_of(SETTINGS, STARTED, {"event": "warning", "reason": "few rows"}, RESULT)
    _, said = followed(console, lines[:3], lines[:3], lines)
    assert said.count("few rows") == 1
    assert said.count("run 7") == 1


def test_warnings_of_the_server_are_shown_once(console):
    """Those of the journal come twice in a log, in either order; control characters do not reach the terminal."""
    first, second, third = lines_of(SETTINGS, {"event": "warning", "reason": "few rows"}, RESULT)
    plain = "\x1b[93mWARNING \x1b[0m:   few rows"
    other = "\x1b[93mWARNING \x1b[0m:   the disk is \x1b]0;x\x07nearly full [/x]"
    _, said = followed(console, [first, plain, second, plain, other, "INFO :  nothing"], [third])
    assert said.count("few rows") == 1
    assert "server: the disk is ]0;xnearly full [/x]" in said
    assert "nothing" not in said


def test_a_run_that_fails_says_why(console):
    outcome, said = followed(
        console, lines_of(SETTINGS, STARTED, {"event": "failed", "reason": "nobody [/x] answered"})
    )
    assert not outcome and outcome.told
    assert "nobody [/x] answered" in said


def test_a_server_that_never_began_is_explained_by_flower(console):
    outcome, said = followed(console, ["ERROR :  no module"], status=("finished:failed", "ServerApp failed: no module"))
    assert not outcome and not outcome.told
    assert "finished:failed: ServerApp failed: no module" in said


def test_an_end_that_got_lost_is_asked_for(console):
    outcome, _ = followed(console, lines_of(SETTINGS, STARTED))
    assert outcome and outcome.result is None


def test_a_run_among_many_ends_in_one_line(console):
    """And one that stands alone in a table."""
    say_end(Outcome(True, RESULT, "/runs/one"), console, lambda: "", here=True, seconds=2.5, brief=True)
    (line,) = console.file.getvalue().splitlines()
    assert line.startswith("finished: seconds 2.5 (after the start of Flower 1.0, rounds 1.0); sent to clients 0.00 MB")
    assert line.endswith("run directory /runs/one")
    say_end(Outcome(True, RESULT, "/runs/one"), console, lambda: "", here=True)
    assert "run finished" in console.file.getvalue()


def test_the_status_is_that_of_a_local_run():
    never = [{"client": 1, "name": "oslo", "drawn": 2, "took_part": 0}]
    assert exit_status(Outcome(True, RESULT)) == 0
    assert exit_status(Outcome(True, RESULT | {"participation": never})) == 3
    assert exit_status(Outcome(False)) == 1


def test_a_dead_superlink_of_this_machine_ends_it(console):
    outcome = follow(7, [LogEvents(Stream([], []))], Watch(console), lambda: ("running", ""), lambda: "it was ended")
    assert not outcome
    assert "it was ended" in console.file.getvalue()


def test_an_interrupted_command_says_how_to_go_on(console, monkeypatch):
    def interrupt(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr("fedllm_app.commands.attach.follow", interrupt)
    with pytest.raises(SystemExit) as ended:
        follow_connection(7, "sites", None, Watch(console))
    assert ended.value.code == 130
    said = console.file.getvalue()
    assert "run 7 goes on" in said
    assert "fedllm watch 7 sites" in said
    assert "fedllm stop 7 sites" in said


def test_long_lines_are_cut():
    assert printable("x" * 10_000) == "x" * 500 + " …"
