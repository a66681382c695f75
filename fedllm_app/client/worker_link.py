"""The socket between the ClientApp of a site and its worker: who may connect, and frames of a checked length.

It is a Unix socket of mode 0600 in a directory of mode 0700, and both ends ask the system whether the other belongs to
the same user. What is sent is a text, a JSON object of at most 1 MiB, and then the parts of bytes whose lengths it
announced.
"""

import json
import os
import select
import signal
import socket
import stat
import struct
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path

from fedllm_app.errors import UserError

PROTOCOL = 1
"""Raised when the frames, or what they mean, change."""

MOST_TEXT = 2**20
MOST_BYTES = 2**35  # of all parts of one frame together: an adapter and what travels with it
MOST_PARTS = 10_000

_HEAD = struct.Struct("!4sQ")  # what comes, and its length in bytes
_TEXT, _PART = b"FLWT", b"FLWP"
_CREDENTIALS = struct.Struct("iII")  # process, user, group
_LONGEST_PATH = 107  # of the address of a Unix socket
_AT_ONCE = 2**20  # bytes that are read at one time


class LinkRefused(UserError):
    """The socket, its directory or the process at the other end is not this user's own."""


class LinkBroken(UserError):
    """The other end has gone, is silent, or does not speak this protocol."""


class LinkSilent(LinkBroken):
    """The other end is there and says nothing for too long."""


class Link:
    """One end of a connection. Any thread may send; one receives.

    Parameters
    ----------
    connection : socket.socket
        A connected Unix socket.
    patience : float | None
        Seconds that a single read or a whole `send` may take; None: without limit.
    """

    def __init__(self, connection: socket.socket, patience: float | None = None) -> None:
        self._connection, self._sending = connection, threading.Lock()
        connection.settimeout(patience)

    def __enter__(self) -> "Link":
        return self

    def __exit__(self, *_exception: object) -> None:
        self.close()

    def close(self) -> None:
        """End the connection."""
        self._connection.close()

    def wait(self, patience: float | None) -> None:
        """Change how long a single read or a whole `send` may take."""
        self._connection.settimeout(patience)

    def send(self, said: Mapping[str, object], parts: Sequence[bytes] = ()) -> None:
        """Send a text, and the parts that belong to it. LinkBroken if the other end does not take them."""
        text = json.dumps({**said, "parts": [len(part) for part in parts]}).encode()
        if len(text) > MOST_TEXT:
            raise ValueError(f"a text of {len(text)} bytes for the worker, {MOST_TEXT} is the most")
        try:
            with self._sending:
                for kind, part in ((_TEXT, text), *((_PART, part) for part in parts)):
                    self._connection.sendall(_HEAD.pack(kind, len(part)))
                    self._connection.sendall(part)
        except OSError as error:
            raise LinkBroken(f"the other end of the worker's socket has gone ({error})") from error

    def receive(self, most: int = 0) -> tuple[dict, list[bytes]]:
        """The next text and its parts, of at most `most` bytes together.

        Raises
        ------
        LinkBroken
            The other end has gone or is silent for too long; or the frame is none, or larger than allowed, which is
            found before anything of that size is allocated.
        """
        text = self._frame(_TEXT, MOST_TEXT)
        try:
            said = json.loads(text)
        except ValueError as error:  # no UTF-8, or no JSON
            raise LinkBroken(f"a frame of the worker's socket cannot be read ({type(error).__name__})") from error
        lengths = said.pop("parts", None) if isinstance(said, dict) else None
        if not isinstance(lengths, list) or len(lengths) > MOST_PARTS or not all(type(n) is int for n in lengths):
            raise LinkBroken("a frame of the worker's socket does not say which parts it has")
        if any(length < 0 for length in lengths) or sum(lengths) > most:
            raise LinkBroken(f"a frame of the worker's socket announces {sum(lengths)} bytes, {most} is the most here")
        return said, [self._frame(_PART, length, exactly=True) for length in lengths]

    def wait_for_end(self) -> None:
        """Return when the other end has closed the connection, also while another thread waits for what it sends."""
        poll = select.poll()
        poll.register(self._connection, select.POLLRDHUP)
        poll.poll()

    def gone(self) -> bool:
        """Whether the other end has closed the connection; it sends nothing while it waits for an answer."""
        poll = select.poll()
        poll.register(self._connection, select.POLLIN)
        return bool(poll.poll(0))

    def _frame(self, wanted: bytes, most: int, exactly: bool = False) -> bytes:
        kind, length = _HEAD.unpack(self._read(_HEAD.size))
        if kind != wanted or length > most or (exactly and length != most):
            raise LinkBroken(f"a frame of the worker's socket is {kind!r} of {length} bytes, not {wanted!r} of {most}")
        return self._read(length)

    def _read(self, length: int) -> bytes:
        chunks, missing = [], length
        while missing:
            try:
                chunk = self._connection.recv(min(missing, _AT_ONCE))
            except TimeoutError as error:
                raise LinkSilent("the other end of the worker's socket is silent") from error
            except OSError as error:
                raise LinkBroken(f"the other end of the worker's socket has gone ({error})") from error
            if not chunk:
                raise LinkBroken("the other end of the worker's socket has gone")
            chunks.append(chunk)
            missing -= len(chunk)
        return b"".join(chunks)


def ending(status: int) -> str:
    """How a process ended, by its exit status as `subprocess` gives it: "was killed by SIGKILL"."""
    if status >= 0:
        return f"ended with status {status}"
    try:
        return f"was killed by {signal.Signals(-status).name}"
    except ValueError:  # real-time signals have no name
        return f"was killed by signal {-status}"


def listen(path: Path) -> socket.socket:
    """A listening socket at `path`, whose directory is made if it is missing.

    Raises
    ------
    LinkRefused
        The path is too long, somebody listens there already, or its directory is not this user's alone.
    """
    _check_path(path)
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    check_directory(path.parent)
    if path.exists():
        with socket.socket(socket.AF_UNIX) as probe:
            if not probe.connect_ex(str(path)):
                raise LinkRefused(f"a worker listens at {path} already; end it, or name another socket")
    made = path.with_name(f"{os.getpid():x}")  # short, because a socket's path must be
    _check_path(made)
    made.unlink(missing_ok=True)
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(str(made))
    made.chmod(0o600)
    listener.listen()
    made.replace(path)  # only now: whoever sees the path may connect at once
    return listener


def connect(path: Path, patience: float) -> Link:
    """Connect to a worker.

    Raises
    ------
    LinkRefused
        The directory or the process that listens is another user's, or open to others.
    LinkBroken
        Nobody listens there.
    """
    _check_path(path)
    if not path.parent.is_dir():
        raise LinkBroken(f"there is no {path.parent}, where the worker's socket would be")
    check_directory(path.parent)
    connection = socket.socket(socket.AF_UNIX)
    try:
        connection.settimeout(patience)
        connection.connect(str(path))
        check_peer(connection)
    except OSError as error:
        connection.close()
        raise LinkBroken(f"nobody listens at the worker's socket {path} ({error})") from error
    except LinkRefused:
        connection.close()
        raise
    return Link(connection, patience)


def check_peer(connection: socket.socket) -> None:
    """LinkRefused if the process at the other end is another user's. Where the system does not say whose it is, the
    directory's permissions have to do."""
    if not hasattr(socket, "SO_PEERCRED"):
        return
    _, user, _ = _CREDENTIALS.unpack(connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size))
    if user != os.geteuid():
        raise LinkRefused(f"the process at the other end of the worker's socket is that of user {user}")


def check_directory(directory: Path) -> None:
    """LinkRefused unless this user owns a directory and nobody else may enter it."""
    found = directory.stat()
    if found.st_uid != os.geteuid() or stat.S_IMODE(found.st_mode) & 0o077:
        raise LinkRefused(
            f"{directory}: the directory of the worker's socket must be this user's own and closed to others "
            f"(chmod 700); it has mode {stat.S_IMODE(found.st_mode):o} and is that of user {found.st_uid}"
        )


def _check_path(path: Path) -> None:
    if not path.is_absolute() or len(os.fsencode(path)) > _LONGEST_PATH:
        raise LinkRefused(f"{path}: the worker's socket must have an absolute path of at most {_LONGEST_PATH} bytes")
