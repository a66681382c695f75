"""From configuration values to a chain, and what is wrong with a step of the user's own."""

from typing import ClassVar

import pytest

from fedllm_app.class_paths import ClassPathError, NotImportable
from fedllm_app.updates.int8 import Int8Blocks
from fedllm_app.updates.table import COMPRESSIONS, build_chain
from fedllm_app.updates.update import UpdateStep


class Plain(UpdateStep):
    name: ClassVar[str] = "plain"


class Nameless(UpdateStep):
    pass


class Slashed(UpdateStep):
    name: ClassVar[str] = "../up"


class Taken(UpdateStep):
    name: ClassVar[str] = "int8"


class Needy(UpdateStep):
    name: ClassVar[str] = "needy"

    def __init__(self, norm: float) -> None:
        self.norm = norm


@pytest.fixture(autouse=True)
def importable(monkeypatch):
    """This file as a module `own_steps`."""
    import sys

    monkeypatch.setitem(sys.modules, "own_steps", sys.modules[__name__])


def test_none_is_no_step():
    assert build_chain("", "none").steps == ()


def test_own_steps_come_before_compression():
    """In the order of the text; spaces and a last comma are no steps."""
    assert [type(step) for step in build_chain(" own_steps.Plain, ", "int8").steps] == [Plain, Int8Blocks]


def test_every_compression_can_be_named_and_has_the_name_of_the_table():
    assert [build_chain("", name).steps[0].name for name in COMPRESSIONS] == list(COMPRESSIONS)


@pytest.mark.parametrize(
    ("path", "told"),
    [
        ("own_steps.Missing", "has no attribute"),
        ("own_steps.pytest", "is no subclass of fedllm_app.updates.update.UpdateStep"),
        ("own_steps.Nameless", "is named ''"),
        ("own_steps.Slashed", "is named '../up'"),
        ("own_steps.Taken", "name 'int8' of another step"),
        ("own_steps.Plain,own_steps.Plain", "name 'plain' of another step"),
        ("own_steps.Needy", "without arguments"),
    ],
)
def test_what_cannot_be_a_step_is_refused_by_its_path(path, told):
    with pytest.raises(ClassPathError, match=told) as caught:
        build_chain(path, "none")
    assert path.split(",")[0] in str(caught.value)


def test_a_module_that_is_not_here_is_told_apart():
    """It may be installed where the run takes place."""
    with pytest.raises(NotImportable):
        build_chain("nowhere_to_be_found.Step", "none")
