"""Who takes part: which node serves which client, and what every client holds.

A client is a data owner, a node is a process that Flower talks to. In a deployment each node is one client. In a
simulation a node can act for any client, because all of them hold shares of one data set; so a run with four clients
works on Flower's default of two virtual nodes as well, each serving two.
"""

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from logging import WARNING

from flwr.app import ConfigRecord, RecordDict
from flwr.serverapp import Grid
from flwr.supercore import log

from fedllm_app.errors import UserError
from fedllm_app.federation.bases import base_problem
from fedllm_app.federation.closing import Closing
from fedllm_app.federation.descriptions import read_description, read_identity
from fedllm_app.federation.error_replies import error_reason, is_lost_node
from fedllm_app.federation.fingerprint import PROTOCOL
from fedllm_app.federation.holdings import Holdings
from fedllm_app.federation.reply_checks import unreadable
from fedllm_app.federation.transport import NoReply, ask, wait_for_nodes
from fedllm_app.messages import CONFIG, plain_text

IDENTIFY, DESCRIBE = "query.identify", "query.describe"
NO_ANSWER = "no answer"
_LISTED = 10  # clients that are named by number
_FIRST_ASKED = 16  # nodes; all nodes of a simulation run the same code on the same machine, so a few speak for them


class RosterError(UserError):
    """The run cannot begin with these nodes; the message says which and why."""


@dataclass(frozen=True)
class Node:
    """What a node said of itself. `partition` and `partitions` are -1 and 0 for a node that was given none.

    `partition` is -1 for a simulation's node that was not asked.
    `code` is the hash of its code, `protocol` the version of the messages that it understands.
    `gpus_hidden`: its machine has a driver for GPUs, and its process may use none.
    """

    node_id: int
    partition: int
    partitions: int
    site: str
    code: str
    protocol: int = PROTOCOL
    gpus_hidden: bool = False


def gather_nodes(
    grid: Grid, clients: int, code: str, timeout: float, tell: Callable[[int, int, bool], None] = lambda *_: None
) -> list[Node]:
    """The nodes of this run in a stable order: by partition, else by site name, else by id (which Flower draws).

    Each site is asked who it is. Of a simulation some nodes are asked, since all run the same code on the same data.

    Parameters
    ----------
    tell : Callable[[int, int, bool], None]
        Told how many nodes are connected, how many are needed, and whether it is a simulation, whenever that changes.

    Raises
    ------
    RosterError
        If a simulation's nodes run other code than the server, a deployment's speak another protocol, two of them have
        the same site name, or `clients` is 0 and the nodes do not know how many they are.
    NoReply
        If too few nodes connect or answer in time.
    """
    known: dict[int, Node] = {}
    lost: set[int] = set()
    _meet(grid, 1, known, lost, timeout, lambda connected: tell(connected, clients, False), most=_FIRST_ASKED)
    partitions = next(iter(known.values())).partitions
    expected = partitions or clients
    if not expected:
        raise RosterError("clients.number = 0 in a deployment: it must be the number of sites that take part")
    if partitions:
        connected = wait_for_nodes(grid, expected, timeout, lost, lambda connected: tell(connected, expected, True))
        one = next(iter(known.values()))
        known = {node_id: known.get(node_id) or replace(one, node_id=node_id, partition=-1) for node_id in connected}
    else:
        _meet(grid, expected, known, lost, timeout, lambda connected: tell(connected, expected, False))
    nodes = sorted(known.values(), key=lambda node: (node.partition, node.site, node.node_id))
    _check_versions(nodes, code)
    names = [node.site for node in nodes if node.site and not node.partitions]
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise RosterError(
            f"{names.count(twice[0])} nodes say site='{twice[0]}': clients are numbered by these names, so each needs "
            "its own; end one of the nodes, or start it with another name"
        )
    return nodes


def _check_versions(nodes: list[Node], code: str) -> None:
    """A simulation loads server and clients from one machine: other code is a stale package. Sites are updated one by
    one, so that their code may differ as long as they mean the same by a message."""
    other = [node for node in nodes if node.partitions and node.code != code]
    if other:
        raise RosterError(
            f"{len(other)} of {len(nodes)} nodes run another version of the app than the server (the first: node "
            f"{other[0].node_id}); start the SuperLink from an empty directory"
        )
    older = [node for node in nodes if node.protocol != PROTOCOL]
    if older:
        named = ", ".join(f"{plain_text(node.site) or node.node_id} has {node.protocol}" for node in older)
        raise RosterError(
            f"{len(older)} of {len(nodes)} sites speak another protocol than the server, which has {PROTOCOL}: {named}"
            "; update the app there, or on the server"
        )


def other_code(nodes: list[Node], code: str) -> str | None:
    """A sentence that names the sites whose code differs from the server's, None if none does."""
    names = [plain_text(node.site) or str(node.node_id) for node in nodes if node.code != code]
    if not names:
        return None
    return (
        f"{', '.join(names)}: other code of the app than the server's, of the same protocol; the run goes on, and its "
        "numbers may differ from those of one version"
    )


def unused_nodes(nodes: list[Node], assigned: Collection[int]) -> str | None:
    """A sentence on the sites that are connected and serve no client, None if all do; a simulation's have no data."""
    names = [plain_text(node.site) or str(node.node_id) for node in nodes if node.node_id not in assigned]
    if not names or nodes[0].partitions:
        return None
    return f"{len(nodes)} sites are connected and clients.number = {len(set(assigned))}; not used: {', '.join(names)}"


def unused_gpus(nodes: list[Node]) -> str | None:
    """A sentence for a simulation whose clients were given no GPU on a machine that may have one, else None."""
    if not any(node.gpus_hidden and node.partitions for node in nodes):
        return None
    return (
        "this machine has a driver for GPUs, and Flower gives the clients none, so they train on the CPU: add "
        'client-resources-num-gpus=1, or a part such as 0.5, to --federation-config, or use "fedllm run", which does it'
    )


def assign_clients(nodes: list[Node], clients: int) -> dict[int, int]:
    """Which node (its id) serves each client 0..clients-1 (0: one client a node)."""
    number = clients or len(nodes)
    if nodes[0].partitions == 0 and len(nodes) < number:
        raise RosterError(f"{number} clients need {number} nodes, {len(nodes)} are there")
    return {client: nodes[client % len(nodes)].node_id for client in range(number)}


def describe_clients(
    grid: Grid, nodes: Mapping[int, int], clients: int, manifest: str, timeout: float, pooled: bool = False
) -> Holdings:
    """What some of the `clients` hold, all of them or those drawn first, and the versions of their code and libraries.

    Raises `RosterError` naming each client that cannot take part and why, before the first round, and who has which
    base model where those differ. Where rows are to be
    `pooled`, that is also one whose rows no other has.
    """
    holdings, problems = describe_some(grid, nodes, clients, manifest, timeout, pooled)
    if problems:
        lines = "\n  ".join(_told_once(problems))
        raise RosterError(f"{len(problems)} of {len(nodes)} clients cannot take part:\n  {lines}")
    different = base_problem({client: holding for client, (holding, _) in holdings.items()})
    if different:
        raise RosterError(different)
    return holdings


def _told_once(problems: Mapping[int, str]) -> list[str]:
    """Reasons by client, one that several clients without a name give alike once: in a simulation all often do."""
    clients: dict[str, list[int]] = {}
    for client, problem in problems.items():
        clients.setdefault(problem.removeprefix(f"client {client}: "), []).append(client)
    return [
        f"clients {_listed(numbers)}: {reason}" if len(numbers) > 1 else problems[numbers[0]]
        for reason, numbers in clients.items()
    ]


def _listed(numbers: Sequence[int]) -> str:
    shown = ", ".join(map(str, numbers[:_LISTED]))
    return f"{shown} and {len(numbers) - _LISTED} more" if len(numbers) > _LISTED else shown


def describe_some(
    grid: Grid, nodes: Mapping[int, int], clients: int, manifest: str, timeout: float, pooled: bool = False
) -> tuple[Holdings, dict[int, str]]:
    """What some of the `clients` hold, and why the others of them cannot take part; both by client."""
    request = {"clients": clients, "pooled": pooled}
    requests = {
        client: (node, RecordDict({CONFIG: ConfigRecord({"client": client, **request})}))
        for client, node in nodes.items()
    }
    holdings: Holdings = {}
    problems = {}
    closing = Closing(timeout, timeout_key="run.describe-timeout")
    for client, answer in ask(grid, requests, DESCRIBE, closing):
        if answer is None:
            problems[client] = f"client {client}: {closing.reason()}"
        elif answer.has_error():
            named = f"client {client}"
            reason = error_reason(answer.error)
            problems[client] = reason if reason.startswith(named) else f"{named}: {reason}"
        else:
            try:
                description = read_description(answer)
            except Exception as error:  # whatever a client's words raise is that client's problem
                problems[client] = f"client {client}: {unreadable(error)}"
                continue
            if description.manifest == manifest:
                holdings[client] = (description.holding, description.versions)
            else:
                problems[client] = f"client {client}: its adapter has another layout than the server's"
    return holdings, problems


def identify(grid: Grid, node_ids: Iterable[int], timeout: float) -> tuple[list[Node], dict[int, str], Collection[int]]:
    """What nodes say of themselves; by id, why others of them could not; and which of those are gone."""
    requests = {node_id: (node_id, RecordDict({CONFIG: ConfigRecord({})})) for node_id in node_ids}
    nodes, problems, lost = [], {}, set()
    for node_id, answer in ask(grid, requests, IDENTIFY, Closing(timeout)):
        if answer is None or answer.has_error():
            problems[node_id] = NO_ANSWER if answer is None else error_reason(answer.error)
            if answer is not None and is_lost_node(answer.error):
                lost.add(node_id)
            continue
        try:
            nodes.append(Node(node_id, **read_identity(answer)))
        except Exception as error:  # whatever a node's words raise is that node's problem
            problems[node_id] = unreadable(error)
    return nodes, problems, lost


def _meet(
    grid: Grid,
    number: int,
    known: dict[int, Node],
    lost: set[int],
    timeout: float,
    tell: Callable[[int], None],
    most: int | None = None,
) -> None:
    """Ask the nodes that are connected who they are, `most` of them at a time, until `number` of them have said so.

    Flower lists a node for a minute after it was killed. Such a node is `lost`, and no reason to end the run.
    """
    while True:
        connected = wait_for_nodes(grid, number, timeout, lost, tell)
        new = [node_id for node_id in connected if node_id not in known]
        nodes, problems, gone = identify(grid, new[:most], timeout)
        for node_id, reason in problems.items():
            if node_id not in gone:
                said = "could not say who it is" if reason == NO_ANSWER else "does not take part"
                raise NoReply(f"node {node_id} {said}: {reason}")
            log(WARNING, "node %d is left out: %s", node_id, reason)
        lost.update(gone)
        known.update({node.node_id: node for node in nodes})
        if len(known) >= number:
            return
