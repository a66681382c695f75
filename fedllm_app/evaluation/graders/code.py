"""Grades code by running it against the tests of its set; nothing runs without `Means.run_code`."""

import re
import textwrap
from collections import Counter
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor

from fedllm_app.evaluation.graders.sandbox import Outcome, SandboxError, run_program, sandbox_problem
from fedllm_app.evaluation.suite import Answer, Grade, Grader, Means, Metric, Question
from fedllm_app.models.hardware import cores

NOT_RUN = "not run (--run-code)"

SECONDS = 10.0
"""Of one program. Published harnesses allow 3 s; here several programs share the cores with whatever else runs."""

MEMORY_MB = 1024

PASS_AT = (1, 10, 100)
"""The k of pass@k that are computed where there are so many samples (Chen et al. 2021)."""

METRICS = (
    Metric("pass@1", "share", "passed"),
    Metric("timed out", "count", "timed out", percent=False, lower_is_better=True),
    Metric("syntax errors", "count", "syntax error", percent=False, lower_is_better=True),
)
"""Of a set that is asked for one answer each. For several, `pass@1` is of kind "mean"."""

_BLOCK = re.compile(r"^[ \t]*```[^\n`]*\n(.*?)(?:^[ \t]*```|\Z)", re.MULTILINE | re.DOTALL)


def code_grader(program: Callable[[Question, str], tuple[str, str]]) -> Grader:
    """The grader of a set of programming tasks.

    Its grades: "passed", the share of samples that passed (1.0 or 0.0 for one sample; for n samples c/n, which is the
    unbiased pass@1), "pass@k" for every k of `PASS_AT` that there are samples for, "timed out" and "syntax error" (how
    many samples), and the label "outcome".

    Parameters
    ----------
    program : Callable[[Question, str], tuple[str, str]]
        From a question and a text of an answer to the program and its tests.
    """

    def grade(questions: Sequence[Question], answers: Sequence[Answer], means: Means) -> list[Grade]:
        if not means.run_code:
            return [Grade(missing=NOT_RUN) for _ in answers]
        problem = sandbox_problem()
        if problem:
            raise SandboxError(problem)
        samples = [
            (place, *program(question, text))
            for place, (question, answer) in enumerate(zip(questions, answers, strict=True))
            for text in answer.texts
        ]
        outcomes: list[list[Outcome]] = [[] for _ in answers]
        with ThreadPoolExecutor(cores()) as pool:
            found = pool.map(lambda sample: run_program(sample[1], SECONDS, MEMORY_MB, sample[2]), samples)
            for (place, _, _), outcome in zip(samples, found, strict=True):
                outcomes[place].append(outcome)
        return [_grade(those) for those in outcomes]

    return grade


def pass_at_k(n: int, c: int, k: int) -> float:
    """The chance that at least one of k samples passes, of which n were drawn and c passed: 1 - C(n-c, k) / C(n, k).

    Unbiased; as a product, so that no large number occurs. Chen et al. 2021, equation 1.

    Raises
    ------
    ValueError
        Unless 0 <= c <= n and 1 <= k <= n.
    """
    if not (0 <= c <= n and 1 <= k <= n):
        raise ValueError(f"pass@{k} of {c} passed of {n}: it needs 0 <= passed <= samples and 1 <= k <= samples")
    none_passes = 1.0
    for drawn in range(k):
        none_passes *= (n - c - drawn) / (n - drawn)  # a factor is 0 if fewer than k failed
    return 1.0 - none_passes


def code_block(text: str) -> str | None:
    """The contents of the first block between lines of ``` (a last one may be open), without common indentation."""
    found = _BLOCK.search(text)
    return textwrap.dedent(found[1]) if found else None


def cut(text: str, stops: Sequence[str]) -> str:
    """The text before the first of `stops`."""
    places = [text.index(stop) for stop in stops if stop in text]
    return text[: min(places)] if places else text


def _grade(outcomes: Sequence[Outcome]) -> Grade:
    if not outcomes:
        return Grade(missing="no answer")
    ends = Counter(outcome.end for outcome in outcomes)
    n, passed = len(outcomes), ends["passed"]
    values = {f"pass@{k}": pass_at_k(n, passed, k) for k in PASS_AT if k <= n}
    values |= {"passed": passed / n, "timed out": float(ends["timed out"]), "syntax error": float(ends["syntax error"])}
    shown = [f"{outcome.end}: {outcome.error}" if outcome.end == "failed" else str(outcome.end) for outcome in outcomes]
    return Grade(values, {"outcome": ", ".join(shown)})
