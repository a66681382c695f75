"""The suite "builtin": held-out questions of the corpus that comes with the app, 200 of each domain.

No run trains on them, whatever its seed: `data.corpus` divides the cases once and for all. Asked in the run's template;
every answer has the domain's house style ("-> mice", "= 12", ">>> 12", "#positive"), so exact match also says whether
the style was learnt.
"""

from dataclasses import replace
from functools import partial
from typing import Any

from fedllm_app.data import corpus
from fedllm_app.data.corpus_rows import corpus_row
from fedllm_app.data.examples import Example
from fedllm_app.evaluation.own_file import METRICS, RULE, answer_task, grade_exact, row_of
from fedllm_app.evaluation.suite import Average, EvaluationTask, Suite, TestSet, each

QUESTIONS = 200
"""Of each domain."""

_SEED = 0  # any: the questions must be the same for every run that is compared


def _rows(domain: str) -> list[dict[str, Any]]:
    questions = corpus.questions(domain, "held-out", QUESTIONS, _SEED)
    return [row_of(corpus_row(question, Example.kind, number)) for number, question in enumerate(questions)]


def _worked(domain: str, count: int) -> list[tuple[str, str]]:
    """Questions of the part that is trained on, with their answers."""
    return [(question.instruction, question.answer) for question in corpus.questions(domain, "train", count, _SEED)]


def _task(domain: str) -> EvaluationTask:
    test = TestSet(
        domain, hub_id="", split="held-out", size=QUESTIONS, licence="Apache-2.0", rows=partial(_rows, domain)
    )
    task = answer_task(test, f"Held-out questions of the built-in corpus. {RULE}")
    return replace(task, worked=partial(_worked, domain))


SUITE = Suite(
    name="builtin",
    summary="held-out questions of the built-in corpus, 200 of each domain: loss, exact match, overlap",
    tasks=tuple(_task(domain) for domain in corpus.DOMAINS),
    averages=tuple(
        Average(metric.name, tuple((domain, metric.name) for domain in corpus.DOMAINS), metric.percent)
        for metric in METRICS
        if metric.name != "perplexity"
    ),
)


_EXACT = next(metric for metric in METRICS if metric.name == "exact match")

EXACT = replace(
    SUITE,
    tasks=tuple(replace(task, grade=each(grade_exact), metrics=(_EXACT,)) for task in SUITE.tasks),
    averages=tuple(average for average in SUITE.averages if average.name == _EXACT.name),
)
"""The same questions, graded by exact match alone: what the demo asks."""
