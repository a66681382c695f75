"""What the round loop asks of a strategy beside Flower's four methods, and the wrapper that answers for others."""

from collections.abc import Iterable, Mapping
from typing import ClassVar

import numpy as np
from flwr.app import ArrayRecord, ConfigRecord, Message, MetricRecord
from flwr.serverapp import Grid
from flwr.serverapp.strategy import Strategy

from fedllm_app.adapters.layout import Layout
from fedllm_app.errors import UserError
from fedllm_app.messages import ADAPTER
from fedllm_app.strategies.agreement import with_common_metrics

State = dict[str, np.ndarray]


class StrategyStateError(UserError):
    """The arrays of a checkpoint are not those of the strategy that should load them."""


class RoundStrategy:
    """Mixed into a Flower strategy, before Flower's class: what it is, so that nobody has to test its class.

    The defaults describe a strategy without state that averages single replies.

    `aggregate_train` reads all replies before it changes anything that outlives the call. Where a round has too few of
    them, the iteration ends with an exception that it lets pass, and the round may be repeated.

    Attributes
    ----------
    sent_arrays, reply_arrays : tuple[str, ...]
        Names of the packed arrays of a training message, and of those that each reply must carry.
    pooled : bool
        One client trains on the rows of all, for as many steps as all that were drawn would; the run is refused where a
        site has rows of its own.
    needs_single_replies : bool
        It compares replies with each other: their sum is not enough.
    minimum_replies : int
        Fewer usable replies are no round.
    fixed_coordinates : bool
        A coordinate of the vector means the same in every round. What accumulates by coordinate (momentum, error
        feedback) needs that.
    """

    sent_arrays: ClassVar[tuple[str, ...]] = (ADAPTER,)
    reply_arrays: ClassVar[tuple[str, ...]] = (ADAPTER,)
    pooled: ClassVar[bool] = False
    needs_single_replies: ClassVar[bool] = False
    minimum_replies: int = 1
    fixed_coordinates: ClassVar[bool] = True

    def bind(self, layout: Layout) -> None:
        """Receive the layout of the vector that travels: names, shapes, factors A and B of each module, their scale.

        Called once, before round 1. Most strategies work coordinate by coordinate and need none of it.
        """

    def taking_part(self, clients: list[int]) -> list[int]:
        """Return which of the clients drawn for a round are sent a message to train."""
        return clients

    def shares(self, clients: list[int]) -> int:
        """Return how many clients' shares of a round's examples each client that trains takes, of those drawn.

        One each; where one client trains on the rows of all, those of all that were drawn, so that the model sees as
        many examples as in a federation.
        """
        return len(clients) if self.pooled else 1

    def held_vectors(self, replies: int, clients: int) -> int | None:
        """Return how many vectors as long as the adapter are in memory at most while a round is aggregated.

        What was sent, the replies or their sums, state, and the next adapter. None: unknown.

        Parameters
        ----------
        replies : int
            Of the round.
        clients : int
            All that are drawn in the run.
        """
        return None

    def round_numbers(self) -> Mapping[str, int | float]:
        """Return numbers about the last aggregation, which the journal's line of the round holds under their names."""
        return {}

    def state_arrays(self) -> State:
        """Return what a checkpoint must hold, arrays of any shape by name; numbers are arrays of shape ()."""
        return {}

    def load_state_arrays(self, arrays: Mapping[str, np.ndarray]) -> None:
        """Put back what `state_arrays` returned; StrategyStateError if it is another strategy's."""
        if arrays:
            raise StrategyStateError(
                f"The checkpoint holds the strategy state {sorted(arrays)}, and {type(self).__name__} keeps none. "
                "Resume with the strategy that wrote the checkpoint."
            )

    def own_adapters(self) -> dict[int, np.ndarray]:
        """Return the final adapters of clients that have one of their own, by client; none for a common model."""
        return {}


class ForeignStrategy(RoundStrategy, Strategy):
    """Any Flower strategy as a round strategy: its four methods, and the defaults of `RoundStrategy`.

    It keeps no state in checkpoints. A strategy that does derives from `RoundStrategy` itself.

    Parameters
    ----------
    strategy : flwr.serverapp.strategy.Strategy
        The strategy that does the work.
    """

    def __init__(self, strategy: Strategy) -> None:
        self.strategy = strategy

    def configure_train(
        self, server_round: int, arrays: ArrayRecord, config: ConfigRecord, grid: Grid
    ) -> Iterable[Message]:
        """As the wrapped strategy does."""
        return self.strategy.configure_train(server_round, arrays, config, grid)

    def aggregate_train(
        self, server_round: int, replies: Iterable[Message]
    ) -> tuple[ArrayRecord | None, MetricRecord | None]:
        """As the wrapped strategy does, of the metrics that all replies carry."""
        return self.strategy.aggregate_train(server_round, with_common_metrics(replies))

    def configure_evaluate(
        self, server_round: int, arrays: ArrayRecord, config: ConfigRecord, grid: Grid
    ) -> Iterable[Message]:
        """As the wrapped strategy does."""
        return self.strategy.configure_evaluate(server_round, arrays, config, grid)

    def aggregate_evaluate(self, server_round: int, replies: Iterable[Message]) -> MetricRecord | None:
        """As the wrapped strategy does, of the metrics that all replies carry."""
        return self.strategy.aggregate_evaluate(server_round, with_common_metrics(replies))

    def summary(self) -> None:
        """As the wrapped strategy does."""
        self.strategy.summary()


def as_round_strategy(strategy: Strategy) -> RoundStrategy:
    """Return the strategy itself if it derives from `RoundStrategy`, else its wrapper."""
    return strategy if isinstance(strategy, RoundStrategy) else ForeignStrategy(strategy)
