"""The table of tasks: what `train.task` names. Adding one is a file that trains and evaluates, and a line here.

Nothing here loads torch, so the server and the configuration may read it.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field

from fedllm_app.class_paths import ClassPathError, import_object, is_class_path
from fedllm_app.data.examples import Document, Example, PreferencePair, RatedAnswer
from fedllm_app.errors import UserError


class UnknownTask(UserError):
    """`train.task` names no task."""


@dataclass(frozen=True)
class TaskSpec:
    """What the app must know of a task before it is loaded.

    Attributes
    ----------
    rows : str
        The kind of rows that it trains on, a name of `ROW_KINDS`; it decides which columns are read and how rows become
        tokens.
    implementation : str
        Class path of the `Task` subclass that trains and evaluates; imported where training happens.
    options : str
        The section of the configuration that its constructor is given; "" for none.
    metrics : Mapping[str, str]
        Held-out metrics by the journal's name, and what the terminal calls them, the most telling first.
    needs_reference : bool
        Whether it compares with a fixed reference policy: the model that the run starts from.
    """

    rows: str
    implementation: str
    options: str = ""
    metrics: Mapping[str, str] = field(default_factory=lambda: {"eval_loss": "loss"})
    needs_reference: bool = False


_REWARDS = {"eval_loss": "loss", "reward_accuracy": "reward accuracy", "reward_margin": "margin"}

TASKS: dict[str, TaskSpec] = {
    "sft": TaskSpec(
        Example.kind,
        "fedllm_app.training.sft.InstructionTuning",
        metrics={"eval_loss": "loss", "exact_match": "exact match"},
    ),
    "dpo": TaskSpec(
        PreferencePair.kind,
        "fedllm_app.training.dpo.ValueAlignment",
        options="dpo",
        metrics=_REWARDS,
        needs_reference=True,
    ),
    "kto": TaskSpec(
        RatedAnswer.kind,
        "fedllm_app.training.kto.RatedAlignment",
        options="kto",
        metrics=_REWARDS,
        needs_reference=True,
    ),
    "text": TaskSpec(
        Document.kind,
        "fedllm_app.training.text.ContinuedPretraining",
        options="text",
        metrics={"eval_loss": "loss", "perplexity": "perplexity"},
    ),
}


def task_spec(name: str) -> TaskSpec:
    """The task of a name in the table or of a class path, which leads to a `TaskSpec`.

    Raises
    ------
    UnknownTask
        The name is not in the table.
    ClassPathError
        The class path leads to no `TaskSpec`.
    """
    if is_class_path(name):
        found = import_object(name, "The task")
        if not isinstance(found, TaskSpec):
            raise ClassPathError(f"The task {name} is no fedllm_app.tasks.TaskSpec.")
        return found
    if name not in TASKS:
        raise UnknownTask(
            f"there is no task {name!r}; it must be {', '.join(map(repr, TASKS))} or the class path of a TaskSpec"
        )
    return TASKS[name]
