"""What a run's server says, read from Flower's log over a connection: its events, its warnings, its last lines."""

import os
import re
import subprocess
import time
from collections import deque

from fedllm_app.commands.flower import flower_command
from fedllm_app.commands.reaper import die_with_parent
from fedllm_app.runs.event_lines import EventReader

_AGAIN_AFTER = 2.0  # seconds after which a stream that ended is opened again
_SILENT = 600.0  # seconds without a line after which it is opened again: the connection may have died unnoticed
_HELD = 1.0  # seconds that a warning waits for the event that says the same
_CHUNK = 1 << 20  # bytes
_ESCAPES = re.compile(r"\x1b\[[0-9;?]*[ -/]*[@-~]")
_LEVEL = re.compile(r"^(WARNING|ERROR)\s*[\d:, -]*:\s+(.*)$")
_LONGEST = 500  # characters of a line that is shown
_LAST_LINES = 30


class LogStream:
    """The lines of a run's log since the last look. A stream that breaks is opened again, from the run's beginning."""

    def __init__(self, run_id: int, connection: str | None, environment: dict[str, str]) -> None:
        self._command = [flower_command("flwr"), "log", str(run_id), *([connection] if connection else []), "--stream"]
        self._environment = environment | {"PYTHONUNBUFFERED": "1"}
        self._process: subprocess.Popen | None = None
        self._rest = b""
        self._opened = self._heard = 0.0
        self.complete = False
        """Whether Flower has said all of it, because the run has ended. Its very last lines may come a moment later."""

    def lines(self) -> list[str]:
        """What is new. Nothing while there is no connection."""
        now = time.monotonic()
        if self._process is None:
            if now - self._opened > _AGAIN_AFTER:
                self._open()
            return []
        content = self._read()
        if content:
            self._heard = now
        elif self._process.poll() is not None:
            self.complete = self.complete or self._process.returncode == 0
            self.close()
            self._rest = b""
            return []
        elif now - self._heard > _SILENT:
            self.close()
        *whole, self._rest = (self._rest + content).split(b"\n")
        return [line.decode(errors="replace") for line in whole]

    def close(self) -> None:
        """End the process that reads it."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process.stdout.close()
            self._process = None

    def _open(self) -> None:
        self._opened = self._heard = time.monotonic()
        self._rest = b""
        self._process = subprocess.Popen(
            self._command,
            env=self._environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            start_new_session=True,  # Ctrl-C in the terminal is this command's alone
            preexec_fn=die_with_parent,
        )
        os.set_blocking(self._process.stdout.fileno(), False)

    def _read(self) -> bytes:
        content = b""
        while True:
            try:
                chunk = os.read(self._process.stdout.fileno(), _CHUNK)
            except BlockingIOError:
                return content
            if not chunk:
                return content
            content += chunk


class LogEvents:
    """The events of a run from its log. What the server warns of otherwise comes as an event `log` with its `text`."""

    def __init__(self, stream: LogStream) -> None:
        self.stream = stream
        self.last_lines: deque[str] = deque(maxlen=_LAST_LINES)
        self._reader = EventReader()
        self._warnings: list[tuple[float, str]] = []
        self._shown: set[str] = set()

    @property
    def complete(self) -> bool:
        """Whether the log has come to its end."""
        return self.stream.complete

    def new(self) -> list[dict]:
        """The events since the last look, oldest first."""
        events: list[dict] = []
        for line in self.stream.lines():
            event = self._reader.read(line)
            if event is not None:
                same = event.get("reason")
                self._warnings = [(at, text) for at, text in self._warnings if text != printable(str(same))]
                events += [*self._take_warnings(0.0), event]
                self._shown.add(printable(str(same)))
            elif not EventReader.is_event(line):
                self._other(printable(line))
        return events + self._take_warnings(_HELD)

    def close(self) -> None:
        """Stop reading."""
        self.stream.close()

    def _other(self, line: str) -> None:
        if line:
            self.last_lines.append(line)
        found = _LEVEL.match(line)
        if found and found[2] not in self._shown:
            self._shown.add(found[2])
            self._warnings.append((time.monotonic(), found[2]))

    def _take_warnings(self, held: float) -> list[dict]:
        now = time.monotonic()
        ready = [text for at, text in self._warnings if now - at >= held]
        self._warnings = [(at, text) for at, text in self._warnings if now - at < held]
        return [{"event": "log", "text": text} for text in ready]


def printable(line: str) -> str:
    """A line without colours and control characters, not too long."""
    text = "".join(letter for letter in _ESCAPES.sub("", line) if letter.isprintable()).strip()
    return text if len(text) <= _LONGEST else text[:_LONGEST] + " …"
