"""The worker's socket: whose it is, and what of frames is refused."""

import json
import os
import socket
import struct

import pytest

from fedllm_app.client import worker_link
from fedllm_app.client.worker_link import MOST_TEXT, Link, LinkBroken, LinkRefused, LinkSilent, connect, listen


@pytest.fixture
def ends():
    """A raw end that writes anything, and a link that reads it with some patience."""
    raw, other = socket.socketpair()
    with raw, Link(other, 5.0) as link:
        yield raw, link


def frame(kind: bytes, content: bytes, length: int | None = None) -> bytes:
    return struct.pack("!4sQ", kind, len(content) if length is None else length) + content


def text(**said) -> bytes:
    return frame(b"FLWT", json.dumps(said).encode())


def test_a_text_and_its_parts_arrive(ends):
    raw, link = ends
    Link(raw).send({"state": "x", "number": 0.1}, [b"", b"abc"])
    assert link.receive(most=3) == ({"state": "x", "number": 0.1}, [b"", b"abc"])


@pytest.mark.parametrize(
    ("sent", "told"),
    [
        (b"GET / HTTP/1.1\r\n", "a frame of the worker's socket is b'GET '"),
        (frame(b"FLWT", b"", MOST_TEXT + 1), f"of {MOST_TEXT + 1} bytes, not"),
        (frame(b"FLWT", b"{"), "cannot be read"),
        (frame(b"FLWT", b"\xff"), "cannot be read"),
        (frame(b"FLWT", b"[]"), "does not say which parts"),
        (text(state="x"), "does not say which parts"),
        (text(parts=["3"]), "does not say which parts"),
        (text(parts=[True]), "does not say which parts"),
        (text(parts=[0] * (worker_link.MOST_PARTS + 1)), "does not say which parts"),
        (text(parts=[-1]), "announces -1 bytes"),
        (text(parts=[60, 41]), "announces 101 bytes, 100 is the most here"),
        (text(parts=[3]) + frame(b"FLWP", b"abcd"), "of 4 bytes, not b'FLWP' of 3"),
        (text(parts=[3]) + frame(b"FLWP", b"", 2**60), "bytes, not b'FLWP' of 3"),
        (text(parts=[3]) + text(parts=[]), "is b'FLWT'"),
    ],
)
def test_a_frame_that_is_none_is_refused(ends, sent, told):
    raw, link = ends
    raw.sendall(sent)
    with pytest.raises(LinkBroken, match=told.replace("[", r"\[")):
        link.receive(most=100)


@pytest.mark.parametrize("sent", [b"", b"FLWT", frame(b"FLWT", b"abc", 4), text(parts=[3]) + frame(b"FLWP", b"ab", 3)])
def test_an_end_that_goes_in_the_middle_of_a_frame(ends, sent):
    raw, link = ends
    assert not link.gone()
    raw.sendall(sent)
    raw.shutdown(socket.SHUT_WR)
    with pytest.raises(LinkBroken, match="has gone"):
        link.receive(most=100)
    assert link.gone()


def test_a_silent_end_is_not_waited_for(ends):
    _, link = ends
    link.wait(0.01)
    with pytest.raises(LinkSilent):
        link.receive()


def test_only_the_owner_may_connect(tmp_path):
    """Directory 0700, socket 0600; a second worker there is refused, what a dead one left is replaced."""
    path = tmp_path / "new" / "socket"
    with listen(path):
        assert path.parent.stat().st_mode & 0o777 == 0o700
        assert path.stat().st_mode & 0o777 == 0o600
        with connect(path, 1.0):
            pass
        with pytest.raises(LinkRefused, match="listens at .* already"):
            listen(path)
    with pytest.raises(LinkBroken, match="nobody listens"):
        connect(path, 1.0)
    with listen(path):
        path.parent.chmod(0o750)
        with pytest.raises(LinkRefused, match="mode 750"):
            connect(path, 1.0)
    with pytest.raises(LinkRefused, match="mode 750"):
        listen(path)


def test_who_sees_the_socket_can_connect(tmp_path, monkeypatch):
    """It gets its name once it listens: before that a connection would be refused, as if nobody were there. What a
    worker left that was killed in between is replaced."""
    path, seen = tmp_path / "new" / "socket", []

    class Slow(socket.socket):
        def listen(self, *backlog):
            seen.append((path.exists(), [file.name for file in path.parent.iterdir()]))
            super().listen(*backlog)

    monkeypatch.setattr(worker_link.socket, "socket", Slow)
    with listen(path):
        path.unlink()
    made = f"{os.getpid():x}"
    (tmp_path / "new" / made).touch()
    with listen(path), connect(path, 1.0):
        assert [file.name for file in path.parent.iterdir()] == ["socket"]
    assert seen == [(False, [made])] * 2


def test_the_process_of_another_user_is_refused_at_both_ends(tmp_path, monkeypatch):
    with listen(tmp_path / "own" / "socket") as listener, connect(tmp_path / "own" / "socket", 1.0):
        accepted, _ = listener.accept()
        monkeypatch.setattr(worker_link, "check_directory", lambda directory: None)
        monkeypatch.setattr(worker_link.os, "geteuid", lambda: 4711)
        with accepted, pytest.raises(LinkRefused, match="is that of user"):
            worker_link.check_peer(accepted)
        with pytest.raises(LinkRefused, match="is that of user"):
            connect(tmp_path / "own" / "socket", 1.0)


@pytest.mark.parametrize("path", ["socket", "/tmp/" + "x" * 103])
def test_a_path_that_no_socket_can_have(path):
    with pytest.raises(LinkRefused, match="absolute path of at most 107 bytes"):
        listen(worker_link.Path(path))
