"""`fedllm fetch`: brings a run directory with the adapter from the machine of the server, through Flower."""

import argparse
import base64
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path, PurePosixPath

from rich.console import Console

from fedllm_app.commands.attach import connection_of
from fedllm_app.commands.flower import LaunchError, flower_environment, run_status, submit_run
from fedllm_app.commands.log_stream import LogEvents, LogStream
from fedllm_app.commands.options import APP_HELP
from fedllm_app.config.app_files import app_directory
from fedllm_app.config.parse import toml_text
from fedllm_app.paths import atomic_path, file_sha256
from fedllm_app.runs.outgoing import CHUNK, LARGEST

_LOOK_EVERY = 0.1  # seconds
_SILENT = 120.0  # seconds without anything new


class NotFetched(LaunchError):
    """The files did not come as they were announced."""


def add_parser(subparsers) -> None:
    """Add `fedllm fetch`."""
    parser = subparsers.add_parser("fetch", help="bring a run directory from the machine of a connection's server")
    parser.add_argument("run", metavar="RUN", help="its id, or its directory on the machine of the server")
    parser.add_argument("superlink", nargs="?", help="connection of Flower's configuration (default: its default one)")
    parser.add_argument("--out", required=True, metavar="DIR", help="a new directory of this machine")
    parser.add_argument("--checkpoints", action="store_true", help="the checkpoints as well")
    parser.add_argument("--app", default=".", help=APP_HELP)
    parser.set_defaults(command=_fetch)


def _fetch(parsed: argparse.Namespace, console: Console) -> int:
    connection, out = connection_of(parsed), Path(parsed.out)
    if out.exists():
        raise NotFetched(f"--out {out}: is there already; name a new directory")
    directory = parsed.run
    if directory.isdecimal():
        directory = directory_of(events_of(int(directory), connection), directory)
    began = time.monotonic()
    with tempfile.NamedTemporaryFile("w", suffix=".toml", encoding="utf-8") as overrides:
        overrides.write(toml_text({"run.fetch": directory, "run.fetch-checkpoints": parsed.checkpoints}))
        overrides.flush()
        run_id = submit_run(
            app_directory(parsed.app), connection, ["--run-config", overrides.name], flower_environment()
        )
    with atomic_path(out) as temporary:
        count, size = receive(events_of(run_id, connection), temporary)
        if out.exists():
            raise NotFetched(f"--out {out}: was made by somebody else meanwhile; nothing was written")
    seconds = time.monotonic() - began
    console.print(
        f"{count} files, {size / 1e6:.1f} MB of {directory} in {seconds:.0f} s: {out}",
        markup=False,
        highlight=False,
        soft_wrap=True,
    )
    return 0


def events_of(run_id: int, connection: str | None) -> Iterator[dict]:
    """The events of a run from its beginning. `NotFetched` if it ended, or said nothing for long."""
    environment = flower_environment()
    log = LogEvents(LogStream(run_id, connection, environment))
    heard = time.monotonic()
    ended = 0.0
    try:
        while True:
            events = log.new()
            yield from events
            if events:
                heard = time.monotonic()
            elif log.complete:
                ended = ended or time.monotonic()
            if ended and time.monotonic() - max(heard, ended) > 5.0:  # its last lines may come a moment later
                status, reason = run_status(run_id, connection, environment)
                raise NotFetched(
                    f"run {run_id} has ended ({status}: {reason}), and its log does not have what is needed"
                )
            if time.monotonic() - heard > _SILENT:
                raise NotFetched(f"run {run_id} said nothing for {_SILENT:.0f} s: flwr log {run_id} {connection or ''}")
            time.sleep(_LOOK_EVERY)
    finally:
        log.close()


def directory_of(events: Iterator[dict], run: str) -> str:
    """The run directory that a run names at its beginning."""
    for event in events:
        if event["event"] == "settings":
            return event["directory"]
        if event["event"] == "failed":
            break
    raise NotFetched(f"run {run} has no directory; name the directory itself")


def receive(events: Iterator[dict], out: Path) -> tuple[int, int]:
    """Write the files that come as events into a new directory; their number and bytes.

    Raises
    ------
    NotFetched
        The server refuses, or what comes is not what it announced.
    """
    listed: list[dict] = []
    written: list[int] = []
    for event in events:
        if event["event"] == "failed":
            raise NotFetched(event["reason"])
        if event["event"] == "files":
            listed, written = _checked_list(event["files"]), [0] * len(event["files"])
            out.mkdir()
            for file in listed:
                (out / file["path"]).parent.mkdir(parents=True, exist_ok=True)
                (out / file["path"]).touch()
        elif event["event"] == "chunk":
            number, data = event["file"], base64.b64decode(event["data"], validate=True)
            if not 0 <= number < len(listed) or len(data) > CHUNK:
                raise NotFetched("a part came of a file that was not announced")
            written[number] += len(data)
            if written[number] > listed[number]["bytes"]:
                raise NotFetched(f"{listed[number]['path']}: more bytes came than were announced")
            with open(out / listed[number]["path"], "ab") as file:
                file.write(data)
        elif event["event"] == "sent":
            for file in listed:
                if file_sha256(out / file["path"]) != file["sha256"]:
                    raise NotFetched(f"{file['path']}: did not come as it was sent (SHA-256)")
            return len(listed), sum(written)
    raise NotFetched("the files did not come to an end")


def _checked_list(files: list[dict]) -> list[dict]:
    """The announced files; their names must lie inside, and their sizes within the bound."""
    names = [file["path"] for file in files]
    for name in names:
        path = PurePosixPath(name)
        if path.is_absolute() or ".." in path.parts or not path.parts or "\\" in name or "\0" in name:
            raise NotFetched(f"the server announced a file with the name {name!r}, which is none inside a directory")
    if len(set(names)) < len(names) or any(file["bytes"] < 0 for file in files):
        raise NotFetched("the server announced files that cannot be")
    if sum(file["bytes"] for file in files) > LARGEST:
        raise NotFetched(f"the server announced more than {LARGEST:,} bytes; copy the directory with scp or rsync")
    return files
