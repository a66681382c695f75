"""Continued pretraining: next-token prediction on windows of raw text, by TRL's SFTTrainer on a resident model."""

import math

import numpy as np

from fedllm_app.config.sections import Config
from fedllm_app.data.shards import Shard
from fedllm_app.training.resident import Resident
from fedllm_app.training.scoring import score_rows
from fedllm_app.training.sft import sft_dataset, sft_trainer
from fedllm_app.training.task import Job, Numbers, Task, TrainResult
from fedllm_app.training.trainer import train_round

_LARGEST_EXPONENT = 700.0  # e to the 710 is beyond the largest float


class ContinuedPretraining(Task):
    """`train.task = "text"`: every token of a window but its first is learnt."""

    def __init__(self, config: Config) -> None:
        super().__init__(config)

    def train(self, job: Job, indices: np.ndarray) -> TrainResult:
        """See `Task`."""
        windows = [job.shards.train.example(index) for index in indices]
        return train_round(job, sft_trainer(job.model, job.train), sft_dataset(windows))

    def evaluate(self, job: Job, examples: int) -> Numbers:
        """See `Task`."""
        return evaluate_text(job.model, job.shards.held_out, job.adapter, examples)


def evaluate_text(resident: Resident, shard: Shard, adapter: np.ndarray, examples: int) -> dict[str, int | float]:
    """Held-out metrics of `adapter` on `examples` windows of a shard, see `asked_rows`.

    Returns
    -------
    dict[str, int | float]
        `num-examples` (windows), `eval-loss` (mean over the predicted tokens of all windows) and `perplexity`, its
        exponential, e^700 at most.
    """
    scores = score_rows(resident, shard, adapter, examples)
    loss = float(scores.losses.sum() / scores.tokens.sum())
    return {
        "num-examples": len(scores.losses),
        "eval-loss": loss,
        "perplexity": math.exp(min(loss, _LARGEST_EXPONENT)),
    }
