"""A task of your own: instruction tuning with label smoothing.

    PYTHONPATH=examples fedllm run . -c "train.task='own_task.SPEC'"

The configuration names the `TaskSpec`: which rows, which metrics, and the class path of what trains and evaluates. The
command line and the server import this file as well, and torch with it; a larger task puts its spec in a file apart.
"""

from dataclasses import replace

import numpy as np
import torch
from torch.nn.functional import cross_entropy
from trl import SFTConfig

from fedllm_app.tasks import TASKS
from fedllm_app.training.sft import InstructionTrainer, InstructionTuning, sft_dataset
from fedllm_app.training.task import Job, TrainResult
from fedllm_app.training.trainer import resident_trainer, train_round, training_arguments

SMOOTHING = 0.1


class SmoothedTuning(InstructionTuning):
    """SFT towards 1 - ε for the right token and ε over the whole vocabulary (Szegedy et al. 2016, section 7).

    Rows, evaluation and metrics are those of "sft": the held-out loss is not smoothed.
    """

    def train(self, job: Job, indices: np.ndarray) -> TrainResult:
        """As the parent, with another trainer."""
        rows = [job.shards.train.row(index) for index in indices]
        return train_round(job, _trainer(job), sft_dataset(rows))


class SmoothedTrainer(InstructionTrainer):
    """TRL's trainer with another loss. Unlike "sft" it holds the logits of all positions of a batch."""

    def compute_loss(self, model, inputs, return_outputs=False, num_items_in_batch=None) -> torch.Tensor:
        """The sum over completion tokens, divided by their number in all batches of the optimizer's step."""
        labels = inputs["labels"]
        logits = model(input_ids=inputs["input_ids"], use_cache=False).logits[:, -labels.shape[1] : -1]
        targets = labels[:, 1:].flatten()
        loss = cross_entropy(logits.flatten(0, 1).float(), targets, label_smoothing=SMOOTHING, reduction="sum")
        return loss / ((targets != -100).sum() if num_items_in_batch is None else num_items_in_batch)


def _trainer(job: Job) -> SmoothedTrainer:
    """The one trainer of the resident model for this task and these settings."""

    def arguments() -> SFTConfig:
        return SFTConfig(**training_arguments(job.train), dataset_kwargs={"skip_prepare_dataset": True})

    placeholder = sft_dataset([(np.zeros(2, np.int32), 1)])
    return resident_trainer(job.model, job.train, SmoothedTrainer, arguments, placeholder)


SPEC = replace(TASKS["sft"], implementation="own_task.SmoothedTuning")
