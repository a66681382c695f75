"""Each loss type of TRL against its parameters, and optimizers against theirs: no option without an effect."""

from typing import get_args

import numpy as np
import pytest
from jobs import steps, train_on

from fedllm_app.config.sections import DpoConfig
from fedllm_app.config.without_effect import KNOW_SMOOTHING
from fedllm_app.data.shards import PairShard, Shard
from fedllm_app.training import dpo
from fedllm_app.training.references import ReferenceCache
from fedllm_app.training.sft import sft_dataset, sft_trainer

LOSSES = get_args(DpoConfig.model_fields["loss_type"].annotation)


@pytest.fixture
def train_pairs(model, start, app_home):
    """Two steps of three pairs each with a loss; the first step's loss, and the adapter."""
    random = np.random.default_rng(2)
    # Of one length, so that margins differ by what is in the answers alone.
    pieces = [random.integers(3, 250, 9).astype(np.int32) for _ in range(6)]

    def shard(ends) -> Shard:
        rows = [np.concatenate([piece[:4], end]) for piece, end in zip(pieces, ends, strict=True)]
        offsets = np.cumsum([0, *map(len, rows)])
        return Shard(np.concatenate(rows), offsets, np.full(len(rows), 4, np.int32), 0)

    pairs = PairShard(shard([piece[4:] for piece in pieces]), shard([piece[::-1][:5] for piece in pieces]))
    cache = ReferenceCache(["test"], len(pairs), 2)
    dpo.complete_references(model, pairs, np.arange(6), start, cache)
    dataset = dpo.dpo_dataset(pairs, np.arange(6), cache)

    def train(loss_type, smoothing=0.0, batch=3):
        training = steps(6 // batch, batch, 1, "sgd", 0.0, 0.0)
        trainer = dpo.dpo_trainer(model, training, 0.5, loss_type, smoothing)
        moved = start + np.random.default_rng(4).normal(0, 1.0, start.shape).astype(np.float32)
        result = train_on(model, trainer, dataset, moved, 1e-3, 0)
        return result.losses[0], result.adapter

    return train


def test_which_losses_read_label_smoothing(train_pairs):
    """Every loss of the configuration, trained with and without: the table of those that read it is TRL's."""
    readers = []
    for loss in LOSSES:
        plain = train_pairs(loss, 1e-6 if loss == "exo_pair" else 0.0)[1]
        if not np.array_equal(plain, train_pairs(loss, 0.2)[1]):
            readers.append(loss)
    assert set(readers) == set(KNOW_SMOOTHING)


def test_robust_by_hand(train_pairs):
    """Of the pairs' margins m, `sigmoid` is the mean of -log σ(m), and with flips of rate e robust DPO (Chowdhury et
    al.
    2024, eq. 12) is the mean of ((1 - e)(-log σ(m)) - e (-log σ(-m))) / (1 - 2e); -log σ(-m) = m - log σ(m), so both
    together give the mean margin, which does not depend on e.
    """
    plain = train_pairs("sigmoid")[0]
    means = [(plain - train_pairs("robust", e)[0]) * (1 - 2 * e) / e for e in (0.1, 0.3)]
    assert means[0] == pytest.approx(means[1], rel=1e-4)
    assert abs(means[0]) > 1e-3


@pytest.mark.parametrize("loss", ["aot", "aot_unpaired"])
def test_sorting_one_pair_is_no_sorting(train_pairs, loss):
    """Why a batch of one is refused: the adapter is that of `sigmoid`. A batch of three is sorted."""
    np.testing.assert_allclose(train_pairs(loss, batch=1)[1], train_pairs("sigmoid", batch=1)[1], atol=1e-7)
    assert np.abs(train_pairs(loss)[1] - train_pairs("sigmoid")[1]).max() > 1e-6


def test_no_two_losses_are_the_same(train_pairs):
    """Each with the smoothing that it needs: no option's value is another name of a second one."""
    needed = {"robust": 0.1, "exo_pair": 1e-3}
    adapters = {loss: train_pairs(loss, needed.get(loss, 0.0))[1].tobytes() for loss in LOSSES}
    assert len(set(adapters.values())) == len(LOSSES)


def test_weight_decay_acts_with_every_optimizer(model, start, rows):
    """One step at rate 0.1 with decay 0.5 takes 5 % of each weight away, SGD's and AdamW's alike."""
    for optimizer in ("sgd", "adamw", "adamw-8bit"):
        after = []
        for decay in (0.0, 0.5):
            training = steps(1, 2, 1, optimizer, decay, 0.0)
            after.append(train_on(model, sft_trainer(model, training), sft_dataset(rows[:2]), start, 0.1, 0).adapter)
        np.testing.assert_allclose(after[0] - after[1], 0.05 * start, rtol=1e-3, atol=1e-6)
