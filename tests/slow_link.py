"""A link between a site and its server that is slow or breaks: a TCP proxy in threads of this process."""

import socket
import threading
import time

_BLOCK = 16 * 1024


class Link:
    """As a context manager: forwards connections to `target`, a port of this machine, while it lasts.

    Parameters
    ----------
    bytes_per_second : float
        Of what the site sends, in each connection.
    breaks_after : int | None
        Bytes that the site sends in one connection until it is reset; None for a link that does not break.
    breaks : int
        How often that happens in all.

    Attributes
    ----------
    port : int
        Where it listens.
    broken : int
        How often a connection was reset.
    sent : int
        Bytes that came from the site.
    """

    def __init__(
        self, target: int, bytes_per_second: float = float("inf"), breaks_after: int | None = None, breaks: int = 0
    ) -> None:
        self.target, self.bytes_per_second = target, bytes_per_second
        self.breaks_after, self.breaks = breaks_after, breaks
        self.broken, self.sent = 0, 0
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = self._listener.getsockname()[1]

    def __enter__(self) -> "Link":
        threading.Thread(target=self._accept, daemon=True).start()
        return self

    def __exit__(self, *_exception: object) -> None:
        self._listener.close()

    def _accept(self) -> None:
        while True:
            try:
                site, _ = self._listener.accept()
            except OSError:  # closed
                return
            server = socket.create_connection(("127.0.0.1", self.target))
            threading.Thread(target=self._upwards, args=(site, server), daemon=True).start()
            threading.Thread(target=_forward, args=(server, site), daemon=True).start()

    def _upwards(self, site: socket.socket, server: socket.socket) -> None:
        """What the site sends, in small blocks, until the connection ends or is to break."""
        sent = 0
        try:
            while block := site.recv(_BLOCK):
                sent += len(block)
                self.sent += len(block)
                if self.breaks_after is not None and sent > self.breaks_after and self.broken < self.breaks:
                    self.broken += 1
                    for end in (site, server):  # a reset, as of a router that forgot the connection
                        end.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\x01\0\0\0\0\0\0\0")
                    break
                server.sendall(block)
                time.sleep(len(block) / self.bytes_per_second)
        except OSError:
            pass  # one of both has gone, and so the other is let go
        for end in (site, server):
            end.close()


def _forward(source: socket.socket, target: socket.socket) -> None:
    try:
        while block := source.recv(_BLOCK):
            target.sendall(block)
        target.shutdown(socket.SHUT_WR)
    except OSError:
        return
