"""The protocol of Flower's FlowerTune leaderboard, finance: FinGPT's prompt and answer rule (`sets.finance`).

Zero-shot, plain and greedy. Prompt and answer have 512 tokens together. The protocol pads the prompts of a batch to the
longest one, which shortens the answers of the others; here each answer has what its own prompt leaves. An answer is
read up to the next "Answer: ", and so it ends there.

Sets: FPB as in `sets.finance`; FiQA, of its three splits one after the other, 25 % drawn with seed 42 (not FinGPT's
22.6 %); the validation part of TFNS. Figure: accuracy. An answer without any of the three words counts as neutral, as
the protocol has it; such answers are counted.

Both shares of FiQA are the beginning of one permutation: FinGPT's 275 test rows are the first of these 304. The other
29 belong to what FinGPT leaves for training, so an adapter trained on its data may have seen them.
"""

from dataclasses import replace

from fedllm_app.evaluation.sets import finance
from fedllm_app.evaluation.sets.letters import ACCURACY, UNREAD
from fedllm_app.evaluation.suite import EvaluationTask, Generate, TestSet

TOTAL_TOKENS = 512

FIQA_PART = finance.DrawnPart(finance.FIQA_PART.complete, 0.25)

_ASK = Generate(TOTAL_TOKENS, stops=(finance.STOP,), total_tokens=TOTAL_TOKENS)
_WHOLE = "fewer rows, and rows with instructions of their own, whole"


def _task(test: TestSet, parts: finance.PartsOf, which: str, part: finance.DrawnPart | None = None) -> EvaluationTask:
    rule = (
        f'FlowerTune: {which}; "Instruction: … Input: … Answer: ", zero-shot, greedy, {TOTAL_TOKENS} tokens with the '
        "prompt; contains positive, else negative, else neutral; accuracy."
    )
    return finance.task(test, parts, rule, part, _ASK, (ACCURACY, UNREAD))


FPB = _task(finance.FPB_TEST, finance.fpb_parts, f"25 % of 50agree, seed 42 ({_WHOLE})", finance.FPB_PART)
FIQA = _task(
    replace(finance.FIQA_TEST, size=FIQA_PART.size),
    finance.fiqa_parts,
    f"25 % of all three splits, seed 42, scores cut at ±0.1 ({_WHOLE})",
    FIQA_PART,
)
TFNS = _task(finance.TFNS_TEST, finance.tfns_parts, "validation")
