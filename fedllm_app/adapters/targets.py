"""The modules that an adapter was asked for, held against the ones that it trains, name by name."""

import difflib
import re
from collections.abc import Iterable
from typing import TYPE_CHECKING

from fedllm_app.adapters.layout import AdapterError
from fedllm_app.models.files import some

if TYPE_CHECKING:
    import torch
    from peft import PeftModel


def check_targets(model: "torch.nn.Module", targets: Iterable[str]) -> None:
    """Refuse names of `lora.target-modules` that match no module, or none that LoRA can adapt.

    A name matches a module whose own name ends with it, as in PEFT.

    Raises
    ------
    AdapterError
        The message lists every such name with the nearest names of modules.
    """
    adaptable = _adaptable(model)
    problems = []
    for target in targets:
        matched = {name: module for name, module in model.named_modules() if _matches(name, target)}
        if not matched:
            problems.append(f"{target!r} is no module of this model{_nearest(target, adaptable)}")
        elif not matched.keys() & adaptable:
            name, module = next(iter(matched.items()))
            inside = _leaves(other for other in adaptable if other.startswith(f"{name}."))
            problems.append(
                f"{target!r} is a {type(module).__name__}, which LoRA cannot adapt"
                + (f"; the layers in it are {some(inside, 8)}" if inside else "")
            )
    if problems:
        raise AdapterError(f"lora.target-modules: {'; '.join(problems)}")


def _matches(name: str, target: str) -> bool:
    return name == target or name.endswith(f".{target}")


def _adaptable(model: "torch.nn.Module") -> set[str]:
    import torch
    from transformers.pytorch_utils import Conv1D

    kinds = (
        torch.nn.Linear,
        torch.nn.Embedding,
        torch.nn.Conv1d,
        torch.nn.Conv2d,
        torch.nn.Conv3d,
        torch.nn.MultiheadAttention,
        Conv1D,
    )
    return {name for name, module in model.named_modules() if isinstance(module, kinds)}


def layer_names(model: "torch.nn.Module") -> set[str]:
    """What the layers that can be adapted are called, without the numbers and parts before."""
    return _leaves(_adaptable(model))


def _leaves(names: Iterable[str]) -> set[str]:
    return {name.rpartition(".")[2] for name in names}


def _nearest(target: str, adaptable: set[str]) -> str:
    names = _leaves(adaptable)
    near = difflib.get_close_matches(target, sorted(names), n=3, cutoff=0.5)
    return f" (did you mean {' or '.join(map(repr, near))}?)" if near else f" (its layers are {some(names, 12)})"


def adapted_modules(model: "PeftModel") -> dict[str, list["torch.nn.Parameter"]]:
    """The modules with an adapter, by their names in the base model, and what is trained of each."""
    from peft.tuners.tuners_utils import BaseTunerLayer

    modules = {}
    for name, module in model.get_base_model().named_modules():
        if isinstance(module, BaseTunerLayer):
            modules[name] = [parameter for parameter in module.parameters() if parameter.requires_grad]
    return modules


def pattern(name: str) -> str:
    """A module's name with `*` for the numbers in it."""
    return re.sub(r"(?<=\.)\d+(?=\.|$)", "*", name)


def exclusion(patterns: Iterable[str]) -> str:
    """PEFT's `exclude_modules` for some patterns: a regular expression of whole names."""
    return "|".join(re.escape(name).replace(r"\*", r"\d+") for name in patterns)


def excluded_patterns(expression: str) -> list[str]:
    """The inverse of `exclusion`."""
    return [part.replace(r"\d+", "*").replace("\\", "") for part in expression.split("|")]
