"""Who serves the clients of a simulation: the fork server where there is one that fits, else workers that Ray starts
anew when they die."""

import importlib
import sys

import pytest

from fedllm_app.client import simulation_workers
from fedllm_app.client.forked_backend import ForkedBackend
from fedllm_app.client.simulation_workers import prepare_simulation

BACKEND = simulation_workers._BACKEND


def identity() -> dict[str, str]:
    return {"code": "mine"}


@pytest.fixture
def simulation(monkeypatch):
    """As in the process of a simulation; what Flower imports there is put back afterwards."""
    importlib.import_module(simulation_workers._SIMULATION)
    backend = importlib.import_module(BACKEND)
    monkeypatch.setattr(backend, "ClientAppActor", backend.ClientAppActor)
    monkeypatch.setitem(sys.modules, BACKEND, backend)
    return backend


def test_outside_of_a_simulation_nothing_happens(monkeypatch):
    monkeypatch.delitem(sys.modules, simulation_workers._SIMULATION, raising=False)
    called = []
    monkeypatch.setattr(simulation_workers, "misfit", lambda *_: called.append("misfit"))
    monkeypatch.setattr(simulation_workers, "_restart_dead_workers", lambda: called.append("ray"))
    monkeypatch.setenv("FEDLLM_FORK_SERVER", "/run/me/socket")
    prepare_simulation(identity)
    assert called == []


def test_flowers_backend_starts_workers_that_ray_restarts(simulation, monkeypatch):
    """In the process of a simulation, the class that Flower's backend starts is ours, under Flower's name."""
    monkeypatch.delenv("FEDLLM_FORK_SERVER", raising=False)
    prepare_simulation(identity)
    assert simulation.ClientAppActor._default_options["max_restarts"] == -1
    assert simulation.ClientAppActor.__ray_metadata__.class_name == "ClientAppActor"


def test_flower_takes_the_clients_of_a_fork_server_that_fits(simulation, monkeypatch):
    monkeypatch.setenv("FEDLLM_FORK_SERVER", "/run/me/socket")
    monkeypatch.setattr(simulation_workers, "misfit", lambda path, said: "" if said == identity() else "other")
    prepare_simulation(identity)
    from flwr.server.superlink.fleet.vce.backend.raybackend import RayBackend  # as Flower does

    backend = RayBackend({"client_resources": {"num_cpus": 1}, "init_args": {"num_cpus": 3}})
    assert isinstance(backend, ForkedBackend)
    assert (backend.num_workers, str(backend.socket_path)) == (3, "/run/me/socket")


def test_one_that_does_not_fit_is_told_of_and_ray_serves(simulation, monkeypatch):
    """The server tells the user, as it does of other notes."""
    monkeypatch.setattr(simulation_workers, "notes", [])
    monkeypatch.setenv("FEDLLM_FORK_SERVER", "/run/me/socket")
    monkeypatch.setattr(simulation_workers, "misfit", lambda *_: "it runs other code")
    prepare_simulation(identity)
    assert simulation_workers.notes == [
        "the fork server does not serve this simulation (it runs other code); Ray starts its clients"
    ]
    assert simulation.ClientAppActor._default_options["max_restarts"] == -1
    assert sys.modules[BACKEND] is simulation
