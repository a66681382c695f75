"""The one table of strategies: name, hyper-parameters, bounds. Adding one is one file and one entry here.

q-FedAvg (Li et al. 2020) is left out on purpose. It needs each client's loss at the global adapter, where clients
report the mean loss of their local steps; and its step is divided by ``q F^(q−1) ‖(x − y_i)/η‖² + F^q/η``, which
means something only if the clients take SGD steps of a constant η. Under AdamW it shrinks with the number of
parameters. `flwr.serverapp.strategy.QFedAvg` remains for whoever subclasses it.
"""

import difflib
from collections.abc import Callable
from dataclasses import dataclass

from fedllm_app.class_paths import is_class_path
from fedllm_app.errors import UserError
from fedllm_app.strategies import robust
from fedllm_app.strategies.centralized import Centralized
from fedllm_app.strategies.class_path import build_from_class_path
from fedllm_app.strategies.fedadagrad import FedAdagrad
from fedllm_app.strategies.fedadam import FedAdam
from fedllm_app.strategies.fedavg import FedAvg
from fedllm_app.strategies.fedavgm import FedAvgM
from fedllm_app.strategies.fedprox import FedProx
from fedllm_app.strategies.fedyogi import FedYogi
from fedllm_app.strategies.hyperparameters import Bounds, Hyper, Hyperparameter, with_defaults
from fedllm_app.strategies.local import Local
from fedllm_app.strategies.round_strategy import RoundStrategy
from fedllm_app.strategies.scaffold import Scaffold


class UnknownStrategyError(UserError):
    """A name that is neither in the table nor a class path."""


class HyperparameterError(UserError):
    """Hyper-parameters that the strategy does not have or accept."""


class TooFewClientsError(UserError):
    """Fewer clients than the strategy's guarantee needs."""


@dataclass(frozen=True)
class StrategySpec:
    """What the table knows of a strategy.

    Attributes
    ----------
    constructor : Callable[..., RoundStrategy]
        Takes the hyper-parameters by keyword, hyphens as underscores; their defaults stand there and nowhere else.
    bounds : tuple[Bounds, ...]
        The hyper-parameters and their intervals, in the order of the paper.
    arguments : Callable[[int, int], dict[str, int]]
        What else the constructor takes, from the number of all clients and the number of replies below.
    minimum_clients : Callable[[Hyper], int]
        Replies a round that the paper's guarantee needs, given all hyper-parameters.
    """

    constructor: Callable[..., RoundStrategy]
    bounds: tuple[Bounds, ...] = ()
    arguments: Callable[[int, int], dict[str, int]] = lambda num_clients, minimum: {}
    minimum_clients: Callable[[Hyper], int] = lambda hyper: 1

    @property
    def hyperparameters(self) -> tuple[Hyperparameter, ...]:
        """The hyper-parameters with their defaults."""
        return with_defaults(self.constructor, self.bounds)


def _robust(rule: Callable[..., RoundStrategy], *bounds: Bounds, minimum: Callable[[Hyper], int]) -> StrategySpec:
    return StrategySpec(rule, bounds, lambda _, replies: {"minimum_replies": replies}, minimum)


_ETA = Bounds("eta", minimum_open=True)
_TAU = Bounds("tau", minimum_open=True)
_BETA_1 = Bounds("beta-1", maximum=1.0)
_BETA_2 = Bounds("beta-2", maximum=1.0)
_MALICIOUS = Bounds("malicious")

STRATEGIES: dict[str, StrategySpec] = {
    "fedavg": StrategySpec(FedAvg),
    "fedprox": StrategySpec(FedProx, (Bounds("mu"),)),
    "scaffold": StrategySpec(
        Scaffold, (Bounds("eta-g", minimum_open=True),), lambda num_clients, _: {"num_clients": num_clients}
    ),
    "fedavgm": StrategySpec(FedAvgM, (Bounds("beta", maximum=1.0), Bounds("eta-s", minimum_open=True))),
    "fedadagrad": StrategySpec(FedAdagrad, (_ETA, _TAU)),
    "fedyogi": StrategySpec(FedYogi, (_ETA, _BETA_1, _BETA_2, _TAU)),
    "fedadam": StrategySpec(FedAdam, (_ETA, _BETA_1, _BETA_2, _TAU)),
    "local": StrategySpec(Local),
    "centralized": StrategySpec(Centralized),
    "fedmedian": _robust(robust.FedMedian, minimum=lambda hyper: 3),
    "fedtrimmedavg": _robust(
        robust.FedTrimmedAvg,
        Bounds("beta", maximum=0.5),
        minimum=lambda hyper: robust.trimmed_mean_minimum(hyper["beta"]),
    ),
    "krum": _robust(robust.Krum, _MALICIOUS, minimum=lambda hyper: 2 * hyper["malicious"] + 3),
    "multikrum": _robust(
        robust.MultiKrum,
        _MALICIOUS,
        Bounds("keep", minimum=1.0),
        minimum=lambda hyper: max(2 * hyper["malicious"] + 3, hyper["keep"] + hyper["malicious"] + 2),
    ),
    "bulyan": _robust(robust.Bulyan, _MALICIOUS, minimum=lambda hyper: 4 * hyper["malicious"] + 3),
}


def strategy_spec(name: str) -> StrategySpec:
    """Return the entry of a name; UnknownStrategyError with the nearest name and the list."""
    if name not in STRATEGIES:
        nearest = difflib.get_close_matches(name.lower(), STRATEGIES, n=1, cutoff=0.0)[0]
        raise UnknownStrategyError(
            f"There is no strategy '{name}'; did you mean '{nearest}'? Known: {', '.join(STRATEGIES)}. "
            "Any other Flower strategy is named by its class path, package.module.Class."
        )
    return STRATEGIES[name]


def hyperparameter_problems(name: str, hyper: Hyper) -> list[str]:
    """Return one sentence for every hyper-parameter that the named strategy does not have or accept."""
    known = {parameter.name: parameter for parameter in strategy_spec(name).hyperparameters}
    problems = []
    for key, value in hyper.items():
        if key not in known:
            have = f"it has {', '.join(known)}" if known else "it has none"
            problems.append(f"'{name}' has no hyper-parameter '{key}'; {have}.")
        elif not known[key].accepts(value):
            problems.append(f"'{key}' of '{name}' must be {known[key].description}, not {value!r}.")
    return problems


def complete_hyperparameters(name: str, hyper: Hyper) -> dict[str, float | int]:
    """Return the given hyper-parameters with defaults for the rest; HyperparameterError names all problems."""
    problems = hyperparameter_problems(name, hyper)
    if problems:
        raise HyperparameterError(" ".join(problems))
    return {
        parameter.name: hyper.get(parameter.name, parameter.default)
        for parameter in strategy_spec(name).hyperparameters
    }


def minimum_clients(name: str, hyper: Hyper) -> int:
    """Return how many replies a round the strategy needs; 1 for a class path, of which nothing is known."""
    if is_class_path(name):
        return 1
    return strategy_spec(name).minimum_clients(complete_hyperparameters(name, hyper))


def build_strategy(name: str, hyper: Hyper, num_clients: int) -> RoundStrategy:
    """Build a strategy by its name in the table or by its class path.

    Parameters
    ----------
    name : str
        A key of `STRATEGIES`, or "package.module.Class".
    hyper : Mapping[str, float | int]
        By the names of the table; what is missing takes its default. For a class path: keyword arguments of the
        class, hyphens as underscores.
    num_clients : int
        All clients of the federation, not the ones drawn for a round.

    Raises
    ------
    UnknownStrategyError, HyperparameterError, TooFewClientsError, ClassPathError
    """
    if is_class_path(name):
        return build_from_class_path(name, hyper, num_clients)
    complete = complete_hyperparameters(name, hyper)
    minimum = minimum_clients(name, complete)
    if num_clients < minimum:
        raise TooFewClientsError(
            f"'{name}' with {complete} needs {minimum} clients a round, the federation has {num_clients}."
        )
    arguments = {key.replace("-", "_"): value for key, value in complete.items()}
    spec = strategy_spec(name)
    return spec.constructor(**spec.arguments(num_clients, minimum), **arguments)
