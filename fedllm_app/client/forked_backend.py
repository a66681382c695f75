"""Flower's backend of a simulation whose clients come from the fork server instead of Ray.

Ray takes some ten seconds to start on two cores, each of its workers imports every library anew, and on one machine
without GPUs a simulation needs nothing else of it. The same options of Flower say how many clients work at a time
(`client-resources-num-cpus`, `init-args-num-cpus`).
"""

import os
import queue
import time
from collections.abc import Callable, Mapping
from logging import ERROR
from pathlib import Path

from flwr.app import Context, Message
from flwr.clientapp import ClientApp
from flwr.server.superlink.fleet.vce.backend.backend import Backend, BackendConfig
from flwr.supercore import log

from fedllm_app.client.forked import ClientDied, ForkedClient, NoClient
from fedllm_app.messages import failure
from fedllm_app.models.hardware import cores

_NEXT_TRY = 5.0  # seconds after which a process for a client is asked for again
_FLOWERS_DEFAULT = {"num_cpus": 2}  # of a client, as Flower's own backend takes it


class ForkedBackend(Backend):
    """Answers messages with as many processes at a time as the machine has room for, each started when it is needed.

    Parameters
    ----------
    backend_config : BackendConfig
        As Flower reads it from `--federation-config`.
    socket_path : Path
        Of the fork server.

    Raises
    ------
    ValueError
        A client needs more than there is.
    """

    def __init__(self, backend_config: BackendConfig, socket_path: Path) -> None:
        resources = backend_config.get("client_resources") or _FLOWERS_DEFAULT
        here = float(backend_config.get("init_args", {}).get("num_cpus") or cores())
        cpus = float(resources.get("num_cpus", 1))
        if resources.get("num_gpus") or cpus > here:
            raise ValueError(f"a client needs {resources}, and this machine has {here:g} cores and no GPU")
        self.workers = int(here / cpus) if cpus else 1
        self.socket_path = socket_path
        self.environment = environment_of_a_client(os.environ, cpus)
        self._free: queue.LifoQueue[ForkedClient | None] = queue.LifoQueue()
        for _ in range(self.workers):
            self._free.put(None)

    def build(self, app_fn: Callable[[], ClientApp]) -> None:
        """Nothing is needed: the fork server has loaded the ClientApp."""

    @property
    def num_workers(self) -> int:
        """How many messages are answered at a time."""
        return self.workers

    def is_worker_idle(self) -> bool:
        """Whether a message would be worked on at once."""
        return not self._free.empty()

    def process_message(self, message: Message, context: Context) -> tuple[Message, Context]:
        """The answer of a client. One that dies costs this message, and the next has a new one."""
        client, answered = self._free.get(), False
        try:
            if client is None or client.gone():
                client = ForkedClient(self.socket_path, self.environment)
            reply = client.answer(message, context)
            answered = True
            return reply, context
        except ClientDied as error:
            log(ERROR, "%s", error)
            return failure(message, str(error)), context
        except NoClient as error:
            log(ERROR, "%s", error)
            time.sleep(_NEXT_TRY)  # or this place would take, and refuse, the messages of those that work
            return failure(message, str(error)), context
        finally:
            if client and not answered:  # what it says next would be taken for an answer to another message
                client.close()
            self._free.put(client if answered else None)

    def terminate(self) -> None:
        """Let the clients end."""
        while not self._free.empty():
            if client := self._free.get():
                client.close()


def environment_of_a_client(environment: Mapping[str, str], cpus: float) -> dict[str, str]:
    """As Ray does: as many threads as a client has cores, unless the user has said otherwise."""
    return {"OMP_NUM_THREADS": str(max(1, int(cpus))), **environment}
