"""Hyper-parameters of strategies: their names in the configuration, defaults and bounds."""

import inspect
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass

Hyper = Mapping[str, float | int]


@dataclass(frozen=True)
class Bounds:
    """The interval that a hyper-parameter lies in. Its default stands in the constructor of its strategy.

    The lower end belongs to the interval unless it is open, the upper one only if it is not.
    """

    name: str
    minimum: float = 0.0
    maximum: float = math.inf
    minimum_open: bool = False
    maximum_open: bool = True


@dataclass(frozen=True)
class Hyperparameter:
    """One number of a strategy: its bounds, and its default, which also tells whether it is an integer."""

    bounds: Bounds
    default: float | int

    @property
    def name(self) -> str:
        """Its name in the configuration."""
        return self.bounds.name

    @property
    def description(self) -> str:
        """Which values are valid: "a number in [0, 1)", "an integer >= 1"."""
        bounds = self.bounds
        kind = "an integer" if isinstance(self.default, int) else "a number"
        if math.isinf(bounds.maximum):
            return f"{kind} {'>' if bounds.minimum_open else '>='} {bounds.minimum:g}"
        left, right = "(" if bounds.minimum_open else "[", ")" if bounds.maximum_open else "]"
        return f"{kind} in {left}{bounds.minimum:g}, {bounds.maximum:g}{right}"

    def accepts(self, value: object) -> bool:
        """Return whether a value is of the kind and in the interval. No bool is, nor NaN, nor infinity."""
        kinds = int if isinstance(self.default, int) else (int, float)
        if not isinstance(value, kinds) or isinstance(value, bool):
            return False
        bounds = self.bounds
        above = value > bounds.minimum if bounds.minimum_open else value >= bounds.minimum
        below = value < bounds.maximum if bounds.maximum_open else value <= bounds.maximum
        return above and below


def with_defaults(constructor: Callable, bounds: tuple[Bounds, ...]) -> tuple[Hyperparameter, ...]:
    """The hyper-parameters of a constructor: its keyword arguments, hyphens as underscores, with these bounds."""
    arguments = inspect.signature(constructor).parameters
    return tuple(Hyperparameter(bound, arguments[bound.name.replace("-", "_")].default) for bound in bounds)
