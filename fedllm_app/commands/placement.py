"""How clients share this machine or a cluster: how many at a time, with which cores and which part of a GPU."""

import json
import math
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace

from fedllm_app.config.sections import Config
from fedllm_app.models.hardware import cores, has_gpu_driver
from fedllm_app.strategies.registry import build_strategy

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
        The part of a GPU of a client, or how many it has; 0 for none.
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
    """Clients that could train at a time: those of a round, or the one that trains on the rows of all."""
    number = config.clients.simulated
    strategy = build_strategy(config.strategy.name, config.strategy.hyper, number)
    return len(strategy.taking_part(list(range(config.clients.per_round or number))))


def client_cpus(config: Config, machine: Machine | None = None) -> int:
    """The cores that a client of the default federation has on a machine without a GPU; None: this one."""
    return place(Machine((machine or Machine(cores())).cores), at_a_time(config), None).cpus


def place(machine: Machine, wanted: int, need: int | None, spreads: bool = False) -> Placement:
    """Share one machine among clients; parameters as `place_on`."""
    return place_on([machine], wanted, need, spreads)


def place_on(machines: Sequence[Machine], wanted: int, need: int | None, spreads: bool = False) -> Placement:
    """Share machines among clients. All clients get the same share, because Ray knows one for all.

    Parameters
    ----------
    machines : Sequence[Machine]
        This one, or the nodes of a Ray cluster. Where some have GPUs, those without serve no client.
    wanted : int
        Clients that could work at a time.
    need : int | None
        Bytes that one needs on a GPU beside its context, as `fedllm plan` says; None: not known.
    spreads : bool
        Whether a client's base may lie on several GPUs (`model.device-map`). Then it gets as few as hold it.
    """
    with_gpu = [machine for machine in machines if machine.gpus]
    if not with_gpu:
        return Placement(_cores(machines, min(wanted, sum(machine.cores for machine in machines))))
    count = sum(len(machine.gpus) for machine in with_gpu)
    smallest = min((gpu for machine in with_gpu for gpu in machine.gpus), key=lambda gpu: gpu.free)
    where = f" on {len(with_gpu)} machines" if len(with_gpu) > 1 else ""
    what = f"{count} GPU{'s' if count > 1 else ''}{where} ({smallest.name}, {_gib(smallest.free)} free)"
    if need is None:
        return _not_known(with_gpu, wanted, what, spreads)
    whole = _whole(need)
    each = min(smallest.free // whole, _MOST)
    if each < 1:
        return _too_large_for_one(with_gpu, wanted, need, what, spreads)
    each = min(each, math.ceil(wanted / count))
    # Flower counts the clients of all GPUs of a node together. With two digits, 8 / 0.14 were 57; 56 have room, and the
    # other would never answer. Ray takes four.
    part = math.floor(10_000 / each) / 10_000
    at_once = min(wanted, each * count)
    reason = f"{what}: a client needs about {_gib(whole)} there, so {at_once} train at a time, {each} on a GPU"
    return Placement(_cores(with_gpu, at_once, part), part, reason)


def _whole(need: int, gpus: int = 1) -> int:
    """Bytes on each of the GPUs that a client has, its process's context and a margin among them."""
    return int(need * _MARGIN / gpus) + _CONTEXT


def _not_known(machines: Sequence[Machine], wanted: int, what: str, spreads: bool) -> Placement:
    gpus = min(len(machine.gpus) for machine in machines) if spreads else 1
    reason = f"{what}: what a client needs there is not known, so each gets {_gpus_of_its_own(gpus)}"
    return _with_whole_gpus(machines, wanted, gpus, reason)


def _too_large_for_one(machines: Sequence[Machine], wanted: int, need: int, what: str, spreads: bool) -> Placement:
    """Several GPUs a client where its base may lie on several and some machine has enough; else one, and a warning."""
    free = min(gpu.free for machine in machines for gpu in machine.gpus)
    most = max(len(machine.gpus) for machine in machines)
    enough = next((gpus for gpus in range(2, most + 1) if _whole(need, gpus) <= free), None)
    needed = f"{what}: a client needs about {_gib(_whole(need))}, more than is free on one"
    if spreads and enough:
        at_once = min(wanted, _room(machines, enough))
        reason = f"{needed}; it gets {enough} GPUs, and {at_once} train{'s' if at_once == 1 else ''} at a time"
        return _with_whole_gpus(machines, wanted, enough, reason)
    gpus = most if spreads else 1
    hint = f"{enough} GPUs would hold it with model.device-map = 'auto'. " if enough else ""
    reason = (
        f"{needed}; it gets {_gpus_of_its_own(gpus)} and may run out of memory. {hint}Quantize the base "
        "(model.quantization = 'int8' or 'nf4'), lower train.batch-size and raise train.gradient-accumulation, or set "
        "train.gradient-checkpointing = true"
    )
    return replace(_with_whole_gpus(machines, wanted, gpus, reason), fits=False)


def _gpus_of_its_own(gpus: int) -> str:
    return "a GPU of its own" if gpus == 1 else f"{gpus} GPUs of its own"


def _with_whole_gpus(machines: Sequence[Machine], wanted: int, gpus: int, reason: str) -> Placement:
    at_once = min(wanted, _room(machines, gpus))
    return Placement(_cores(machines, at_once, gpus), float(gpus), reason)


def _room(machines: Sequence[Machine], gpus: float) -> int:
    """How many clients with so many GPUs, or such a part of one, the machines serve at a time."""
    return sum(int(len(machine.gpus) / gpus) for machine in machines)


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


def _cores(machines: Sequence[Machine], at_once: int, gpus: float = 0) -> int:
    """The most cores that so many clients at a time can have each; no client is split between machines."""
    for share in range(max(machine.cores for machine in machines), 1, -1):
        served = [
            min(machine.cores // share, _room([machine], gpus)) if gpus else machine.cores // share
            for machine in machines
        ]
        if sum(served) >= at_once:
            return share
    return 1


def _gib(size: int) -> str:
    return f"{size / _GIB:.1f} GB"
