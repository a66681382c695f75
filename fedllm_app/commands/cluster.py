"""`--ray ADDRESS`: a simulation on the machines of a Ray cluster, and what is held against each of them before."""

import argparse
import itertools
import json
import os
import re
import socket
import subprocess
import sys
import uuid
from collections.abc import Container, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from rich.console import Console

from fedllm_app.class_paths import class_paths, is_class_path
from fedllm_app.client.simulation_workers import worker_environment
from fedllm_app.commands.flower import LaunchError, flower_environment
from fedllm_app.commands.placement import Gpu, Machine
from fedllm_app.config.sections import Config
from fedllm_app.data.named_sets import set_names
from fedllm_app.errors import UserError
from fedllm_app.federation.fingerprint import package_versions
from fedllm_app.models.location import locate_model
from fedllm_app.paths import home, make_directory
from fedllm_app.sites.site_file import address_problem

AUTO = "auto"
_REACH = 5.0  # seconds in which a port of a network answers
_LOOK = 120.0  # seconds in which a cluster and its nodes are looked at
_MUST_BE_EQUAL = ("fedllm_app", "flwr")  # of other libraries the run itself warns
_VERSIONS = re.compile(r"Ray: (\S+)\s+Python: (\S+)")


def add_ray(parser: argparse.ArgumentParser) -> None:
    """Add the option `--ray`."""
    parser.add_argument(
        "--ray",
        metavar="ADDRESS",
        type=ray_address,
        help="simulate on the Ray cluster of this machine: host:port of its head, or auto (default: $RAY_ADDRESS)",
    )


def ray_address(text: str) -> str:
    """Parse the address of a cluster: host:port, or auto for the one that this machine belongs to."""
    if text == AUTO:
        return text
    if text.startswith("ray://"):
        raise argparse.ArgumentTypeError(
            f"{text}: is an address for Ray's client; start the command on a machine of the cluster and give host:port"
        )
    if said := address_problem(text):
        raise argparse.ArgumentTypeError(f"{text}: {said.partition(', such as')[0]}, as ray start --head says it")
    return text


def asked_cluster(parsed: argparse.Namespace) -> "Cluster | None":
    """The cluster of `--ray`, else that of $RAY_ADDRESS, which Ray's own commands read as well.

    Raises
    ------
    UserError
        $RAY_ADDRESS is no address that `--ray` would take.
    """
    if parsed.ray:
        return Cluster(parsed.ray)
    given = os.environ.get("RAY_ADDRESS", "")
    if given in ("", "local"):
        return None
    try:
        return Cluster(ray_address(given))
    except argparse.ArgumentTypeError as error:
        raise UserError(f"RAY_ADDRESS = {error}; unset it for a simulation on this machine alone") from error


class Cluster:
    """A Ray cluster that runs already.

    Attributes
    ----------
    address : str
        As the user gives it; once looked at, host:port.
    nodes : dict[str, Machine]
        Those that can serve clients, by name; empty until it was looked at.
    """

    def __init__(self, address: str) -> None:
        self.given = self.address = address
        self.nodes: dict[str, Machine] = {}

    @property
    def machines(self) -> list[Machine]:
        """What there is to share."""
        return list(self.nodes.values())

    def look(self, config: Config) -> None:
        """Find out what the nodes have, and refuse what a run would fail on after minutes.

        Raises
        ------
        UserError
            Nothing of Ray answers, versions differ, or a node lacks something that clients need; all of it is named.
        """
        self._reach()
        with _tokens(_shared_directories(config)) as tokens:
            asked = {"address": self.address, "paths": needed_paths(config), "tokens": tokens}
            answer = _ask(self.given, asked | {"environment": worker_environment(always=True)})
        if said := answer.get("error"):
            raise UserError(f"--ray {self.given}: {_meaning(said)}")
        if not answer["nodes"]:
            raise UserError(f"--ray {self.given}: no node of the cluster has a CPU for clients")
        problems = [problem for node in answer["nodes"] for problem in node_problems(node)]
        if problems:
            raise UserError(f"--ray {self.given}: " + "\n".join(problems))
        self.address = answer["address"]
        self.nodes = {}
        for node in answer["nodes"]:
            self.nodes[_unused(node["name"], self.nodes)] = _machine(node)

    def check_resources(self, federation_config: str) -> None:
        """Refuse clients that need more than any node has, and what Ray does not take for a cluster that runs."""
        if "init-args-num" in federation_config:
            raise UserError(
                "--federation-config init-args-num-…: with --ray the nodes say themselves what they have; leave it out"
            )
        asked = {kind: _asked(federation_config, kind) for kind in ("cpus", "gpus")}
        if not any(node.cores >= asked["cpus"] and len(node.gpus) >= asked["gpus"] for node in self.machines):
            raise UserError(
                f"--federation-config {federation_config!r}: no node has {asked['cpus']:g} CPUs and "
                f"{asked['gpus']:g} GPUs for a client; there are: {self}"
            )

    def __str__(self) -> str:
        return "; ".join(f"{name}: {size_of(node)}" for name, node in self.nodes.items())

    def tell(self, console: Console) -> None:
        """Say which machines share the clients."""
        said = f"Ray cluster {self.address}: {self}"
        console.print(said, markup=False, highlight=False, soft_wrap=True)

    def _reach(self) -> None:
        """Ray itself would try for minutes to reach what is not there."""
        if self.address == AUTO:
            return
        host, _, port = self.address.rpartition(":")
        try:
            socket.create_connection((host.strip("[]"), int(port)), _REACH).close()
        except OSError as error:
            raise UserError(
                f"--ray {self.address}: nothing answers there ({error}). `ray start --head --port={port}` starts a "
                "cluster on a machine, `ray start --address=HOST:PORT` adds another one"
            ) from error


def size_of(machine: Machine) -> str:
    """The size of a machine in words."""
    gpus = f", {len(machine.gpus)} GPU{'s' if len(machine.gpus) > 1 else ''}" if machine.gpus else ""
    return f"{machine.cores} CPU{'s' if machine.cores > 1 else ''}{gpus}"


def needed_paths(config: Config) -> list[str]:
    """What clients read by path: data, the model's directory, a template. A Hub id is no path."""
    model = locate_model(config.model.name, config.model.trust_remote_code).directory
    names = [*set_names(config.data.name), config.data.template]
    return sorted({str(path) for path in (model, *names) if path and Path(path).is_absolute()})


def node_problems(node: dict[str, Any]) -> list[str]:
    """What keeps a node from serving clients, a sentence each."""
    name = node["name"]
    if said := node.get("error"):
        if "No module named 'fedllm_app" in said:
            return [f"{name}: fedllm is not installed there ({said}); install the same version on every node"]
        return [f"{name}: could not be looked at ({said})"]
    problems = []
    here = dict(text.split(" ") for text in package_versions())
    there = dict(text.split(" ") for text in node["versions"])
    for package in _MUST_BE_EQUAL:
        if here[package] != there[package]:
            what = "the code of fedllm_app" if package == "fedllm_app" else package
            problems.append(f"{name}: {what} is {there[package]} there and {here[package]} here; install the same")
    problems += [f"{name}: {path} does not exist there" for path in node["missing"]]
    problems += [
        f"{name}: {path} is another directory there than here; clients keep their state and progress in it, so it must "
        "be on a disk that all nodes share (FEDLLM_HOME, FLWR_HOME)"
        for path in node["not_shared"]
    ]
    if len(node["gpus"]) < node["gpu_count"]:
        problems.append(f"{name}: Ray counts {node['gpu_count']} GPUs there, torch finds {len(node['gpus'])}")
    return problems


def _machine(node: dict[str, Any]) -> Machine:
    gpus = tuple(Gpu(*gpu) for gpu in node["gpus"][: node["gpu_count"]])
    return Machine(node["cpus"], gpus)


def _unused(name: str, used: Container[str]) -> str:
    """A name for a node: several on one machine can have the same."""
    numbered = (f"{name} #{number}" for number in itertools.count(2))
    return next(each for each in itertools.chain([name], numbered) if each not in used)


def _shared_directories(config: Config) -> list[Path]:
    """Directories that must be the same on all nodes: the client state's, and that of a bundle with code of its own."""
    from flwr.supercore.utils import get_flwr_home

    tables = (config.train.task, *class_paths(config.train.corrections), *class_paths(config.update.steps))
    own = any(map(is_class_path, tables))
    return [home(), Path(get_flwr_home())] if own else [home()]


@contextmanager
def _tokens(directories: Sequence[Path]) -> Iterator[list[str]]:
    """A file of a new name in each directory, as long as the block lasts."""
    tokens = [directory / f".shared-{uuid.uuid4().hex}" for directory in directories]
    try:
        for token in tokens:
            make_directory(token.parent)
            token.touch(0o600)
        yield [str(token) for token in tokens]
    finally:
        for token in tokens:
            token.unlink(missing_ok=True)


def _ask(given: str, asked: dict[str, Any]) -> dict[str, Any]:
    command = [sys.executable, "-P", "-m", "fedllm_app.commands.cluster_probe"]
    try:
        done = subprocess.run(
            command,
            input=json.dumps(asked),
            env=_environment(),
            cwd=Path(sys.executable).parent,
            capture_output=True,
            text=True,
            check=False,
            timeout=_LOOK,
        )
    except subprocess.TimeoutExpired as error:
        raise UserError(
            f"--ray {given}: no answer of Ray within {_LOOK:.0f} s; is that the port of its head, as `ray status` says?"
        ) from error
    if done.returncode:
        raise LaunchError(f"--ray {given}: the look at the cluster failed:\n{done.stderr[-2000:]}")
    return json.loads(done.stdout.splitlines()[-1])


def _environment() -> dict[str, str]:
    """Flower's, without an address that Ray would prefer to the one it is given, and with this package in reach."""
    environment = flower_environment()
    environment.pop("RAY_ADDRESS", None)
    package = str(Path(__file__).parents[2])
    environment["PYTHONPATH"] = os.pathsep.join(filter(None, [environment["PYTHONPATH"], package]))
    return environment


def _meaning(said: str) -> str:
    """What an error of Ray's means while it connects."""
    if "Version mismatch" in said and len(found := _VERSIONS.findall(said)) == 2:
        (ray, python), (own_ray, own_python) = found
        differ = [f"Ray is {ray} there and {own_ray} here"] if ray != own_ray else []
        differ += [f"Python is {python} there and {own_python} here"] if python != own_python else []
        return f"{'; '.join(differ)}. Both must be equal: start the nodes from an environment like this one"
    if "Could not find any running Ray instance" in said:
        return "this machine belongs to no Ray cluster; `ray start` starts one or joins one"
    return f"Ray cannot connect: {said}. This machine must be a node of the cluster (`ray start --address=HOST:PORT`)"


def _asked(federation_config: str, kind: str) -> float:
    asked = re.search(rf"\bclient-resources-num-{kind}\s*=\s*([\d.]+)", federation_config)
    return float(asked[1]) if asked else 0.0
