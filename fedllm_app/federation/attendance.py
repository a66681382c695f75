"""Who is there: before every round the connected nodes are looked at, and matched with the clients by their site.

A SuperNode that was killed and started again comes back under its old id if it has a key, else under a new one. Only
nodes that were not met before are asked who they are, so a federation in which nobody moves costs no message.
"""

import time
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import fields

from flwr.serverapp import Grid

from fedllm_app.federation.fingerprint import PROTOCOL
from fedllm_app.federation.holdings import Holdings
from fedllm_app.federation.roster import Node, identify, other_code
from fedllm_app.messages import ClientHolding, plain_text

_IDENTIFY_TIMEOUT = 60.0  # seconds; a node answers this without loading anything
_TRIES = 3  # how often a node is asked who it is
_LOOK_EVERY = 1.0  # seconds, while too few are connected
_PATIENCE = 120.0  # seconds; clients whose description fails after longer than that hold up fewer and fewer rounds
NOT_CONNECTED = "its site is not connected"

Describe = Callable[[Mapping[int, int]], tuple[Holdings, dict[int, str]]]
"""Given nodes by client: what they hold, and why some cannot take part."""


class Attendance:
    """Keeps up to date which node serves which client of a deployment. A simulation keeps its nodes.

    Parameters
    ----------
    nodes : dict[int, int]
        The node id of each client; changed in place when a client comes back under another id.
    known : Iterable[Node]
        All nodes that were met before the run, those that serve no client included.
    holdings : Mapping[int, ClientHolding]
        What the clients said that they hold; the others are asked when they are drawn first.
    code : str
        Hash of the server's code.
    describe : Describe
        Asks clients that come back, or are drawn first, what they hold now, and checks them as before round 1.
    introduced : Callable[[Holdings], None]
        Told of clients that are drawn first, before they train.
    returned : Callable[[int, ClientHolding], None]
        Told of a client that is back, before it trains.
    journal : Callable[..., None]
        Writes an event.
    wait_timeout : float
        Seconds to wait for a round's least number of clients to connect.
    """

    def __init__(
        self,
        grid: Grid,
        nodes: dict[int, int],
        known: Iterable[Node],
        *,
        holdings: Mapping[int, ClientHolding],
        code: str,
        describe: Describe,
        introduced: Callable[[Holdings], None],
        returned: Callable[[int, ClientHolding], None],
        journal: Callable[..., None],
        wait_timeout: float,
    ) -> None:
        self._grid, self._nodes, self._holdings = grid, nodes, dict(holdings)
        self._code, self._describe, self._introduced, self._returned = code, describe, introduced, returned
        self._journal, self._wait_timeout = journal, wait_timeout
        known = list(known)
        client_of = {node_id: client for client, node_id in nodes.items()}
        self._simulation = any(node.partitions for node in known)
        self._clients = {
            node.site: client_of[node.node_id] for node in known if node.site and node.node_id in client_of
        }
        self._met: dict[int, int | None] = {node.node_id: client_of.get(node.node_id) for node in known}
        self._tries: dict[int, int] = {}
        self._away = {*nodes} - {*holdings}  # clients that must describe themselves before they train again
        self._silent: set[int] = set()  # clients whose node did not answer its last message
        self._holding_up: dict[int, int] = {}  # how often a client held up a round that it then could not take part in
        self._not_before: dict[int, int] = {}  # the round in which it is asked again
        self._twice: set[int] = set()  # nodes of which was told that their site is connected twice

    def absent(self, server_round: int, clients: Collection[int], least: int = 0) -> dict[int, str]:
        """Which of some clients cannot be sent a message now, and why.

        While fewer than `least` are connected, they are waited for. A client that came back, or was not drawn before,
        is described first.
        """
        gone = set() if self._simulation else self._gone(clients)
        if len(clients) - len(gone) < least:
            limit = self._wait_timeout
            self._journal("waiting", round=server_round, clients=sorted(gone), least=least, wait_timeout=limit)
            deadline = time.monotonic() + self._wait_timeout
            while len(clients) - len(gone) < least and time.monotonic() < deadline:
                time.sleep(_LOOK_EVERY)
                gone = self._gone(clients)
        back = sorted(self._away.intersection(clients) - gone)
        later = {client: self._not_before[client] for client in back if self._not_before.get(client, 0) > server_round}
        back = [client for client in back if client not in later]
        refused = self._welcome(server_round, back) if back else {}
        asked_later = {
            client: f"it held up rounds without describing its data; it is asked again in round {number}"
            for client, number in later.items()
        }
        return dict.fromkeys(sorted(gone), NOT_CONNECTED) | asked_later | refused

    def answered(self, clients: Iterable[int]) -> None:
        """Note clients whose nodes are alive."""
        self._silent.difference_update(clients)

    def silent(self, clients: Iterable[int], lost: Iterable[int] = ()) -> None:
        """Note clients that did not answer; of those that are `lost`, Flower says that their node is gone."""
        if not self._simulation:  # where another process does what a lost one did, with the same data
            self._away.update(lost)
        self._silent.update(clients, lost)

    def _gone(self, clients: Collection[int]) -> set[int]:
        """Those whose node is not connected, after the nodes that are new were met."""
        connected = set(self._grid.get_node_ids())
        self._meet(sorted(connected - self._met.keys()))
        nodes_of: dict[int | None, list[int]] = {}
        for node_id in sorted(connected):
            nodes_of.setdefault(self._met.get(node_id), []).append(node_id)
        for client, current in list(self._nodes.items()):
            others = [node_id for node_id in nodes_of.get(client, ()) if node_id != current]
            if others and (current not in connected or client in self._silent):
                self._nodes[client] = others[-1]
                self._silent.discard(client)
                self._away.add(client)
            elif others:
                self._tell_twice(client, current, others)
            if self._nodes[client] not in connected:
                self._away.add(client)
                self._not_before.pop(client, None)  # when it is back, it is another process
        return {client for client in clients if self._nodes[client] not in connected}

    def _meet(self, new: list[int]) -> None:
        if not new:
            return
        nodes, problems, _ = identify(self._grid, new, _IDENTIFY_TIMEOUT)
        for node_id, reason in problems.items():
            self._tries[node_id] = self._tries.get(node_id, 0) + 1
            if self._tries[node_id] == _TRIES:
                self._met[node_id] = None
                self._warn(f"node {node_id} connected and could not say who it is: {reason}; it is not used")
        for node in nodes:
            self._met[node.node_id] = self._client(node)

    def _client(self, node: Node) -> int | None:
        """The client that a new node serves, if it may."""
        site = plain_text(node.site)
        client = self._clients.get(node.site)
        if node.site and client is None:
            self._warn(f"site '{site}' joined during the run; it is not used, the run goes on with its clients")
        elif not node.site:
            self._warn(
                f"node {node.node_id} connected without a site's name, so that it cannot be matched with a client; it "
                "is not used. Start it with --node-config \"site='…'\""
            )
        elif node.protocol != PROTOCOL:
            self._warn(
                f"site '{site}' came back with protocol {node.protocol}, the server has {PROTOCOL}; it is not used "
                "until the app is updated there"
            )
        else:
            if differs := other_code([node], self._code):
                self._warn(differs)
            return client
        return None

    def _tell_twice(self, client: int, current: int, others: list[int]) -> None:
        for node_id in others:
            if node_id not in self._twice:
                self._twice.add(node_id)
                self._warn(
                    f"the site of client {client} is connected twice; node {current} serves it, and node {node_id} "
                    "only after that one is gone"
                )

    def _welcome(self, server_round: int, clients: list[int]) -> dict[int, str]:
        """Let clients that came back, or are drawn first, describe themselves; why some cannot take part."""
        began = time.monotonic()
        holdings, problems = self._describe({client: self._nodes[client] for client in clients})
        if time.monotonic() - began > _PATIENCE:
            for client in problems:
                self._holding_up[client] = self._holding_up.get(client, 0) + 1
                self._not_before[client] = server_round + 2 ** self._holding_up[client]
        first = {client: described for client, described in holdings.items() if client not in self._holdings}
        if first:
            self._introduced(first)
        for client, (holding, _) in holdings.items():
            before = self._holdings.get(client)
            self._holdings[client] = holding
            self._away.discard(client)
            self._holding_up.pop(client, None)
            if before is None:
                continue
            self._returned(client, holding)
            changed = differences(before, holding)
            self._journal("returned", round=server_round, client=client, name=before.name, changed=changed)
        return problems

    def _warn(self, reason: str) -> None:
        self._journal("warning", reason=reason)


def differences(before: ClientHolding, after: ClientHolding) -> dict[str, list[int | str | bool]]:
    """What a client holds now that it did not before: both values by the name of the field."""
    pairs = {field.name: [getattr(before, field.name), getattr(after, field.name)] for field in fields(before)}
    return {name: pair for name, pair in pairs.items() if pair[0] != pair[1]}
