"""What an operator asks a SuperLink: its nodes, its runs, and to take a node's key."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import httpx
from cryptography.hazmat.primitives.serialization import Encoding, load_ssh_public_key
from flwr.proto.control_pb2 import ListNodesRequest, ListRunsRequest, RegisterNodeRequest
from flwr.supercore.control import ControlHttpClient
from flwr.supercore.interceptors import RuntimeVersionHttpInterceptor
from flwr.supercore.primitives.asymmetric import public_key_to_bytes

from fedllm_app.errors import UserError
from fedllm_app.sites.keys import read_certificate


class ControlError(UserError):
    """The SuperLink did not do what it was asked; the message carries its own words."""


@dataclass(frozen=True)
class NodeState:
    """A node as the SuperLink knows it. `status`: registered (was never there), online, offline."""

    node_id: int
    name: str
    status: str


@contextmanager
def control(address: str, authority: Path) -> Iterator[ControlHttpClient]:
    """A client of the SuperLink's control paths. What fails in the block becomes a `ControlError`."""
    version = RuntimeVersionHttpInterceptor(component_name="flwr CLI")
    certificate = read_certificate(authority).public_bytes(Encoding.PEM)
    client = ControlHttpClient.from_server_address(address, False, certificate, [version])
    try:
        yield client
    except httpx.HTTPStatusError as error:
        raise ControlError(f"the SuperLink at {address} refused: {_words(error.response)}") from error
    except httpx.HTTPError as error:
        raise ControlError(f"the SuperLink at {address} does not answer: {error}") from error
    finally:
        client.close()


def register(client: ControlHttpClient, public_key: Path, name: str) -> int:
    """Register a node by its public key file; its id."""
    key = public_key_to_bytes(load_ssh_public_key(public_key.read_bytes()))
    return client.RegisterNode(RegisterNodeRequest(public_key=key, name=name)).node_id


def nodes(client: ControlHttpClient) -> list[NodeState]:
    """All nodes that are registered."""
    found = client.ListNodes(ListNodesRequest()).nodes_info
    return [NodeState(node.node_id, node.name, node.status) for node in found if node.status != "unregistered"]


def runs(client: ControlHttpClient) -> dict[int, str]:
    """The status of every run, such as "running" or "finished:completed", the latest last."""
    found = client.ListRuns(ListRunsRequest()).run_dict
    latest = sorted(found.items(), key=lambda item: item[1].pending_at)
    return {run_id: ":".join(filter(None, (run.status.status, run.status.sub_status))) for run_id, run in latest}


def _words(response: httpx.Response) -> str:
    try:
        said = json.loads(response.text)
    except ValueError:
        return f"status {response.status_code}: {response.text.strip()[:200]}"
    return str(said.get("message") or said.get("detail") or said)[:200]
