"""The suite "code": programs that a model writes, run against the tests of HumanEval and MBPP (with --run-code)."""

from fedllm_app.evaluation.sets import humaneval, mbpp
from fedllm_app.evaluation.suite import Average, Suite

SUITE = Suite(
    name="code",
    summary="Python functions, run against their tests (only with --run-code): HumanEval and MBPP, pass@1",
    tasks=(humaneval.TASK, mbpp.TASK),
    averages=(Average("average", (("humaneval", "pass@1"), ("mbpp", "pass@1"))),),
)
