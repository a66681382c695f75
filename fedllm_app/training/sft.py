"""Instruction tuning: TRL's SFTTrainer on a resident model."""

import numpy as np
import torch
from datasets import Dataset
from trl import SFTConfig, SFTTrainer

from fedllm_app.data.shards import Shard
from fedllm_app.training.head import completion_log_probs, install_completion_head
from fedllm_app.training.local import InGivenOrder, LocalTraining, RoundCallback, collate, silence
from fedllm_app.training.resident import Resident

Row = tuple[np.ndarray, int]  # token ids, position of the first completion token


class InstructionTrainer(InGivenOrder, SFTTrainer):
    """SFTTrainer on rows that are tokenized and ordered."""


def sft_trainer(resident: Resident, training: LocalTraining) -> InstructionTrainer:
    """The one SFT trainer of a resident model and these settings."""
    if training not in resident.trainers:
        trainer = InstructionTrainer(
            resident.model,
            args=SFTConfig(**training.arguments(), dataset_kwargs={"skip_prepare_dataset": True}),
            train_dataset=sft_dataset([(np.zeros(2, np.int32), 1)]),
            processing_class=resident.tokenizer,
            callbacks=[RoundCallback()],
        )
        silence(trainer)
        install_completion_head(resident.model.get_base_model())
        resident.trainers[training] = trainer
    return resident.trainers[training]


def sft_dataset(rows: list[Row]) -> Dataset:
    """Rows as TRL takes them: labels are the tokens, -100 on the prompt."""
    labels = [np.concatenate([np.full(start, -100), ids[start:]]) for ids, start in rows]
    return Dataset.from_dict({"input_ids": [ids for ids, _ in rows], "labels": labels})


@torch.no_grad()
def evaluate_sft(
    resident: Resident, shard: Shard, adapter: np.ndarray, examples: int, batch_size: int = 16
) -> dict[str, int | float]:
    """Held-out loss and exact match of `adapter` on the first `examples` rows of a shard.

    Exact match counts the rows whose completion greedy decoding would produce token by token, end token included: given
    the right tokens so far, each next one must be the most likely. That needs one forward pass and no decoding loop.

    Returns
    -------
    dict[str, int | float]
        `num-examples`, `eval-loss` (mean over completion tokens) and `exact-match` (share of rows).
    """
    resident.adapter.write(adapter)
    resident.model.eval()
    base = resident.model.get_base_model()
    total, tokens, exact = 0.0, 0, 0
    order = np.argsort(shard.lengths[:examples], kind="stable")
    for start in range(0, len(order), batch_size):
        rows = [shard.example(index) for index in order[start : start + batch_size]]
        input_ids, labels = collate(rows, resident.model.device)
        log_probs, correct, scored = completion_log_probs(base, labels, input_ids=input_ids)
        total -= float(log_probs.sum())
        tokens += len(correct)
        wrong = torch.zeros_like(scored).masked_scatter(scored, ~correct)
        exact += int((~wrong.any(1)).sum())
    return {"num-examples": len(order), "eval-loss": total / tokens, "exact-match": exact / len(order)}
