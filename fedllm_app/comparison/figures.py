"""From the grades of all models to the lines of the table: means over seeds, deviations, paired tests."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from fedllm_app.comparison.cell import Costs
from fedllm_app.evaluation.figures import AVERAGE, TaskFigures
from fedllm_app.evaluation.results import TaskResult
from fedllm_app.evaluation.statistics import paired_p, percentiles
from fedllm_app.evaluation.suite import Metric, Suite


@dataclass(frozen=True)
class Line:
    """A line of the table.

    Attributes
    ----------
    models : Mapping[int, tuple[str, ...]]
        By seed, the names of its models: one, or those of all clients that trained alone.
    fixed : str
        Of the base: the name of its model, which no seed changes.
    costs : Mapping[int, Costs]
        By seed.
    failed : Mapping[int, str]
        The reasons why seeds have no model.
    """

    name: str
    models: Mapping[int, tuple[str, ...]] = field(default_factory=dict)
    fixed: str = ""
    costs: Mapping[int, Costs] = field(default_factory=dict)
    failed: Mapping[int, str] = field(default_factory=dict)

    def of(self, seed: int) -> tuple[str, ...]:
        """Its models under a seed; none if that has failed."""
        return (self.fixed,) if self.fixed else self.models.get(seed, ())


@dataclass(frozen=True)
class Value:
    """A figure of a line.

    Attributes
    ----------
    value : float | None
        The mean over seeds, each the mean over its models; None where no question counts.
    deviation : float | None
        The standard deviation over the seeds (n - 1); None of one seed.
    by_seed : Mapping[int, float]
        The parts of the mean.
    difference, low, high, p : float | None
        Against the first line: the difference on the questions and seeds that both have, its 95 % interval, and the p
        of the paired test; None of the first line.
    n : int
        Questions that both have; of the first line, its own.
    """

    line: str
    task: str
    metric: str
    value: float | None
    deviation: float | None
    by_seed: Mapping[int, float]
    n: int
    percent: bool
    lower_is_better: bool
    difference: float | None = None
    low: float | None = None
    high: float | None = None
    p: float | None = None


@dataclass(frozen=True)
class Measure:
    """A metric of a set, or the average of one over sets: `parts` are the sets with the metric and a stream of draws.

    Sets are resampled independently, so each has a stream of its own.
    """

    task: str
    name: str
    parts: tuple[tuple[TaskFigures, Metric, int], ...]
    percent: bool

    @property
    def metric(self) -> Metric:
        """The metric of the first part."""
        return self.parts[0][1]

    def places(self, models: Sequence[str]) -> list[list[int]]:
        """Of each part, the questions that count for all of these models."""
        return [
            sorted(set.intersection(*(set(own.places(metric, model)) for model in models)))
            for own, metric, _ in self.parts
        ]

    def value(self, model: str, places: Sequence[Sequence[int]]) -> float:
        """The mean over the parts, of the questions at these places."""
        values = [own.value(metric, model, those) for (own, metric, _), those in zip(self.parts, places, strict=True)]
        return float(np.mean(values))

    def sampled(self, model: str, places: Sequence[Sequence[int]]) -> np.ndarray:
        """The same of resampled questions, shape (resamples,): the same draws for every model."""
        parts = [
            own.resampled(metric, model, those, stream)
            for (own, metric, stream), those in zip(self.parts, places, strict=True)
        ]
        length = min(map(len, parts))
        return np.mean([part[:length] for part in parts], axis=0)


def measures(suite: Suite, results: Sequence[TaskResult]) -> list[Measure]:
    """Every metric of every set, then the averages over sets."""
    sets = {result.task.name: TaskFigures(result) for result in results}
    found = [
        Measure(name, metric.name, ((own, metric, 0),), metric.percent and metric.kind != "count")
        for name, own in sets.items()
        for metric in own.result.task.metrics
    ]
    for average in suite.averages:
        parts = tuple(
            (sets[task], next(m for m in sets[task].result.task.metrics if m.name == name), number + 1)
            for number, (task, name) in enumerate(average.of)
        )
        found.append(Measure(AVERAGE, average.name, parts, average.percent))
    return found


def headline(suite: Suite) -> list[tuple[str, str]]:
    """The measures of the short table: (task, metric).

    Of a share if the sets have one, else of their first metric; the averages of it over sets where there are some.
    """
    tasks = suite.tasks
    chosen = {task.name: next((m for m in task.metrics if m.kind == "share"), task.metrics[0]).name for task in tasks}
    averages = [each.name for each in suite.averages if all(chosen[task] == metric for task, metric in each.of)]
    return [(AVERAGE, name) for name in averages] or list(chosen.items())


def values(found: Sequence[Measure], lines: Sequence[Line], seeds: Sequence[int], first: str) -> list[Value]:
    """The figures of all lines; `first` is the name of the line that the others are held against."""
    held = next(line for line in lines if line.name == first)
    return [_value(measure, line, held, seeds) for measure in found for line in lines if any(map(line.of, seeds))]


def _value(measure: Measure, line: Line, first: Line, seeds: Sequence[int]) -> Value:
    own = {seed: line.of(seed) for seed in seeds if line.of(seed)}
    by_seed = {seed: _mean(measure, models) for seed, models in own.items()}
    known = [value for value in by_seed.values() if value is not None]
    whole = len(known) == len(by_seed)
    places = measure.places([model for models in own.values() for model in models])
    pair = _pair(measure, line, first, seeds) if line is not first and measure.metric.kind != "count" else {}
    return Value(
        line.name,
        measure.task,
        measure.name,
        float(np.mean(known)) if whole else None,
        float(np.std(known, ddof=1)) if whole and len(known) > 1 and not line.fixed else None,
        by_seed if whole and not line.fixed else {},
        pair.pop("n", sum(map(len, places))),
        measure.percent,
        measure.metric.lower_is_better,
        **pair,
    )


def _mean(measure: Measure, models: Sequence[str]) -> float | None:
    """The mean over the models of one seed, each of its own questions; None if one has none that count."""
    places = {model: measure.places([model]) for model in models}
    if not all(all(those) for those in places.values()):
        return None
    return float(np.mean([measure.value(model, those) for model, those in places.items()]))


def _pair(measure: Measure, line: Line, first: Line, seeds: Sequence[int]) -> dict[str, float | None]:
    """Line minus first, paired over questions and seeds.

    A bootstrap of both at once (Owen 2007, "The pigeonhole bootstrap", Annals of Applied Statistics 1): each resample
    draws questions and, independently, seeds with replacement, the same ones for both lines. With one seed it is the
    paired bootstrap over questions.
    """
    both = [seed for seed in seeds if line.of(seed) and first.of(seed)]
    if not both:
        return {}
    places = measure.places([model for seed in both for model in (*line.of(seed), *first.of(seed))])
    if not all(places):
        return {}
    n = sum(map(len, places))

    def mean_of(models: Sequence[str]) -> float:
        return float(np.mean([measure.value(model, places) for model in models]))

    def sampled(models: Sequence[str]) -> np.ndarray:
        return np.mean([measure.sampled(model, places) for model in models], axis=0)

    with np.errstate(invalid="ignore"):  # two infinite losses have no difference; `paired_p` knows
        difference = float(np.mean([mean_of(line.of(seed)) - mean_of(first.of(seed)) for seed in both]))
        differences = np.array([sampled(line.of(seed)) - sampled(first.of(seed)) for seed in both])
    drawn = np.random.default_rng(0).integers(len(both), size=(differences.shape[1], len(both)))
    together = differences[drawn, np.arange(differences.shape[1])[:, None]].mean(1)
    interval = percentiles(together) if min(map(len, places)) > 1 else None
    p = paired_p(together, n)
    low, high = (interval.low, interval.high) if interval else (None, None)
    return {"difference": difference, "low": low, "high": high, "p": p, "n": n}


def shares(found: Sequence[Value], of: str) -> Iterator[tuple[str, Value, float]]:
    """What part of the line `of` the others reach, where more is better: (line, value, share)."""
    whole = {(value.task, value.metric): value.value for value in found if value.line == of}
    for value in found:
        other = whole.get((value.task, value.metric))
        if value.line != of and other and value.value is not None and not value.lower_is_better:
            yield value.line, value, value.value / other
