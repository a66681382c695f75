"""End to end: a simulation on a Ray cluster of two nodes, both on this machine."""

import json
import os
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path

import psutil
import pytest
from in_process import run_in_process
from meanwhile import meanwhile
from places import ROOT

from fedllm_app.commands.cluster import Cluster
from fedllm_app.commands.flower import free_port, tail
from fedllm_app.commands.run import run_to_end
from fedllm_app.config.parse import parse_run_config
from fedllm_app.errors import UserError
from fedllm_app.runs.directory import read_result

pytestmark = pytest.mark.slow

_START = 60.0  # seconds
_NODE = [
    *("--num-cpus=1", "--object-store-memory=100000000", "--node-ip-address=127.0.0.1", "--block"),
    *("--min-worker-port=0", "--max-worker-port=0", "--disable-usage-stats"),
]


class Nodes:
    """A head and a second node, their processes, and where each of them would keep the app's files by itself."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.address = f"127.0.0.1:{free_port()}"
        self.own_home = directory / "own-home"
        self.started: list[subprocess.Popen] = []

    def start(self, name: str, *options: str) -> None:
        """Start a node and wait for it; skip the test where Ray does not start."""
        log = self.directory / f"{name}.log"
        environment = os.environ | {"RAY_TMPDIR": str(self.directory), "FEDLLM_HOME": str(self.own_home)}
        environment.pop("RAY_ADDRESS", None)
        command = [str(Path(sys.executable).parent / "ray"), "start", f"--node-name={name}", *options, *_NODE]
        with open(log, "wb") as file:
            process = subprocess.Popen(command, env=environment, stdout=file, stderr=file, start_new_session=True)
        self.started.append(process)
        deadline = time.monotonic() + _START
        while "Ray runtime started" not in log.read_text():
            if process.poll() is not None or time.monotonic() > deadline:
                pytest.skip(f"Ray cannot start here: {tail(log)}")
            time.sleep(0.1)

    def end(self) -> None:
        """End what was started, and all below it: by `ray stop`, every cluster of this machine would end."""
        below = [process for node in self.started for process in psutil.Process(node.pid).children(recursive=True)]
        for process in (*self.started, *below):
            with suppress(psutil.NoSuchProcess):
                process.kill()
        for node in self.started:
            node.wait()
        psutil.wait_procs(below, timeout=20)

    def serving(self) -> set[int]:
        """The nodes on which a worker serves a client just now. Ray names workers after what they do."""
        found = set()
        for number, node in enumerate(self.started):
            for process in psutil.Process(node.pid).children(recursive=True):
                try:
                    if "ClientAppActor.run" in " ".join(process.cmdline()):
                        found.add(number)
                except psutil.Error:
                    continue
        return found


@pytest.fixture
def nodes() -> Iterator[Nodes]:
    # Ray's sockets lie below, and the path of a socket has at most 107 characters.
    with tempfile.TemporaryDirectory(prefix="ray-", dir="/tmp", ignore_cleanup_errors=True) as directory:
        both = Nodes(Path(directory))
        try:
            port = both.address.rpartition(":")[2]
            ports = [f"--ray-client-server-port={free_port()}", f"--temp-dir={directory}"]
            both.start("one", "--head", f"--port={port}", "--include-dashboard=false", *ports)
            both.start("two", f"--address={both.address}")
            yield both
        finally:
            both.end()


def test_clients_are_served_on_both_nodes(run_config, flower_home, nodes, tmp_path, console):
    """The adapter is that of one process, bit for bit; state and steps are in the home of whoever started the run."""
    directory, served = tmp_path / "run", set()

    def watch(over: Callable[[], bool]) -> None:
        while not over():
            served.update(nodes.serving())
            time.sleep(0.02)

    flat = run_config | {"run.directory": str(directory), "update.compress": "int8", "evaluate.every": 0}
    with meanwhile(watch):
        outcome = run_to_end(ROOT, flat, console, cluster=Cluster(nodes.address))
    said = console.export_text()
    assert outcome, said
    assert "one (" in said and "two (" in said
    assert served == {0, 1}
    assert read_result(directory)["refused_replies"] == 0
    steps = [json.loads(line) for line in (directory / "steps.jsonl").read_text().splitlines()]
    assert {(line["round"], line["client"]) for line in steps} == {(r, c) for r in (1, 2) for c in range(4)}
    assert not nodes.own_home.exists()
    with ThreadPoolExecutor(1) as beside:
        refusal = beside.submit(_refusal, run_config | {"data.name": "/no/rows.csv"}, nodes.address)
        # In round 2 a client adds the rounding error of its own round 1, wherever that was.
        alone = run_in_process(flat, tmp_path / "alone")
    assert (directory / "adapter" / "adapter_model.safetensors").read_bytes() == alone
    for name in ("one", "two"):
        assert re.search(rf"\b{name} \(.*\): /no/rows.csv does not exist there", refusal.result())


def _refusal(flat: dict, address: str) -> str:
    """What is said of nodes that lack a path of the run."""
    with pytest.raises(UserError) as caught:
        Cluster(address).look(parse_run_config(flat))
    return str(caught.value)
