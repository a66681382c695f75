"""Value alignment: TRL's losses, a reference that does not drift, a cache that is used."""

import math

import numpy as np
import pytest
import torch
from datasets import Dataset
from jobs import steps, train_on
from peft import get_peft_model
from transformers import AutoModelForCausalLM, AutoTokenizer
from trl import DPOConfig, DPOTrainer

from fedllm_app.adapters.methods import AdapterValues, draw_adapter, peft_config
from fedllm_app.adapters.view import AdapterView
from fedllm_app.client.local_client import ArrayLost
from fedllm_app.data.shards import PairShard, Shard
from fedllm_app.messages import ADAPTER, REFERENCE, vector_hash
from fedllm_app.models.base import ModelValues
from fedllm_app.training import dpo
from fedllm_app.training.references import ReferenceCache
from fedllm_app.training.resident import ResidentKey, resident
from fedllm_app.training.scoring import completion_log_probs_of
from fedllm_app.training.trainer import InGivenOrder, training_arguments


class PlainTRL(InGivenOrder, DPOTrainer):
    """TRL's own trainer, on the same batches, with the reference run at every step."""


def shard_of(rows) -> Shard:
    ids, starts = zip(*rows, strict=True)
    return Shard(np.concatenate(ids), np.cumsum([0, *map(len, ids)]), np.array(starts), 0)


@pytest.fixture
def pairs():
    """Six pairs: prompts of 3 to 8 tokens, completions of 2 to 6."""
    random = np.random.default_rng(3)
    chosen, rejected = [], []
    for length in (3, 8, 5, 4, 6, 7):
        prompt = random.integers(3, 250, length)
        for side in (chosen, rejected):
            side.append(
                (np.concatenate([prompt, random.integers(3, 250, random.integers(2, 7))]).astype(np.int32), length)
            )
    return PairShard(shard_of(chosen), shard_of(rejected))


@pytest.fixture
def model(tiny_model):
    """A resident float32 model for DPO."""
    return resident(
        ResidentKey("dpo", ModelValues(str(tiny_model), "float32"), AdapterValues(4, 8, 0.0, ("q_proj", "v_proj")))
    )


def plain_trl(tiny_model, training, pairs, start, beta, loss_type):
    """Losses of TRL's DPOTrainer whose reference is the adapter `start` that it finds at construction."""
    base = AutoModelForCausalLM.from_pretrained(tiny_model, dtype=torch.float32)
    model = get_peft_model(base, peft_config(AdapterValues(4, 8, 0.0, ("q_proj", "v_proj"))))
    view = AdapterView(model)
    view.write(start)
    arguments = training_arguments(training) | {
        "learning_rate": 1e-2,
        "beta": beta,
        "loss_type": [loss_type],
        "max_length": None,
    }
    trainer = PlainTRL(
        model,
        args=DPOConfig(**arguments),
        train_dataset=Dataset.from_dict({"prompt": ["a"], "chosen": ["b"], "rejected": ["c"]}),
        processing_class=AutoTokenizer.from_pretrained(tiny_model),
    )
    indices = np.arange(len(pairs))
    nothing = ReferenceCache(["unused"], len(pairs))
    trainer.train_dataset = dpo.dpo_dataset(pairs, indices, nothing).remove_columns(
        ["ref_chosen_logps", "ref_rejected_logps"]
    )
    trainer.train()
    return [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]


@pytest.mark.parametrize("loss_type", ["sigmoid", "ipo", "hinge"])
def test_cached_losses_are_those_of_trl_without_a_cache(model, tiny_model, pairs, training, start, loss_type):
    """Three steps from `start`, which is also the reference: the same losses with and without cached references."""
    expected = plain_trl(tiny_model, training, pairs, start, 0.5, loss_type)
    cache, indices = ReferenceCache(["test"], len(pairs)), np.arange(len(pairs))
    assert dpo.complete_references(model, pairs, indices, start, cache) == 6
    trainer = dpo.dpo_trainer(model, training, 0.5, loss_type)
    result = train_on(model, trainer, dpo.dpo_dataset(pairs, indices, cache), start, 1e-2, seed=0)
    np.testing.assert_allclose(result.losses, expected, atol=1e-4)
    if loss_type == "sigmoid":
        assert result.losses[0] == pytest.approx(math.log(2), abs=1e-5)
        assert abs(result.losses[1] - math.log(2)) > 1e-4


def test_trl_leaves_no_second_adapter(model, training):
    """One adapter, all of whose parameters are in the view, and a second trainer on the same model."""
    dpo.dpo_trainer(model, training, 0.1, "sigmoid")
    dpo.dpo_trainer(model, training, 0.2, "ipo")
    assert list(model.model.peft_config) == ["default"]
    assert not [name for name, _ in model.model.named_parameters() if ".ref." in name]
    assert dpo.dpo_trainer(model, training, 0.1, "sigmoid") is dpo.dpo_trainer(model, training, 0.1, "sigmoid")


def test_reference_is_the_start_in_every_round(make_client, assign):
    """Round 2 starts from another adapter, and its implied reference is still the base.

    At step 1 of a round the reward margin is beta (policy log-ratio - reference log-ratio). In round 1 policy and
    reference are the same model: the loss is ln 2. In round 2 they differ. Training on the same pairs again from the
    starting adapter gives ln 2 again, as it must if the reference never moved.
    """
    client = make_client(train__task="dpo")
    untrained = draw_adapter(client.model.manifest, seed=0)  # B is zero: the base itself
    first, numbers = client.train(assign(client), {ADAPTER: untrained + 0.01}, lambda *_: None)
    start = client.train(assign(client), {ADAPTER: untrained}, lambda *_: None)[1]["first-loss"]
    moved = client.train(assign(client, server_round=2), {ADAPTER: first[ADAPTER] * 5}, lambda *_: None)[1][
        "first-loss"
    ]
    again = client.train(assign(client, server_round=3), {ADAPTER: untrained}, lambda *_: None)[1]["first-loss"]
    assert start == pytest.approx(math.log(2), abs=1e-6)
    assert again == pytest.approx(math.log(2), abs=1e-6)
    assert abs(moved - math.log(2)) > 1e-4


def test_references_are_computed_once_per_pair(make_client, assign, monkeypatch):
    """16 pairs, 4 a round: rounds 1 and 2 compute 4 each; a resumed run that meets them again computes none."""
    computed = []
    real = dpo.completion_log_probs_of
    counted = lambda *args, **options: computed.append(len(args[2])) or real(*args, **options)  # noqa: E731
    monkeypatch.setattr(dpo, "completion_log_probs_of", counted)
    client = make_client(train__task="dpo")
    untrained = draw_adapter(client.model.manifest, seed=0)  # B is zero: the base itself
    for server_round in (1, 2):
        client.train(
            assign(client, server_round=server_round, position=2 * (server_round - 1)),
            {ADAPTER: untrained},
            lambda *_: None,
        )
    assert computed == [4, 4]
    resumed = make_client(run_id=2, train__task="dpo")
    resumed.train(assign(resumed, server_round=2, position=2), {ADAPTER: untrained}, lambda *_: None)
    assert computed == [4, 4]


def test_a_sent_reference_is_kept_and_a_lost_one_is_named(make_client, assign):
    """With adapter.start the reference is an adapter that the server sends once; without it the client refuses."""
    client = make_client(train__task="dpo")
    untrained = draw_adapter(client.model.manifest, seed=0)  # B is zero: the base itself
    reference = untrained + 0.05
    known = {"once": {REFERENCE: vector_hash(reference)}}
    with pytest.raises(ArrayLost, match="'reference' that the server sends once"):
        client.train(assign(client, **known), {ADAPTER: untrained}, lambda *_: None)
    client.train(assign(client, **known), {ADAPTER: untrained, REFERENCE: reference}, lambda *_: None)
    first = client.train(assign(client, server_round=2, **known), {ADAPTER: reference}, lambda *_: None)[1][
        "first-loss"
    ]
    assert first == pytest.approx(math.log(2), abs=1e-6)


def test_evaluation_by_hand(model, pairs, start):
    """Rewards of the reference itself are zero: accuracy 0.5 by ties, margin 0, loss ln 2.

    For another adapter: beta times the difference of log-ratios, whose logsigmoid is averaged.
    """
    cache = ReferenceCache(["evaluation"], len(pairs))
    same = dpo.evaluate_dpo(model, pairs, start, start, cache, 0.3, 6)
    assert same["reward-accuracy"] == 0.5
    assert same["reward-margin"] == 0.0
    assert same["eval-loss"] == pytest.approx(math.log(2))
    other = dpo.evaluate_dpo(model, pairs, start * 2, start, cache, 0.3, 6)
    ratios = completion_log_probs_of(model, (pairs.chosen, pairs.rejected), np.arange(6), start * 2) - cache.values
    margins = 0.3 * (ratios[:, 0] - ratios[:, 1])
    assert other["reward-margin"] == pytest.approx(margins.mean())
    assert other["reward-accuracy"] == pytest.approx((margins > 0).mean())
    assert other["eval-loss"] == pytest.approx(np.log1p(np.exp(-margins)).mean())


def test_pair_log_probs_sum_over_the_completion(model, pairs, start):
    """Against transformers' logits of one pair, prompt tokens left out."""
    model.adapter.write(start)
    ids, first = pairs.chosen.example(2)
    with torch.no_grad():
        log_probs = model.model(torch.tensor(ids[None].astype(np.int64))).logits[0].log_softmax(-1)
    expected = sum(float(log_probs[place - 1, ids[place]]) for place in range(first, len(ids)))
    values = completion_log_probs_of(model, (pairs.chosen, pairs.rejected), np.array([2]), start)
    assert values[0, 0] == pytest.approx(expected, abs=1e-4)


def test_local_training_is_named_by_beta(model, pairs, start):
    """A larger beta gives another loss on the second step: beta reaches the loss."""
    training = steps(2, 2, 1, "adamw", 0.0, 1.0)
    cache, indices = ReferenceCache(["beta"], len(pairs)), np.arange(4)
    dpo.complete_references(model, pairs, indices, start, cache)
    dataset = dpo.dpo_dataset(pairs, indices, cache)
    small, large = (
        train_on(model, dpo.dpo_trainer(model, training, beta, "sigmoid"), dataset, start, 1e-2, 0).losses[1]
        for beta in (0.01, 1.0)
    )
    assert abs(small - math.log(2)) < abs(large - math.log(2))
