"""Who serves the clients of a simulation: the fork server, or Ray's workers, which it starts anew when they die."""

import importlib
import os
import sys
import time
import types
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from fedllm_app.client.forked import FORK_SERVER, misfit
from fedllm_app.paths import home

_SIMULATION = "flwr.server.superlink.fleet.vce.vce_api"  # imported where a simulation runs
_BACKEND = "flwr.server.superlink.fleet.vce.backend.raybackend"
_RESTART = 120.0  # seconds that Ray has to start a worker anew
_LOOK_EVERY = 0.5  # seconds

notes: list[str] = []
"""What the user of this process's simulation is to be told of its clients."""

_TAKEN_ALONG = (
    *("HF_HOME", "HF_HUB_CACHE", "HF_DATASETS_CACHE", "HF_ENDPOINT"),
    *("HF_HUB_OFFLINE", "HF_DATASETS_OFFLINE", "TRANSFORMERS_OFFLINE"),
    *("OMP_NUM_THREADS", "MKL_NUM_THREADS", "PYTORCH_CUDA_ALLOC_CONF", "CUBLAS_WORKSPACE_CONFIG"),
)
"""Where a worker finds things and how it computes. Nothing secret: a cluster shows what its workers are given."""


def worker_environment(always: bool = False) -> dict[str, str]:
    """What workers of a Ray cluster are given of this process's environment; else they have that of `ray start`.

    Empty where Ray is this machine's own, whose workers have all of it; not so with `always`.
    """
    if not always and os.environ.get("RAY_ADDRESS", "local") in ("", "local"):
        return {}
    return {name: os.environ[name] for name in _TAKEN_ALONG if name in os.environ} | {"FEDLLM_HOME": str(home())}


def prepare_simulation(identity: Callable[[], Mapping[str, object]]) -> None:
    """In the process of a simulation, before Flower chooses its backend: it loads the ClientApp first.

    Elsewhere nothing happens.

    Parameters
    ----------
    identity : Callable[[], Mapping[str, object]]
        Says which code runs here.
    """
    if _SIMULATION not in sys.modules:
        return
    server = os.environ.get(FORK_SERVER)
    if server:
        reason = misfit(Path(server), identity())
        if not reason:
            return _take_forked_clients(Path(server))
        notes.append(f"the fork server does not serve this simulation ({reason}); Ray starts its clients")
    _restart_dead_workers()


def _take_forked_clients(server: Path) -> None:
    """Put our backend where Flower imports Ray's, which is never loaded then."""
    from fedllm_app.client.forked_backend import ForkedBackend

    module = types.ModuleType(_BACKEND)
    module.RayBackend = lambda config: ForkedBackend(config, server)
    sys.modules[_BACKEND] = module


def _restart_dead_workers() -> None:
    """Let Ray start the workers of Flower's simulations anew when they die, for example of running out of memory.

    Flower puts a worker that died back into its pool. There it answers every message with an error at once, faster than
    the living ones, so that most clients would not train any more. Ray restarts a worker if it is told to when it first
    starts, for which Flower has no option. So the class that Flower starts is replaced, before it starts any, and so is
    the pool, which would use the worker before it is there again.
    """
    import ray
    from flwr.simulation.ray_transport.ray_actor import VirtualClientEngineActor

    environment = worker_environment()
    options = {"runtime_env": {"env_vars": environment}} if environment else {}

    @ray.remote(max_restarts=-1, **options)  # without an end
    class ClientAppActor(VirtualClientEngineActor):
        """Flower's class of this name, with the option."""

        __qualname__ = "ClientAppActor"  # what Ray calls the process

        def __init__(self, on_actor_init_fn: Callable[[], None] | None = None) -> None:
            super().__init__()
            if on_actor_init_fn:
                on_actor_init_fn()

    backend = importlib.import_module(_BACKEND)

    class RestartedActorPool(backend.BasicActorPool):
        """Flower's pool, to which a worker that died comes back when it answers again."""

        def fetch_result_and_return_actor_to_pool(self, future: Any) -> tuple[Any, Any]:
            """The answer; of a worker that died, Ray's error once it was started anew, when Flower puts it back."""
            try:
                return super().fetch_result_and_return_actor_to_pool(future)
            except ray.exceptions.RayActorError:
                wait_until_restarted(self._future_to_actor[future])
                raise

    backend.ClientAppActor, backend.BasicActorPool = ClientAppActor, RestartedActorPool


def wait_until_restarted(actor: Any, seconds: float = _RESTART) -> bool:
    """Whether a Ray actor that died answers again within so many seconds.

    While Ray starts it, which takes as long as the import of all libraries, it answers every message with an error at
    once, and would cost the messages that the living ones wait for.
    """
    import ray

    deadline = time.monotonic() + seconds
    while (left := deadline - time.monotonic()) > 0:
        try:
            ray.get(actor.__ray_ready__.remote(), timeout=left)
            return True
        except ray.exceptions.RayActorError:
            time.sleep(_LOOK_EVERY)
        except ray.exceptions.GetTimeoutError:
            break
    return False
