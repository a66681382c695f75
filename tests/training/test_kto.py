"""Rated answers: TRL's loss, mismatched rows, a reference that does not drift, metrics by hand."""

import math

import numpy as np
import pytest
import torch
from datasets import Dataset
from jobs import steps
from peft import get_peft_model
from places import ROOT
from transformers import AutoModelForCausalLM, AutoTokenizer
from trl import KTOConfig, KTOTrainer

from fedllm_app.adapters.methods import AdapterValues, draw_adapter, peft_config
from fedllm_app.adapters.view import AdapterView
from fedllm_app.config.parse import default_run_config, parse_run_config
from fedllm_app.data.row_shards import RatedShard
from fedllm_app.data.shards import Shard
from fedllm_app.messages import ADAPTER, Assignment
from fedllm_app.models.base import ModelValues
from fedllm_app.training import kto
from fedllm_app.training.kto import RatedAlignment, kto_trainer, mismatched_rows, partners
from fedllm_app.training.resident import ResidentKey, resident
from fedllm_app.training.task import ClientShards, Job
from fedllm_app.training.trainer import training_arguments

LORA = AdapterValues(4, 8, 0.0, ("q_proj", "v_proj"))
MAX_LENGTH = 24

# Thumbs in the order in which a shard of four up and two down mixes them; at most 24 tokens each with the begin and end
# token, while the prompt of row 2 with the answer of row 1 has 1 + 17 + 18 + 1.
ROWS = [
    ("ask", "one two", True),
    ("say", "no! no, no! no, no", False),
    ("a longer question", "yes", True),
    ("tell", "a short story", True),
    ("why?", "because of it", False),
    ("who", "we all", True),
]


@pytest.fixture
def tokenizer(tiny_model):
    return AutoTokenizer.from_pretrained(tiny_model)


@pytest.fixture
def shard(tokenizer) -> RatedShard:
    """`ROWS` as tokens, written down without the app's tokenization."""
    return rated_shard(tokenizer, ROWS)


def rated_shard(tokenizer, rows) -> RatedShard:
    """Thumbs up and thumbs down as one shard."""

    def side(thumb: bool) -> Shard:
        encoded = [
            (tokenizer(prompt)["input_ids"], tokenizer(answer, add_special_tokens=False)["input_ids"])
            for prompt, answer, label in rows
            if label == thumb
        ]
        pieces = [np.array([*prompt, *answer, tokenizer.eos_token_id], np.int32) for prompt, answer in encoded]
        tokens = np.concatenate(pieces) if pieces else np.zeros(0, np.int32)
        starts = np.array([len(prompt) for prompt, _ in encoded], np.int32)
        return Shard(tokens, np.cumsum([0, *map(len, pieces)]), starts, 0)

    return RatedShard(side(True), side(False))


@pytest.fixture
def model(tiny_model):
    """A resident float32 model for rated answers."""
    return resident(ResidentKey("kto", ModelValues(str(tiny_model), "float32"), LORA))


@pytest.fixture
def training():
    """Three AdamW steps of two rows, at most 24 tokens each."""
    return steps(3, 2, 1, "adamw", 0.0, 1.0).model_copy(update={"max_length": MAX_LENGTH})


@pytest.fixture
def other(start):
    """An adapter other than the reference `start`."""
    return start + np.random.default_rng(5).normal(0, 0.1, start.shape).astype(np.float32)


def task(**options) -> RatedAlignment:
    """The task with values of the section `kto`."""
    flat = {f"kto.{name.replace('_', '-')}": value for name, value in options.items()}
    return RatedAlignment(parse_run_config(default_run_config(ROOT) | {"train.task": "kto"} | flat))


def job(model, training, shard, adapter, reference, key="rows") -> Job:
    """One request to train on a shard and to evaluate on the same."""
    return Job(
        model=model,
        train=training,
        shards=ClientShards("site", "builtin", key, shard, shard),
        assignment=Assignment(0, 1, 1, 0, 1e-2, ""),
        adapter=adapter,
        reference=reference,
        seed=0,
        corrections=[],
        progress=None,
    )


def plain_trl(tiny_model, training, adapter, reference, **options) -> list[dict]:
    """What TRL's own KTOTrainer logs: it tokenizes `ROWS` and rotates them, and runs the reference in every step.

    Its reference is the adapter that it finds at construction.
    """
    base = AutoModelForCausalLM.from_pretrained(tiny_model, dtype=torch.float32)
    model = get_peft_model(base, peft_config(LORA))
    view = AdapterView(model)
    view.write(reference)
    arguments = training_arguments(training) | options | {"learning_rate": 1e-2, "max_length": MAX_LENGTH}
    prompts, answers, labels = zip(*ROWS, strict=True)
    trainer = KTOTrainer(
        model,
        args=KTOConfig(**arguments),
        train_dataset=Dataset.from_dict({"prompt": prompts, "completion": answers, "label": labels}),
        processing_class=AutoTokenizer.from_pretrained(tiny_model),
    )
    view.write(adapter)
    trainer.train()
    return [entry for entry in trainer.state.log_history if "loss" in entry]


@pytest.mark.parametrize(
    "options",
    [
        {"beta": 0.5, "loss_type": "kto", "desirable_weight": 1.0, "undesirable_weight": 1.0},
        {"beta": 0.1, "loss_type": "kto", "desirable_weight": 1.5, "undesirable_weight": 0.5},
        {"beta": 0.5, "loss_type": "apo_zero_unpaired", "desirable_weight": 1.0, "undesirable_weight": 2.0},
    ],
)
def test_losses_are_those_of_trl(model, tiny_model, shard, training, start, other, options):
    """Three steps from an adapter other than the reference, so that the KL term counts: TRL's losses to 1e-5.

    A mismatched row is longer than 24 tokens, and TRL cuts it. The second batch is of one kind.
    """
    logged = plain_trl(tiny_model, training, other, start, **options)
    result = task(**options).train(job(model, training, shard, other, start), np.arange(6))
    np.testing.assert_allclose(result.losses, [entry["loss"] for entry in logged], atol=1e-5)
    np.testing.assert_allclose(result.metrics["kl"], np.mean([entry["kl"] for entry in logged]), atol=1e-4)
    rewards = [entry["rewards/rejected"] for entry in logged if "rewards/rejected" in entry]
    assert len(rewards) == 2
    np.testing.assert_allclose(result.metrics["undesirable-reward"], np.mean(rewards), atol=1e-4)
    assert (result.metrics["kl"] > 1e-3) == (options["loss_type"] == "kto")
    assert np.ptp(result.losses) > 1e-3


def test_accumulated_batches_are_those_of_trl(model, tiny_model, shard, start, other):
    """One step of three accumulated batches of two: mismatched rows are of their own batch."""
    training = steps(1, 2, 3, "adamw", 0.0, 1.0).model_copy(update={"max_length": MAX_LENGTH})
    options = {"beta": 0.5, "loss_type": "kto", "desirable_weight": 1.0, "undesirable_weight": 1.0}
    logged = plain_trl(tiny_model, training, other, start, **options)
    result = task(**options).train(job(model, training, shard, other, start), np.arange(6))
    np.testing.assert_allclose(result.losses, [entry["loss"] for entry in logged], atol=1e-5)


def test_mismatched_rows_have_the_answer_of_the_row_before():
    """Batches (4, 0, 3) and (1, 2, 5): prompts meet the answers of (3, 4, 0) and (5, 1, 2)."""
    assert partners(np.array([4, 0, 3, 1, 2, 5]), 3).tolist() == [3, 4, 0, 5, 1, 2]


def test_mismatched_rows_are_cut(tokenizer, shard):
    """The prompt of row 2 with its begin token is 18 tokens: 6 of row 1's answer are left of 24; row 1 gets "yes"."""
    rows = mismatched_rows(shard, np.array([2, 1]), np.array([1, 2]), MAX_LENGTH)
    texts = [tokenizer.decode(rows.example(place)[0]) for place in (0, 1)]
    assert texts == ["<|begin|>a longer questionno! no", "<|begin|>sayyes<|end|>"]
    assert [rows.example(place)[1] for place in (0, 1)] == [18, 4]


def test_trl_leaves_no_second_adapter(model, training):
    """One adapter, one trainer for the same settings, another for others."""
    options = task().options
    first = kto_trainer(model, training, options)
    assert kto_trainer(model, training, options) is first
    assert list(model.model.peft_config) == ["default"]
    assert not [name for name, _ in model.model.named_parameters() if ".ref." in name]
    assert kto_trainer(model, training, task(beta=0.3).options) is not first


def test_the_reference_is_the_start_in_every_round(make_client, assign):
    """A policy that is the reference has rewards and KL of 0, so the loss is 1 - sigmoid(0) = 0.5; another has not."""
    client = make_client(train__task="kto")
    drawn = draw_adapter(client.model.manifest, seed=0)  # its B is zero, so the model is the base
    numbers = client.train(assign(client), {ADAPTER: drawn}, lambda *_: None)[1]
    moved = client.train(assign(client, server_round=2), {ADAPTER: drawn + 0.05}, lambda *_: None)[1]
    again = client.train(assign(client, server_round=3), {ADAPTER: drawn}, lambda *_: None)[1]
    assert numbers["first-loss"] == pytest.approx(0.5, abs=1e-6)
    assert again["first-loss"] == pytest.approx(0.5, abs=1e-6)
    assert abs(moved["first-loss"] - 0.5) > 1e-4


def test_references_of_rows_are_computed_once(make_client, assign, monkeypatch):
    """16 rows, 4 a round: 4 reference values of rows and 4 of mismatched rows in each of the first rounds.

    A resumed run that meets the same rows again computes those of the mismatched rows only.
    """
    computed = []
    real = kto.completion_log_probs_of

    def counted(*arguments, **options):
        computed.append((type(arguments[1][0]), len(arguments[2])))
        return real(*arguments, **options)

    monkeypatch.setattr(kto, "completion_log_probs_of", counted)
    client = make_client(train__task="kto", train__max_length=256)
    drawn = draw_adapter(client.model.manifest, seed=0)
    for server_round in (1, 2):
        position = 2 * (server_round - 1)
        client.train(assign(client, server_round=server_round, position=position), {ADAPTER: drawn}, lambda *_: None)
    assert computed == [(RatedShard, 4), (Shard, 4)] * 2
    resumed = make_client(run_id=2, train__task="kto", train__max_length=256)
    resumed.train(assign(resumed, server_round=2, position=2), {ADAPTER: drawn}, lambda *_: None)
    assert computed[4:] == [(Shard, 4)]


def log_probs(model, ids, start) -> float:
    """Log-probability of a row's answer by transformers' logits."""
    with torch.no_grad():
        logits = model(torch.tensor(np.asarray(ids, np.int64)[None])).logits[0].log_softmax(-1)
    return sum(float(logits[place - 1, ids[place]]) for place in range(start, len(ids)))


def ratios(model, rows, adapter, reference) -> np.ndarray:
    """log p - log p_ref of rows, from transformers' logits."""
    values = []
    for vector in (adapter, reference):
        model.adapter.write(vector)
        values.append([log_probs(model.model, *row) for row in rows])
    return np.array(values[0]) - np.array(values[1])


def test_evaluation_of_the_reference_itself(model, shard, training, start):
    """All rewards are 0: half right, margin 0, KL 0, and the loss is half of the mean weight: 0.5 (4·1 + 2·2) / 6."""
    numbers = task(undesirable_weight=2.0).evaluate(job(model, training, shard, start, start), 6)
    assert numbers["reward-accuracy"] == 0.5
    assert numbers["reward-margin"] == 0.0
    assert numbers["kl"] == 0.0
    assert numbers["eval-loss"] == pytest.approx(0.5 * 8 / 6)
    assert (numbers["num-examples"], numbers["one-kind"]) == (6, 0)


@pytest.mark.parametrize("loss_type", ["kto", "apo_zero_unpaired"])
def test_evaluation_by_hand(model, shard, training, start, other, loss_type):
    """Some of six rows against another adapter; the mismatched ones are with the answer of the row before,
    5 before 0.

    Rewards r = 0.3 log(p / p_ref); a row is right if r > 0 for T and r < 0 for F; the losses are
    w / (1 + exp(r - 0.3 z)) for T and w / (1 + exp(0.3 z - r)) for F with z the mean over mismatched rows, 0 for apo.
    """
    options = {"beta": 0.3, "loss_type": loss_type, "desirable_weight": 1.5, "undesirable_weight": 0.5}
    numbers = task(**options).evaluate(job(model, training, shard, start, other), 5)
    rows = [shard.example(index) for index in range(6)]
    asked_for = [0, 1, 2, 4, 5]
    thumbs = np.array([ROWS[index][2] for index in asked_for])
    rewards = 0.3 * ratios(model, [rows[index] for index in asked_for], start, other)
    pairs = [(rows[index], rows[index - 1]) for index in asked_for]
    others = [(np.concatenate([asked[:at], told[first:]])[:MAX_LENGTH], at) for (asked, at), (told, first) in pairs]
    z = max(0.0, ratios(model, others, start, other).mean()) if loss_type == "kto" else 0.0
    losses = [
        1.5 / (1 + math.exp(reward - 0.3 * z)) if up else 0.5 / (1 + math.exp(0.3 * z - reward))
        for reward, up in zip(rewards, thumbs, strict=True)
    ]
    assert numbers["kl"] == pytest.approx(z, abs=1e-4)
    assert (numbers["kl"] > 1e-2) == (loss_type == "kto")
    assert numbers["eval-loss"] == pytest.approx(np.mean(losses), abs=1e-5)
    assert numbers["reward-margin"] == pytest.approx(rewards[thumbs].mean() - rewards[~thumbs].mean(), abs=1e-4)
    right = sum(rewards[thumbs] > 0) + sum(rewards[~thumbs] < 0)
    assert numbers["reward-accuracy"] == pytest.approx(right / 5)
    assert 0 < right < 5


@pytest.mark.parametrize(("thumb", "missing"), [(True, "undesirable-reward"), (False, "desirable-reward")])
def test_a_client_with_one_kind_of_label_trains_and_says_so(model, tokenizer, training, start, other, thumb, missing):
    """Six thumbs up, or six down: losses are finite, the reward of the other kind and the margin are 0."""
    one = rated_shard(tokenizer, [(prompt, answer, thumb) for prompt, answer, _ in ROWS])
    asked = job(model, training, one, other, start)
    result = task().train(asked, np.arange(6))
    assert np.isfinite(result.losses).all()
    assert result.metrics["one-kind"] == 1
    assert result.metrics[missing] == 0.0
    numbers = task().evaluate(asked, 6)
    assert (numbers["one-kind"], numbers["reward-margin"]) == (1, 0.0)
    both = rated_shard(tokenizer, ROWS)
    asked = job(model, training, both, other, start, key="both")
    assert task().train(asked, np.arange(6)).metrics["one-kind"] == 0
    assert set(task().evaluate(asked, 6)) == set(numbers)


def test_a_single_held_out_row_has_no_kl(model, tokenizer, training, start):
    """Its mismatched row would be itself: z is 0 and the loss 1 - sigmoid(r)."""
    one = rated_shard(tokenizer, ROWS[:1])
    numbers = task(beta=0.5).evaluate(job(model, training, one, start * 3, start), 6)
    reward = 0.5 * ratios(model, [one.example(0)], start * 3, start)[0]
    assert (numbers["num-examples"], numbers["kl"]) == (1, 0.0)
    assert numbers["eval-loss"] == pytest.approx(1 / (1 + math.exp(reward)), abs=1e-5)


def test_loss_types_do_not_share_their_caches(model, shard, training, start, other):
    """`apo_zero_unpaired` keeps a reference value a row, `kto` two: after one, the other is as if it came first."""
    expected = task().evaluate(job(model, training, shard, other, start, key="alone"), 6)
    asked = job(model, training, shard, other, start)
    task(loss_type="apo_zero_unpaired").evaluate(asked, 6)
    assert task().evaluate(asked, 6) == expected
