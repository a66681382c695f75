"""The steps that a run's updates pass through, in order on the client and back in reverse order on the server."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from fedllm_app.messages import ADAPTER
from fedllm_app.strategies.round_strategy import RoundStrategy
from fedllm_app.updates.update import Arrays, Numbers, StepState, UpdateStep


@dataclass(frozen=True)
class UpdateChain:
    """Applies the steps. Without any, replies are the clients' vectors bit for bit."""

    steps: tuple[UpdateStep, ...] = ()

    def problems(self, strategy: RoundStrategy) -> dict[str, str]:
        """Why steps cannot work with the strategy: a sentence by the name of the step."""
        found = {step.name: step.problem(strategy) for step in self.steps}
        return {name: problem for name, problem in found.items() if problem}

    def outgoing(self, vectors: Mapping[str, np.ndarray], x: np.ndarray, state: StepState) -> tuple[Arrays, Numbers]:
        """The client's half: what to send for its new adapter and other arrays, given the adapter `x` that it got."""
        arrays, numbers = dict(vectors), {}
        if self.steps:
            arrays[ADAPTER] = arrays[ADAPTER] - x
        for step in self.steps:
            arrays, more = step.on_client(arrays, _NamedState(state, step.name))
            numbers |= more
        return arrays, numbers

    def incoming(self, arrays: Mapping[str, np.ndarray], x: np.ndarray) -> Arrays:
        """The server's half: the client's vectors, given the adapter `x` that was sent to it. Raises UpdateError."""
        vectors = dict(arrays)
        for step in reversed(self.steps):
            vectors = step.on_server(vectors, x.size)
        if self.steps and ADAPTER in vectors:
            vectors[ADAPTER] = x + vectors[ADAPTER]
        return vectors

    def after_step(self, before: np.ndarray, after: np.ndarray) -> np.ndarray:
        """What the steps make of the strategy's step."""
        for step in self.steps:
            after = step.after_step(before, after)
        return after

    def state_arrays(self) -> Arrays:
        """The state of all steps, named "<step>/<array>"."""
        return {f"{step.name}/{name}": array for step in self.steps for name, array in step.state_arrays().items()}

    def load_state_arrays(self, arrays: Mapping[str, np.ndarray]) -> None:
        """Put back what `state_arrays` returned."""
        for step in self.steps:
            prefix = f"{step.name}/"
            own = {name.removeprefix(prefix): array for name, array in arrays.items() if name.startswith(prefix)}
            step.load_state_arrays(own)


@dataclass(frozen=True)
class _NamedState:
    """The part of a client's state that belongs to one step."""

    state: StepState
    name: str

    @property
    def expected(self) -> bool:
        return self.state.expected

    def load(self, name: str) -> np.ndarray | None:
        return self.state.load(f"{self.name}.{name}")

    def save(self, name: str, array: np.ndarray) -> None:
        self.state.save(f"{self.name}.{name}", array)
