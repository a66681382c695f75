"""The table of names, and class paths beside it."""

import math

import numpy as np
import pytest
from flwr.serverapp import strategy as flower
from toy_strategies import make_reply, run_round

from fedllm_app.class_paths import ClassPathError, NotImportable
from fedllm_app.strategies.class_path import check_class_path
from fedllm_app.strategies.hyperparameters import Bounds, Hyperparameter
from fedllm_app.strategies.registry import (
    STRATEGIES,
    HyperparameterError,
    UnknownStrategyError,
    build_strategy,
    complete_hyperparameters,
    hyperparameter_problems,
    minimum_clients,
)

HERE = __name__


class WithHyperparameters(flower.FedAvg):
    """A user's strategy, which hands on what it does not know."""

    def __init__(self, num_clients: int, server_rate: float = 1.0, **kwargs) -> None:
        super().__init__(**kwargs)
        self.num_clients = num_clients
        self.server_rate = server_rate


class Picky(flower.FedAvg):
    def __init__(self) -> None:
        super().__init__()
        raise ValueError("not today")


NOT_A_CLASS = flower.FedAvg()


@pytest.mark.parametrize("name", STRATEGIES)
def test_defaults_are_accepted_and_reach_the_strategy(name):
    spec = STRATEGIES[name]
    strategy = build_strategy(name, {}, num_clients=7)
    for parameter in spec.hyperparameters:
        assert parameter.accepts(parameter.default)
        # A value other than the default, inside every interval of the table.
        other = 2 if isinstance(parameter.default, int) else 0.25
        changed = build_strategy(name, {parameter.name: other}, num_clients=20)
        attribute = parameter.name.replace("-", "_")
        assert getattr(strategy, attribute) == parameter.default
        assert getattr(changed, attribute) == other


@pytest.mark.parametrize("name", STRATEGIES)
def test_a_name_gives_the_strategy_of_that_name(name):
    strategy = build_strategy(name, {}, num_clients=7)
    assert type(strategy).__name__.lower() == name


def test_scaffold_is_told_of_all_clients():
    assert build_strategy("scaffold", {}, num_clients=50).num_clients == 50


@pytest.mark.parametrize("name, nearest", [("fedAvg", "fedavg"), ("scafold", "scaffold"), ("fedadagard", "fedadagrad")])
def test_unknown_name(name, nearest):
    with pytest.raises(UnknownStrategyError, match=f"did you mean '{nearest}'.*centralized"):
        build_strategy(name, {}, 7)


def test_all_problems_of_hyperparameters_together():
    problems = hyperparameter_problems("fedadam", {"eta": 0, "beta-1": 1.0, "beta_2": 0.9, "tau": 1})
    assert [problem.split("'")[1] for problem in problems] == ["eta", "beta-1", "fedadam"]
    assert "a number > 0, not 0" in problems[0]
    assert "a number in [0, 1), not 1.0" in problems[1]
    assert "eta, beta-1, beta-2, tau" in problems[2]
    with pytest.raises(HyperparameterError, match="it has none"):
        build_strategy("fedavg", {"mu": 1.0}, 7)


def test_complete_hyperparameters():
    assert complete_hyperparameters("fedavgm", {"beta": 0.9}) == {"beta": 0.9, "eta-s": 1.0}


@pytest.mark.parametrize("value", [True, False, "0.5", None, math.nan, math.inf, -0.1, 0.5])
def test_not_accepted(value):
    assert not Hyperparameter(Bounds("beta", maximum=0.5), 0.2).accepts(value)


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_no_bound_does_not_mean_infinity(value):
    assert not Hyperparameter(Bounds("eta"), 1e-3).accepts(value)


def test_intervals():
    closed = Hyperparameter(Bounds("a", maximum=1.0, maximum_open=False), 0.5)
    assert closed.accepts(1.0) and closed.accepts(0) and closed.description == "a number in [0, 1]"
    whole = Hyperparameter(Bounds("m", minimum=1), 2)
    assert whole.accepts(1) and not whole.accepts(1.0) and whole.description == "an integer >= 1"


@pytest.mark.parametrize("name", ["FedAvg", "FedAvgM", "FedAdam", "FedMedian", "Krum"])
def test_class_path_of_flower(name):
    """Two clients are enough: every minimum of Flower's constructors is set to 1. Two rounds on a vector run."""
    path = f"flwr.serverapp.strategy.{name}"
    wrapped = build_strategy(path, {}, num_clients=2)
    strategy = wrapped.strategy
    assert type(strategy) is getattr(flower, name)
    assert (strategy.min_train_nodes, strategy.min_evaluate_nodes, strategy.min_available_nodes) == (1, 1, 1)
    assert minimum_clients(path, {}) == 1
    x = np.array([1.0, 2.0], np.float32)
    for server_round in (1, 2):
        clients = {k: lambda message, k=k, x=x: make_reply(message, x + k + 1, examples=k + 1) for k in range(2)}
        x = run_round(wrapped, server_round, x, clients)
    assert (x > [1.0, 2.0]).all()


def test_class_path_takes_hyperparameters_and_the_number_of_clients():
    path = f"{HERE}.WithHyperparameters"
    strategy = build_strategy(path, {"server-rate": 0.5}, num_clients=9).strategy
    assert (strategy.num_clients, strategy.server_rate, strategy.min_train_nodes) == (9, 0.5, 1)
    with pytest.raises(ClassPathError, match="takes no argument rate"):
        build_strategy(path, {"rate": 0.5}, num_clients=9)


def test_a_class_path_is_checked_without_constructing():
    """Of Picky, whose constructor raises, the class and its arguments are right. A needed argument can be given."""
    check_class_path(f"{HERE}.Picky", {})
    with pytest.raises(ClassPathError, match="takes no argument rate; it takes "):
        check_class_path(f"{HERE}.WithHyperparameters", {"rate": 0.5})
    needed = {"client_learning_rate": 0.1}
    check_class_path("flwr.serverapp.strategy.QFedAvg", needed)
    assert build_strategy("flwr.serverapp.strategy.QFedAvg", needed, 3).strategy.client_learning_rate == 0.1
    with pytest.raises(NotImportable):
        check_class_path("no_such_package.Class", {})


@pytest.mark.parametrize(
    "path, complaint",
    [
        ("no_such_package.Class", "cannot be imported"),
        ("flwr.serverapp.strategy.NoSuchClass", "cannot be imported"),
        (".FedAvg", "cannot be imported"),
        ("flwr..FedAvg", "cannot be imported"),
        ("flwr.app.Message", "no subclass"),
        (f"{HERE}.NOT_A_CLASS", "no subclass"),
        ("flwr.serverapp.strategy.Strategy", "does not define aggregate_evaluate"),
        ("flwr.serverapp.strategy.QFedAvg", "without client_learning_rate"),
        (f"{HERE}.Picky", "not today"),
        (".nowhere.FedAvg", "cannot be imported"),
    ],
)
def test_bad_class_path(path, complaint):
    with pytest.raises(ClassPathError, match=complaint):
        build_strategy(path, {}, num_clients=3)
