"""Instruction tuning: TRL's SFTTrainer on a resident model."""

from dataclasses import dataclass

import numpy as np
import torch
from datasets import Dataset
from trl import SFTConfig, SFTTrainer

from fedllm_app.data.shards import Row, Shard, row_labels
from fedllm_app.training.head import score_completions
from fedllm_app.training.resident import Resident
from fedllm_app.training.trainer import InGivenOrder, LocalTraining, collate, resident_trainer


class InstructionTrainer(InGivenOrder, SFTTrainer):
    """SFTTrainer on rows that are tokenized and ordered."""


def sft_trainer(resident: Resident, training: LocalTraining) -> InstructionTrainer:
    """The one SFT trainer of a resident model and these settings."""

    def arguments() -> SFTConfig:
        return SFTConfig(**training.arguments(), dataset_kwargs={"skip_prepare_dataset": True})

    placeholder = sft_dataset([(np.zeros(2, np.int32), 1)])
    return resident_trainer(resident, training, InstructionTrainer, arguments, placeholder)


def sft_dataset(rows: list[Row]) -> Dataset:
    """Rows as TRL takes them: labels are the learnt tokens, -100 elsewhere."""
    return Dataset.from_dict({"input_ids": [row[0] for row in rows], "labels": [row_labels(*row) for row in rows]})


@dataclass(frozen=True)
class RowScores:
    """Of each row: summed negative log-likelihood and number of completion tokens, and whether all were most likely."""

    losses: np.ndarray
    tokens: np.ndarray
    exact: np.ndarray


@torch.no_grad()
def score_rows(
    resident: Resident, shard: Shard, adapter: np.ndarray | None, examples: int, batch_size: int = 20
) -> RowScores:
    """Score the first `examples` rows of a shard under `adapter` (None: the base).

    A row is exact if greedy decoding would produce its completion token by token, end token included: given the right
    tokens so far, each next one must be the most likely. That takes one forward pass and no decoding loop.
    """
    order = np.argsort(shard.lengths[:examples], kind="stable")
    losses, tokens, exact = np.zeros(len(order)), np.zeros(len(order), int), np.zeros(len(order), bool)
    with resident.using(adapter) as model:
        for start in range(0, len(order), batch_size):
            batch = order[start : start + batch_size]
            input_ids, labels = collate([shard.example(index) for index in batch], model.device)
            log_probs, correct, scored = score_completions(model, input_ids, labels)
            losses[batch] = -log_probs.sum(1).cpu().numpy()
            tokens[batch] = scored.sum(1).cpu().numpy()
            exact[batch] = (correct | ~scored).all(1).cpu().numpy()
    return RowScores(losses, tokens, exact)


def evaluate_sft(resident: Resident, shard: Shard, adapter: np.ndarray, examples: int) -> dict[str, int | float]:
    """Held-out metrics of `adapter` on the first `examples` rows of a shard.

    Returns
    -------
    dict[str, int | float]
        `num-examples`, `eval-loss` (mean over completion tokens) and `exact-match` (share of exact rows).
    """
    scores = score_rows(resident, shard, adapter, examples)
    return {
        "num-examples": len(scores.exact),
        "eval-loss": float(scores.losses.sum() / scores.tokens.sum()),
        "exact-match": float(scores.exact.mean()),
    }
