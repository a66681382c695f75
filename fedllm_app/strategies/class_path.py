"""Strategies that are not in the table: any Flower strategy by its class path."""

import inspect
import math
import tomllib
from collections.abc import Mapping

from flwr.serverapp.strategy import Strategy

from fedllm_app.class_paths import ClassPathError, import_class
from fedllm_app.strategies.round_strategy import RoundStrategy, as_round_strategy

Argument = bool | int | float | str

_NAMED = (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)


def parse_arguments(text: str) -> dict[str, Argument]:
    """Read "eta=0.01, name='x', flag=true": the inside of a TOML inline table, so text may hold commas and spaces.

    Raises
    ------
    ClassPathError
        The text is anything else, or a value is not text, a bool or a finite number.
    """
    try:
        parsed = tomllib.loads(f"arguments = {{{text}}}")
    except tomllib.TOMLDecodeError as error:
        raise ClassPathError(f"not to be read ({error})") from error
    arguments = parsed.pop("arguments")
    if parsed:  # a brace and a new line in the text
        raise ClassPathError(f"not to be read (what is {', '.join(parsed)}?)")
    for name, value in arguments.items():
        if not isinstance(value, Argument) or (isinstance(value, float) and not math.isfinite(value)):
            raise ClassPathError(f"the value of {name} is no text, true, false or finite number")
    return arguments


def check_class_path(path: str, hyper: Mapping[str, Argument]) -> None:
    """Raise what `build_from_class_path` raises of the path and the names of the arguments, constructing nothing."""
    _class_and_arguments(path, hyper, num_clients=1)


def build_from_class_path(path: str, hyper: Mapping[str, Argument], num_clients: int) -> RoundStrategy:
    """Construct the strategy "package.module.Class".

    It is told to take every client that it is shown, and the number of all clients, as far as its constructor
    accepts the arguments fraction_train, fraction_evaluate, min_train_nodes, min_evaluate_nodes,
    min_available_nodes and num_clients. `hyper` adds keyword arguments, hyphens as underscores.

    Raises
    ------
    ClassPathError
        The path cannot be imported, is no concrete Strategy, or its constructor needs or refuses an argument.
    """
    strategy_class, arguments = _class_and_arguments(path, hyper, num_clients)
    try:
        strategy = strategy_class(**arguments)
    except (TypeError, ValueError) as error:
        raise ClassPathError(f"{path} refuses its arguments {arguments}: {error}") from error
    return as_round_strategy(strategy)


def _class_and_arguments(
    path: str, hyper: Mapping[str, Argument], num_clients: int
) -> tuple[type[Strategy], dict[str, Argument]]:
    strategy_class = import_class(path, Strategy, "The strategy")
    accepted, required = _parameters(strategy_class)
    given = {name.replace("-", "_"): value for name, value in hyper.items()}
    refused = [name for name in given if name not in accepted]
    if refused:
        raise ClassPathError(f"{path} takes no argument {', '.join(refused)}; it takes {', '.join(sorted(accepted))}.")
    take_everyone = {
        "fraction_train": 1.0,
        "fraction_evaluate": 1.0,
        "min_train_nodes": 1,
        "min_evaluate_nodes": 1,
        "min_available_nodes": 1,
        "num_clients": num_clients,
    }
    arguments = {name: value for name, value in take_everyone.items() if name in accepted} | given
    missing = sorted(required - set(arguments))
    if missing:
        raise ClassPathError(
            f"{path} cannot be constructed without {', '.join(missing)}. Give them in strategy.arguments, or subclass "
            "it with defaults and name the subclass."
        )
    return strategy_class, arguments


def _parameters(strategy_class: type[Strategy]) -> tuple[set[str], set[str]]:
    """Return the keyword arguments that a constructor accepts, and those that it needs.

    A constructor that takes ``**kwargs`` is assumed to hand them to the next class, whose arguments count too.
    """
    own = inspect.signature(strategy_class).parameters.values()
    required = {p.name for p in own if p.kind in _NAMED and p.default is p.empty}
    accepted: set[str] = set()
    for ancestor in strategy_class.__mro__:
        if "__init__" not in vars(ancestor):
            continue
        parameters = list(inspect.signature(ancestor.__init__).parameters.values())[1:]
        accepted |= {p.name for p in parameters if p.kind in _NAMED}
        if all(p.kind is not p.VAR_KEYWORD for p in parameters):
            break
    return accepted, required
