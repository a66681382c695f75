"""The suite "general": the nine figures of the OpenFedLLM paper's tables for general models.

MMLU (five examples), BBH, DROP and CRASS (three), HumanEval (only with --run-code); Vicuna-Bench and both turns of
MT-Bench with their average, which need a judge. The five closed sets are asked in their protocols' own plain prompts,
the two of conversations in the run's template. The paper's figures for them are in docs/results.md. They probably come
from InstructEval, whose answer rules differ: each set's file says how.
"""

from fedllm_app.evaluation.sets import bbh, crass, drop, humaneval, mmlu, mtbench, vicuna
from fedllm_app.evaluation.suite import Suite

SUITE = Suite(
    name="general",
    summary="knowledge, reasoning, reading, programs and conversation: the OpenFedLLM paper's nine figures",
    tasks=(mmlu.TASK, bbh.TASK, drop.TASK, humaneval.TASK, crass.TASK, vicuna.TASK, mtbench.TASK),
)
