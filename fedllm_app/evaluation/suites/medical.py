"""The suite "medical": PubMedQA, MedQA, MedMCQA, CareQA and the six medical subjects of MMLU, by likelihood."""

from fedllm_app.evaluation.sets import careqa, medmcqa, medqa, mmlu, pubmedqa
from fedllm_app.evaluation.suite import Average, Suite

_TASKS = (pubmedqa.TASK, medqa.TASK, medmcqa.TASK, careqa.TASK, mmlu.MEDICAL_TASK)

SUITE = Suite(
    name="medical",
    summary="medical questions with given answers: PubMedQA, MedQA, MedMCQA, CareQA, six subjects of MMLU; accuracy",
    tasks=_TASKS,
    averages=(Average("average", tuple((task.name, "accuracy") for task in _TASKS)),),
)
