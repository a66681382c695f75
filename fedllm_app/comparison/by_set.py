"""Models side by side on the sets of a suite: shares, their mean and the average rank; and one question's answers."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from fedllm_app.evaluation.results import TaskResult


@dataclass(frozen=True)
class BySet:
    """The share of right answers of every model on every set: model -> set -> share."""

    shares: Mapping[str, Mapping[str, float]]

    @classmethod
    def of(cls, results: Sequence[TaskResult], key: str) -> "BySet":
        """From the grades of all models; `key` names the value that is averaged."""
        shares: dict[str, dict[str, float]] = {}
        for result in results:
            for model, grades in result.grades.items():
                shares.setdefault(model, {})[result.task.name] = float(np.mean([grade.values[key] for grade in grades]))
        return cls(shares)

    def mean(self, model: str) -> float:
        """The mean over the sets."""
        return float(np.mean(list(self.shares[model].values())))

    def rank(self, model: str) -> float:
        """Average rank over the sets, 1 the best; equal shares have the mean of their ranks."""
        ranks = []
        for name, own in self.shares[model].items():
            others = [shares[name] for shares in self.shares.values()]
            ranks.append(sum(o > own for o in others) + (sum(o == own for o in others) + 1) / 2)
        return float(np.mean(ranks))


@dataclass(frozen=True)
class Sample:
    """A question, what is right, and what models answered."""

    question: str
    expected: str
    answers: Mapping[str, str]


def sample(results: Sequence[TaskResult], best: str, others: Sequence[str], key: str) -> Sample:
    """The first question that `best` has right and most of the others have wrong."""

    def score(result: TaskResult, place: int) -> tuple[bool, int]:
        right = {name: result.grades[name][place].values[key] >= 1.0 for name in (best, *others)}
        return right[best], sum(not right[name] for name in others)

    places = [(result, place) for result in results for place in range(len(result.questions))]
    result, place = max(places, key=lambda those: score(*those))
    question = result.questions[place]
    answers = {name: result.answers[name][place].texts[0].strip() for name in (*others, best)}
    return Sample(question.text, str(question.gold), answers)
