"""A Ray cluster: addresses, what is held against its nodes, and what Ray's errors mean. Nothing of Ray starts."""

import argparse
import socket
from pathlib import Path

import pytest
import ray
from ray._private.utils import check_version_info

from fedllm_app.client.simulation_workers import worker_environment
from fedllm_app.commands import cluster as module
from fedllm_app.commands import run
from fedllm_app.commands.cluster import Cluster, asked_cluster, needed_paths, node_problems, ray_address
from fedllm_app.commands.cluster_probe import look, see
from fedllm_app.commands.flower import LocalSuperLink
from fedllm_app.commands.main import main
from fedllm_app.commands.placement import Gpu, Machine
from fedllm_app.config.parse import parse_run_config
from fedllm_app.errors import UserError
from fedllm_app.federation.fingerprint import package_versions

ADDRESS = "127.0.0.1:6379"
GPU = ["GPU", 70, 80]


def node(**changes) -> dict:
    """What a node in order answers."""
    own = {"name": "two (10.0.0.2)", "versions": package_versions(), "missing": [], "not_shared": [], "gpus": []}
    return own | {"cpus": 8, "gpu_count": 0} | changes


@pytest.fixture
def answering(monkeypatch):
    """A cluster that gives this answer, and a port where something listens."""

    def give(**answer):
        asked = []
        monkeypatch.setattr(module, "_ask", lambda _given, question: asked.append(question) or answer)
        monkeypatch.setattr(Cluster, "_reach", lambda _self: None)
        return asked

    return give


@pytest.mark.parametrize("text", ["auto", "10.0.0.1:6379", "head.example.org:6379", "[fd00::1]:6379"])
def test_addresses_of_a_cluster(text):
    assert ray_address(text) == text


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("ray://10.0.0.1:10001", "an address for Ray's client"),
        ("http://10.0.0.1:8265", "must be host:port"),
        ("10.0.0.1", "must be host:port"),
        ("10.0.0.1:port", "must be a number from 1 to 65535"),
    ],
)
def test_what_is_no_address_ends_with_2(text, said, capsys):
    with pytest.raises(argparse.ArgumentTypeError, match=said):
        ray_address(text)
    with pytest.raises(SystemExit) as caught:
        main(["run", "--ray", text])
    assert caught.value.code == 2
    assert said in capsys.readouterr().err.replace("\n", " ")


def test_rays_own_variable_is_the_default(monkeypatch):
    """Without either there is no cluster, though one may run on this machine."""
    none, given = argparse.Namespace(ray=None), argparse.Namespace(ray="10.0.0.1:6379")
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    assert asked_cluster(none) is None and asked_cluster(given).address == "10.0.0.1:6379"
    monkeypatch.setenv("RAY_ADDRESS", "10.0.0.9:6379")
    assert asked_cluster(none).address == "10.0.0.9:6379" and asked_cluster(given).address == "10.0.0.1:6379"
    monkeypatch.setenv("RAY_ADDRESS", "local")
    assert asked_cluster(none) is None
    monkeypatch.setenv("RAY_ADDRESS", "ray://10.0.0.9:10001")
    with pytest.raises(UserError, match="RAY_ADDRESS = ray://"):
        asked_cluster(none)


def test_the_superlink_of_a_run_knows_its_cluster_and_no_other(monkeypatch, tmp_path):
    monkeypatch.setenv("RAY_ADDRESS", "10.0.0.9:6379")
    log = tmp_path / "flower.log"
    assert LocalSuperLink(log).environment["RAY_ADDRESS"] == "local"
    assert LocalSuperLink(log, None, "10.0.0.1:6379").environment["RAY_ADDRESS"] == "10.0.0.1:6379"


def test_a_cluster_is_for_simulations(monkeypatch, capsys):
    monkeypatch.setattr(run, "is_local", lambda _connection: False)
    monkeypatch.setattr(run, "app_and_connection", lambda *_: (".", "sites"))
    assert main(["run", ".", "sites", "--ray", ADDRESS]) == 2
    assert "sites is a connection to a federation of sites" in capsys.readouterr().out.replace("\n", " ")


def test_where_nobody_listens(run_config):
    """It is said at once: Ray itself would try for three minutes."""
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{unused.getsockname()[1]}"
        with pytest.raises(UserError, match="nothing answers there"):
            Cluster(address).look(parse_run_config(run_config))


def test_what_differs_between_cluster_and_command_is_said(answering, monkeypatch, run_config):
    """By Ray's own words of today, which a new version of it may change."""

    def refuse(**_options):
        check_version_info({"ray_version": "2.54.0", "python_version": "3.11.2"}, "node")

    monkeypatch.setattr(ray, "init", refuse)
    found = look({"address": ADDRESS, "environment": {}, "paths": [], "tokens": []})
    answering(**found)
    with pytest.raises(UserError) as caught:
        Cluster(ADDRESS).look(parse_run_config(run_config))
    assert f"Ray is 2.54.0 there and {ray.__version__} here; Python is 3.11.2 there and 3.11" in str(caught.value)


@pytest.mark.parametrize(
    ("answer", "said"),
    [
        ({"error": "RuntimeError: no raylet"}, "no raylet. This machine must be a node of the cluster"),
        ({"error": "ConnectionError: Could not find any running Ray instance."}, "belongs to no Ray cluster"),
        ({"nodes": []}, "no node of the cluster has a CPU"),
        ({"nodes": [node(missing=["/data/a.csv"])]}, r"two \(10.0.0.2\): /data/a.csv does not exist there"),
        ({"nodes": [node(), node(not_shared=["/home/f"])]}, "/home/f is another directory there than here"),
        ({"nodes": [node(gpu_count=2, gpus=[GPU])]}, "Ray counts 2 GPUs there, torch finds 1"),
        ({"nodes": [node(error="ModuleNotFoundError: No module named 'fedllm_app'")]}, "fedllm is not installed there"),
        ({"nodes": [node(error="GetTimeoutError: ")]}, "could not be looked at"),
    ],
)
def test_what_keeps_a_run_from_a_cluster(answer, said, answering, run_config):
    answering(address=ADDRESS, **answer)
    with pytest.raises(UserError, match=said):
        Cluster(ADDRESS).look(parse_run_config(run_config))


def test_other_code_on_a_node_is_named():
    """Of other libraries the run itself warns."""
    own = package_versions()
    (said,) = node_problems(node(versions=["fedllm_app 0123", *own[1:]]))
    assert "the code of fedllm_app is 0123 there" in said
    (said,) = node_problems(node(versions=[text.replace("flwr 1", "flwr 0") for text in own]))
    assert "flwr is 0" in said
    assert node_problems(node(versions=[text.replace("torch 2", "torch 1") for text in own])) == []


def test_the_nodes_are_what_is_shared(answering, run_config, app_home, console):
    """Only as many GPUs as Ray counts; the tokens of the look are gone afterwards."""
    asked = answering(address="10.0.0.1:6379", nodes=[node(gpus=[GPU, GPU], gpu_count=1), node(cpus=2)])
    cluster = Cluster("auto")
    cluster.look(parse_run_config(run_config))
    assert cluster.address == "10.0.0.1:6379"
    assert cluster.machines == [Machine(8, (Gpu("GPU", 70, 80),)), Machine(2)]
    cluster.tell(console)
    assert "two (10.0.0.2): 8 CPUs, 1 GPU; two (10.0.0.2) #2: 2 CPUs" in console.export_text()
    (token,) = asked[0]["tokens"]
    assert Path(token).parent == app_home and not Path(token).exists()
    assert asked[0]["environment"]["FEDLLM_HOME"] == str(app_home)


def test_clients_that_no_node_can_serve_are_refused():
    cluster = Cluster(ADDRESS)
    cluster.nodes = {"one": Machine(8), "two": Machine(2, (Gpu("GPU", 70, 80),))}
    cluster.check_resources("client-resources-num-cpus=8")
    cluster.check_resources("client-resources-num-cpus=2 client-resources-num-gpus=0.5")
    with pytest.raises(UserError, match="no node has 4 CPUs and 1 GPUs"):
        cluster.check_resources("client-resources-num-cpus=4 client-resources-num-gpus=1")
    with pytest.raises(UserError, match="leave it out"):
        cluster.check_resources("client-resources-num-cpus=1 init-args-num-cpus=8")


def test_what_clients_read_by_path(run_config, tmp_path, tiny_model):
    rows, template = tmp_path / "rows.csv", tmp_path / "own.jinja"
    flat = run_config | {"data.name": str(rows), "data.template": str(template)}
    assert needed_paths(parse_run_config(flat)) == sorted(map(str, (rows, template, tiny_model)))


def test_a_node_says_what_it_lacks(tmp_path):
    token = tmp_path / "token"
    token.touch()
    found = see([str(tmp_path), "/no/rows.csv"], [str(token), "/no/token"])
    assert (found["missing"], found["not_shared"]) == (["/no/rows.csv"], ["/no"])
    assert found["versions"] == package_versions() and "error" not in found


def test_what_workers_of_a_cluster_are_given(monkeypatch, app_home):
    """Where files are and how a client computes, no secret; nothing where Ray is this machine's own."""
    monkeypatch.setenv("HF_TOKEN", "secret")
    monkeypatch.setenv("HF_HOME", "/shared/hf")
    monkeypatch.setenv("RAY_ADDRESS", "local")
    assert worker_environment() == {}
    monkeypatch.setenv("RAY_ADDRESS", ADDRESS)
    given = worker_environment()
    assert given["FEDLLM_HOME"] == str(app_home) and given["HF_HOME"] == "/shared/hf" and "HF_TOKEN" not in given
