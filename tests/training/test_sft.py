"""Instruction tuning on a resident model: TRL's loss, nothing left behind, response-only by construction."""

import numpy as np
import pytest
import torch
from datasets import Dataset
from jobs import steps, train_on
from peft import get_peft_model
from transformers import AutoModelForCausalLM, AutoTokenizer
from trl import SFTConfig, SFTTrainer

from fedllm_app.adapters.methods import AdapterValues, peft_config
from fedllm_app.adapters.view import AdapterView
from fedllm_app.config.sections import TrainConfig
from fedllm_app.data.shards import Shard
from fedllm_app.training.sft import evaluate_sft, sft_dataset, sft_trainer
from fedllm_app.training.trainer import InGivenOrder, training_arguments


class PlainTRL(InGivenOrder, SFTTrainer):
    """TRL's own trainer, on the same batches."""


def plain_losses(tiny_model, training: TrainConfig, rows, start) -> tuple[list[float], np.ndarray]:
    """Losses and final adapter of TRL's SFTTrainer with its own head on a model of its own."""
    base = AutoModelForCausalLM.from_pretrained(tiny_model, dtype=torch.float32)
    model = get_peft_model(base, peft_config(AdapterValues(4, 8, 0.0, ("q_proj", "v_proj"))))
    view = AdapterView(model)
    view.write(start)
    arguments = training_arguments(training) | {"learning_rate": 1e-2, "dataset_kwargs": {"skip_prepare_dataset": True}}
    trainer = PlainTRL(
        model,
        args=SFTConfig(**arguments),
        train_dataset=sft_dataset(rows),
        processing_class=AutoTokenizer.from_pretrained(tiny_model),
    )
    trainer.train()
    return [entry["loss"] for entry in trainer.state.log_history if "loss" in entry], view.read()


@pytest.mark.parametrize("accumulation", [1, 3])
def test_loss_of_every_step_is_that_of_trl(model, tiny_model, rows, start, accumulation):
    """Float32, dropout 0, the same six rows: three steps of two, and one step of three accumulated batches of two."""
    training = steps(3 // accumulation, 2, accumulation, "adamw", 0.0, 1.0)
    expected, adapter = plain_losses(tiny_model, training, rows, start)
    result = train_on(model, sft_trainer(model, training), sft_dataset(rows), start, 1e-2, seed=0)
    assert len(result.losses) == 3 // accumulation
    np.testing.assert_allclose(result.losses, expected, atol=1e-4)
    np.testing.assert_allclose(result.adapter, adapter, atol=1e-4)
    assert np.abs(result.adapter - start).max() > 1e-3


def test_a_second_client_finds_nothing_of_the_first(model, training, rows, start):
    """The same round gives the same bytes before and after another client trained on the same resident model."""
    trainer = sft_trainer(model, training)
    first = train_on(model, trainer, sft_dataset(rows), start, 1e-2, seed=0)
    train_on(model, trainer, sft_dataset(rows[::-1]), start * 3, 5e-2, seed=7)
    again = train_on(model, sft_trainer(model, training), sft_dataset(rows), start, 1e-2, seed=0)
    assert again.adapter.tobytes() == first.adapter.tobytes()
    assert again.losses == first.losses


def test_another_trainer_does_not_break_the_first(model, training, rows, start):
    """Two settings in turn on one resident model: the first gives the same bytes before and after the second."""
    other = steps(1, 2, 1, "sgd", 0.0, 0.0)
    results = [
        train_on(model, sft_trainer(model, plan), sft_dataset(rows[: plan.examples_per_round]), start, 1e-2, seed=0)
        for plan in (training, other, training)
    ]
    assert results[0].adapter.tobytes() == results[2].adapter.tobytes()
    assert results[0].adapter.tobytes() != results[1].adapter.tobytes()


def test_dropout_depends_on_the_seed_alone(tiny_model, training, rows, start):
    """With LoRA dropout the seed that is given decides, and not what ran before in the process."""
    from fedllm_app.models.base import ModelValues
    from fedllm_app.training.resident import ResidentKey, resident

    model = resident(
        ResidentKey("sft", ModelValues(str(tiny_model), "float32"), AdapterValues(4, 8, 0.5, ("q_proj", "v_proj")))
    )
    trainer = sft_trainer(model, training)
    one, two, same = (train_on(model, trainer, sft_dataset(rows), start, 1e-2, seed=seed).adapter for seed in (1, 2, 1))
    assert np.array_equal(one, same)
    assert not np.array_equal(one, two)


def test_the_base_is_never_trained(model, training, rows, start):
    """Only adapter weights change."""
    base = {name: p.clone() for name, p in model.model.named_parameters() if "lora_" not in name}
    train_on(model, sft_trainer(model, training), sft_dataset(rows), start, 1e-1, seed=0)
    assert all(torch.equal(p, base[name]) for name, p in model.model.named_parameters() if "lora_" not in name)


def test_learning_rate_scales_the_first_adamw_step(model, rows, start):
    """Adam's first step moves every coordinate with a gradient by the learning rate: |Δ| = lr (up to its epsilon)."""
    training = steps(1, 2, 1, "adamw", 0.0, 0.0)
    for rate in (1e-2, 1e-3):
        result = train_on(model, sft_trainer(model, training), sft_dataset(rows[:2]), start, rate, seed=0)
        moved = np.abs(result.adapter - start)
        np.testing.assert_allclose(np.median(moved), rate, rtol=1e-2)


def test_exact_match_counts_rows_whose_every_token_is_most_likely(model, start):
    """Two rows completed as the model itself would, and one with a wrong last token: exact match 2/3.

    The loss is compared with transformers' own mean over the completion tokens of all rows.
    """
    model.adapter.write(start)
    prompts = [[5, 9, 20], [7, 7], [30, 31, 32, 33]]
    with torch.no_grad():
        rows = [greedy(model.model, prompt, 3) for prompt in prompts]
        rows[2][-1] = (rows[2][-1] + 1) % 300
        losses = [token_losses(model.model, row, len(prompt)) for row, prompt in zip(rows, prompts, strict=True)]
    shard = Shard(
        np.concatenate(rows).astype(np.int32),
        np.cumsum([0] + [len(row) for row in rows]),
        np.array([len(prompt) for prompt in prompts]),
        0,
    )
    metrics = evaluate_sft(model, shard, start, examples=3)
    assert metrics["num-examples"] == 3
    assert metrics["exact-match"] == pytest.approx(2 / 3)
    assert metrics["eval-loss"] == pytest.approx(float(np.concatenate(losses).mean()), abs=1e-4)
    assert evaluate_sft(model, shard, start, examples=1)["exact-match"] == 0.0  # the third row is drawn


def greedy(model, prompt: list[int], count: int) -> list[int]:
    """Continue a prompt by the most likely token, one forward pass a token."""
    row = list(prompt)
    for _ in range(count):
        row.append(int(model(torch.tensor([row])).logits[0, -1].argmax()))
    return row


def token_losses(model, row: list[int], start: int) -> np.ndarray:
    """Negative log-likelihood of each token from `start` on."""
    log_probs = model(torch.tensor([row])).logits[0].log_softmax(-1)
    return np.array([-float(log_probs[place - 1, row[place]]) for place in range(start, len(row))])


def test_rows_are_labelled_from_the_completion_on():
    """Prompt tokens carry -100, completion tokens themselves, whatever the tokens are."""
    dataset = sft_dataset([(np.array([4, 5, 6, 7]), 2)])
    assert isinstance(dataset, Dataset)
    assert dataset[0] == {"input_ids": [4, 5, 6, 7], "labels": [-100, -100, 6, 7]}
