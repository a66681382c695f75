"""How many messages Flower's SuperLink carries on this machine, as a table.

    python benchmarks/superlink.py                                    # empty messages: 1, 10 and 100 nodes
    python benchmarks/superlink.py --nodes 10 --megabytes 16.8        # with an array that large, down and up
    python benchmarks/superlink.py --nodes 10 100 --memory            # without the database
    python benchmarks/superlink.py --fold                             # what a strategy does with a reply

A real SuperLink with its SQLite database (as `fedllm federation serve` starts it), without TLS. A ServerApp sends a
message to each node and waits for the replies, one push a message and looks at 16 at a time, as this app does. Nodes
are stubs in one process, which do over HTTP what a SuperNode does, and start no ClientApp. All share the machine, so
what counts for a server of its own is the processor time of the SuperLink alone:

messages/s    messages sent and answered a second, from the first push to the last reply
link ms       processor time of the SuperLink for one message and its reply
app ms        processor time of the ServerApp's process for the same
poll ms       processor time of the SuperLink for one question "is there a message for me?"; a SuperNode without work
              asks every 3 s
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))
POLLING = 5.0  # seconds of questions without an answer
THREADS = 4  # of the stubs
APP = """
import json, os, time
import numpy as np, psutil
from flwr.app import Array, ArrayRecord, Message, RecordDict
from flwr.clientapp import ClientApp
from flwr.serverapp import ServerApp

client = ClientApp()
app = ServerApp()

@app.main()
def main(grid, context):
    config = context.run_config
    link, own = psutil.Process(config["link"]), psutil.Process()
    while len(nodes := list(grid.get_node_ids())) < config["nodes"]:
        time.sleep(0.1)
    seconds = lambda process: sum(process.cpu_times()[:2])
    def content(wave):
        if not config["bytes"]:
            return RecordDict()
        array = np.random.default_rng(wave).random(config["bytes"] // 4, dtype=np.float32)
        return RecordDict({"arrays": ArrayRecord({"vector": Array(array)})})
    waves = [content(wave) for wave in range(max(1, config["messages"] // len(nodes)))]
    def wave(content):
        ids = [i for node in nodes for i in grid.push_messages([Message(content, node, "query", ttl=600)])]
        while ids:
            done = {reply.metadata.reply_to_message_id for reply in grid.pull_messages(ids[:16])}
            ids = [i for i in ids if i not in done]
            if not done:
                time.sleep(0.1)  # as this app does
    wave(RecordDict())  # connections, caches
    before = time.perf_counter(), seconds(link), seconds(own)
    for each in waves:
        wave(each)
    after = time.perf_counter(), seconds(link), seconds(own)
    spent = [b - a for a, b in zip(before, after)] + [len(waves) * len(nodes)]
    with open(config["out"] + ".new", "w") as file:
        json.dump(spent, file)
    os.replace(config["out"] + ".new", config["out"])
"""
PROJECT = """
[build-system]
requires = ["hatchling"]
build-backend = "hatchling.build"
[project]
name = "links"
version = "1.0.0"
dependencies = []
license = "Apache-2.0"
[tool.flwr.app]
publisher = "links"
[tool.flwr.app.components]
serverapp = "links:app"
clientapp = "links:client"
[tool.flwr.app.config]
"""


def main() -> None:
    """Measure each number of nodes on a SuperLink of its own, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--nodes", type=int, nargs="+", default=[1, 10, 100])
    parser.add_argument("--messages", type=int, default=300, help="in each row, about")
    parser.add_argument("--megabytes", type=float, default=0.0, help="of a message and of a reply, 10^6 bytes")
    parser.add_argument("--memory", action="store_true", help="the SuperLink keeps its state in memory")
    parser.add_argument("--fold", action="store_true", help="ms in which a reply is checked and added to the mean")
    parser.add_argument("--stubs", nargs=2, metavar=("PORT", "NODES"), help=argparse.SUPPRESS)
    parsed = parser.parse_args()
    if parsed.fold:
        return print(fold())
    if parsed.stubs:
        return serve(int(parsed.stubs[0]), int(parsed.stubs[1]))
    size = int(parsed.megabytes * 1e6) // 4 * 4
    messages = parsed.messages if not size else max(10, min(parsed.messages, int(600e6 // size)))
    kept = "memory" if parsed.memory else "a database"
    print(f"{os.cpu_count()} cores, state in {kept}, messages and replies of {size:,} bytes and Flower's own")
    print(f"{'nodes':>6}{'messages':>10}{'messages/s':>12}{'link ms':>9}{'app ms':>8}{'polls/s':>9}{'poll ms':>9}")
    for nodes in parsed.nodes:
        with tempfile.TemporaryDirectory(prefix="superlink-") as scratch:
            row = measure(Path(scratch), nodes, messages, size, parsed.memory)
        print("{:6d}{:10d}{:12.1f}{:9.1f}{:8.1f}{:9.0f}{:9.2f}".format(*row), flush=True)


def fold(parameters: int = 4_194_304, replies: int = 20) -> str:
    """The milliseconds in which a reply of so many float32 numbers is looked through and added to FedAvg's mean."""
    import numpy as np

    from fedllm_app.strategies.means import VectorMean

    vector, mean = np.random.default_rng(0).random(parameters, dtype=np.float32), VectorMean((parameters,))
    began = time.process_time()
    for _ in range(replies):
        assert np.isfinite(vector).all()
        mean.add(vector, 1.0)
    return f"{parameters:,} parameters: {1e3 * (time.process_time() - began) / replies:.1f} ms a reply"


def measure(folder: Path, nodes: int, messages: int, size: int, memory: bool) -> tuple:
    """One row: nodes, messages, messages a second, ms of SuperLink and ServerApp, polls a second, ms of one."""
    from fedllm_app.commands.flower import flower_command, flower_environment, free_port, wait_until_healthy

    os.environ["FLWR_HOME"] = str(folder / "flwr")
    port, out, log = free_port(), folder / "spent.json", folder / "log"
    (folder / "flwr").mkdir()
    (folder / "flwr" / "config.toml").write_text(f'[superlink.links]\naddress = "127.0.0.1:{port}"\ninsecure = true\n')
    command = [flower_command("flower-superlink"), "--insecure", "--host", "127.0.0.1", "--port", str(port)]
    command += ["--control-api-address", f"127.0.0.1:{free_port()}"]
    command += [] if memory else ["--database", str(folder / "state.db")]
    with _process(command, log, flower_environment()) as link:
        wait_until_healthy(port, link, log)
        stubs = [sys.executable, __file__, "--stubs", str(port), str(nodes)]
        with _process(stubs, folder / "stubs.log", flower_environment(), subprocess.PIPE) as serving:
            polls, seconds, spent = _polls(serving, psutil.Process(link.pid))
            app = folder / "app"
            app.mkdir()
            (app / "links.py").write_text(APP)
            given = {"out": str(out), "nodes": nodes, "messages": messages, "bytes": size, "link": link.pid}
            (app / "pyproject.toml").write_text(
                PROJECT + "".join(f"{key} = {json.dumps(value)}\n" for key, value in given.items())
            )
            run = [flower_command("flwr"), "run", str(app), "links"]
            done = subprocess.run(run, env=flower_environment(), check=False, capture_output=True, text=True)
            if done.returncode:
                raise RuntimeError(done.stdout + done.stderr)
            while not out.is_file():
                if link.poll() is not None or serving.poll() is not None:
                    raise RuntimeError(log.read_text()[-2000:] + (folder / "stubs.log").read_text()[-2000:])
                time.sleep(0.2)
    wall, of_link, of_app, number = json.loads(out.read_text())
    each = (number / wall, 1e3 * of_link / number, 1e3 * of_app / number)
    return nodes, number, *each, polls / seconds, 1e3 * spent / polls


def _polls(serving: subprocess.Popen, link: psutil.Process) -> tuple[int, float, float]:
    """Questions without an answer, the seconds they took, and the processor time of the SuperLink."""
    assert serving.stdout.readline() == b"ready\n", "the stubs did not start"
    before = sum(link.cpu_times()[:2])
    serving.stdin.write(b"poll\n")
    serving.stdin.flush()
    polls, seconds = json.loads(serving.stdout.readline())
    return polls, seconds, sum(link.cpu_times()[:2]) - before


@contextmanager
def _process(command: list[str], log: Path, environment: dict[str, str], pipes=None) -> Iterator[subprocess.Popen]:
    """A process that ends with the block, with all that it started."""
    from fedllm_app.commands.flower import end_process_tree

    with open(log, "wb") as file:
        process = subprocess.Popen(
            command, stdin=pipes, stdout=pipes or file, stderr=file, env=environment, cwd=log.parent
        )
    try:
        yield process
    finally:
        end_process_tree(process.pid)
        process.wait()


def serve(port: int, number: int) -> None:
    """The stubs: register, ask for a while for nothing, then answer every message with its own content until killed."""
    from flwr.supercore.task_identity import TaskIdentity

    for name in ("_task_id", "_run_id", "_node_id"):  # Flower lets a message be made inside a task only
        setattr(TaskIdentity, name, 1)
    nodes = [Stub(port) for _ in range(number)]
    threading.Thread(target=_beat, args=(nodes,), daemon=True).start()
    parts = [nodes[first::THREADS] for first in range(min(THREADS, number))]
    print("ready", flush=True)
    sys.stdin.readline()
    for node in nodes:
        node.pull()  # connections, caches
    began, counts = time.perf_counter(), [0] * len(parts)

    def poll(part: int) -> None:
        while time.perf_counter() - began < POLLING:
            for node in parts[part]:
                node.pull()
                counts[part] += 1

    _all(poll, len(parts))
    print(json.dumps([sum(counts), time.perf_counter() - began]), flush=True)

    def answer(part: int) -> None:
        while True:
            if not sum(node.answer() for node in parts[part]):  # all are asked
                time.sleep(0.2)  # the questions of idle stubs are no part of a message's price

    _all(answer, len(parts))


def _all(task, number: int) -> None:
    threads = [threading.Thread(target=task, args=(part,), daemon=True) for part in range(number)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


def _beat(nodes: list["Stub"]) -> None:
    while True:
        time.sleep(20)
        for node in nodes:
            node.beat()


class Stub:
    """What a SuperNode says to a SuperLink, without a ClientApp."""

    def __init__(self, port: int) -> None:
        from flwr.proto.fleet_pb2 import ActivateNodeRequest, RegisterNodeFleetRequest
        from flwr.proto.node_pb2 import Node
        from flwr.supercore.interceptors.http.runtime_version import RuntimeVersionHttpInterceptor
        from flwr.supercore.primitives.asymmetric import generate_key_pairs, public_key_to_bytes
        from flwr.supernode.fleet_http_client import FleetHttpClient
        from flwr.supernode.node_auth_http_interceptor import NodeAuthHttpInterceptor

        private, public = generate_key_pairs()
        signs = [RuntimeVersionHttpInterceptor(component_name="SuperNode"), NodeAuthHttpInterceptor(private, public)]
        self.client = FleetHttpClient.from_server_address(f"127.0.0.1:{port}", True, None, interceptors=signs)
        key = public_key_to_bytes(public)
        self.client.RegisterNode(RegisterNodeFleetRequest(public_key=key))
        active = self.client.ActivateNode(ActivateNodeRequest(public_key=key, heartbeat_interval=600))
        self.node = Node(node_id=active.node_id)

    def beat(self) -> None:
        """Say that the node is alive."""
        from flwr.proto.heartbeat_pb2 import SendNodeHeartbeatRequest

        self.client.SendNodeHeartbeat(SendNodeHeartbeatRequest(node=self.node, heartbeat_interval=600))

    def pull(self):
        """Ask for a message."""
        from flwr.proto.fleet_pb2 import PullMessagesRequest

        return self.client.PullMessages(PullMessagesRequest(node=self.node))

    def answer(self) -> bool:
        """Fetch a message with all it holds, confirm it and send its content back; whether there was one."""
        from flwr.app import Message
        from flwr.common.serde import message_from_proto, message_to_proto
        from flwr.proto.fleet_pb2 import PushMessagesRequest
        from flwr.proto.message_pb2 import ConfirmMessageReceivedRequest, PullObjectRequest, PushObjectRequest
        from flwr.supercore.inflatable.inflatable_object import iterate_object_tree

        found = self.pull()
        if not found.messages_list:
            return False
        message, tree = message_from_proto(found.messages_list[0]), found.message_object_trees[0]
        run, name = message.metadata.run_id, message.metadata.message_id
        parts = {}
        for part in iterate_object_tree(tree):
            asked = PullObjectRequest(node=self.node, run_id=run, object_id=part.object_id)
            while not (answer := self.client.PullObject(asked)).object_available:
                time.sleep(0.01)  # the ServerApp sends what a message holds after the message
            parts[part.object_id] = answer.object_content
        self.client.ConfirmMessageReceived(
            ConfirmMessageReceivedRequest(node=self.node, run_id=run, message_object_id=name)
        )
        inner, objects, told = reply_to(message, name, parts, Message)
        sent = self.client.PushMessages(
            PushMessagesRequest(
                node=self.node,
                messages_list=[message_to_proto(inner)],
                message_object_trees=[told],
                clientapp_runtime_list=[0.0],
            )
        )
        for part in sent.objects_to_push:
            asked = PushObjectRequest(node=self.node, run_id=run, object_id=part, object_content=objects[part])
            asked.session_id = sent.session_id
            self.client.PushObject(asked)
        return True


def reply_to(message, name: str, parts: dict[str, bytes], kind) -> tuple:
    """A reply with the content of a message, changed so that it is sent as a client's own: without its content, its
    objects as bytes, and their tree."""
    import numpy as np
    from flwr.app import Array, ArrayRecord, RecordDict
    from flwr.app.message import remove_content_from_message
    from flwr.supercore.inflatable.inflatable_object import get_all_nested_objects, get_object_tree
    from flwr.supercore.inflatable.inflatable_utils import inflate_object_from_contents

    content = inflate_object_from_contents(name, dict(parts)).content
    if len(content):
        vector = content["arrays"]["vector"].numpy() + np.float32(np.random.default_rng().random())
        content = RecordDict({"arrays": ArrayRecord({"vector": Array(vector)})})
    reply = kind(content, reply_to=message)
    reply.metadata.__dict__["_message_id"] = reply.object_id
    objects = {part: found.deflate() for part, found in get_all_nested_objects(reply).items()}
    return remove_content_from_message(reply), objects, get_object_tree(reply)


if __name__ == "__main__":
    main()
