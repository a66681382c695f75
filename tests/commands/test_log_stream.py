"""The log of a run as Flower's own command brings it, over a connection that breaks."""

import io
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
from flwr.proto.control_pb2 import StreamLogsResponse
from flwr.supercore.protobuf.framing import frame_message
from rich.console import Console

from fedllm_app.commands import follow as module
from fedllm_app.commands import log_stream
from fedllm_app.commands.flower import flower_environment
from fedllm_app.commands.follow import follow
from fedllm_app.commands.log_stream import LogEvents, LogStream
from fedllm_app.commands.watch import Watch
from fedllm_app.runs.event_lines import EventWriter


@pytest.fixture
def server(flower_home):
    """What answers like a SuperLink that is asked for a log; at first it breaks off in the middle of a message."""
    texts: list[str] = []
    asked: list[str] = []

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self):
            asked.append(self.path)
            self.rfile.read(int(self.headers["content-length"]))
            self.send_response(200)
            self.send_header("content-type", "application/flower-protobuf-stream")
            self.end_headers()
            for number, text in enumerate(texts):
                frame = frame_message(StreamLogsResponse(log_output=text, latest_timestamp=float(number + 1)))
                broken = len(asked) == 1 and number == 1
                self.wfile.write(frame[: len(frame) // 2] if broken else frame)
                if broken:
                    return

        def log_message(self, *_):
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as listener:
        address = f"127.0.0.1:{listener.server_port}"
        (flower_home / "config.toml").write_text(f'[superlink.sites]\naddress = "{address}"\ninsecure = true\n')
        thread = threading.Thread(target=listener.serve_forever, daemon=True)
        thread.start()
        yield texts, asked
        listener.shutdown()
        thread.join()


def test_a_connection_that_breaks_costs_nothing(server, monkeypatch):
    monkeypatch.setattr(log_stream, "_AGAIN_AFTER", 0.0)
    texts, asked = server
    lines: list[str] = []
    write = EventWriter(lambda line: lines.append(f"\x1b[92mINFO \x1b[0m:      {line}\n"))
    settings = {
        "event": "settings",
        "directory": "/far/run",
        "rounds": 1,
        "per_round": 0,
        "local_steps": 1,
        "metrics": {},
    }
    for event in (settings, {"event": "warning", "reason": "few rows"}, {"event": "failed", "reason": "x" * 9_000}):
        write(event)
    whole = "".join(lines)
    texts += [whole[:700], whole[700:]]  # a message may end in the middle of a line
    console = Console(file=io.StringIO(), width=300)
    stream = LogStream(7, "sites", flower_environment())
    monkeypatch.setattr(module, "_LOOK_EVERY", 0.05)
    deadline = time.monotonic() + 120
    try:
        outcome = follow(
            7, [LogEvents(stream)], Watch(console), lambda: ("running", ""), lambda: time.monotonic() > deadline
        )
    finally:
        stream.close()
    said = console.file.getvalue()
    assert not outcome and outcome.told and outcome.directory == "/far/run"
    assert said.count("few rows") == 1
    assert "x" * 100 in said
    assert asked == ["/v1/control/stream-logs"] * 2
