"""Values that are valid alone and impossible together: updates and the parts of LoRA that travel."""

import sys
from types import ModuleType
from typing import ClassVar

import pytest

from fedllm_app.config.parse import parse_run_config
from fedllm_app.config.sections import ConfigError
from fedllm_app.strategies.fedavg import FedAvg
from fedllm_app.updates.update import UpdateStep


class Moving(FedAvg):
    """A strategy whose coordinates mean something else in each round."""

    fixed_coordinates: ClassVar[bool] = False


class Adding(UpdateStep):
    """A step that adds up by coordinate."""

    name: ClassVar[str] = "adding"
    needs_fixed_coordinates: ClassVar[bool] = True


@pytest.fixture(autouse=True)
def own_classes(monkeypatch):
    """`own_classes.Moving` and `own_classes.Adding` by their class paths."""
    module = ModuleType("own_classes")
    module.Moving, module.Adding = Moving, Adding
    monkeypatch.setitem(sys.modules, "own_classes", module)


def problems(run_config, **overrides) -> list[str]:
    with pytest.raises(ConfigError) as caught:
        parse_run_config(run_config | {key.replace("__", ".").replace("_", "-"): v for key, v in overrides.items()})
    return caught.value.problems


def test_compression_and_moving_coordinates(run_config):
    """One sentence that names both keys and their values."""
    (problem,) = problems(run_config, update__compress="int8", strategy__name="own_classes.Moving")
    assert problem.startswith(
        "update.compress = 'int8' does not work with strategy.name = 'own_classes.Moving': it adds up errors"
    )


def test_each_step_that_does_not_fit_is_told(run_config):
    """The own step by `update.steps`, compression by its own key."""
    told = problems(
        run_config, update__compress="int8", update__steps="own_classes.Adding", strategy__name="own_classes.Moving"
    )
    assert [problem.split(" = ")[0] for problem in told] == ["update.steps", "update.compress"]


@pytest.mark.parametrize("name", ["fedavg", "fedprox", "scaffold", "fedadam", "local", "krum", "bulyan", "centralized"])
def test_compression_goes_with_the_strategies_of_the_table(name, run_config):
    """Also where the number of clients is not known yet."""
    for number in (7, 0):
        flat = run_config | {"update.compress": "int8", "strategy.name": name, "clients.number": number}
        assert parse_run_config(flat).update.compress == "int8"


def test_what_is_not_installed_here_is_left_to_the_server(run_config):
    flat = run_config | {"update.compress": "int8", "strategy.name": "nowhere_to_be_found.Moving"}
    assert parse_run_config(flat).strategy.name == "nowhere_to_be_found.Moving"
    flat = run_config | {"update.steps": "nowhere_to_be_found.Step"}
    assert parse_run_config(flat).update.steps == "nowhere_to_be_found.Step"


def test_a_step_that_is_none(run_config):
    (problem,) = problems(run_config, update__steps="own_classes.Moving")
    assert problem.startswith("update.steps = 'own_classes.Moving': ")
    assert "no subclass of" in problem


def test_the_strategy_is_not_built_while_something_else_is_wrong(run_config, monkeypatch):
    """A problem with another section is reported; no class is asked for then."""
    monkeypatch.setattr("fedllm_app.config.contradictions.build_strategy", lambda *_: pytest.fail("it was built"))
    (problem,) = problems(
        run_config, update__compress="int8", strategy__name="own_classes.Moving", adapter__start="relative"
    )
    assert problem.startswith("adapter.start")


@pytest.mark.parametrize("method", ["ia3", "prefix-tuning", "p-tuning", "prompt-tuning"])
def test_ffa_needs_factors(method, run_config):
    (problem,) = problems(run_config, lora__aggregation="ffa", adapter__method=method)
    assert problem.startswith(f"lora.aggregation = 'ffa': must be 'factors' with adapter.method = '{method}'")


def test_ffa_and_dora(run_config):
    (problem,) = problems(run_config, lora__aggregation="ffa", lora__dora=True)
    assert problem.startswith("lora.dora = true: must be false with lora.aggregation = 'ffa'")
