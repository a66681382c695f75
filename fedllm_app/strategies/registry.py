"""The one table of strategies: name, hyper-parameters, bounds. Adding one is one file and one entry here.

q-FedAvg (Li et al. 2020) is left out on purpose. It needs each client's loss at the global adapter, where clients
report the mean loss of their local steps; and its step is divided by ``q F^(q−1) ‖(x − y_i)/η‖² + F^q/η``, which
means something only if the clients take SGD steps of a constant η. Under AdamW it shrinks with the number of
parameters. `flwr.serverapp.strategy.QFedAvg` remains for whoever subclasses it.
"""

import difflib
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from flwr.serverapp.strategy import Strategy

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
from fedllm_app.strategies.local import Local
from fedllm_app.strategies.scaffold import Scaffold

Hyper = Mapping[str, float | int]


class UnknownStrategyError(UserError):
    """A name that is neither in the table nor a class path."""


class HyperparameterError(UserError):
    """Hyper-parameters that the strategy does not have or accept."""


class TooFewClientsError(UserError):
    """Fewer clients than the strategy's guarantee needs."""


@dataclass(frozen=True)
class Hyperparameter:
    """One number of a strategy: `name` in the configuration, `symbol` in the paper, and the interval it lies in.

    An integer default means that only integers are accepted. The lower end is accepted unless it is open, the upper
    one only if it is not.
    """

    name: str
    symbol: str
    default: float | int
    minimum: float = 0.0
    maximum: float = math.inf
    minimum_open: bool = False
    maximum_open: bool = True

    @property
    def accepted(self) -> str:
        """Say what is accepted: "a number in [0, 1)", "an integer >= 1"."""
        kind = "an integer" if isinstance(self.default, int) else "a number"
        if math.isinf(self.maximum):
            return f"{kind} {'>' if self.minimum_open else '>='} {self.minimum:g}"
        left, right = "(" if self.minimum_open else "[", ")" if self.maximum_open else "]"
        return f"{kind} in {left}{self.minimum:g}, {self.maximum:g}{right}"

    def accepts(self, value: object) -> bool:
        """Return whether a value is of the kind and in the interval. No bool is, nor NaN, nor infinity."""
        kinds = int if isinstance(self.default, int) else (int, float)
        if not isinstance(value, kinds) or isinstance(value, bool):
            return False
        above = value > self.minimum if self.minimum_open else value >= self.minimum
        below = value < self.maximum if self.maximum_open else value <= self.maximum
        return above and below


@dataclass(frozen=True)
class StrategySpec:
    """What the table knows of a strategy.

    Attributes
    ----------
    build : Callable[..., Strategy]
        Called with ``num_clients`` (all clients of the federation), ``minimum`` (the bound below, evaluated) and the
        hyper-parameters by keyword, hyphens as underscores.
    summary : str
        One line for lists of names.
    hyperparameters : tuple[Hyperparameter, ...]
        In the order of the paper.
    server_only : bool
        Whether clients do nothing but plain training on their own data.
    minimum_clients : Callable[[Hyper], int]
        Replies a round that the paper's guarantee needs, given all hyper-parameters.
    """

    build: Callable[..., Strategy]
    summary: str
    hyperparameters: tuple[Hyperparameter, ...] = ()
    server_only: bool = True
    minimum_clients: Callable[[Hyper], int] = lambda hyper: 1


def _plain(strategy_class: Callable[..., Strategy]) -> Callable[..., Strategy]:
    return lambda num_clients, minimum, **hyper: strategy_class(**hyper)


def _robust(rule: Callable[..., Strategy]) -> Callable[..., Strategy]:
    return lambda num_clients, minimum, **hyper: rule(minimum, **hyper)


def _scaffold(num_clients: int, minimum: int, eta_g: float) -> Scaffold:
    return Scaffold(num_clients, eta_g)


# Defaults by benchmarks/sweep.md. η belongs near what a client moves a coordinate in a round, local steps × learning
# rate: 5 × 3e-3 there. A β₁ of 0.9, which the paper takes, needs more rounds than a short run has.
_ETA = Hyperparameter("eta", "η", 1e-2, minimum_open=True)
_TAU = Hyperparameter("tau", "τ", 1e-3, minimum_open=True)
_BETA_1 = Hyperparameter("beta-1", "β₁", 0.5, maximum=1.0)
_BETA_2 = Hyperparameter("beta-2", "β₂", 0.99, maximum=1.0)
_MALICIOUS = Hyperparameter("malicious", "f", 1)

STRATEGIES: dict[str, StrategySpec] = {
    "fedavg": StrategySpec(_plain(FedAvg), "mean of the adapters, weighted by examples"),
    "fedprox": StrategySpec(
        _plain(FedProx),
        "FedAvg of clients held near the global adapter",
        (Hyperparameter("mu", "μ", 0.01),),
        server_only=False,
    ),
    "scaffold": StrategySpec(
        _scaffold,
        "control variates against client drift",
        (Hyperparameter("eta-g", "η_g", 1.0, minimum_open=True),),
        server_only=False,
    ),
    "fedavgm": StrategySpec(
        _plain(FedAvgM),
        "FedAvg with momentum on the server",
        (Hyperparameter("beta", "β", 0.5, maximum=1.0), Hyperparameter("eta-s", "η_s", 1.0, minimum_open=True)),
    ),
    "fedadagrad": StrategySpec(_plain(FedAdagrad), "Adagrad on the server", (_ETA, _TAU)),
    "fedyogi": StrategySpec(_plain(FedYogi), "Yogi on the server", (_ETA, _BETA_1, _BETA_2, _TAU)),
    "fedadam": StrategySpec(_plain(FedAdam), "Adam on the server", (_ETA, _BETA_1, _BETA_2, _TAU)),
    "local": StrategySpec(_plain(Local), "every client alone: what federation must beat"),
    "centralized": StrategySpec(
        _plain(Centralized), "one client on all data: what federation tries to reach", server_only=False
    ),
    "fedmedian": StrategySpec(_robust(robust.median), "coordinate-wise median", minimum_clients=lambda hyper: 3),
    "fedtrimmedavg": StrategySpec(
        _robust(robust.trimmed_mean),
        "coordinate-wise trimmed mean",
        (Hyperparameter("beta", "β", 0.2, maximum=0.5),),
        minimum_clients=lambda hyper: robust.trimmed_mean_minimum(hyper["beta"]),
    ),
    "krum": StrategySpec(
        _robust(robust.krum),
        "the one adapter nearest to the others",
        (_MALICIOUS,),
        minimum_clients=lambda hyper: 2 * hyper["malicious"] + 3,
    ),
    "multikrum": StrategySpec(
        _robust(robust.multi_krum),
        "mean of the adapters nearest to the others",
        (_MALICIOUS, Hyperparameter("keep", "m", 2, minimum=1.0)),
        minimum_clients=lambda hyper: max(2 * hyper["malicious"] + 3, hyper["keep"] + hyper["malicious"] + 2),
    ),
    "bulyan": StrategySpec(
        _robust(robust.bulyan),
        "Multi-Krum, then the values nearest to the median",
        (_MALICIOUS,),
        minimum_clients=lambda hyper: 4 * hyper["malicious"] + 3,
    ),
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
            problems.append(f"'{key}' of '{name}' must be {known[key].accepted}, not {value!r}.")
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
    if "." in name:
        return 1
    return strategy_spec(name).minimum_clients(complete_hyperparameters(name, hyper))


def build_strategy(name: str, hyper: Hyper, num_clients: int) -> Strategy:
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
    if "." in name:
        return build_from_class_path(name, hyper, num_clients)
    complete = complete_hyperparameters(name, hyper)
    minimum = minimum_clients(name, complete)
    if num_clients < minimum:
        raise TooFewClientsError(
            f"'{name}' with {complete} needs {minimum} clients a round, the federation has {num_clients}."
        )
    arguments = {key.replace("-", "_"): value for key, value in complete.items()}
    return strategy_spec(name).build(num_clients=num_clients, minimum=minimum, **arguments)
