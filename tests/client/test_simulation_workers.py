"""Workers of a simulation are started so that Ray starts dead ones anew."""

import importlib
import sys

from fedllm_app.client import simulation_workers
from fedllm_app.client.simulation_workers import restart_dead_workers


def test_outside_of_a_simulation_nothing_happens(monkeypatch):
    monkeypatch.delitem(sys.modules, simulation_workers._SIMULATION, raising=False)
    monkeypatch.setattr(importlib, "import_module", lambda name: 1 / 0)
    restart_dead_workers()


def test_flowers_backend_starts_workers_that_ray_restarts(monkeypatch):
    """In the process of a simulation, the class that Flower's backend starts is ours, under Flower's name."""
    importlib.import_module(simulation_workers._SIMULATION)
    backend = importlib.import_module(simulation_workers._BACKEND)
    monkeypatch.setattr(backend, "ClientAppActor", backend.ClientAppActor)
    restart_dead_workers()
    assert backend.ClientAppActor._default_options["max_restarts"] == -1
    assert backend.ClientAppActor.__ray_metadata__.class_name == "ClientAppActor"
