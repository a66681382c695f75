"""Who serves the clients of a simulation: the fork server where there is one that fits, else workers that Ray starts
anew when they die."""

import importlib
import sys
from types import SimpleNamespace

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
    for name in ("ClientAppActor", "BasicActorPool"):
        monkeypatch.setattr(backend, name, getattr(backend, name))
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


def pool_of(simulation, monkeypatch, answers: list[Exception | None], lost: bool):
    """Flower's pool with one worker, as ours: `answers` are those of the worker that is asked whether it is there."""
    import ray

    asked = []

    def get(future, timeout=None):
        if future == "message":
            if lost:
                raise ray.exceptions.RayActorError()
            return "0", "reply", "context"
        asked.append(pool.pool.copy())
        if (error := answers.pop(0)) is not None:
            raise error

    monkeypatch.delenv("FEDLLM_FORK_SERVER", raising=False)
    prepare_simulation(identity)
    monkeypatch.setattr(ray, "get", get)
    monkeypatch.setattr(simulation_workers, "_LOOK_EVERY", 0.0)
    pool = simulation.BasicActorPool.__new__(simulation.BasicActorPool)
    worker = SimpleNamespace(__ray_ready__=SimpleNamespace(remote=lambda: "ready"))
    pool.pool, pool._future_to_actor = [], {"message": worker}
    return pool, worker, asked


def test_a_worker_that_died_comes_back_when_it_was_started_anew(simulation, monkeypatch):
    """It is asked until it answers, and is not in the pool meanwhile; the message that it lost is an error then, after
    which Flower's backend puts the worker back."""
    import ray

    gone = ray.exceptions.RayActorError()
    pool, worker, asked = pool_of(simulation, monkeypatch, [gone, gone, None], lost=True)
    with pytest.raises(ray.exceptions.RayActorError):
        pool.fetch_result_and_return_actor_to_pool("message")
    assert asked == [[], [], []]
    pool.add_actor_back_to_pool("message")
    assert pool.pool == [worker]


def test_a_worker_that_lives_is_not_asked(simulation, monkeypatch):
    pool, worker, asked = pool_of(simulation, monkeypatch, [], lost=False)
    assert pool.fetch_result_and_return_actor_to_pool("message") == ("reply", "context")
    assert (asked, pool.pool) == ([], [worker])


def test_a_worker_that_never_comes_back_is_waited_for_so_long_only(monkeypatch):
    import ray

    def get(_future, timeout):
        raise ray.exceptions.GetTimeoutError

    monkeypatch.setattr(ray, "get", get)
    worker = SimpleNamespace(__ray_ready__=SimpleNamespace(remote=lambda: "ready"))
    assert not simulation_workers.wait_until_restarted(worker, 0.1)
