"""How clients share this machine or a cluster: how many at a time, with which cores and which part of a GPU."""

import json
import math
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass

from fedllm_app.config.sections import Config
from fedllm_app.models.hardware import cores, has_gpu_driver

_CONTEXT = 600 * 2**20  # bytes that a process takes on a GPU before it computes anything
_MARGIN = 1.15  # of a plan's memory: fragments, and what a plan does not see
_MOST = 8  # clients on a GPU; beyond that they only wait for each other
_GIB = 2**30
_ASK = (
    "import json, torch; n = torch.cuda.device_count(); "
    "print(json.dumps([[torch.cuda.get_device_name(i), *torch.cuda.mem_get_info(i)] for i in range(n)]))"
)


@dataclass(frozen=True)
class Gpu:
    """A GPU, and its bytes that are free now and in all."""

    name: str
    free: int
    total: int


@dataclass(frozen=True)
class Machine:
    """What there is to share."""

    cores: int
    gpus: tuple[Gpu, ...] = ()


@dataclass(frozen=True)
class Placement:
    """What Ray is told of each client.

    Attributes
    ----------
    cpus : int
        Cores of a client.
    gpus : float
        The part of a GPU of a client; 0 for none.
    reason : str
        Why, in a sentence; "" on a machine without a GPU.
    fits : bool
        Whether a client fits on a GPU, as far as that is known.
    """

    cpus: int
    gpus: float = 0.0
    reason: str = ""
    fits: bool = True

    def federation_config(self, clients: int) -> str:
        """As for `flwr run --federation-config`."""
        gpus = f" client-resources-num-gpus={self.gpus:g}" if self.gpus else ""
        return f"num-supernodes={clients} client-resources-num-cpus={self.cpus}{gpus}"


def this_machine() -> Machine:
    """The cores of this machine, and the GPUs that torch can use.

    Another process asks torch: whoever asks keeps some hundred MB on each GPU until it ends.
    """
    if not has_gpu_driver():
        return Machine(cores())
    done = subprocess.run([sys.executable, "-c", _ASK], capture_output=True, text=True, check=False)
    if done.returncode:
        return Machine(cores())  # a driver without a GPU; a client would not find one either
    return Machine(cores(), tuple(Gpu(*gpu) for gpu in json.loads(done.stdout.splitlines()[-1])))


def at_a_time(config: Config) -> int:
    """Clients that could work at a time: those of a round."""
    return config.clients.per_round or config.clients.number or 2


def place(machine: Machine, wanted: int, need: int | None) -> Placement:
    """Share one machine among clients; parameters as `place_on`."""
    return place_on([machine], wanted, need)


def place_on(machines: Sequence[Machine], wanted: int, need: int | None) -> Placement:
    """Share machines among clients. All clients get the same share, because Ray knows one for all.

    Parameters
    ----------
    machines : Sequence[Machine]
        This one, or the nodes of a Ray cluster. Where some have GPUs, those without serve no client.
    wanted : int
        Clients that could work at a time.
    need : int | None
        Bytes that one needs on a GPU beside its context, as `fedllm plan` says; None: not known.
    """
    with_gpu = [machine for machine in machines if machine.gpus]
    if not with_gpu:
        return Placement(_cores(machines, min(wanted, sum(machine.cores for machine in machines))))
    count = sum(len(machine.gpus) for machine in with_gpu)
    smallest = min((gpu for machine in with_gpu for gpu in machine.gpus), key=lambda gpu: gpu.free)
    where = f" on {len(with_gpu)} machines" if len(with_gpu) > 1 else ""
    what = f"{count} GPU{'s' if count > 1 else ''}{where} ({smallest.name}, {_gib(smallest.free)} free)"
    alone = _cores(with_gpu, min(wanted, count), 1)
    if need is None:
        reason = f"{what}: what a client needs there is not known, so each gets a GPU of its own"
        return Placement(alone, 1.0, reason)
    whole = int(need * _MARGIN) + _CONTEXT
    each = min(smallest.free // whole, _MOST)
    if each < 1:
        reason = (
            f"{what}: a client needs about {_gib(whole)}, more than is free there; it gets a GPU of its own and may "
            "run out of memory. Quantize the base (model.quantization = 'int8' or 'nf4'), lower train.batch-size and "
            "raise train.gradient-accumulation, or set train.gradient-checkpointing = true"
        )
        return Placement(alone, 1.0, reason, fits=False)
    each = min(each, math.ceil(wanted / count))
    # Flower counts the clients of all GPUs of a node together. With two digits, 8 / 0.14 were 57; 56 have room, and the
    # other would never answer. Ray takes four.
    part = math.floor(10_000 / each) / 10_000
    at_once = min(wanted, each * count)
    reason = f"{what}: a client needs about {_gib(whole)} there, so {at_once} train at a time, {each} on a GPU"
    return Placement(_cores(with_gpu, at_once, each), part, reason)


def gives_no_gpu(federation_config: str, machines: Sequence[Machine]) -> str:
    """A warning where machines have a GPU and a configuration of the user's gives clients none; else ""."""
    count = sum(len(machine.gpus) for machine in machines)
    if not count or "client-resources-num-gpus" in federation_config:
        return ""
    who = "this machine has" if len(machines) == 1 else "the machines have"
    return (
        f"{who} {count} GPU{'s' if count > 1 else ''}, and --federation-config gives "
        "clients none, so they train on the CPU: add client-resources-num-gpus=1, or a part such as 0.5"
    )


def _cores(machines: Sequence[Machine], at_once: int, on_a_gpu: int = 0) -> int:
    """The most cores that so many clients at a time can have each; no client is split between machines."""
    for share in range(max(machine.cores for machine in machines), 1, -1):
        served = [_most(machine.cores // share, len(machine.gpus) * on_a_gpu) for machine in machines]
        if sum(served) >= at_once:
            return share
    return 1


def _most(by_cores: int, by_gpus: int) -> int:
    return min(by_cores, by_gpus) if by_gpus else by_cores


def _gib(size: int) -> str:
    return f"{size / _GIB:.1f} GB"
