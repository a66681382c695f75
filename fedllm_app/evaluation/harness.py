"""lm-evaluation-harness (extra `eval`) over our loaded model: its `LM` interface, and its tasks as tasks of a suite.

Any task of the harness can be asked with `--suite lm-eval:TASK,...`, with the adapters side by side over one base. Its
data comes from the Hub, unless a task's YAML file (`--include-path`) names local files.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fedllm_app.errors import UserError
from fedllm_app.evaluation.suite import (
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


def task_of_samples(
    name: str, samples: Sequence[Mapping[str, Any]]
) -> tuple[EvaluationTask, list[Question], list[Grade]]:
    """A task of the harness as one of ours: its documents as questions, its metrics of each as grades."""
    keys = list(dict.fromkeys(key for sample in samples for key in sample["metrics"]))
    grades = [
        Grade({key: float(sample[key]) for key in keys if isinstance(sample.get(key), bool | int | float)})
        for sample in samples
    ]
    metrics = []
    for key in keys:
        values = {grade.values[key] for grade in grades if key in grade.values}
        if values:
            share = values <= {0.0, 1.0}
            metrics.append(Metric(key, "share" if share else "mean", key, percent=share))
    generated = bool(samples) and samples[0].get("arguments") is not None and "until" in str(samples[0]["arguments"])
    task = EvaluationTask(
        name=name,
        test=TestSet(name, "", "", len(samples), "see the task's own page"),
        questions=lambda _rows, _shots: [],
        ask=Generate(_NEW_TOKENS) if generated else Choose(),
        grade=each(lambda _question, _answer: Grade()),
        metrics=tuple(metrics),
        rule="as the task of lm-evaluation-harness defines it",
        template="plain",
    )
    questions = [Question(str(sample["doc"]), gold=str(sample.get("target", ""))) for sample in samples]
    return task, questions, grades
