"""The process of a federation's SuperLink: Flower's own, except that strangers reach the nodes' paths only.

Flower 1.41 has one port for everything: nodes (`/v1/fleet/`), the commands of `flwr` (`/v1/control/`) and its own
processes (`/v1/runtime/`). Node keys protect the first. The other two are open to whoever reaches the port: they start
runs, stop them, register nodes and read results. Here these are answered to this machine and to named networks only.
"""

import argparse
import ipaddress
import os
import sys
from collections.abc import Awaitable, Callable, MutableMapping, Sequence
from pathlib import Path
from typing import Any

from flwr.supercore.app_utils import start_parent_process_monitor
from flwr.superlink import extensions
from flwr.superlink.cli.flower_superlink import flower_superlink
from starlette.middleware import Middleware
from starlette.responses import PlainTextResponse

from fedllm_app.errors import UserError
from fedllm_app.sites.keys import AUTHORITY, SERVER, SERVER_KEY

DATABASE = "state.db"

Network = ipaddress.IPv4Network | ipaddress.IPv6Network
_Scope = MutableMapping[str, Any]
_Asgi = Callable[[_Scope, Callable, Callable], Awaitable[None]]

_FOR_ALL = ("/v1/fleet/", "/health")
_REFUSED = "this path is open to the operator's machines only\n"


class Gate:
    """ASGI middleware that answers 403 to other machines than the operator's, except on the nodes' paths."""

    def __init__(self, app: _Asgi, networks: Sequence[Network]) -> None:
        self._app, self._networks = app, networks

    async def __call__(self, scope: _Scope, receive: Callable, send: Callable) -> None:
        """Pass a request on or refuse it."""
        if scope["type"] == "lifespan" or self._may(scope):
            await self._app(scope, receive, send)
        elif scope["type"] == "http":
            await PlainTextResponse(_REFUSED, 403)(scope, receive, send)
        else:
            await send({"type": "websocket.close", "code": 1008})

    def _may(self, scope: _Scope) -> bool:
        if scope["type"] == "http" and scope["path"].startswith(_FOR_ALL):
            return True
        address, here = (scope.get(end) or (None,) for end in ("client", "server"))
        try:
            asking = ipaddress.ip_address(address[0])
        except ValueError:
            return False
        asking = getattr(asking, "ipv4_mapped", None) or asking
        return asking.is_loopback or address[0] == here[0] or any(asking in network for network in self._networks)


def networks_of(texts: Sequence[str]) -> list[Network]:
    """Networks such as 10.0.0.0/8, or single addresses. `UserError` for anything else."""
    try:
        return [ipaddress.ip_network(text) for text in texts]
    except ValueError as error:
        raise UserError(f"--runs-from: {error}; give an address or a network such as 10.0.0.0/8") from error


def main(arguments: list[str] | None = None) -> None:
    """Run the SuperLink of a directory until it ends."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("directory", type=Path)
    parser.add_argument("--host", required=True)
    parser.add_argument("--port", required=True)
    parser.add_argument("--runs-from", action="extend", nargs="*", default=[])
    parser.add_argument("--parent-pid", type=int)
    parsed = parser.parse_args(arguments)
    os.umask(0o077)  # what this process and its children write is for its user alone
    if parsed.parent_pid is not None:
        start_parent_process_monitor(parsed.parent_pid)
    gate = Middleware(Gate, networks=networks_of(parsed.runs_from))
    theirs = extensions.get_middleware
    extensions.get_middleware = lambda: (gate, *theirs())
    sys.argv = ["flower-superlink", *link_options(parsed.directory, parsed.host, parsed.port)]
    flower_superlink()


def link_options(directory: Path, host: str, port: str) -> list[str]:
    """The options of flower-superlink for a directory made by `fedllm federation certificates`."""
    files = {"--ssl-ca-certfile": AUTHORITY, "--ssl-certfile": SERVER, "--ssl-keyfile": SERVER_KEY}
    options = [part for option, file in files.items() for part in (option, str(directory / file))]
    database = ["--database", str(directory / DATABASE), "--enable-supernode-auth"]
    return [*options, *database, "--host", host, "--port", port, "--disable-runtime-dependency-installation"]


if __name__ == "__main__":
    main()
