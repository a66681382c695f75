"""Exact match by generation: ask a model questions, decode greedily, compare the answers."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase


@dataclass(frozen=True)
class Graded:
    """One question with the model's answer and whether it counts as right."""

    prompt: str
    answer: str
    reply: str
    right: bool


def grade(
    model: "PreTrainedModel",
    tokenizer: "PreTrainedTokenizerBase",
    prompts: Sequence[str],
    answers: Sequence[str],
    matches: Callable[[str, str], bool],
    max_new_tokens: int,
    batch_size: int = 64,
) -> list[Graded]:
    """Generate a reply to every rendered prompt and grade it with `matches(reply, answer)`.

    Replies are cut at `max_new_tokens`; the model, adapters included, is used as it is.
    """
    order = sorted(range(len(prompts)), key=lambda index: len(prompts[index]))
    replies = [""] * len(prompts)
    for start in range(0, len(order), batch_size):
        chosen = order[start : start + batch_size]
        generated = generate(model, tokenizer, [prompts[index] for index in chosen], max_new_tokens)
        for index, reply in zip(chosen, generated, strict=True):
            replies[index] = reply
    return [Graded(p, a, r, matches(r, a)) for p, a, r in zip(prompts, answers, replies, strict=True)]


def generate(
    model: "PreTrainedModel", tokenizer: "PreTrainedTokenizerBase", prompts: Sequence[str], max_new_tokens: int
) -> list[str]:
    """Greedy continuations of rendered prompts, one batch, without special tokens."""
    import torch

    written = tokenizer.bos_token is not None and prompts[0].startswith(tokenizer.bos_token)
    tokenizer.padding_side = "left"
    inputs = tokenizer(list(prompts), return_tensors="pt", padding=True, add_special_tokens=not written)
    inputs = {name: inputs[name].to(model.device) for name in ("input_ids", "attention_mask")}
    model.eval()
    with torch.inference_mode():
        output = model.generate(
            **inputs,
            max_new_tokens=max_new_tokens,
            do_sample=False,
            use_cache=True,
            pad_token_id=tokenizer.pad_token_id,
        )
    return tokenizer.batch_decode(output[:, inputs["input_ids"].shape[1] :], skip_special_tokens=True)
