"""Value alignment: TRL's DPOTrainer on a resident model, with the reference's log-probabilities from a cache.

The reference policy of federated DPO is fixed for the whole run: the base with the starting adapter.
"""

from dataclasses import replace

import numpy as np
import torch
from datasets import Dataset
from torch.nn.functional import logsigmoid
from trl import DPOConfig, DPOTrainer

from fedllm_app.config.sections import Config, TrainConfig
from fedllm_app.data.shards import PairShard
from fedllm_app.training.references import ReferenceCache, ReferenceFromBatch, reference_cache
from fedllm_app.training.resident import Resident
from fedllm_app.training.scoring import asked_rows, completion_log_probs_of
from fedllm_app.training.task import Job, Numbers, Task, TrainResult
from fedllm_app.training.trainer import InGivenOrder, resident_trainer, train_round, training_arguments

_LOGGED = {
    "rewards/accuracies": "reward-accuracy",
    "rewards/margins": "reward-margin",
    "logps/chosen": "chosen-log-prob",
    "logps/rejected": "rejected-log-prob",
}
"""What TRL logs of rewards and log-probabilities, and our names."""


class ValueAlignment(Task):
    """`train.task = "dpo"`: the strength `beta` of the reference policy, and TRL's loss type."""

    def __init__(self, config: Config) -> None:
        super().__init__(config)
        self.beta, self.loss_type = config.dpo.beta, config.dpo.loss_type
        self.label_smoothing = config.dpo.label_smoothing

    def train(self, job: Job, indices: np.ndarray) -> TrainResult:
        """See `Task`."""
        shard, references = job.shards.train, reference_cache(job, "train", columns=2)
        complete_references(job.model, shard, indices, job.reference, references)
        trainer = dpo_trainer(job.model, job.train, self.beta, self.loss_type, self.label_smoothing)
        result = train_round(job, trainer, dpo_dataset(shard, indices, references))
        return replace(result, metrics=result.means(_LOGGED))

    def evaluate(self, job: Job, examples: int) -> Numbers:
        """See `Task`."""
        references = reference_cache(job, "held-out", columns=2)
        return evaluate_dpo(job.model, job.shards.held_out, job.adapter, job.reference, references, self.beta, examples)


class PreferenceTrainer(ReferenceFromBatch, InGivenOrder, DPOTrainer):
    """DPOTrainer that takes the reference's log-probabilities from the batch."""


def dpo_trainer(
    resident: Resident, train: TrainConfig, beta: float, loss_type: str, label_smoothing: float = 0.0
) -> PreferenceTrainer:
    """The one DPO trainer of a resident model and these settings."""
    loss = {"beta": beta, "loss_type": [loss_type], "label_smoothing": label_smoothing}

    def arguments() -> DPOConfig:
        return DPOConfig(**training_arguments(train), **loss, max_length=None)

    # Tokens that merged across two texts would make TRL warn about the user's template.
    placeholder = Dataset.from_dict({"prompt": ["a"], "chosen": [" b"], "rejected": [" c"]})
    key = (train, beta, loss_type, label_smoothing)
    return resident_trainer(resident, key, PreferenceTrainer, arguments, placeholder)


def dpo_dataset(shard: PairShard, indices: np.ndarray, references: ReferenceCache) -> Dataset:
    """The pairs as TRL takes them, in order, with the reference's log-probabilities (which must be in the cache)."""
    chosen = [shard.chosen.example(index) for index in indices]
    rejected = [shard.rejected.example(index) for index in indices]
    return Dataset.from_dict(
        {
            "prompt_ids": [ids[:start] for ids, start in chosen],
            "chosen_ids": [ids[start:] for ids, start in chosen],
            "rejected_ids": [ids[start:] for ids, start in rejected],
            "ref_chosen_logps": references.values[indices, 0],
            "ref_rejected_logps": references.values[indices, 1],
        }
    )


def complete_references(
    resident: Resident, shard: PairShard, indices: np.ndarray, reference: np.ndarray | None, cache: ReferenceCache
) -> int:
    """Compute what the cache lacks of `indices` under the reference adapter; how many pairs that were."""
    missing = cache.missing(indices)
    if len(missing):
        cache.put(missing, completion_log_probs_of(resident, (shard.chosen, shard.rejected), missing, reference))
    return len(missing)


def evaluate_dpo(
    resident: Resident,
    shard: PairShard,
    adapter: np.ndarray,
    reference: np.ndarray | None,
    cache: ReferenceCache,
    beta: float,
    examples: int,
) -> dict[str, int | float]:
    """Held-out preference metrics of `adapter` on `examples` pairs of a shard, see `asked_rows` (Rafailov et al. 2023).

    The reward of a completion is `beta (log p - log p_ref)`. `reward-accuracy` is the share of pairs whose chosen one
    has the higher reward; equal rewards, as the reference itself gives, count half. `eval-loss` is the DPO loss,
    eq. 7, whatever loss type is trained.
    """
    indices = asked_rows(len(shard), examples)
    complete_references(resident, shard, indices, reference, cache)
    policy = completion_log_probs_of(resident, (shard.chosen, shard.rejected), indices, adapter)
    rewards = beta * (policy - cache.values[indices])
    margins = rewards[:, 0] - rewards[:, 1]
    return {
        "num-examples": len(indices),
        "eval-loss": float(-logsigmoid(torch.from_numpy(margins)).mean()),
        "reward-accuracy": float(np.mean((margins > 0) + 0.5 * (margins == 0))),
        "reward-margin": float(margins.mean()),
        "chosen-log-prob": float(policy[:, 0].mean()),
        "rejected-log-prob": float(policy[:, 1].mean()),
    }
