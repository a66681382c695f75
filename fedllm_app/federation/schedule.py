"""The schedule of a run: who is drawn for a round, at which learning rate, when clients evaluate, when the run is
saved.

The round loop and `fedllm plan` read the same schedule.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from fedllm_app.config.sections import Config

MANY_CLIENTS = 100
"""A simulation of more clients does not ask all of them what they hold, unless it is told to."""


@dataclass(frozen=True)
class RoundPlan:
    """One round: its number (0: before training), the clients drawn, ascending, and what happens in it."""

    number: int
    clients: list[int]
    learning_rate: float
    evaluates: bool
    saves: bool


@dataclass(frozen=True)
class Schedule:
    """All rounds of a run, as functions of its configuration.

    Attributes
    ----------
    clients, per_round : int
        All clients, and how many of them take part in a round (0: all).
    evaluate_every, checkpoint_every : int
        Rounds; 0 = never.
    """

    clients: int
    rounds: int
    per_round: int
    local_steps: int
    max_learning_rate: float
    min_learning_rate: float
    evaluate_every: int
    checkpoint_every: int
    seed: int

    @classmethod
    def of(cls, config: Config, clients: int) -> "Schedule":
        """The schedule of a configuration with this number of clients."""
        return cls(
            clients=clients,
            rounds=config.train.rounds,
            per_round=config.clients.per_round,
            local_steps=config.train.local_steps,
            max_learning_rate=config.train.learning_rate,
            min_learning_rate=config.train.min_learning_rate,
            evaluate_every=config.evaluate.every,
            checkpoint_every=config.run.checkpoint_every,
            seed=config.run.seed,
        )

    def round(self, number: int) -> RoundPlan:
        """The plan of a round, 1 to `rounds`; 0 is the evaluation before training, by the clients of round 1."""
        return RoundPlan(
            number=number,
            clients=choose_clients(self.clients, self.per_round, self.seed, max(number, 1)),
            learning_rate=learning_rate(self.max_learning_rate, self.min_learning_rate, number, self.rounds)
            if number
            else 0.0,
            evaluates=self._is_due(number, self.evaluate_every),
            # Round 0 changes nothing. The last is saved, so that a finished run can be continued.
            saves=number > 0 and self._is_due(number, self.checkpoint_every),
        )

    def described_first(self, describe: str, simulation: bool, after: int = 0) -> list[int]:
        """The clients that say what they hold before round `after` + 1, given `clients.describe`."""
        as_drawn = describe == "drawn" or (describe == "auto" and simulation and self.clients > MANY_CLIENTS)
        if as_drawn and after < self.rounds:
            return self.round(after + 1).clients
        return list(range(self.clients))

    def _is_due(self, number: int, every: int) -> bool:
        """Whether a round is one of every so many, counted from 0, or the last; none is for 0."""
        return every > 0 and (number % every == 0 or number == self.rounds)

    def training(self, after: int = 0) -> Iterator[RoundPlan]:
        """The rounds that train, `after` + 1 to `rounds`."""
        return (self.round(number) for number in range(after + 1, self.rounds + 1))


def choose_clients(number: int, per_round: int, seed: int, server_round: int) -> list[int]:
    """The clients of a round, ascending: `per_round` of 0..number-1 without replacement, all if `per_round` is 0.

    The draw depends on the experiment's seed and on the round, so that another seed meets other clients and a resumed
    run meets the same ones, whatever node ids Flower drew.
    """
    if per_round == 0 or per_round >= number:
        return list(range(number))
    random = np.random.default_rng([seed, 1, server_round])
    return sorted(int(client) for client in random.choice(number, per_round, replace=False))


def learning_rate(maximum: float, minimum: float, server_round: int, rounds: int) -> float:
    """Cosine across rounds: round 1 gets `maximum`, the last exactly `minimum`, constant within a round.

    With one round only, that round gets `maximum`.
    """
    if rounds == 1:
        return maximum
    progress = (server_round - 1) / (rounds - 1)
    return minimum + 0.5 * (maximum - minimum) * (1.0 + float(np.cos(np.pi * progress)))
