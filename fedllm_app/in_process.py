"""A whole run in this process: the server, and its clients one after the other, so that breakpoints and pdb work.

It is the app's own ServerApp and ClientApp. Only Flower's processes and Ray are left out, so that the final adapter is
that of a simulation, bit for bit, with as many threads.
"""

import copy
import logging
import secrets
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from flwr.app import Context, Message, RecordDict
from flwr.supercore.task_identity import TaskIdentity

from fedllm_app import client_app, server_app
from fedllm_app.client.progress import keep_steps
from fedllm_app.config.parse import parse_run_config
from fedllm_app.config.sections import FlatConfig
from fedllm_app.runs.directory import PromptRecord, RunDirectory, check_resumable

_FIRST_NODE = 100  # node ids of Flower are large and drawn; these differ from the numbers of clients, too
_IDENTITY = ("_task_id", "_run_id", "_node_id")


class InProcessGrid:
    """A simulation's grid whose nodes are this process: each message goes through the ClientApp when it is sent."""

    def __init__(self, run_config: FlatConfig, nodes: int, run_id: int = 5) -> None:
        self.contexts = {
            node + _FIRST_NODE: Context(
                run_id=run_id,
                node_id=node + _FIRST_NODE,
                node_config={"partition-id": node, "num-partitions": nodes},
                state=RecordDict(),
                run_config=dict(run_config),
            )
            for node in range(nodes)
        }
        self.replies: dict[str, Message] = {}
        self._sent = 0

    def get_node_ids(self) -> list[int]:
        """The nodes, one a client."""
        return list(self.contexts)

    def push_messages(self, messages: Iterable[Message]) -> list[str]:
        """Let the clients answer, one after the other."""
        ids = []
        for message in messages:
            self._sent += 1
            message.metadata._message_id = f"message-{self._sent}"
            node = message.metadata.dst_node_id
            sent = Message(
                copy.deepcopy(message.content),  # what a network does
                dst_node_id=node,
                message_type=message.metadata.message_type,
                ttl=message.metadata.ttl,
            )
            sent.metadata._message_id = message.metadata.message_id
            self.replies[message.metadata.message_id] = client_app.app(sent, self.contexts[node])
            ids.append(message.metadata.message_id)
        return ids

    def pull_messages(self, message_ids: Iterable[str]) -> list[Message]:
        """The replies that have not been pulled yet."""
        return [self.replies.pop(name) for name in list(message_ids) if name in self.replies]


@contextmanager
def _inside_a_task(run_id: int) -> Iterator[None]:
    """A Message can be made only inside a task; in a run, Flower sets these when it starts the ServerApp."""
    before = {name: getattr(TaskIdentity, name, None) for name in _IDENTITY}
    for name in _IDENTITY:
        setattr(TaskIdentity, name, run_id if name == "_run_id" else 1)
    try:
        yield
    finally:
        for name, value in before.items():
            setattr(TaskIdentity, name, value)


@contextmanager
def quiet() -> Iterator[None]:
    """Without Flower's lines of information: whoever runs in this process is shown the same events another way."""
    logger = logging.getLogger("flwr")
    before = logger.level
    logger.setLevel(logging.WARNING)
    try:
        yield
    finally:
        logger.setLevel(before)


def run_in_process(
    flat: FlatConfig,
    tell: Callable[[Mapping[str, object]], None] | None = None,
    grid: type[InProcessGrid] = InProcessGrid,
) -> RunDirectory:
    """One whole run: a new one in `run.directory`, or that of `run.resume` again.

    Parameters
    ----------
    tell : Callable[[Mapping[str, object]], None] | None
        Called with every event of the journal, and at last with the result.

    Raises
    ------
    UserError
        What ends the run; the journal has the reason as well.
    """
    # PEFT takes bitsandbytes along only if it finds it at its own import, and a later run may need it.
    import peft  # noqa: F401

    if flat["run.resume"]:  # which says more than what the parts of a changed configuration contradict
        check_resumable(Path(str(flat["run.resume"])), flat)
    config = parse_run_config(flat)
    prompt = PromptRecord.of(config.data.template, config.data.system_prompt, config.data.special_tokens_in_text)
    directory = RunDirectory(Path(config.run.resume or config.run.directory), prompt, tell)
    run_id = secrets.randbits(62)
    with directory.held(), _inside_a_task(run_id):
        if config.run.resume:
            directory.resume(flat)
        else:
            directory.create(flat)
        nodes = config.clients.simulated
        try:
            server_app.run_experiment(grid(flat, nodes, run_id), config, directory, run_id)
        finally:
            keep_steps(run_id, directory.path)
    return directory
