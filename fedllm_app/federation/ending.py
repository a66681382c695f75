"""The end of a run, told to its clients: they keep no more of it than continuing it would need."""

from collections.abc import Mapping

from flwr.app import ConfigRecord, RecordDict
from flwr.serverapp import Grid

from fedllm_app.federation.closing import Closing
from fedllm_app.federation.transport import ask
from fedllm_app.messages import CONFIG

ENDED = "query.ended"
_TIMEOUT = 60.0  # seconds; nothing is loaded to answer


def tell_ended(grid: Grid, nodes: Mapping[int, int], run: str, versions: Mapping[int, int], everyone: bool) -> str:
    """Tell nodes that a run has finished; a sentence on those that could not be told, "" if all were.

    Parameters
    ----------
    nodes : Mapping[int, int]
        The node id of each client.
    versions : Mapping[int, int]
        The round of each client's last accepted reply.
    everyone : bool
        Whether each node has a disk of its own; the nodes of a simulation share one, and the first tells it.
    """
    content = RecordDict({CONFIG: ConfigRecord({"run": run, "versions": [versions[k] for k in sorted(versions)]})})
    distinct = {node: client for client, node in reversed(nodes.items())}
    clients = sorted(distinct.values()) if everyone else [min(nodes)]
    answers = ask(grid, {client: (nodes[client], content) for client in clients}, ENDED, Closing(_TIMEOUT))
    missed = sorted({*clients} - {client for client, answer in answers if answer and not answer.has_error()})
    if not missed:
        return ""
    return (
        f"clients {', '.join(map(str, missed))} could not be told that the run has finished; they keep its state until "
        "later runs take its place"
    )
