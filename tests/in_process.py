"""A whole run in one process: the real server and the real clients, without Flower's."""

import copy

from flwr.app import Context, Message, RecordDict

from fedllm_app import client_app, server_app
from fedllm_app.config.parse import parse_run_config
from fedllm_app.runs.directory import PromptRecord, RunDirectory


class InProcessGrid:
    """A simulation's grid whose nodes are this process: each message goes through the ClientApp at once."""

    def __init__(self, run_config: dict, nodes: int) -> None:
        self.contexts = {
            node + 100: Context(
                run_id=5,
                node_id=node + 100,
                node_config={"partition-id": node, "num-partitions": nodes},
                state=RecordDict(),
                run_config=run_config,
            )
            for node in range(nodes)
        }
        self.replies: dict[str, Message] = {}

    def get_node_ids(self):
        return list(self.contexts)

    def push_messages(self, messages):
        ids = []
        for message in messages:
            message.metadata._message_id = f"message-{len(self.replies)}-{message.metadata.dst_node_id}"
            content = copy.deepcopy(message.content)  # what a network does
            sent = Message(
                content, dst_node_id=message.metadata.dst_node_id, message_type=message.metadata.message_type
            )
            sent.metadata._message_id = message.metadata.message_id
            self.replies[message.metadata.message_id] = client_app.app(
                sent, self.contexts[message.metadata.dst_node_id]
            )
            ids.append(message.metadata.message_id)
        return ids

    def pull_messages(self, message_ids):
        return [self.replies.pop(name) for name in list(message_ids) if name in self.replies]


def run_in_process(flat: dict, directory, grid: type[InProcessGrid] | None = None) -> bytes:
    """One whole run; the bytes of the final adapter."""
    grid = grid or InProcessGrid  # looked up here, because tests replace it
    flat = flat | {"run.directory": str(directory)}
    run = RunDirectory(directory, PromptRecord.of(flat["data.template"], flat["data.system-prompt"]))
    run.create(flat)
    server_app.run_experiment(grid(flat, flat["clients.number"]), parse_run_config(flat), run, run_id=5)
    return (directory / "adapter" / "adapter_model.safetensors").read_bytes()


def resume_in_process(flat: dict, directory, grid=InProcessGrid) -> bytes:
    """Go on with a run of `run_in_process`; the bytes of the final adapter."""
    flat = flat | {"run.directory": "", "run.resume": str(directory)}
    run = RunDirectory(directory, PromptRecord.of(flat["data.template"], flat["data.system-prompt"]))
    run.resume(flat)
    server_app.run_experiment(grid(flat, flat["clients.number"]), parse_run_config(flat), run, run_id=6)
    return (directory / "adapter" / "adapter_model.safetensors").read_bytes()
