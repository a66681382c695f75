"""lm-evaluation-harness (extra `eval`) over our loaded model: its `LM` interface, and its tasks as tasks of a suite.

Any task of the harness can be asked with `--suite lm-eval:TASK,...`, with the adapters side by side over one base. Its
data comes from the Hub, unless a task's YAML file (`--include-path`) names local files.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fedllm_app.errors import UserError
from fedllm_app.evaluation.suite import (
    Answer,
    Choose,
    EvaluationTask,
    Generate,
    Grade,
    Metric,
    Question,
    TestSet,
    each,
)

if TYPE_CHECKING:
    from lm_eval.api.model import LM

PREFIX = "lm-eval:"
_NEW_TOKENS = 256  # the harness's own default


class HarnessError(UserError):
    """lm-evaluation-harness is not installed, does not know a task, or cannot load its data."""


def harness_tasks(names: str, include_path: Path | None = None) -> tuple[list[str], Any]:
    """The tasks that `names` lists, separated by commas, and the harness's TaskManager that knows them.

    Raises
    ------
    HarnessError
        The harness is missing, or a name is unknown.
    """
    try:
        from lm_eval.tasks import TaskManager
    except ImportError as error:
        raise HarnessError("lm-evaluation-harness is not installed: pip install 'fedllm-app[eval]'") from error
    manager = TaskManager(include_path=str(include_path) if include_path else None)
    wanted = [name.strip() for name in names.split(",") if name.strip()]
    unknown = [name for name in wanted if not manager.match_tasks([name])]
    if unknown or not wanted:
        raise HarnessError(
            f"lm-evaluation-harness has no task {', '.join(unknown) or 'without a name'}; `lm-eval ls tasks` lists "
            "them, and --include-path adds your own"
        )
    return wanted, manager


def ask_harness(
    model: "LM", wanted: Sequence[str], manager: Any, limit: int | None, template: bool, seed: int
) -> dict[str, list[dict[str, Any]]]:
    """The harness's samples by task: one dict a document, with the task's own metrics."""
    from lm_eval import simple_evaluate

    try:
        results = simple_evaluate(
            model=model,
            tasks=list(wanted),
            limit=limit,
            bootstrap_iters=0,
            log_samples=True,
            apply_chat_template=template,
            task_manager=manager,
            random_seed=seed,
            numpy_random_seed=seed,
            torch_random_seed=seed,
            fewshot_random_seed=seed,
        )
    except (OSError, ValueError, ConnectionError) as error:
        lines = str(error).strip().splitlines() or [type(error).__name__]
        raise HarnessError(f"lm-evaluation-harness cannot ask {', '.join(wanted)}: {lines[0][:300]}") from error
    return results["samples"]


@dataclass(frozen=True)
class Sampled:
    """A task of the harness as one of ours: a question, an answer and a grade for each document."""

    task: EvaluationTask
    questions: list[Question]
    answers: list[Answer]
    grades: list[Grade]


def task_of_samples(name: str, samples: Sequence[Mapping[str, Any]]) -> Sampled:
    """What the harness logged of one task and one model.

    A task with several filters, such as GSM8K with a strict and a flexible one, has a sample a document and filter.
    They become one question with a metric for each filter: "exact_match,strict-match".
    """
    filters = list(dict.fromkeys(sample.get("filter", "") for sample in samples))
    documents: dict[Any, list[Mapping[str, Any]]] = {}
    for sample in samples:
        documents.setdefault(sample["doc_id"], []).append(sample)
    grades = [Grade(_values(same, len(filters) > 1)) for same in documents.values()]
    keys = list(dict.fromkeys(key for grade in grades for key in grade.values))
    metrics = []
    for key in keys:
        share = {grade.values[key] for grade in grades if key in grade.values} <= {0.0, 1.0}
        metrics.append(Metric(key, "share" if share else "mean", key, percent=share))
    firsts = [same[0] for same in documents.values()]
    answers = [_answer(sample) for sample in firsts]
    task = EvaluationTask(
        name=name,
        test=TestSet(name, "", "", len(firsts), "see the task's own page"),
        questions=lambda _rows, _shots: [],
        ask=Generate(_NEW_TOKENS) if any(answer.texts for answer in answers) else Choose(),
        grade=each(lambda _question, _answer: Grade()),
        metrics=tuple(metrics),
        rule="as the task of lm-evaluation-harness defines it",
        template="plain",
    )
    return Sampled(task, [_question(sample) for sample in firsts], answers, grades)


def _values(same: Sequence[Mapping[str, Any]], by_filter: bool) -> dict[str, float]:
    """The metrics of one document that are numbers."""
    return {
        f"{key},{sample['filter']}" if by_filter else key: float(sample[key])
        for sample in same
        for key in sample["metrics"]
        if isinstance(sample.get(key), bool | int | float)
    }


def _question(sample: Mapping[str, Any]) -> Question:
    """What was asked: the text of the first request, and what each request wanted the probability of."""
    requests = sample["arguments"]
    choices = tuple(str(request[1]) for request in requests if len(request) > 1 and isinstance(request[1], str))
    return Question(str(sample["doc"]), plain=str(requests[0][0]), gold=str(sample.get("target", "")), choices=choices)


def _answer(sample: Mapping[str, Any]) -> Answer:
    """What the model gave before any filter: texts, or log-likelihoods as numbers or (log-likelihood, greedy)."""
    given = [response for request in sample["resps"] for response in request]
    texts = tuple(response for response in given if isinstance(response, str))
    numbers = [response[0] if isinstance(response, list | tuple) else response for response in given]
    return Answer(texts, tuple(float(number) for number in numbers if not isinstance(number, str)))
