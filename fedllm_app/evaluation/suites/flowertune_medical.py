"""The suite "flowertune-medical": four sets by the FlowerTune leaderboard's protocol (`sets.flowertune`).

The score is the plain mean of the four accuracies.
"""

from fedllm_app.evaluation.sets.flowertune import CAREQA, MEDMCQA, MEDQA, PUBMEDQA
from fedllm_app.evaluation.suite import Average, Suite

_TASKS = (PUBMEDQA, MEDMCQA, MEDQA, CAREQA)

SUITE = Suite(
    name="flowertune-medical",
    summary="the FlowerTune leaderboard's medical sets: PubMedQA, MedMCQA, MedQA, CareQA, and their mean",
    tasks=_TASKS,
    averages=(Average("average", tuple((task.name, "accuracy") for task in _TASKS)),),
)
