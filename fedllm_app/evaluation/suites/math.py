"""The suite "math": GSM8K and MATH, asked without examples in the run's template.

GSM8K is asked a second time with five examples in a plain prompt, which is the protocol for models without instruction
tuning and the one that lm-evaluation-harness has.
"""

from fedllm_app.evaluation.sets import gsm8k, math
from fedllm_app.evaluation.suite import Average, Suite

SUITE = Suite(
    name="math",
    summary="word problems and competition problems: GSM8K (without and with examples) and MATH, accuracy",
    tasks=(gsm8k.TASK, gsm8k.FEW_SHOT_TASK, math.TASK),
    averages=(Average("average", (("gsm8k", "accuracy"), ("math", "accuracy"))),),
)
