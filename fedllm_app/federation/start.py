"""Where a run starts: the layout of its adapter, the first global adapter, and what clients are sent once."""

from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from fedllm_app.adapters.layout import Layout, is_embedding_factor
from fedllm_app.adapters.methods import adapter_layout, initial_adapter, left_out
from fedllm_app.adapters.start import load_start
from fedllm_app.config.contradictions import update_problems
from fedllm_app.config.sections import Config, ConfigError
from fedllm_app.config.values import adapter_values, check_context, model_values
from fedllm_app.federation.sent_once import SentOnce
from fedllm_app.messages import HOME, REFERENCE
from fedllm_app.models.base import ModelValues, load_model, locate_model
from fedllm_app.models.check import check_model
from fedllm_app.runs.directory import adapter_directory
from fedllm_app.strategies.round_strategy import RoundStrategy
from fedllm_app.tasks import task_spec
from fedllm_app.updates.chain import UpdateChain
from fedllm_app.updates.parts import home_part, travelling_part


@dataclass(frozen=True)
class StartingPoint:
    """What every client starts from.

    Attributes
    ----------
    layout, travelling, home : Layout
        Of the whole adapter, of the part that is trained and travels, and of the part that stays at home.
    full : np.ndarray
        The whole adapter, packed, shape (layout.size,).
    notes : tuple[str, ...]
        What of the model's files or the starting adapter is not used or was assumed, a sentence each.
    drawn : bool
        Whether clients can draw it themselves from the run's seed.
    compared : bool
        Whether the task compares with the model that the run starts from.
    """

    layout: Layout
    travelling: Layout
    home: Layout
    full: np.ndarray
    drawn: bool
    compared: bool
    notes: tuple[str, ...] = ()

    @property
    def adapter(self) -> np.ndarray:
        """The first global adapter, shape (travelling.size,)."""
        return self.full[self.layout.slots(self.travelling)] if self.home.size else self.full

    def merge(self, adapter: np.ndarray) -> np.ndarray:
        """The whole adapter, shape (layout.size,), for a global adapter, shape (travelling.size,)."""
        if not self.home.size:  # all of it travels
            return adapter
        merged = self.full.copy()
        merged[self.layout.slots(self.travelling)] = adapter
        return merged

    def sent_once(self, clients: Iterable[int]) -> SentOnce:
        """The arrays that clients are sent once: a reference policy's adapter, and factors that stay at home."""
        arrays = {}
        if self.compared and not self.drawn:  # a new adapter leaves the base as it is
            arrays[REFERENCE] = self.adapter
        if self.home.size:
            arrays[HOME] = self.full[self.layout.slots(self.home)]
        return SentOnce(arrays, clients, derived=[HOME] if self.drawn else [])


def starting_point(config: Config) -> StartingPoint:
    """Find or draw the adapter that a configuration starts from. The base model's weights are needed for DoRA alone."""
    start = checked_start(config)
    if config.adapter.start:
        return start
    values = adapter_values(config)
    full = initial_adapter(start.layout, values, config.run.seed, lambda: load_model(model_values(config)))
    return replace(start, full=full)


def checked_start(config: Config) -> StartingPoint:
    """Everything that can be checked of a model and an adapter without the base's weights and before any client is
    asked.

    The adapter is that of `adapter.start`, or zeros for one that is to be drawn: enough to know layouts and bytes.

    Raises
    ------
    UserError
        Model files, their kind, the adapter or `adapter.start` do not allow the run; the message says what to do.
    """
    location = locate_model(config.model.name, config.model.trust_remote_code)
    notes = check_model(location, ModelValues(**config.model.model_dump()), config.train.gradient_checkpointing)
    check_context(config, location)
    layout = adapter_layout(location, adapter_values(config))
    notes += tuple(note for note in (left_out(layout),) if note)
    full = np.zeros(layout.size, np.float32)
    if config.adapter.start:
        full, differences = load_start(adapter_directory(Path(config.adapter.start)), layout)
        notes += differences
    home = home_part(layout, config.lora.aggregation)
    untrained = [name for name in home.manifest.names if is_embedding_factor(name)]
    if untrained and not config.adapter.start:
        raise ConfigError(
            [
                f"lora.target-modules = {config.lora.target_modules!r}: must name no embedding with lora.aggregation = "
                f"{config.lora.aggregation!r}; {untrained[0]} would stay at zero, and nothing would be trained there"
            ]
        )
    return StartingPoint(
        notes=notes,
        layout=layout,
        travelling=travelling_part(layout, config.lora.aggregation),
        home=home,
        full=full,
        drawn=not config.adapter.start,
        compared=task_spec(config.train.task).needs_reference,
    )


def check_updates(config: Config, chain: UpdateChain, strategy: RoundStrategy) -> None:
    """Refuse update steps that cannot work with the strategy. ConfigError with every reason."""
    problems = update_problems(config, chain, strategy)
    if problems:
        raise ConfigError(problems)
