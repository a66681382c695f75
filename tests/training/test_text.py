"""Continued pretraining: transformers' loss on the same windows, and perplexity as a mean over tokens."""

import math

import numpy as np
import pytest
import torch
from jobs import steps
from peft import get_peft_model
from places import ROOT
from transformers import AutoModelForCausalLM, AutoTokenizer

from fedllm_app.adapters.methods import AdapterValues, peft_config
from fedllm_app.adapters.view import AdapterView
from fedllm_app.config.parse import default_run_config, parse_run_config
from fedllm_app.data.windows import document_windows
from fedllm_app.messages import Assignment
from fedllm_app.training import text
from fedllm_app.training.scoring import asked_rows
from fedllm_app.training.task import ClientShards, Job
from fedllm_app.training.text import ContinuedPretraining, evaluate_text

DOCUMENTS = ["The first document is long enough for three windows.", "Short.", "A third one."]


@pytest.fixture
def shard(tiny_model):
    """Windows of at most 24 tokens, each of one document: of 24, 24, 8, 8 and 14 tokens."""
    windows = document_windows(DOCUMENTS, AutoTokenizer.from_pretrained(tiny_model), 24, packing=False)
    assert windows.lengths.tolist() == [24, 24, 8, 8, 14]
    return windows


@pytest.fixture
def plain_loss(tiny_model, start, shard):
    """Transformers' own loss of windows under `start`: every token but the first is a label, padding is not."""
    base = AutoModelForCausalLM.from_pretrained(tiny_model, dtype=torch.float32)
    peft = get_peft_model(base, peft_config(AdapterValues(4, 8, 0.0, ("q_proj", "v_proj"))))
    AdapterView(peft).write(start)

    def loss(indices) -> float:
        rows = [torch.tensor(np.array(shard.example(index)[0], np.int64)) for index in indices]
        ids = torch.nn.utils.rnn.pad_sequence(rows, batch_first=True)
        mask = torch.nn.utils.rnn.pad_sequence([torch.ones_like(row) for row in rows], batch_first=True)
        with torch.no_grad():
            labels = ids.masked_fill(mask == 0, -100)
            return float(peft(input_ids=ids, attention_mask=mask, labels=labels).loss)

    return loss


def train(model, training, shard, adapter, indices):
    job = Job(
        model=model,
        train=training,
        shards=ClientShards("site", "text", "key", shard, shard),
        assignment=Assignment(0, 1, 1, 0, 1e-2, ""),
        adapter=adapter,
        reference=None,
        seed=0,
        corrections=[],
        progress=None,
    )
    task = ContinuedPretraining(parse_run_config(default_run_config(ROOT) | {"train.task": "text"}))
    return task.train(job, np.array(indices)), task.evaluate(job, 3)


@pytest.mark.parametrize("indices", [[0, 1], [4, 2], [3, 0]])
def test_the_loss_of_a_step_is_that_of_transformers(model, shard, start, plain_loss, indices):
    """One step of two windows, of equal and of different lengths: the mean over all their tokens, to 1e-5."""
    result, _ = train(model, steps(1, 2, 1, "adamw", 0.0, 1.0), shard, start, indices)
    assert result.losses == pytest.approx([plain_loss(indices)], abs=1e-5)
    assert np.abs(result.adapter - start).max() > 1e-3


def test_accumulated_windows_count_by_their_tokens(model, shard, start, plain_loss):
    """One step of two accumulated windows of 24 and 8 tokens: the mean over the 23 + 7 tokens of both."""
    result, _ = train(model, steps(1, 1, 2, "adamw", 0.0, 1.0), shard, start, [0, 3])
    assert result.losses == pytest.approx([plain_loss([0, 3])], abs=1e-5)
    assert abs(np.mean([plain_loss([0]), plain_loss([3])]) - plain_loss([0, 3])) > 1e-3


def test_held_out_loss_is_the_mean_over_tokens(model, shard, start, plain_loss):
    """Of three windows: the loss of all their tokens at once, and its exponential."""
    windows = asked_rows(len(shard), 3).tolist()
    numbers = evaluate_text(model, shard, start, 3)
    assert set(numbers) == {"num-examples", "eval-loss", "perplexity"}
    assert numbers["num-examples"] == 3
    assert numbers["eval-loss"] == pytest.approx(plain_loss(windows), abs=1e-5)
    assert numbers["perplexity"] == pytest.approx(math.exp(plain_loss(windows)), rel=1e-4)


def test_evaluation_is_of_the_adapter_that_is_requested(model, shard, start):
    """Training moves the resident model's adapter; the evaluation after it is of the job's own."""
    before = evaluate_text(model, shard, start, 3)
    _, after = train(model, steps(2, 2, 1, "adamw", 0.0, 1.0), shard, start, [0, 1, 2, 3])
    assert after == before


def test_a_perplexity_beyond_all_numbers_is_capped(model, shard, start, monkeypatch):
    """A loss of 1000 has no finite exponential, and a reply with an infinite number would be refused."""
    scores = text.score_rows(model, shard, start, 2)
    scores.losses[:] = 1000.0 * scores.tokens
    monkeypatch.setattr(text, "score_rows", lambda *_: scores)
    numbers = evaluate_text(model, shard, start, 2)
    assert numbers["eval-loss"] == pytest.approx(1000.0)
    assert numbers["perplexity"] == math.exp(700.0)
