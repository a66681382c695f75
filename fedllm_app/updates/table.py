"""The table of update steps, and the chain that a configuration asks for."""

import re

from fedllm_app.class_paths import ClassPathError, class_paths, import_class
from fedllm_app.updates.chain import UpdateChain
from fedllm_app.updates.int8 import Int8Blocks
from fedllm_app.updates.update import UpdateStep

COMPRESSIONS: dict[str, type[UpdateStep]] = {"int8": Int8Blocks}
"""Steps that `update.compress` names. To add one, write a file and add a line."""


def build_chain(steps: str, compress: str) -> UpdateChain:
    """The chain of a run: the steps named by class path, in order, then the compression.

    Parameters
    ----------
    steps : str
        `update.steps`: class paths of `UpdateStep` subclasses, separated by commas.
    compress : str
        `update.compress`: "none" or a name of `COMPRESSIONS`.

    Raises
    ------
    ClassPathError
        A class path leads to no `UpdateStep`, to one whose constructor takes arguments, or to a name that is taken.
    """
    chain: list[UpdateStep] = []
    for path in class_paths(steps):
        step = _step(path)
        if step.name in {*COMPRESSIONS, *(other.name for other in chain)}:
            raise ClassPathError(f"The update step {path} has the name {step.name!r} of another step; give it its own.")
        chain.append(step)
    return UpdateChain((*chain, *(COMPRESSIONS[name]() for name in [compress] if name != "none")))


def _step(path: str) -> UpdateStep:
    found = import_class(path, UpdateStep, "The update step")
    if not re.fullmatch(r"[\w-]+", found.name):
        raise ClassPathError(
            f"The update step {path} is named {found.name!r}; set `name` to letters, digits, hyphens or underscores."
        )
    try:
        return found()
    except TypeError as error:
        raise ClassPathError(f"The update step {path} must be constructed without arguments: {error}.") from error
