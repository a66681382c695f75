"""Instruction tuning: TRL's SFTTrainer on a resident model."""

import numpy as np
from datasets import Dataset
from trl import SFTConfig, SFTTrainer

from fedllm_app.config.sections import Config, TrainConfig
from fedllm_app.data.shards import Row, Shard, row_labels
from fedllm_app.training.resident import Resident
from fedllm_app.training.scoring import score_rows
from fedllm_app.training.task import Job, Numbers, Task, TrainResult
from fedllm_app.training.trainer import InGivenOrder, resident_trainer, train_round, training_arguments


class InstructionTuning(Task):
    """`train.task = "sft"`."""

    def __init__(self, config: Config) -> None:
        super().__init__(config)

    def train(self, job: Job, indices: np.ndarray) -> TrainResult:
        """See `Task`."""
        rows = [job.shards.train.row(index) for index in indices]
        return train_round(job, sft_trainer(job.model, job.train), sft_dataset(rows))

    def evaluate(self, job: Job, examples: int) -> Numbers:
        """See `Task`."""
        return evaluate_sft(job.model, job.shards.held_out, job.adapter, examples)


class InstructionTrainer(InGivenOrder, SFTTrainer):
    """SFTTrainer on rows that are tokenized and ordered."""


def sft_trainer(resident: Resident, train: TrainConfig) -> InstructionTrainer:
    """The one SFT trainer of a resident model and these settings."""

    def arguments() -> SFTConfig:
        return SFTConfig(**training_arguments(train), dataset_kwargs={"skip_prepare_dataset": True})

    placeholder = sft_dataset([(np.zeros(2, np.int32), 1)])
    return resident_trainer(resident, train, InstructionTrainer, arguments, placeholder)


def sft_dataset(rows: list[Row]) -> Dataset:
    """Rows as TRL takes them: labels are the learnt tokens, -100 elsewhere."""
    return Dataset.from_dict({"input_ids": [row[0] for row in rows], "labels": [row_labels(*row) for row in rows]})


def evaluate_sft(resident: Resident, shard: Shard, adapter: np.ndarray, examples: int) -> dict[str, int | float]:
    """Held-out metrics of `adapter` on `examples` rows of a shard, see `asked_rows`.

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
