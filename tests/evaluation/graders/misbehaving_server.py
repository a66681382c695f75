"""An OpenAI-compatible endpoint on this machine that misbehaves on demand, and notes what it was asked."""

import json
import threading
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

Deed = Callable[[BaseHTTPRequestHandler], None]
TRICKLE = 0.02  # seconds between two bytes
LONG = 5.0  # seconds; no test waits that long


def says(text: str | None) -> Deed:
    """A reply as it should be."""
    return body(json.dumps({"choices": [{"message": {"role": "assistant", "content": text}}]}).encode())


def body(content: bytes, status: int = 200, **headers: str) -> Deed:
    """Any bytes under any status."""

    def deed(handler):
        handler.send_response(status)
        for name, value in headers.items():
            handler.send_header(name.replace("_", "-"), value)
        handler.send_header("Content-Length", str(len(content)))
        handler.end_headers()
        handler.wfile.write(content)

    return deed


def status(code: int, message: str = "", **headers: str) -> Deed:
    """An error in OpenAI's form."""
    return body(json.dumps({"error": {"message": message}}).encode(), code, **headers)


def hangs_up(handler: BaseHTTPRequestHandler) -> None:
    """Closes the connection without a word."""
    handler.close_connection = True


def no_http(handler: BaseHTTPRequestHandler) -> None:
    """Writes something that is no HTTP."""
    handler.wfile.write(b"\x00\xff garbage\r\n\r\n")
    handler.close_connection = True


def slow(handler: BaseHTTPRequestHandler) -> None:
    """Says nothing for long."""
    handler.server.closing.wait(LONG)


def trickles(handler: BaseHTTPRequestHandler) -> None:
    """Sends a byte now and then, so that no single wait is long."""
    handler.send_response(200)
    handler.end_headers()
    try:
        while not handler.server.closing.wait(TRICKLE):
            handler.wfile.write(b" ")
    except OSError:
        pass  # the client had enough


@dataclass
class MisbehavingServer:
    """Use it in a `with`. `behaviour` gets a prompt and how often it came before, and says what to do."""

    behaviour: Callable[[str, int], Deed] = lambda _prompt, _before: says("[[5]]")
    requests: list[dict] = field(default_factory=list)
    headers: list[dict] = field(default_factory=list)
    paths: list[str] = field(default_factory=list)
    most_at_once: int = 0

    @property
    def calls(self) -> int:
        """How many requests came."""
        return len(self.requests)

    @property
    def prompts(self) -> list[str]:
        """What was asked, in the order of arrival."""
        return [request["messages"][0]["content"] for request in self.requests]

    @property
    def url(self) -> str:
        """The base URL."""
        return f"http://127.0.0.1:{self._server.server_port}/v1"

    def script(self, deeds: Iterable[Deed]) -> None:
        """Do these, one a call, then answer well."""
        rest = iter(list(deeds))
        self.behaviour = lambda _prompt, _before: next(rest, says("[[5]]"))

    def __enter__(self):
        lock, seen, now = threading.Lock(), Counter(), [0]

        class Handler(BaseHTTPRequestHandler):
            def do_POST(handler):
                request = json.loads(handler.rfile.read(int(handler.headers["Content-Length"])))
                prompt = request["messages"][0]["content"]
                with lock:
                    deed = self.behaviour(prompt, seen[prompt])
                    seen[prompt] += 1
                    now[0] += 1
                    self.most_at_once = max(self.most_at_once, now[0])
                    self.requests.append(request)
                    self.headers.append(dict(handler.headers))
                    self.paths.append(handler.path)
                try:
                    deed(handler)
                finally:
                    with lock:
                        now[0] -= 1

            def log_message(handler, *_):
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self._server.closing = threading.Event()
        threading.Thread(target=self._server.serve_forever, args=(0.01,), daemon=True).start()
        return self

    def __exit__(self, *_):
        self._server.closing.set()
        self._server.shutdown()
        self._server.server_close()
