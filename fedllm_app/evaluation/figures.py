"""From grades to figures: a value, its interval and how many questions it is of; paired tests; averages over sets."""

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from itertools import combinations

import numpy as np

from fedllm_app.evaluation.results import Figure, Paired, TaskResult
from fedllm_app.evaluation.statistics import (
    mcnemar,
    mean_resamples,
    paired_p,
    percentiles,
    resamples,
    wilson,
)
from fedllm_app.evaluation.suite import Average, Grade, Metric, Question

AVERAGE = "average"
"""Stands in `Figure.task` of an average over sets."""


def counting(metric: Metric, questions: Sequence[Question], grades: Sequence[Grade]) -> list[int]:
    """Places of the questions that count for a metric: graded, of its group, with its value."""
    return [
        place
        for place, (question, grade) in enumerate(zip(questions, grades, strict=True))
        if not grade.missing
        and (not metric.group or question.group == metric.group)
        and (not metric.key or metric.key in grade.values)
    ]


def value_of(metric: Metric, questions: Sequence[Question], grades: Sequence[Grade]) -> float | None:
    """The value of a metric; None where no question counts."""
    counted = [grades[place] for place in counting(metric, questions, grades)]
    if not counted:
        return None
    if metric.kind == "statistic":
        return float(metric.statistic(counted))
    values = [grade.values[metric.key] for grade in counted]
    return float(sum(values) if metric.kind == "count" else np.mean(values))


@dataclass
class TaskFigures:
    """The figures of one set. Resampled metrics are kept, because figures, pairs and averages need the same ones."""

    result: TaskResult
    _kept: dict[tuple, np.ndarray] = field(default_factory=dict)

    def figures(self) -> list[Figure]:
        """Every metric of every model."""
        return [self._figure(metric, model) for metric in self.result.task.metrics for model in self.result.grades]

    def paired(self) -> list[Paired]:
        """Every pair of models, on the questions that both have a grade for; metrics that only count are left out."""
        return [
            pair
            for metric in self.result.task.metrics
            if metric.kind != "count"
            for first, second in combinations(self.result.grades, 2)
            for pair in self._pair(metric, first, second)
        ]

    def places(self, metric: Metric, model: str) -> list[int]:
        """Places of the questions that count."""
        return counting(metric, self.result.questions, self.result.grades[model])

    def value(self, metric: Metric, model: str, places: Sequence[int]) -> float | None:
        """The metric of the questions at these places."""
        grades = self.result.grades[model]
        return value_of(metric, [self.result.questions[p] for p in places], [grades[p] for p in places])

    def resampled(self, metric: Metric, model: str, places: Sequence[int], stream: int = 0) -> np.ndarray:
        """The metric of resampled questions; as many places and the same stream draw the same ones for every model."""
        key = metric.name, model, tuple(places), stream
        if key not in self._kept:
            grades = self.result.grades[model]
            counted = [grades[place] for place in places]
            seed = self.result.seed + 1000 * stream
            if metric.kind == "statistic":
                sampled = resamples(lambda drawn: metric.statistic([counted[d] for d in drawn]), len(counted), seed)
            else:
                sampled = mean_resamples(np.array([grade.values[metric.key] for grade in counted]), seed)
            self._kept[key] = sampled
        return self._kept[key]

    def _figure(self, metric: Metric, model: str) -> Figure:
        grades, places = self.result.grades[model], self.places(metric, model)
        value = self.value(metric, model, places)
        interval = None
        if metric.kind == "share" and places:
            interval = wilson(int(sum(grades[place].values[metric.key] for place in places)), len(places))
        elif metric.kind != "count" and len(places) > 1:
            interval = percentiles(self.resampled(metric, model, places))
        missing = Counter(
            grade.missing
            for question, grade in zip(self.result.questions, grades, strict=True)
            if grade.missing and (not metric.group or question.group == metric.group)
        )
        return Figure(
            self.result.task.name,
            metric.name,
            model,
            value,
            interval and interval.low,
            interval and interval.high,
            len(places),
            dict(missing),
            self.result.seed,
            metric.percent and metric.kind != "count",
            metric.lower_is_better,
            metric.kind == "count",
        )

    def _pair(self, metric: Metric, first: str, second: str) -> Iterator[Paired]:
        shared = sorted(set(self.places(metric, first)) & set(self.places(metric, second)))
        if not shared:
            return
        with np.errstate(invalid="ignore"):  # two infinite losses have no difference; `paired_p` knows
            differences = self.resampled(metric, second, shared) - self.resampled(metric, first, shared)
        interval = percentiles(differences) if len(shared) > 1 else None
        if metric.kind == "share":
            grades = (self.result.grades[name] for name in (first, second))
            right = [np.array([those[place].values[metric.key] > 0.5 for place in shared]) for those in grades]
            p, test = mcnemar(*right), "McNemar, exact"
        else:
            p, test = paired_p(differences, len(shared)), "paired bootstrap"
        yield Paired(
            self.result.task.name,
            metric.name,
            first,
            second,
            self.value(metric, second, shared) - self.value(metric, first, shared),
            interval and interval.low,
            interval and interval.high,
            p,
            test,
            len(shared),
            self.result.seed,
            metric.percent,
        )


def averages_of(averages: Sequence[Average], sets: Sequence[TaskFigures]) -> list[Figure]:
    """Plain means of figures of several sets, asked with one seed; the sets are resampled independently.

    An average is missing if one of its parts is. It has no interval if a part has none.
    """
    by_name = {each.result.task.name: each for each in sets}
    models = list(sets[0].result.grades) if sets else []
    return [_average(average, by_name, model) for average in averages for model in models]


def _average(average: Average, sets: dict[str, TaskFigures], model: str) -> Figure:
    parts = []
    for number, (task, name) in enumerate(average.of):
        own = sets[task]
        metric = next(metric for metric in own.result.task.metrics if metric.name == name)
        places = own.places(metric, model)
        if not places:
            reasons = sorted({grade.missing for grade in own.result.grades[model] if grade.missing})
            missing = {f"{task}: {', '.join(reasons) or 'no question counts'}": 1}
            return Figure(AVERAGE, average.name, model, None, None, None, 0, missing, own.result.seed, average.percent)
        # A stream of its own for each set: sets of the same size must not draw the same places.
        sampled = own.resampled(metric, model, places, number + 1)
        parts.append((own.value(metric, model, places), sampled, len(places), metric))
    interval = None
    if all(n > 1 and metric.kind != "count" for _, _, n, metric in parts):
        length = min(len(sampled) for _, sampled, _, _ in parts)
        interval = percentiles(np.mean([sampled[:length] for _, sampled, _, _ in parts], axis=0))
    return Figure(
        AVERAGE,
        average.name,
        model,
        float(np.mean([value for value, _, _, _ in parts])),
        interval and interval.low,
        interval and interval.high,
        sum(n for _, _, n, _ in parts),
        {},
        sets[average.of[0][0]].result.seed,
        average.percent,
        parts[0][3].lower_is_better,
    )


def average_pairs(averages: Sequence[Average], sets: Sequence[TaskFigures]) -> list[Paired]:
    """Every pair of models on averages over sets, by the paired bootstrap on the questions that both have.

    A pair for which a set has no such question is left out.
    """
    by_name = {each.result.task.name: each for each in sets}
    models = list(sets[0].result.grades) if sets else []
    return [
        pair
        for average in averages
        for first, second in combinations(models, 2)
        for pair in _average_pair(average, by_name, first, second)
    ]


def _average_pair(average: Average, sets: dict[str, TaskFigures], first: str, second: str) -> Iterator[Paired]:
    means, differences, counts = [], [], []
    for number, (task, name) in enumerate(average.of):
        own = sets[task]
        metric = next(metric for metric in own.result.task.metrics if metric.name == name)
        shared = sorted(set(own.places(metric, first)) & set(own.places(metric, second)))
        if not shared or metric.kind == "count":
            return
        sampled = [own.resampled(metric, model, shared, number + 1) for model in (first, second)]
        with np.errstate(invalid="ignore"):  # as in `_pair`
            differences.append(sampled[1] - sampled[0])
        means.append(own.value(metric, second, shared) - own.value(metric, first, shared))
        counts.append(len(shared))
    length = min(map(len, differences))
    together = np.mean([those[:length] for those in differences], axis=0)
    interval = percentiles(together) if min(counts) > 1 else None
    yield Paired(
        AVERAGE,
        average.name,
        first,
        second,
        float(np.mean(means)),
        interval and interval.low,
        interval and interval.high,
        paired_p(together, sum(counts)),
        "paired bootstrap",
        sum(counts),
        sets[average.of[0][0]].result.seed,
        average.percent,
    )


def over_seeds(figures: Sequence[Figure]) -> list[Figure]:
    """Of figures that differ in the seed alone: their mean, and as interval the mean ± the standard deviation (n - 1).

    Figures of one seed are given back as they are; else those of every seed are kept in `by_seed`. n is the sum over
    the seeds, whose samples may share questions. A mean is missing if a seed has no value.
    """
    groups: dict[tuple[str, str, str], list[Figure]] = {}
    for figure in figures:
        groups.setdefault((figure.task, figure.metric, figure.model), []).append(figure)
    combined = []
    for same in groups.values():
        combined.append(same[0] if len(same) == 1 else _over_seeds(same))
    return combined


def _over_seeds(same: Sequence[Figure]) -> Figure:
    missing: Counter[str] = Counter()
    for figure in same:
        missing.update(figure.missing)
        if figure.value is None:
            missing[f"no value with seed {figure.seed}"] += 1
    n = sum(figure.n for figure in same)
    whole = replace(same[0], n=n, missing=dict(missing), seed=None, by_seed=tuple(same))
    values = [figure.value for figure in same if figure.value is not None]
    if len(values) < len(same):
        return replace(whole, value=None, low=None, high=None)
    mean, spread = float(np.mean(values)), float(np.std(values, ddof=1))
    return replace(whole, value=mean, low=mean - spread, high=mean + spread)
