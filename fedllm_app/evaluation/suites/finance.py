"""The suite "finance": sentiment of financial texts by FinGPT's protocol (`sets.finance`), as OpenFedLLM reports it.

OpenFedLLM's table has the mean over the first three sets and over all four; NWGI's labels are a model's.
"""

from fedllm_app.evaluation.sets.finance import FIQA, FPB, NWGI, TFNS
from fedllm_app.evaluation.suite import Average, Suite

_FIRST_THREE = (FPB, FIQA, TFNS)
_TASKS = (*_FIRST_THREE, NWGI)

SUITE = Suite(
    name="finance",
    summary="sentiment of financial texts: FPB, FiQA-SA, TFNS, NWGI; accuracy, weighted and macro F1, and their means",
    tasks=_TASKS,
    averages=tuple(
        Average(f"{metric}, {which}", tuple((task.name, metric) for task in tasks))
        for metric in ("accuracy", "weighted F1", "macro F1")
        for which, tasks in (("first three", _FIRST_THREE), ("all four", _TASKS))
    ),
)
