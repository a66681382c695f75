"""Simulations: a worker process that died is started anew."""

import importlib
import sys
from collections.abc import Callable

_SIMULATION = "flwr.server.superlink.fleet.vce.vce_api"  # imported where a simulation runs
_BACKEND = "flwr.server.superlink.fleet.vce.backend.raybackend"


def restart_dead_workers() -> None:
    """Let Ray start the workers of Flower's simulations anew when they die, for example of running out of memory.

    Flower puts a worker that died back into its pool. There it answers every message with an error at once, faster than
    the living ones, so that most clients would not train any more. Ray restarts a worker if it is told to when it first
    starts, for which Flower has no option. So the class that Flower starts is replaced, before it starts any: it loads
    the ClientApp first. Outside of simulations nothing happens.
    """
    if _SIMULATION not in sys.modules:
        return
    import ray
    from flwr.simulation.ray_transport.ray_actor import VirtualClientEngineActor

    @ray.remote(max_restarts=-1)  # without an end
    class ClientAppActor(VirtualClientEngineActor):
        """Flower's class of this name, with the option."""

        __qualname__ = "ClientAppActor"  # what Ray calls the process

        def __init__(self, on_actor_init_fn: Callable[[], None] | None = None) -> None:
            super().__init__()
            if on_actor_init_fn:
                on_actor_init_fn()

    importlib.import_module(_BACKEND).ClientAppActor = ClientAppActor
