"""How long the training of a run takes on this machine, found by doing a little of it."""

import json
import math
import statistics
import tempfile
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

from fedllm_app.client.progress import STEPS_FILE
from fedllm_app.commands.placement import at_a_time, client_cpus, this_machine
from fedllm_app.config.parse import parse_run_config
from fedllm_app.config.sections import FlatConfig
from fedllm_app.errors import UserError
from fedllm_app.training.client_state import kept_in

_STEPS = 4  # of each client; the first is left out, because it also makes room for all others
_WITHOUT = {
    "run.resume": "",
    "run.checkpoint-every": 0,
    "evaluate.every": 0,
    "evaluate.suite": "",
    "tracking.backend": "none",
    "train.rounds": 1,
    "train.local-steps": _STEPS,
}


@dataclass(frozen=True)
class Pace:
    """What was measured, and what follows.

    Attributes
    ----------
    step : float
        Seconds of an optimizer step of one client, with nothing beside it.
    at_once : int
        Clients of a round that train at a time.
    training : float
        Seconds that the clients of all rounds train, with so many at a time.
    """

    step: float
    at_once: int
    training: float


def measure(flat: FlatConfig, steps: int) -> Pace:
    """Train one round of a few steps in this process, and work out how long the run's steps take.

    Parameters
    ----------
    steps : int
        Optimizer steps of all clients in the whole run.

    Raises
    ------
    UserError
        As the run itself would.
    """
    from fedllm_app.in_process import quiet, run_in_process

    config = parse_run_config(flat)
    machine, wanted = this_machine(), at_a_time(config)
    cpus = client_cpus(config, machine)
    threads = config.run.threads or cpus
    with tempfile.TemporaryDirectory(prefix="fedllm-pace-") as scratch, quiet(), kept_in(Path(scratch, "clients")):
        changed = _WITHOUT | {"run.directory": f"{scratch}/run", "run.threads": threads}
        directory = run_in_process(dict(flat) | changed)
        step = mean_step(directory.path / STEPS_FILE)
    at_once = min(wanted, len(machine.gpus) or max(1, machine.cores // cpus))
    crowd = 1.0 if machine.gpus else max(1.0, threads * at_once / machine.cores)  # who has a core's time only in part
    return Pace(step, at_once, in_a_row(steps, wanted, at_once) * step * crowd)


def in_a_row(steps: int, clients: int, at_once: int) -> float:
    """Steps that follow each other, of `steps` steps of `clients` clients a round, `at_once` at a time: a round lasts
    as long as its fullest place."""
    return steps / clients * math.ceil(clients / at_once)


def mean_step(file: Path) -> float:
    """Seconds between a step of a client and its next, the mean over all clients; from a run's steps.jsonl.

    Raises
    ------
    UserError
        No client reported two steps, one after the other.
    """
    reported: dict[int, list[tuple[int, float]]] = {}
    for line in file.read_text().splitlines() if file.is_file() else ():
        event = json.loads(line)
        if event["step"]:
            reported.setdefault(event["client"], []).append((event["step"], event["time"]))
    pairs = [pair for steps in reported.values() for pair in pairwise(steps)]
    seconds = [later - earlier for (step, earlier), (following, later) in pairs if following == step + 1]
    if not seconds:
        raise UserError("--measure: the clients reported no steps, so that nothing is known of their time")
    return statistics.fmean(seconds)
