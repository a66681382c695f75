"""What a journal says of a run's course: training loss and held-out metrics by round, with the spread over clients."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import NormalDist, fmean

from fedllm_app.config.changes import MAY_CHANGE
from fedllm_app.config.sections import FlatConfig
from fedllm_app.tasks import TASKS

LOSS = "eval_loss"
LOWER_IS_BETTER = frozenset({LOSS, "perplexity", "train_loss"})
SHARES = frozenset({"exact_match", "reward_accuracy"})
"""Metrics that are shares of the held-out rows, whose interval follows from their number."""

ALONE = "local"
"""The strategy under which every client trains alone."""

NO_DIFFERENCE = MAY_CHANGE - {"train.rounds"}
"""Keys that make no other experiment: how often a run is saved, how long it waits for clients."""

SPREAD, INTERVAL = "smallest to largest client", "95 % interval"

Event = Mapping[str, object]


@dataclass(frozen=True)
class Point:
    """A metric after one round.

    Attributes
    ----------
    value : float | None
        Over all clients of the round, as the strategy aggregates it.
    low, high : float | None
        What `Series.band` says.
    clients : Mapping[int, float]
        The value of each client.
    """

    round: int
    value: float | None
    low: float | None
    high: float | None
    clients: Mapping[int, float]


@dataclass(frozen=True)
class Series:
    """A metric by round.

    Attributes
    ----------
    metric, label : str
        The journal's name and what a reader calls it.
    band : str
        What low and high of a point are: `SPREAD` or `INTERVAL`.
    """

    metric: str
    label: str
    band: str
    points: tuple[Point, ...]

    @property
    def lower_is_better(self) -> bool:
        """Whether a smaller value is a better one."""
        return self.metric in LOWER_IS_BETTER

    @property
    def first(self) -> float | None:
        """The value before round 1; None where nobody evaluated then."""
        return self.points[0].value if self.points and self.points[0].round == 0 else None

    def after(self, server_round: int) -> float | None:
        """The value after a round; None where nobody evaluated then."""
        return next((point.value for point in self.points if point.round == server_round), None)

    @property
    def last(self) -> Point | None:
        """The last point that has a value."""
        return next((point for point in reversed(self.points) if point.value is not None), None)


def metric_labels(config: FlatConfig) -> dict[str, str]:
    """The held-out metrics of a run's task and what they are called; of a task of the user's own, its loss."""
    task = TASKS.get(str(config.get("train.task", "")))
    return dict(task.metrics) if task else {LOSS: "loss"}


def headline_metric(labels: Mapping[str, str], there: Sequence[str]) -> str:
    """The metric that says most of what a model can do: a share of right answers if there is one, else the first."""
    known = [name for name in labels if name in there]
    return next((name for name in known if name in SHARES), known[0] if known else "")


def is_share(metric: str) -> bool:
    """Whether a metric, by its key or its label, is a share of the rows, which is shown in percent."""
    return metric.removeprefix("test_").replace(" ", "_") in SHARES


def metric_text(metric: str, value: float | None) -> str:
    """A value as lines of the terminal show it: a share in percent, any other number with three digits behind the
    point, "-" for none."""
    if value is None:
        return "-"
    return f"{100 * value:.1f} %" if is_share(metric) else f"{value:.3f}"


def trains_alone(other: FlatConfig, config: FlatConfig) -> bool:
    """Whether in the run of `other` the clients of the run of `config` train alone: the reference that it must beat.

    Both are of one experiment: all is the same but the strategy and its own values, also seed, rounds and steps. Under
    another seed or after other steps, the difference would not be the strategy's.
    """
    if other.get("strategy.name") != ALONE or config.get("strategy.name") == ALONE:
        return False
    return experiment(other) == experiment(config)


def experiment(config: FlatConfig) -> dict[str, object]:
    """What two runs share that differ in their strategy alone: their configuration without it and its values."""
    return {key: value for key, value in config.items() if key not in NO_DIFFERENCE and not key.startswith("strategy.")}


def training(events: Sequence[Event]) -> Series:
    """The training loss by round."""
    points = _points(events, "client", "round", "train_loss", "")
    return Series("train_loss", "training loss", SPREAD, points)


def held_out(events: Sequence[Event], metric: str, label: str) -> Series:
    """A held-out metric by round."""
    weights = "num_examples" if metric in SHARES else ""
    points = _points(events, "client-evaluation", "evaluation", metric, weights)
    return Series(metric, f"held-out {label}", INTERVAL if metric in SHARES else SPREAD, points)


def client_names(events: Sequence[Event]) -> dict[int, str]:
    """What each client is called."""
    return {event["client"]: str(event["name"]) for event in events if "client" in event and "name" in event}


def share_interval(share: float, n: float) -> tuple[float, float]:
    """The 95 % interval of a share of n questions, by the score test (Wilson 1927).

    ``(p + z²/2n ± z √(p(1−p)/n + z²/4n²)) / (1 + z²/n)``. Unlike a count of successes, the share may come from halves,
    as of ties.
    """
    z = NormalDist().inv_cdf(0.975)
    middle, spread = share + z * z / (2 * n), z * math.sqrt(share * (1 - share) / n + z * z / (4 * n * n))
    return max(0.0, (middle - spread) / (1 + z * z / n)), min(1.0, (middle + spread) / (1 + z * z / n))


def number(value: object) -> float | None:
    """A finite number, None for anything else that a journal may hold."""
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        return None
    return float(value)


def _points(events: Sequence[Event], of_client: str, of_round: str, metric: str, weights: str) -> tuple[Point, ...]:
    clients: dict[int, dict[int, tuple[float, float]]] = {}
    together: dict[int, float | None] = {}
    for event in events:
        value = number(event.get(metric))
        if event["event"] == of_round:
            together[event["round"]] = value
        elif event["event"] == of_client and value is not None:  # of a repeated round, the last reply
            weight = number(event.get(weights)) or 0.0
            clients.setdefault(event["round"], {})[event["client"]] = (value, weight)
    return tuple(
        _point(number_, together.get(number_), clients.get(number_, {})) for number_ in sorted({*together, *clients})
    )


def _point(server_round: int, value: float | None, clients: Mapping[int, tuple[float, float]]) -> Point:
    values = {client: one for client, (one, _) in sorted(clients.items())}
    if value is None and values:
        value = fmean(values.values())
    n = sum(weight for _, weight in clients.values())
    if n and values and all(0.0 <= one <= 1.0 for one in values.values()):
        pooled = sum(one * weight for one, weight in clients.values()) / n
        low, high = share_interval(pooled, n)
    else:
        low, high = (min(values.values()), max(values.values())) if values else (None, None)
    return Point(server_round, value, low, high, values)
