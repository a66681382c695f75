"""Scores of tokenized rows under an adapter: what held-out evaluation, reference policies and comparisons are made
of."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch

from fedllm_app.data.order import sample
from fedllm_app.data.shards import Shard
from fedllm_app.training.head import score_completions
from fedllm_app.training.resident import Resident
from fedllm_app.training.trainer import collate


@dataclass(frozen=True)
class RowScores:
    """Of each row: summed negative log-likelihood and number of completion tokens, and whether all were most likely."""

    losses: np.ndarray
    tokens: np.ndarray
    exact: np.ndarray


def asked_rows(size: int, examples: int) -> np.ndarray:
    """Which of a shard's `size` held-out rows an evaluation asks: the same `examples` in all rounds, ascending.

    They are drawn. Held-out rows have the order of their file, and the first ones of a sorted file are of one kind.
    """
    return sample(size, examples, seed=size)


@torch.no_grad()
def score_rows(
    resident: Resident, shard: Shard, adapter: np.ndarray | None, examples: int, batch_size: int = 20
) -> RowScores:
    """Score `asked_rows` of a shard under `adapter` (None: the base); `examples` of them, in the shard's order.

    A row is exact if greedy decoding would produce its completion token by token, end token included: given the right
    tokens so far, each next one must be the most likely. That takes one forward pass and no decoding loop.
    """
    asked = asked_rows(len(shard), examples)
    order = np.argsort(shard.lengths[asked], kind="stable")
    losses, tokens, exact = np.zeros(len(order)), np.zeros(len(order), int), np.zeros(len(order), bool)
    with resident.using(adapter) as model:
        for start in range(0, len(order), batch_size):
            batch = order[start : start + batch_size]
            input_ids, labels = collate([shard.example(asked[place]) for place in batch], model.device)
            log_probs, correct, scored = score_completions(model, input_ids, labels)
            losses[batch] = -log_probs.sum(1).cpu().numpy()
            tokens[batch] = scored.sum(1).cpu().numpy()
            exact[batch] = (correct | ~scored).all(1).cpu().numpy()
    return RowScores(losses, tokens, exact)


@torch.no_grad()
def completion_log_probs_of(
    resident: Resident, parts: Sequence[Shard], indices: np.ndarray, adapter: np.ndarray | None, batch_size: int = 8
) -> np.ndarray:
    """Summed log-probabilities of completions under `adapter` (None: the base).

    Parameters
    ----------
    parts : Sequence[Shard]
        Shards of equal length, such as the chosen and the rejected answers to the same prompts.

    Returns
    -------
    np.ndarray
        Shape (len(indices), len(parts)), float64.
    """
    values = np.empty((len(indices), len(parts)))
    lengths = np.max([part.lengths[indices] for part in parts], axis=0)
    order = np.argsort(lengths, kind="stable")
    with resident.using(adapter) as model:
        for start in range(0, len(order), batch_size):
            places = order[start : start + batch_size]
            for column, part in enumerate(parts):
                rows = [part.example(indices[place]) for place in places]
                log_probs, _, _ = score_completions(model, *collate(rows, model.device))
                values[places, column] = log_probs.sum(1).cpu().numpy()
    return values
