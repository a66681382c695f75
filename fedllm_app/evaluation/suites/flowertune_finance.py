"""The suite "flowertune-finance": three sets by the FlowerTune leaderboard's protocol (`sets.flowertune_finance`).

The score is the plain mean of the three accuracies.
"""

from fedllm_app.evaluation.sets.flowertune_finance import FIQA, FPB, TFNS
from fedllm_app.evaluation.suite import Average, Suite

_TASKS = (FPB, FIQA, TFNS)

SUITE = Suite(
    name="flowertune-finance",
    summary="the FlowerTune leaderboard's finance sets: FPB, FiQA, TFNS, and their mean",
    tasks=_TASKS,
    averages=(Average("average", tuple((task.name, "accuracy") for task in _TASKS)),),
)
