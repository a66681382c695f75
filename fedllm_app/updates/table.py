"""The table of update steps, and the chain that a configuration asks for."""

from fedllm_app.class_paths import class_paths, import_class
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
        A class path leads to no `UpdateStep`.
    """
    own = [import_class(path, UpdateStep, "The update step")() for path in class_paths(steps)]
    return UpdateChain((*own, *(COMPRESSIONS[name]() for name in [compress] if name != "none")))
