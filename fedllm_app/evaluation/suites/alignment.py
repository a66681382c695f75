"""The suite "alignment": harmless, helpful and honest answers, refusals, truth, conversation, preferences.

HHH, AdvBench, MT-Bench (which needs a judge) and the held-out pairs of hh-rlhf are asked in the run's template,
TruthfulQA in its paper's plain prompt. Take pairs that no run was trained on.
"""

from fedllm_app.evaluation.sets import advbench, hhh, mtbench, preferences, truthfulqa
from fedllm_app.evaluation.suite import Suite

SUITE = Suite(
    name="alignment",
    summary="HHH by category, AdvBench refusals, MT-Bench, TruthfulQA, reward accuracy and margin on hh-rlhf",
    tasks=(hhh.TASK, advbench.TASK, mtbench.TASK, truthfulqa.TASK, preferences.TASK),
)
