"""Who reaches which paths of a SuperLink."""

import asyncio

import pytest

from fedllm_app.errors import UserError
from fedllm_app.sites.link import Gate, networks_of


def status(path: str, client: str | None, networks=(), server: str = "192.0.2.1", kind: str = "http"):
    """What a request is answered with; 200 stands for what Flower would say."""
    sent = []

    async def flower(scope, receive, send) -> None:
        await send({"type": "http.response.start", "status": 200})

    async def send(message) -> None:
        sent.append(message)

    scope = {"type": kind, "path": path, "client": (client, 1) if client else None, "server": (server, 8000)}
    asyncio.run(Gate(flower, networks_of(networks))(scope, None, send))
    return sent[0].get("status", sent[0]["type"])


@pytest.mark.parametrize("path", ["/v1/fleet/pull-messages", "/health"])
def test_nodes_reach_their_paths_from_anywhere(path):
    assert status(path, "198.51.100.7") == 200


@pytest.mark.parametrize(
    "path", ["/v1/control/start-run", "/v1/runtime/acquire-task", "/docs", "/", "/v1/fleet", "//v1/fleet/x"]
)
def test_strangers_reach_nothing_else(path):
    assert status(path, "198.51.100.7") == 403
    assert status(path, None) == 403
    assert status(path, "198.51.100.7", kind="websocket") == "websocket.close"


@pytest.mark.parametrize("client", ["127.0.0.1", "::1", "::ffff:127.0.0.1", "192.0.2.1", "10.7.0.1", "::ffff:10.7.0.1"])
def test_this_machine_and_named_networks_may_start_runs(client):
    assert status("/v1/control/start-run", client, networks=["10.0.0.0/8"]) == 200


@pytest.mark.parametrize("network", ["10.0.0.1/8", "example.org", ""])
def test_what_is_no_network_is_refused(network):
    with pytest.raises(UserError, match="--runs-from"):
        networks_of([network])
