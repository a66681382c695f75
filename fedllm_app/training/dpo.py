"""Value alignment: TRL's DPOTrainer on a resident model, with the reference's log-probabilities from a cache.

The reference policy of federated DPO is fixed for the whole run: the base with the starting adapter. Given a PEFT
model, TRL copies the adapter that it finds at construction into a second one named `ref`, which in a later round would
be that round's global model. Here that copy is removed at once, and every batch brings the reference's values along.
"""

import numpy as np
import torch
from datasets import Dataset
from torch.nn.functional import logsigmoid
from trl import DPOConfig, DPOTrainer

from fedllm_app.data.shards import PairShard
from fedllm_app.training.client_state import ReferenceCache
from fedllm_app.training.head import score_completions
from fedllm_app.training.resident import Resident
from fedllm_app.training.trainer import InGivenOrder, LocalTraining, collate, resident_trainer

_TRL_REFERENCE = "ref"


class PreferenceTrainer(InGivenOrder, DPOTrainer):
    """DPOTrainer that takes the reference's log-probabilities from the batch."""

    def __init__(self, *args, **kwargs) -> None:
        super().__init__(*args, **kwargs)
        if _TRL_REFERENCE in self.model.peft_config:
            self.model.delete_adapter(_TRL_REFERENCE)
        # Asked for at construction, TRL would hash the whole model and compute the values of a placeholder.
        self.precompute_ref_logps = True


def dpo_trainer(resident: Resident, training: LocalTraining, beta: float, loss_type: str) -> PreferenceTrainer:
    """The one DPO trainer of a resident model and these settings."""

    def arguments() -> DPOConfig:
        return DPOConfig(**training.arguments(), beta=beta, loss_type=[loss_type], max_length=None)

    placeholder = Dataset.from_dict({"prompt": ["a"], "chosen": ["b"], "rejected": ["c"]})
    return resident_trainer(resident, (training, beta, loss_type), PreferenceTrainer, arguments, placeholder)


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
        cache.put(missing, pair_log_probs(resident, shard, missing, reference))
    return len(missing)


@torch.no_grad()
def pair_log_probs(
    resident: Resident, shard: PairShard, indices: np.ndarray, adapter: np.ndarray | None, batch_size: int = 8
) -> np.ndarray:
    """Summed log-probabilities of chosen and rejected completions under `adapter` (None: the base), shape (n, 2)."""
    values = np.empty((len(indices), 2))
    order = np.argsort(shard.lengths[indices], kind="stable")
    with resident.using(adapter) as model:
        for start in range(0, len(order), batch_size):
            places = order[start : start + batch_size]
            for column, part in enumerate((shard.chosen, shard.rejected)):
                rows = [part.example(indices[place]) for place in places]
                log_probs, _, _ = score_completions(model, *collate(rows, model.device))
                values[places, column] = log_probs.sum(1).cpu().numpy()
    return values


def evaluate_dpo(
    resident: Resident,
    shard: PairShard,
    adapter: np.ndarray,
    reference: np.ndarray | None,
    cache: ReferenceCache,
    beta: float,
    examples: int,
) -> dict[str, int | float]:
    """Held-out preference metrics of `adapter` on the first `examples` pairs of a shard (Rafailov et al. 2023).

    The reward of a completion is `beta (log p - log p_ref)`. `reward-accuracy` is the share of pairs whose chosen one
    has the higher reward; equal rewards, as the reference itself gives, count half. `eval-loss` is the DPO loss,
    eq. 7, whatever loss type is trained.
    """
    indices = np.arange(min(examples, len(shard)))
    complete_references(resident, shard, indices, reference, cache)
    policy = pair_log_probs(resident, shard, indices, adapter)
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
