"""What `fedllm demo` compared: read from its comparison.json, in the directory of a run or the one above it."""

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from fedllm_app.evaluation.answer_overlap import exact_match
from fedllm_app.report.evaluations import Answer, Sample
from fedllm_app.runs.measures import number

DEMO_FILE = "comparison.json"
"""In the directory of a demo that has come to its end."""

_OWN_KEYS = ("question", "expected")


@dataclass(frozen=True)
class Demo:
    """The table of a demo.

    Attributes
    ----------
    questions : int
        Held-out questions of each domain.
    shares : Mapping[str, Mapping[str, float]]
        Right answers by model and domain, the best model first.
    ranks : Mapping[str, float]
        The average rank of each model.
    sample : Sample | None
        One question with the answers to it.
    """

    path: Path
    questions: int
    shares: Mapping[str, Mapping[str, float]]
    ranks: Mapping[str, float]
    sample: Sample | None

    @property
    def domains(self) -> list[str]:
        """All domains, in order."""
        return list(dict.fromkeys(domain for shares in self.shares.values() for domain in shares))

    def mean(self, model: str) -> float:
        """The mean over the domains."""
        return sum(self.shares[model].values()) / len(self.shares[model])


def demos_of(runs: Sequence[Path]) -> Iterator[Demo]:
    """The demos that some runs are part of, each once. A file of that name with anything else in it is none."""
    for directory in dict.fromkeys(place for run in runs for place in (run, run.parent)):
        try:
            found = _demo(directory / DEMO_FILE)
        except (OSError, ValueError, KeyError, TypeError, AttributeError):
            continue
        if found.shares:
            yield found


def _demo(file: Path) -> Demo:
    content = json.loads(file.read_text(encoding="utf-8"))
    shares = {
        str(model): {str(domain): _number(share) for domain, share in own.items()}
        for model, own in content["accuracy"].items()
        if own
    }
    ranks = {str(model): _number(rank) for model, rank in content["average_rank"].items()}
    ordered = sorted(shares, key=lambda model: -sum(shares[model].values()) / len(shares[model]))
    sample = _sample(content["sample"]) if content.get("sample") else None
    return Demo(file, int(content["questions_per_domain"]), {model: shares[model] for model in ordered}, ranks, sample)


def _number(value: object) -> float:
    found = number(value)
    if found is None:
        raise ValueError(f"{value!r} is no number")
    return found


def _sample(kept: Mapping[str, object]) -> Sample:
    expected = str(kept["expected"])
    answers = [
        Answer(str(model), str(text), exact_match(str(text), expected) >= 1.0)
        for model, text in kept.items()
        if model not in _OWN_KEYS
    ]
    return Sample("", str(kept["question"]), expected, tuple(answers))
