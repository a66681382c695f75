"""From grades to figures: a value, its interval and how many questions it is of; paired tests; averages over sets."""

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import replace
from itertools import combinations

import numpy as np

from fedllm_app.evaluation.results import Figure, Paired, TaskResult
from fedllm_app.evaluation.statistics import (
    Interval,
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


def figures_of(result: TaskResult) -> list[Figure]:
    """Every metric of every model on one set."""
    return [_figure(metric, result, model) for metric in result.task.metrics for model in result.grades]


def _figure(metric: Metric, result: TaskResult, model: str) -> Figure:
    grades, questions = result.grades[model], result.questions
    places = counting(metric, questions, grades)
    value = value_of(metric, questions, grades)
    interval = None
    if value is not None and metric.kind != "count":
        interval = _interval(metric, [grades[place] for place in places], result.seed)
    missing = Counter(
        grade.missing
        for question, grade in zip(questions, grades, strict=True)
        if grade.missing and (not metric.group or question.group == metric.group)
    )
    return Figure(
        result.task.name,
        metric.name,
        model,
        value,
        interval and interval.low,
        interval and interval.high,
        len(places),
        dict(missing),
        result.seed,
        metric.percent and metric.kind != "count",
        metric.lower_is_better,
        metric.kind == "count",
    )


def _interval(metric: Metric, counted: Sequence[Grade], seed: int) -> Interval:
    if metric.kind == "share":
        return wilson(int(sum(grade.values[metric.key] for grade in counted)), len(counted))
    return percentiles(_resampled(metric, counted, seed))


def _resampled(metric: Metric, counted: Sequence[Grade], seed: int) -> np.ndarray:
    """The metric of resampled questions; the same seed and number of questions draw the same ones."""
    if metric.kind == "statistic":
        return resamples(lambda drawn: metric.statistic([counted[place] for place in drawn]), len(counted), seed)
    return mean_resamples(np.array([grade.values[metric.key] for grade in counted]), seed)


def paired_of(result: TaskResult) -> list[Paired]:
    """Every pair of models, on the questions that both have a grade for; metrics that only count are left out."""
    return [
        pair
        for metric in result.task.metrics
        if metric.kind != "count"
        for first, second in combinations(result.grades, 2)
        for pair in _paired(metric, result, first, second)
    ]


def _paired(metric: Metric, result: TaskResult, first: str, second: str) -> Iterator[Paired]:
    both = [result.grades[name] for name in (first, second)]
    shared = sorted(set.intersection(*(set(counting(metric, result.questions, grades)) for grades in both)))
    if not shared:
        return
    counted = [[grades[place] for place in shared] for grades in both]
    sampled = [_resampled(metric, those, result.seed) for those in counted]
    differences = sampled[1] - sampled[0]
    interval = percentiles(differences)
    values = [value_of(metric, [result.questions[place] for place in shared], those) for those in counted]
    if metric.kind == "share":
        right = [np.array([grade.values[metric.key] for grade in those]) > 0.5 for those in counted]
        p, test = mcnemar(*right), "McNemar, exact"
    else:
        p, test = paired_p(differences), "paired bootstrap"
    yield Paired(
        result.task.name,
        metric.name,
        first,
        second,
        values[1] - values[0],
        interval.low,
        interval.high,
        p,
        test,
        len(shared),
        result.seed,
        metric.percent,
    )


def averages_of(averages: Sequence[Average], results: Sequence[TaskResult]) -> list[Figure]:
    """Plain means of figures of several sets, asked with one seed; the sets are resampled independently.

    An average is missing if one of its parts is.
    """
    by_name = {result.task.name: result for result in results}
    models = list(results[0].grades) if results else []
    return [_average(average, by_name, model) for average in averages for model in models]


def _average(average: Average, results: dict[str, TaskResult], model: str) -> Figure:
    parts = []
    for number, (task, name) in enumerate(average.of):
        result = results[task]
        metric = next(metric for metric in result.task.metrics if metric.name == name)
        grades = result.grades[model]
        counted = [grades[place] for place in counting(metric, result.questions, grades)]
        if not counted:
            reasons = sorted({grade.missing for grade in grades if grade.missing})
            missing = {f"{task}: {', '.join(reasons) or 'no question counts'}": 1}
            return Figure(AVERAGE, average.name, model, None, None, None, 0, missing, result.seed, average.percent)
        # Each set is resampled for itself: sets of the same size must not draw the same places.
        sampled = _resampled(metric, counted, result.seed + 1000 * (number + 1))
        parts.append((value_of(metric, result.questions, grades), sampled, len(counted), metric.lower_is_better))
    length = min(len(sampled) for _, sampled, _, _ in parts)
    interval = percentiles(np.mean([sampled[:length] for _, sampled, _, _ in parts], axis=0))
    return Figure(
        AVERAGE,
        average.name,
        model,
        float(np.mean([value for value, _, _, _ in parts])),
        interval.low,
        interval.high,
        sum(n for _, _, n, _ in parts),
        {},
        results[average.of[0][0]].seed,
        average.percent,
        parts[0][3],
    )


def over_seeds(figures: Sequence[Figure]) -> list[Figure]:
    """Of figures that differ in the seed alone: their mean, and as interval the mean ± the standard deviation (n - 1).

    Figures of one seed are given back as they are.
    """
    groups: dict[tuple[str, str, str], list[Figure]] = {}
    for figure in figures:
        groups.setdefault((figure.task, figure.metric, figure.model), []).append(figure)
    combined = []
    for same in groups.values():
        values = [figure.value for figure in same if figure.value is not None]
        if len(same) == 1:
            combined += same
        elif len(values) < len(same):
            combined.append(replace(same[0], value=None, low=None, high=None, seed=None))
        else:
            mean, spread = float(np.mean(values)), float(np.std(values, ddof=1))
            n = sum(figure.n for figure in same)
            combined.append(replace(same[0], value=mean, low=mean - spread, high=mean + spread, n=n, seed=None))
    return combined
