"""Following a run to its end: its events from its journal or from Flower's log, and how it ended."""

import shlex
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from itertools import dropwhile
from pathlib import Path
from typing import Protocol

from rich.console import Console

from fedllm_app.client.progress import Tail, progress_file
from fedllm_app.commands.flower import LaunchError, tail
from fedllm_app.commands.watch import Watch, summary, summary_line
from fedllm_app.federation.participation import never_contributed
from fedllm_app.runs.checkpoints import checkpoint_directories
from fedllm_app.runs.directory import RunDirectory, read_result
from fedllm_app.runs.journal import RESUMED, STARTED

_LOOK_EVERY = 0.3  # seconds between looks at the events
_ASK_FLOWER_EVERY = 20.0  # seconds of silence after which Flower is asked whether the run is alive
_UNANSWERED = 15  # times in a row that Flower may fail to answer
_LAST_WORDS = 5.0  # seconds that the last events may take after Flower says that the run has ended
_INCOMPLETE = 3  # exit status

Status = Callable[[], tuple[str, str]]


@dataclass(frozen=True)
class Outcome:
    """How a run ended; true if it finished.

    `result` is the content of its result file, if that can be known here; `directory` is where its files are, on the
    machine of its server; `told` says that the user has seen a reason.
    """

    finished: bool
    result: Mapping | None = None
    directory: str = ""
    told: bool = False

    def __bool__(self) -> bool:
        return self.finished


class Source(Protocol):
    """Where a run's events come from."""

    def new(self) -> list[dict]:
        """The events since the last look, oldest first. The last one is `result` or `failed`."""

    @property
    def complete(self) -> bool:
        """Whether no more can come."""


class FileEvents:
    """The events of a run from its directory, from its own start on: an earlier run that failed may have left some."""

    complete = False

    def __init__(self, directory: RunDirectory, run_id: int) -> None:
        self.path, self._run_id = directory.path, run_id
        self._journal = Tail(directory.journal_file)
        self._started = self._ended = False

    def new(self) -> list[dict]:
        """The events since the last look, and the result as the last."""
        try:
            result = read_result(self.path)  # before the journal, so that nothing of it is missed
            events = self._journal.new()
        except OSError:  # a path that this machine does not allow, of a run on another one
            return []
        if not self._started:
            events = list(dropwhile(self._of_others, events))
            self._started = bool(events)
        if result is not None and self._started and not self._ended:
            self._ended = True
            events.append({**result, "event": "result"})
        return events

    def _of_others(self, event: dict) -> bool:
        return event["event"] not in (STARTED, RESUMED) or str(event["run_id"]) != str(self._run_id)


def follow(
    run_id: int,
    sources: Iterable[Source],
    watch: Watch,
    status: Status,
    gone: Callable[[], str] = lambda: "",
    directory: str = "",
) -> Outcome:
    """Show a run until it ends.

    Parameters
    ----------
    sources : Iterable[Source]
        Of several, the first that has an event is believed.
    status : Status
        Asks Flower for the state of the run and for what it says of the reason.
    gone : Callable[[], str]
        Why nothing more can come, for example because the SuperLink of this machine was ended; "" while it can.
    directory : str
        The run directory, as far as it is known.

    Raises
    ------
    LaunchError
        Flower does not answer any more.
    """
    following = _Following(run_id, list(sources), watch, status, directory)
    with watch:
        while (outcome := following.look()) is None:
            if reason := gone():  # asked for the status of a run, Flower would start another SuperLink
                # It may have come to its end since the look: asking Flower takes seconds on a busy machine.
                if (outcome := following.hear()) is not None:
                    break
                watch.console.print(reason, style="red", markup=False, highlight=False, soft_wrap=True)
                return Outcome(False, directory=following.directory, told=True)
            time.sleep(_LOOK_EVERY)
    return outcome


class _Following:
    def __init__(self, run_id: int, sources: list[Source], watch: Watch, status: Status, directory: str) -> None:
        self.sources, self.watch, self.status, self.directory = sources, watch, status, directory
        self.steps = Tail(progress_file(run_id))
        self.believed: Source | None = None
        self.heard = time.monotonic()
        self.ended: tuple[float, str, str] | None = None  # when Flower said so, its status and reason
        self.asked = 0.0
        self.unanswered = 0

    def look(self) -> Outcome | None:
        """Show what is new; how the run ended, if it did, by its own words or Flower's."""
        outcome = self.hear()
        return self._state() if outcome is None else outcome

    def hear(self) -> Outcome | None:
        """Show what is new; how the run ended, if it said so."""
        for event in self._events():
            self.watch.event(event)
            if event["event"] == "settings":
                self.directory = event["directory"]
            if event["event"] == "result":
                return Outcome(True, event, self.directory)
            if event["event"] == "failed":
                return Outcome(False, directory=self.directory, told=True)
        for line in self.steps.new():
            self.heard = time.monotonic()
            self.watch.step(line)
        return None

    def _events(self) -> list[dict]:
        events: list[dict] = []
        for source in self.sources:
            new = source.new()
            if self.believed is None and any(event["event"] != "log" for event in new):
                self.believed = source
            events += [event for event in new if source is self.believed or event["event"] == "log"]
        if events:
            self.heard = time.monotonic()
        return events

    def _state(self) -> Outcome | None:
        """What Flower says of a run that says nothing itself."""
        now = time.monotonic()
        if self.ended is not None:
            since, status, reason = self.ended
            if now - since < _LAST_WORDS:
                return None
            finished = status == "finished:completed" and not isinstance(self.believed, FileEvents)
            if not finished:
                self.watch.console.print(f"{status}: {reason}", markup=False, highlight=False)
            return Outcome(finished, directory=self.directory)
        complete = any(source.complete for source in self.sources)
        if now - max(self.heard, self.asked) <= (_LAST_WORDS if complete else _ASK_FLOWER_EVERY):
            return None
        self.asked = now
        try:
            status, reason = self.status()
        except LaunchError as error:
            self.unanswered += 1  # a network has its moments, and the run goes on without this command
            if self.unanswered == _UNANSWERED:
                raise
            if self.unanswered == 1:
                minutes = _UNANSWERED * _ASK_FLOWER_EVERY / 60
                self._say(f"Flower's SuperLink does not answer; it is asked for {minutes:.0f} minutes more. {error}")
            return None
        if self.unanswered:
            self._say("Flower's SuperLink answers again")
        self.unanswered = 0
        if status.startswith("finished"):
            self.ended = (now, status, reason)
        return None

    def _say(self, text: str) -> None:
        self.watch.console.print(text, style="yellow", markup=False, highlight=False, soft_wrap=True)


def say_end(
    outcome: Outcome,
    console: Console,
    last_words: Callable[[], str],
    here: bool,
    seconds: float | None = None,
    brief: bool = False,
) -> None:
    """Say how a run ended and where its files are.

    Parameters
    ----------
    last_words : Callable[[], str]
        The end of a log, shown where no reason was; "" if there is none.
    here : bool
        Whether the run directory is on this machine.
    seconds : float | None
        Since the run was prepared, where this command has seen all of it.
    brief : bool
        A line instead of a table.
    """
    files = f"its files: {outcome.directory}" if here else f"its files, on the SuperLink's machine: {outcome.directory}"
    if outcome.result is not None:
        say = summary_line if brief else summary
        console.print(say(outcome.result, outcome.directory, seconds), markup=False, highlight=False, soft_wrap=brief)
        never = never_contributed(outcome.result.get("participation", ()))
        if never:
            names = ", ".join(f"{line['client']} ({line['name']})" for line in never)
            said = f"clients that were drawn and never contributed: {names}"
            console.print(said, style="yellow", markup=False, highlight=False)
    elif outcome.finished:
        console.print(f"the run finished; {files}", markup=False, highlight=False)
    else:
        words = "" if outcome.told else last_words()
        if words:
            console.print(words, markup=False, highlight=False)
        console.print(f"the run failed; {files}", style="red", markup=False, highlight=False, soft_wrap=True)
        if here and checkpoint_directories(Path(outcome.directory)):
            again = f"it goes on after its last checkpoint with: fedllm run --resume {shlex.quote(outcome.directory)}"
            console.print(again, markup=False, highlight=False, soft_wrap=True)


def exit_status(outcome: Outcome) -> int:
    """0 for a finished run, 1 for a failed one, 3 if it finished and a client that was drawn never contributed."""
    if not outcome:
        return 1
    return _INCOMPLETE if outcome.result and never_contributed(outcome.result.get("participation", ())) else 0


def end_of(log_file: Path) -> str:
    """The last lines of a log file, and where the rest is."""
    return f"the end of {log_file}:\n{tail(log_file)}"
