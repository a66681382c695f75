"""The suite "flowertune-general": MMLU by the FlowerTune leaderboard's protocol (`sets.flowertune`).

The score is the plain mean of the pooled accuracies of three groups of subjects; "other" does not count.
"""

from fedllm_app.evaluation.sets.flowertune import MMLU, SCORED_GROUPS
from fedllm_app.evaluation.suite import Average, Suite

SUITE = Suite(
    name="flowertune-general",
    summary="the FlowerTune leaderboard's general NLP: MMLU's STEM, social sciences and humanities, and their mean",
    tasks=(MMLU,),
    averages=(Average("average", tuple((MMLU.name, group) for group in SCORED_GROUPS)),),
)
