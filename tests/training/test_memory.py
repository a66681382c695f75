"""What saves memory: a quantized base, which stays as it is, and activations computed a second time."""

import numpy as np
import pytest
import torch

from fedllm_app.adapters.layout import AdapterError
from fedllm_app.adapters.methods import AdapterValues, adapter_layout, draw_adapter, initial_adapter
from fedllm_app.client.build import local_client
from fedllm_app.messages import ADAPTER
from fedllm_app.models import quantization as models
from fedllm_app.models.base import ModelValues, load_model, locate_model
from fedllm_app.training.head import score_completions
from fedllm_app.training.resident import ResidentKey, resident
from fedllm_app.training.sft import score_rows

QUIET = lambda *_: None  # noqa: E731
LN2 = np.log(2)
QUANTIZED = {
    "int8": {"model__quantization": "int8"},
    "nf4": {"model__quantization": "nf4"},
    "nf4-double": {"model__quantization": "nf4", "model__double_quantization": True},
}
each_quantization = pytest.mark.parametrize("kind", list(QUANTIZED))


@pytest.fixture
def run_config(run_config, wide_model):
    """The small run configuration on a model that nf4 can quantize on a CPU."""
    return run_config | {"model.name": str(wide_model)}


def start_of(client, seed: int = 0) -> np.ndarray:
    """The initial adapter of a client's resident model, as the server makes it."""
    key = client.key
    layout = adapter_layout(locate_model(key.model.name), key.adapter)
    assert resident(key).manifest == layout.manifest
    return initial_adapter(layout, key.adapter, seed, lambda: load_model(key.model))


def frozen(model) -> dict[str, torch.Tensor]:
    """Copies of all tensors of the base, the quantized ones with their scales."""
    trained = ("lora_", "ia3_l", "prompt_encoder")
    return {name: t.clone() for name, t in model.state_dict().items() if not any(part in name for part in trained)}


@each_quantization
@pytest.mark.parametrize("task", ["sft", "dpo"])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_a_round_on_a_quantized_base(make_client, assign, kind, task, dtype):
    """The adapter moves in float32, the base stays bit for bit, and evaluation in between changes nothing.

    The first loss of DPO is ln 2 to rounding: the policy is computed in training mode, the reference in evaluation
    mode.
    """
    client = make_client(train__task=task, model__dtype=dtype, **QUANTIZED[kind])
    start, model = start_of(client), client.model
    before = frozen(model.model)
    assert {"Linear8bitLt", "Linear4bit"} & {type(module).__name__ for module in model.model.modules()}
    first, numbers = client.train(assign(client), {ADAPTER: start}, QUIET)
    assert {parameter.dtype for parameter in model.adapter.parameters} == {torch.float32}
    client.evaluate(assign(client), {ADAPTER: first[ADAPTER]})
    again, _ = client.train(assign(client), {ADAPTER: start}, QUIET)
    assert first[ADAPTER].tobytes() == again[ADAPTER].tobytes()
    assert np.isfinite(numbers["train-loss"])
    assert np.abs(first[ADAPTER] - start).max() > 1e-3
    after = frozen(model.model)
    assert before.keys() == after.keys()
    assert all(torch.equal(after[name], tensor) for name, tensor in before.items())
    if task == "dpo":
        assert numbers["first-loss"] == pytest.approx(LN2, abs=1e-5 if dtype == "float32" else 0.02)


@each_quantization
def test_steps_smaller_than_bfloat16_are_not_lost(make_client, assign, kind):
    """A rate of 1e-5 moves weights of about 0.1, whose bfloat16 neighbours lie 5e-4 away, by 1e-5 a step."""
    client = make_client(model__dtype="bfloat16", train__optimizer="adamw", **QUANTIZED[kind])
    start = start_of(client)
    start += np.random.default_rng(0).normal(0, 0.1, start.shape).astype(np.float32)
    trained, _ = client.train(assign(client, learning_rate=1e-5), {ADAPTER: start}, QUIET)
    moved = np.abs(trained[ADAPTER] - start)
    assert 0.5e-5 < np.median(moved) < 3e-5


@each_quantization
@pytest.mark.parametrize("tied", [False, True])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_the_head_of_a_quantized_model(wide_model, tmp_path, kind, tied, dtype):
    """The head is not quantized, tied to the embedding or not: log-probabilities are those of the model's own
    logits."""
    from transformers import AutoModelForCausalLM

    base = AutoModelForCausalLM.from_pretrained(wide_model)
    base.config.tie_word_embeddings = tied
    if tied:
        base.lm_head.weight = base.model.embed_tokens.weight
    base.save_pretrained(tmp_path)
    options = QUANTIZED[kind]
    values = ModelValues(
        str(tmp_path),
        dtype,
        quantization=options["model__quantization"],
        double_quantization="model__double_quantization" in options,
    )
    model = resident(ResidentKey("sft", values, AdapterValues(4, 8, 0.0, ("q_proj",))))
    inner = model.model.get_base_model()
    assert (inner.lm_head.weight is inner.model.embed_tokens.weight) == tied
    ids = torch.arange(5, 29).view(2, 12).to(model.model.device)
    labels = ids.clone()
    labels[:, :4] = -100
    start = draw_adapter(model.manifest, 0)
    with torch.no_grad(), model.using(start + 0.02) as adapted:
        log_probs, _, scored = score_completions(adapted, ids, labels)
        logits = adapted(input_ids=ids).logits.float()
    expected = logits[:, :-1].log_softmax(-1).gather(2, ids[:, 1:, None])[..., 0]
    assert scored.sum() == 16
    torch.testing.assert_close(log_probs[scored], expected[scored], rtol=1e-4, atol=1e-4)


@each_quantization
@pytest.mark.parametrize(
    "method",
    [
        {"lora__dora": True},
        {"adapter__method": "ia3"},
        {"adapter__method": "prefix-tuning"},
        {"adapter__method": "p-tuning"},
        {"adapter__method": "prompt-tuning"},
    ],
    ids=lambda method: str(list(method.values())[0]),
)
def test_other_methods_on_a_quantized_base(make_client, assign, kind, method):
    """Two steps of DPO: the adapter moves and the base does not; DoRA and (IA)³ begin as the quantized base."""
    client = make_client(train__task="dpo", **QUANTIZED[kind], **method)
    if kind == "int8" and "lora__dora" in method and not torch.cuda.is_available():
        with pytest.raises(AdapterError, match="needs a GPU; on a CPU set model.quantization = 'nf4'"):
            start_of(client)
        return
    start, model = start_of(client), client.model
    before = frozen(model.model)
    trained, numbers = client.train(assign(client), {ADAPTER: start}, QUIET)
    assert {parameter.dtype for parameter in model.adapter.parameters} == {torch.float32}
    assert np.isfinite(numbers["train-loss"])
    assert np.abs(trained[ADAPTER] - start).max() > 1e-3
    assert all(torch.equal(tensor, before[name]) for name, tensor in frozen(model.model).items())
    if client.key.adapter.method in ("lora", "ia3"):
        assert numbers["first-loss"] == pytest.approx(LN2, abs=1e-4)


def test_bitsandbytes_is_left_out_only_without_quantization(run_config, monkeypatch):
    left_out = []
    monkeypatch.setattr(models, "leave_out_bitsandbytes", lambda: left_out.append(True))
    for quantization, expected in (("nf4", 0), ("int8", 0), ("none", 1)):
        local_client(77, tuple(sorted((run_config | {"model.quantization": quantization}).items())), 4)
        assert len(left_out) == expected


CHECKPOINTED = {
    "lora": {},
    "lora-nf4": {"model__quantization": "nf4"},
    "dora": {"lora__dora": True},
    "ia3": {"adapter__method": "ia3"},
    "p-tuning": {"adapter__method": "p-tuning"},
    "prompt-tuning": {"adapter__method": "prompt-tuning"},
}


@pytest.mark.parametrize("task", ["sft", "dpo"])
@pytest.mark.parametrize("variant", list(CHECKPOINTED))
def test_checkpointing_changes_memory_only(make_client, assign, task, variant):
    """On one resident model, off, on and off again: the same losses and adapters, with the layers run again when on.

    Two steps run each layer twice without, four times with it. An evaluation in between does not mind.
    """
    runs = []
    for checkpointing in (False, True, False):
        client = make_client(train__task=task, train__gradient_checkpointing=checkpointing, **CHECKPOINTED[variant])
        start = start_of(client)
        client.train(assign(client), {ADAPTER: start}, QUIET)  # so that the references of DPO are there
        calls = []
        layer = client.model.model.get_base_model().model.layers[0].mlp
        hook = layer.register_forward_pre_hook(lambda *_, calls=calls: calls.append(1))
        vectors, numbers = client.train(assign(client), {ADAPTER: start}, QUIET)
        hook.remove()
        held_out = client.evaluate(assign(client), {ADAPTER: vectors[ADAPTER]})
        again, _ = client.train(assign(client), {ADAPTER: start}, QUIET)
        assert again[ADAPTER].tobytes() == vectors[ADAPTER].tobytes()
        runs.append((vectors[ADAPTER], numbers, held_out["eval-loss"], len(calls)))
    off, on, off_again = runs
    assert [run[3] for run in runs] == [2, 4, 2]
    assert off[0].tobytes() == off_again[0].tobytes()
    np.testing.assert_allclose(on[0], off[0], atol=1e-5)
    assert on[1]["first-loss"] == pytest.approx(off[1]["first-loss"], rel=1e-5)
    assert on[1]["last-loss"] == pytest.approx(off[1]["last-loss"], rel=1e-5)
    assert on[2] == pytest.approx(off[2], rel=1e-5)
    assert np.abs(on[0] - start).max() > 1e-3


def test_checkpointing_with_dropout_draws_the_same(make_client, assign):
    """The second run of a layer drops what the first one dropped."""
    adapters = []
    for checkpointing in (False, True):
        client = make_client(lora__dropout=0.5, train__gradient_checkpointing=checkpointing)
        start = start_of(client)
        adapters.append(client.train(assign(client), {ADAPTER: start}, QUIET)[0][ADAPTER])
    np.testing.assert_allclose(adapters[0], adapters[1], atol=1e-5)


def test_scores_without_an_adapter_are_those_of_the_base(make_client):
    client = make_client()
    model, shard = client.model, client.shards(0).train
    start = start_of(client)
    base, moved = score_rows(model, shard, None, 3).losses, score_rows(model, shard, start + 0.1, 3).losses
    np.testing.assert_allclose(score_rows(model, shard, start, 3).losses, base, rtol=1e-6)  # B = 0
    assert np.abs(moved - base).min() > 1e-3
