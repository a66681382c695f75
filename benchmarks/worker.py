"""What a resident worker saves: seconds of a round at two sites with and without one, and in a simulation.

    python benchmarks/worker.py

SmolLM2-135M, two clients with one thread each, rounds of 20 steps of 4 rows of about 128 tokens, LoRA r=8 on q_proj
and v_proj, bfloat16. Three rounds a run; the three kinds of run follow each other, on one SuperLink and two SuperNodes
that stay up. `round` are the seconds of a round, `training` those of its slowest client, `beside` the difference.
`empty` are the seconds of a round of an app that only answers, on the same nodes: what Flower itself takes to fetch a
message, start a process and send the answer. The last line compares the means.
"""

import json
import os
import sys
import tempfile
import time
from contextlib import ExitStack
from pathlib import Path
from statistics import mean

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "tests"))
MODEL, STEPS, ROUNDS = "smollm2-135m-instruct", 20, 3
NAMES = ("athens", "berlin")

EMPTY_PROJECT = """
[project]
name = "empty"
version = "1.0.0"
[tool.flwr.app]
publisher = "benchmark"
[tool.flwr.app.components]
serverapp = "answering_app:server"
clientapp = "answering_app:client"
[tool.flwr.app.config]
result = ""
"""

EMPTY_APP = '''
"""An app whose clients answer at once."""

import json
import time
from pathlib import Path

from flwr.app import Message, RecordDict
from flwr.clientapp import ClientApp
from flwr.serverapp import ServerApp

server = ServerApp()
client = ClientApp()


@client.query()
def answer(message, context):
    return Message(RecordDict(), reply_to=message)


@server.main()
def main(grid, context):
    while len(nodes := list(grid.get_node_ids())) < 2:
        time.sleep(0.1)
    seconds = []
    for _ in range(6):
        began = time.monotonic()
        waiting = set(grid.push_messages([Message(RecordDict(), dst_node_id=n, message_type="query") for n in nodes]))
        while waiting:
            waiting -= {reply.metadata.reply_to_message_id for reply in grid.pull_messages(waiting)}
            time.sleep(0.1)
        seconds.append(time.monotonic() - began)
    Path(context.run_config["result"]).write_text(json.dumps(seconds))
'''


def main() -> None:
    """Print a line for each run and one that compares."""
    with tempfile.TemporaryDirectory(prefix="fedllm-worker-") as scratch:
        folder = Path(scratch)
        (folder / "flwr").mkdir()
        os.environ.update(FLWR_HOME=str(folder / "flwr"), FEDLLM_HOME=str(folder / "home"))
        beside, training = measure(folder)
    steps = mean(training["simulation"])
    empty = mean(beside["empty"])
    print(
        json.dumps(
            {
                "benchmark": "worker",
                "cores": os.cpu_count(),
                "training_seconds": round(steps, 2),
                "beside_seconds": {kind: round(mean(values), 2) for kind, values in beside.items()},
                "over_simulation_and_empty": {
                    kind: round((mean(beside[kind]) - mean(beside["simulation"]) - empty) / steps, 3)
                    for kind in ("worker", "no worker")
                },
            }
        )
    )


def measure(folder: Path) -> tuple[dict[str, list[float]], dict[str, list[float]]]:
    """Seconds beside training, and of training, of all rounds of each kind of run."""
    from flower_sites import Sites

    class WorkerSites(Sites):
        """Sites whose nodes look for a worker, which need not be there."""

        def node(self, name: str) -> None:
            os.environ["FEDLLM_WORKER"] = str(socket_of(folder, name))
            super().node(name)

        def write_rows(self, name: str, rows: int) -> None:
            write_rows(self.folder / f"{name}.jsonl", name, rows)

    beside: dict[str, list[float]] = {kind: [] for kind in ("simulation", "worker", "no worker", "empty")}
    training: dict[str, list[float]] = {kind: [] for kind in beside}
    with WorkerSites(folder, folder / "flwr", dict.fromkeys(NAMES, 400), Path(MODEL)):
        with open(folder / "flwr" / "config.toml", "a") as file:
            file.write('[superlink]\ndefault = "local"\n[superlink.local]\naddress = ":local:"\n')
        for name in ("home", *NAMES):
            prepare(folder / name)
        beside["empty"] = empty_rounds(folder)
        for kind in ("simulation", "worker", "no worker"):
            directory = folder / kind.replace(" ", "-")
            with workers(folder) if kind == "worker" else ExitStack():
                run(folder, directory, simulated=kind == "simulation")
            for whole, steps in rounds_of(directory):
                beside[kind].append(whole - steps)
                training[kind].append(steps)
            told = {"round": round(whole, 2), "training": round(steps, 2), "beside": round(whole - steps, 2)}
            print(json.dumps({"run": kind, "last": told, "adapter": digest(directory)}), flush=True)
    return beside, training


def socket_of(folder: Path, name: str) -> Path:
    return folder / name / "worker" / "socket"


def workers(folder: Path) -> ExitStack:
    """A worker beside each node."""
    from fedllm_app.client.worker import WorkerSupervisor
    from fedllm_app.commands.flower import flower_environment

    stack = ExitStack()
    for name in NAMES:
        environment = flower_environment() | {"FEDLLM_HOME": str(folder / name), "HOME": str(folder / name)}
        stack.enter_context(WorkerSupervisor(socket_of(folder, name), environment=environment))
    return stack


def prepare(home: Path) -> None:
    """Convert the model before anything is timed."""
    from fedllm_app.models.base import locate_model

    before = os.environ["FEDLLM_HOME"]
    os.environ["FEDLLM_HOME"] = str(home)
    locate_model(MODEL)
    os.environ["FEDLLM_HOME"] = before


def write_rows(file: Path, name: str, rows: int) -> None:
    """Rows of about 128 tokens."""
    words = [
        f"{name} counts {number} and then {number + 1}, so that there are words to learn;" for number in range(rows)
    ]
    lines = (json.dumps({"question": word, "answer": " ".join([word] * 6)}) + "\n" for word in words)
    file.write_text("".join(lines))


def run(folder: Path, directory: Path, simulated: bool) -> None:
    """One run; what the terminal would show goes into a file."""
    from flower_sites import CONNECTION
    from rich.console import Console

    from fedllm_app.commands.run import run_to_end
    from fedllm_app.config.parse import default_run_config

    flat = default_run_config(ROOT) | {
        "run.directory": str(directory),
        "run.threads": 1,
        "clients.number": 2,
        "model.name": MODEL,
        "model.dtype": "bfloat16",
        "lora.target-modules": "q_proj,v_proj",
        "data.template": "alpaca",
        "data.name": ",".join(str(folder / f"{name}.jsonl") for name in NAMES),
        "data.partition": "by-domain",
        "train.rounds": ROUNDS,
        "train.local-steps": STEPS,
        "train.batch-size": 4,
        "train.max-length": 128,
        "evaluate.every": 0,
    }
    where = (
        {"federation_config": "num-supernodes=2 client-resources-num-cpus=1"}
        if simulated
        else {"connection": CONNECTION}
    )
    with open(folder / "terminal", "a") as file:
        if not run_to_end(ROOT, flat, Console(file=file), **where):
            raise SystemExit((folder / "terminal").read_text()[-3000:])


def rounds_of(directory: Path) -> list[tuple[float, float]]:
    """Of each round, its seconds and those in which its slowest client trained."""
    from fedllm_app.runs.directory import read_journal

    journal = read_journal(directory)
    slowest = {}
    for event in journal:
        if event["event"] == "client":
            slowest[event["round"]] = max(event["seconds"], slowest.get(event["round"], 0.0))
    return [(event["seconds"], slowest[event["round"]]) for event in journal if event["event"] == "round"]


def digest(directory: Path) -> str:
    import hashlib

    return hashlib.sha256((directory / "adapter" / "adapter_model.safetensors").read_bytes()).hexdigest()[:12]


def empty_rounds(folder: Path) -> list[float]:
    """Seconds of rounds of an app that only answers."""
    from flower_sites import CONNECTION

    from fedllm_app.commands.flower import flower_environment, submit_run

    project, result = folder / "empty", folder / "empty.json"
    project.mkdir(exist_ok=True)
    (project / "pyproject.toml").write_text(EMPTY_PROJECT)
    (project / "answering_app.py").write_text(EMPTY_APP)
    result.unlink(missing_ok=True)
    submit_run(project, CONNECTION, ["--run-config", f'result="{result}"'], flower_environment())
    deadline = time.monotonic() + 300
    while not result.exists() or not result.read_text():
        if time.monotonic() > deadline:
            raise SystemExit("the empty app gave no result")
        time.sleep(0.5)
    return json.loads(result.read_text())


if __name__ == "__main__":
    main()
