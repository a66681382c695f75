"""Answers with a thumb up or down: TRL's KTOTrainer on a resident model, with the reference's values at hand.

KTO (Ethayarajh et al. 2024, arXiv:2402.01306, eq. 8) gives an answer y to x the reward r = beta log(p / p_ref)::

    loss(x, y) = w_D (1 - sigmoid(r - beta z))    for a thumb up
    loss(x, y) = w_U (1 - sigmoid(beta z - r))    for a thumb down
    z = max(0, mean of log(p / p_ref) over mismatched rows (x_i, y_j))

where a mismatched row has the prompt of a row of the batch and the answer of the row before it, as TRL has it. The loss
type `apo_zero_unpaired` is the same without z.

The reference policy is fixed for the whole run: the base with the starting adapter. Its values of the rows are cached
as for DPO. Its values of mismatched rows are computed in every round, because a row meets other rows in every epoch.
"""

from dataclasses import replace

import numpy as np
from datasets import Dataset
from trl import KTOConfig, KTOTrainer

from fedllm_app.config.sections import Config, KtoConfig, TrainConfig
from fedllm_app.data.row_shards import RatedShard
from fedllm_app.data.shards import Shard
from fedllm_app.training.references import ReferenceCache, ReferenceFromBatch, reference_cache
from fedllm_app.training.resident import Resident
from fedllm_app.training.scoring import asked_rows, completion_log_probs_of
from fedllm_app.training.task import Job, Numbers, Task, TrainResult
from fedllm_app.training.trainer import InGivenOrder, resident_trainer, train_round, training_arguments

_LOGGED = {"kl": "kl", "rewards/chosen": "desirable-reward", "rewards/rejected": "undesirable-reward"}
"""What TRL logs, and our names."""


class RatedAlignment(Task):
    """`train.task = "kto"`."""

    def __init__(self, config: Config) -> None:
        super().__init__(config)
        self.options = config.kto

    def train(self, job: Job, indices: np.ndarray) -> TrainResult:
        """See `Task`. A reward is 0 in a round that meets no answer of its kind."""
        shard, cache = job.shards.train, reference_cache(job, "train", columns=1)
        missing = cache.missing(indices)
        if len(missing):
            cache.put(missing, completion_log_probs_of(job.model, (shard,), missing, job.reference))
        mismatched = mismatched_values = None
        if has_kl_term(self.options):
            mismatched = mismatched_rows(shard, indices, partners(indices, job.train.batch_size), job.train.max_length)
            places = np.arange(len(indices))
            mismatched_values = completion_log_probs_of(job.model, (mismatched,), places, job.reference)[:, 0]
        dataset = kto_dataset(shard, indices, cache.values[indices, 0], mismatched, mismatched_values)
        result = train_round(job, kto_trainer(job.model, job.train, self.options), dataset)
        logged = dict.fromkeys(_LOGGED.values(), 0.0) | result.means(_LOGGED)
        return replace(result, metrics={**logged, "one-kind": int(shard.one_kind)})

    def evaluate(self, job: Job, examples: int) -> Numbers:
        """See `Task`."""
        columns = 2 if has_kl_term(self.options) else 1
        cache = reference_cache(job, "held-out", columns)
        return evaluate_kto(
            job.model,
            job.shards.held_out,
            job.adapter,
            job.reference,
            cache,
            self.options,
            job.train.max_length,
            examples,
        )


class RatingTrainer(ReferenceFromBatch, InGivenOrder, KTOTrainer):
    """KTOTrainer that takes the reference's log-probabilities from the batch."""


def has_kl_term(options: KtoConfig) -> bool:
    """Whether the loss compares rewards with an estimate of the KL divergence."""
    return options.loss_type == "kto"


def kto_trainer(resident: Resident, train: TrainConfig, options: KtoConfig) -> RatingTrainer:
    """The one KTO trainer of a resident model and these settings."""

    def arguments() -> KTOConfig:
        # Rows are cut already; mismatched ones may be longer than any of them.
        return KTOConfig(**training_arguments(train), **options.model_dump(), max_length=train.max_length)

    # Tokens that merged across the two texts would make TRL warn about the user's template.
    placeholder = Dataset.from_dict({"prompt": ["a"], "completion": [" b"], "label": [True]})
    return resident_trainer(resident, (train, options), RatingTrainer, arguments, placeholder)


def partners(indices: np.ndarray, batch_size: int) -> np.ndarray:
    """Whose answers the mismatched rows have: for each row, the one before it in its batch; for the first, the last."""
    return np.roll(indices.reshape(-1, batch_size), 1, axis=1).reshape(-1)


def mismatched_rows(shard: RatedShard, prompts: np.ndarray, answers: np.ndarray, max_length: int) -> Shard:
    """Row k has the prompt of row `prompts[k]` of a shard and the answer of row `answers[k]`, cut to `max_length`."""
    pieces, starts = [], []
    for prompt, answer in zip(prompts, answers, strict=True):
        asked, start = shard.example(prompt)
        answered, begin = shard.example(answer)
        pieces.append(np.concatenate([asked[:start], answered[begin:]])[:max_length])
        starts.append(start)
    offsets = np.cumsum([0, *map(len, pieces)])
    return Shard(np.concatenate(pieces), offsets, np.array(starts, np.int32), dropped=0)


def kto_dataset(
    shard: RatedShard,
    indices: np.ndarray,
    references: np.ndarray,
    mismatched: Shard | None,
    mismatched_references: np.ndarray | None,
) -> Dataset:
    """The rows as TRL takes them, in order, with the reference's log-probabilities, shape (len(indices),).

    `mismatched` holds a row for each of `indices`; None for a loss without the KL term.
    """
    rows = [shard.example(index) for index in indices]
    columns = {
        "prompt_ids": [ids[:start] for ids, start in rows],
        "completion_ids": [ids[start:] for ids, start in rows],
        "label": shard.desirable[indices],
        "ref_logps": references,
    }
    if mismatched is not None:
        others = [mismatched.example(place) for place in range(len(mismatched))]
        columns["KL_completion_ids"] = [ids[start:] for ids, start in others]
        columns["ref_KL_logps"] = mismatched_references
    return Dataset.from_dict(columns)


def evaluate_kto(
    resident: Resident,
    shard: RatedShard,
    adapter: np.ndarray,
    reference: np.ndarray | None,
    cache: ReferenceCache,
    options: KtoConfig,
    max_length: int,
    examples: int,
) -> dict[str, int | float]:
    """Held-out metrics of `adapter` on `examples` rows of a shard, see `asked_rows`.

    `reward-accuracy` is the share of rows whose reward has the right sign, above 0 for a thumb up and below for a thumb
    down; 0 itself, as the reference gives, counts half. `reward-margin` is the mean reward of thumbs up less that of
    thumbs down, and 0 where one kind is missing (`one-kind` is 1 then): strategies insist on the same metrics from all
    clients. `eval-loss` is the loss that is trained; z, `kl`, is estimated from these rows, and 0 where a shard has one
    row only.
    """
    indices = asked_rows(len(shard), examples)

    def scores(rows: np.ndarray, policy: np.ndarray | None) -> np.ndarray:
        own = completion_log_probs_of(resident, (shard,), rows, policy)
        if not has_kl_term(options):
            return own
        others = mismatched_rows(shard, rows, (rows - 1) % len(shard), max_length)
        return np.hstack([own, completion_log_probs_of(resident, (others,), np.arange(len(rows)), policy)])

    missing = cache.missing(indices)
    if len(missing):
        cache.put(missing, scores(missing, reference))
    ratios = scores(indices, adapter) - cache.values[indices]
    desirable = shard.desirable[indices]
    kl = max(0.0, float(ratios[:, 1].mean())) if has_kl_term(options) and len(shard) > 1 else 0.0
    rewards = options.beta * ratios[:, 0]
    right = np.where(desirable, rewards, -rewards)
    surplus = np.where(desirable, 1, -1) * (rewards - options.beta * kl)
    weights = np.where(desirable, options.desirable_weight, options.undesirable_weight)
    one_kind = bool(desirable.all() or not desirable.any())
    return {
        "num-examples": len(indices),
        "eval-loss": float(np.mean(weights * np.exp(-np.logaddexp(0.0, surplus)))),
        "reward-accuracy": float(np.mean((right > 0) + 0.5 * (right == 0))),
        "reward-margin": 0.0 if one_kind else float(rewards[desirable].mean() - rewards[~desirable].mean()),
        "kl": kl,
        "one-kind": int(one_kind),
    }
