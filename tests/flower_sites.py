"""A SuperLink and a SuperNode a site, in processes with homes of their own, which can be killed and started again."""

import json
import subprocess
from contextlib import suppress
from pathlib import Path

import psutil

from fedllm_app.client.worker import WorkerSupervisor
from fedllm_app.commands.flower import (
    end_process_tree,
    flower_command,
    flower_environment,
    free_port,
    wait_until_healthy,
)

CONNECTION = "sites"


class Sites:
    """As a context manager: everything that it started ends with it.

    Parameters
    ----------
    folder : Path
        Where the homes and the data lie.
    flower_home : Path
        FLWR_HOME of the operator, who gets the connection "sites".
    rows : dict[str, int]
        The rows of each site by its name.
    model : Path
        The base model that the sites allow.

    Each site has a resident worker, as `fedllm site start` gives it: without one, every message would wait for the
    import of all libraries.
    """

    def __init__(self, folder: Path, flower_home: Path, rows: dict[str, int], model: Path) -> None:
        self.folder, self.rows, self.model = folder, rows, model
        self.workers: dict[str, WorkerSupervisor] = {}
        self.port = free_port()
        self.processes: dict[str, subprocess.Popen] = {}
        address = f'[superlink.{CONNECTION}]\naddress = "127.0.0.1:{self.port}"\ninsecure = true\n'
        (flower_home / "config.toml").write_text(address)

    def __enter__(self) -> "Sites":
        try:
            self.server()
            for name, rows in self.rows.items():
                self.write_rows(name, rows)
                self.node(name)
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_exception: object) -> None:
        for process in self.processes.values():
            end_process_tree(process.pid)
            process.wait()
        for worker in self.workers.values():
            worker.__exit__()

    def write_rows(self, name: str, rows: int) -> None:
        """Give a site so many rows."""
        lines = (json.dumps({"question": f"{name} {n}", "answer": str(n)}) + "\n" for n in range(rows))
        (self.folder / f"{name}.jsonl").write_text("".join(lines))

    def server(self) -> None:
        """Start the SuperLink, which knows the nodes of the one before it."""
        options = ["--insecure", "--port", str(self.port), "--database", "state.db"]
        link = self._start("server", "flower-superlink", *options)
        wait_until_healthy(self.port, link, self.folder / "server" / "log")

    def node(self, name: str, port: int | None = None) -> None:
        """Start the SuperNode of a site, without a key: Flower gives it another id each time.

        `port` is where it reaches the server, if not at the server's own.
        """
        said = f"site='{name}' data-path='{self.folder / name}.jsonl' models='{self.model}'"
        if name not in self.workers:
            environment = flower_environment() | {"FEDLLM_HOME": str(self.folder / name)}
            self.workers[name] = WorkerSupervisor(environment=environment).__enter__()
        said += f" worker='{self.workers[name].socket}'"
        options = ["--superlink", f"127.0.0.1:{port or self.port}", "--port", str(free_port()), "--node-config", said]
        self._start(name, "flower-supernode", "--insecure", *options)

    def kill(self, name: str) -> None:
        """Kill -9 a site's SuperNode, or "server", the SuperLink, and the processes that it started, a worker too.

        It goes first, so that no reply of the others leaves the machine; some of them end by themselves then.
        """
        process = self.processes.pop(name)
        parent = psutil.Process(process.pid)
        killed = [parent, *parent.children(recursive=True)]
        if name in self.workers and (worker := self.workers[name].process):
            killed.append(psutil.Process(worker))
        for one in killed:
            with suppress(psutil.NoSuchProcess):
                one.kill()
        process.wait()

    def trains(self, name: str) -> bool:
        """Whether a client of the site has reported a step."""
        return any((self.folder / name / "progress").glob("*.jsonl"))

    def _start(self, name: str, command: str, *options: str) -> subprocess.Popen:
        home = self.folder / name
        home.mkdir(exist_ok=True)
        environment = flower_environment() | {"FEDLLM_HOME": str(home), "HOME": str(home)}
        with open(home / "log", "ab") as log:
            self.processes[name] = subprocess.Popen(
                [flower_command(command), *options], cwd=home, env=environment, stdout=log, stderr=log
            )
        return self.processes[name]
