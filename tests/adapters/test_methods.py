"""Every adapter method through a client's round: it trains, is evaluated, corrected, saved and loaded."""

from dataclasses import replace
from typing import get_args

import numpy as np
import pytest
import torch

from fedllm_app.adapters.layout import AdapterError, Layout
from fedllm_app.adapters.methods import (
    METHODS,
    AdapterValues,
    adapter_layout,
    add_adapter,
    initial_adapter,
    peft_config,
)
from fedllm_app.adapters.peft_directory import load_peft_directory, save_peft_directory
from fedllm_app.config.parse import parse_run_config
from fedllm_app.config.sections import AdapterConfig
from fedllm_app.config.values import adapter_values
from fedllm_app.messages import ADAPTER, CONTROL, CONTROL_DELTA
from fedllm_app.models.base import load_base_model, locate_model
from fedllm_app.training.scoring import completion_log_probs_of, score_rows

QUIET = lambda *_: None  # noqa: E731
VARIANTS = {
    "lora": {},
    "rslora": {"lora__rslora": True},
    "dora": {"lora__dora": True},
    "ia3": {"adapter__method": "ia3"},
    "prefix-tuning": {"adapter__method": "prefix-tuning", "adapter__virtual_tokens": 5},
    "p-tuning": {"adapter__method": "p-tuning", "adapter__virtual_tokens": 5, "adapter__encoder_hidden_size": 24},
    "prompt-tuning": {"adapter__method": "prompt-tuning", "adapter__virtual_tokens": 5},
}
STARTS_AS_THE_BASE = {"lora", "rslora", "dora", "ia3"}
TOKENS = torch.tensor([[5, 6, 7, 8, 9, 10, 11, 12]])

each_variant = pytest.mark.parametrize("variant", list(VARIANTS))


@pytest.fixture
def begin(run_config, tiny_model):
    """The layout, settings and initial adapter of a variant, as the server makes them."""

    def make(variant: str, seed: int = 0):
        overrides = {key.replace("__", ".").replace("_", "-"): value for key, value in VARIANTS[variant].items()}
        values = adapter_values(parse_run_config(run_config | overrides))
        location = locate_model(str(tiny_model))
        layout = adapter_layout(location, values)
        manifest, settings = layout.manifest, layout.settings
        load = lambda: load_base_model(location, torch.float32)  # noqa: E731
        return manifest, settings, initial_adapter(layout, values, seed, load)

    return make


def test_every_method_is_tested():
    methods = {overrides.get("adapter__method", "lora") for overrides in VARIANTS.values()}
    assert methods == set(METHODS) == set(get_args(AdapterConfig.model_fields["method"].annotation))


@each_variant
@pytest.mark.parametrize("task", ["sft", "dpo"])
def test_a_round_of_a_client(make_client, assign, begin, variant, task):
    """Two steps: finite losses, an adapter that moved, a base that did not; the same round again gives the same bytes.

    Held-out metrics of the trained adapter are not those of the initial one.
    """
    client = make_client(train__task=task, **VARIANTS[variant])
    manifest, _, start = begin(variant)
    model = client.model
    assert model.manifest == manifest
    assert {parameter.dtype for parameter in model.adapter.parameters} == {torch.float32}
    own = {id(parameter) for parameter in model.adapter.parameters}
    base = [(parameter, parameter.clone()) for parameter in model.model.parameters() if id(parameter) not in own]
    before = client.evaluate(assign(client), {ADAPTER: start})
    once, numbers = client.train(assign(client), {ADAPTER: start}, QUIET)
    again, _ = client.train(assign(client), {ADAPTER: start}, QUIET)
    after = client.evaluate(assign(client), {ADAPTER: once[ADAPTER]})
    assert once[ADAPTER].tobytes() == again[ADAPTER].tobytes()
    assert np.abs(once[ADAPTER] - start).max() > 1e-3
    assert np.isfinite(numbers["train-loss"])
    assert np.isfinite(after["eval-loss"])
    assert abs(after["eval-loss"] - before["eval-loss"]) > 1e-5
    assert all(torch.equal(parameter, copy) for parameter, copy in base)
    if task == "dpo" and variant in STARTS_AS_THE_BASE:
        # The policy is the reference: a margin of zero, a loss of ln 2.
        assert numbers["first-loss"] == pytest.approx(np.log(2), abs=1e-5)
        assert before["eval-loss"] == pytest.approx(np.log(2), abs=1e-5)


@each_variant
def test_what_is_evaluated_is_what_is_trained(make_client, assign, begin, variant):
    """One step over 4 rows that are then scored: the step's loss is the mean over their completion tokens."""
    client = make_client(train__local_steps=1, train__batch_size=4, **VARIANTS[variant])
    _, _, start = begin(variant)
    model, shard = client.model, client.shards(0).train
    indices = client.indices(client.shards(0), assign(client))
    _, numbers = client.train(assign(client), {ADAPTER: start}, QUIET)
    scores = score_rows(model, shard, start, len(shard))
    expected = scores.losses[indices].sum() / scores.tokens[indices].sum()
    assert numbers["first-loss"] == pytest.approx(expected, rel=1e-4)
    if variant not in STARTS_AS_THE_BASE:
        base = score_rows(model, shard, None, len(shard))
        assert np.abs(base.losses - scores.losses).min() > 1e-3


@each_variant
def test_the_reference_is_the_base(make_client, begin, tiny_model, variant):
    """Without an adapter, pairs are scored as the bare model scores them, whatever is loaded."""
    client = make_client(train__task="dpo", **VARIANTS[variant])
    _, _, start = begin(variant)
    model, shard = client.model, client.shards(0).train
    model.adapter.write(start + 0.1)
    values = completion_log_probs_of(model, (shard.chosen, shard.rejected), np.arange(3), None)
    bare = load_base_model(locate_model(str(tiny_model)), torch.float32).cpu()
    for pair in range(3):
        for column, part in enumerate((shard.chosen, shard.rejected)):
            ids, first = part.example(pair)
            tokens = torch.from_numpy(ids.astype(np.int64))[None]
            with torch.no_grad():
                log_probs = bare(tokens).logits[0].log_softmax(-1)
            expected = sum(float(log_probs[place - 1, tokens[0, place]]) for place in range(first, len(ids)))
            assert values[pair, column] == pytest.approx(expected, rel=1e-4)


@each_variant
def test_corrections_apply(make_client, assign, begin, variant):
    """A strong proximal term holds the client back; scaffold's control variate is the mean gradient, not zero."""
    client = make_client(train__local_steps=3, **VARIANTS[variant])
    _, _, start = begin(variant)
    control = np.zeros_like(start)
    plain, held = (
        client.train(assign(client, config={"proximal-mu": mu}), {ADAPTER: start}, QUIET)[0][ADAPTER]
        for mu in (0.0, 50.0)
    )
    assert np.linalg.norm(held - start) < 0.9 * np.linalg.norm(plain - start)
    first, _ = client.train(assign(client, config={"scaffold": True}), {ADAPTER: start, CONTROL: control}, QUIET)
    assert first[ADAPTER].tobytes() == plain.tobytes()  # c = c_i = 0
    assert np.abs(first[CONTROL_DELTA]).max() > 1e-3
    corrected, _ = client.train(
        assign(client, config={"scaffold": True}), {ADAPTER: start, CONTROL: control + 1}, QUIET
    )
    assert np.abs(corrected[ADAPTER] - plain).max() > 1e-3


@each_variant
def test_peft_loads_what_is_saved(make_client, assign, begin, tiny_model, tmp_path, variant):
    """After a round: PEFT's own loading on a fresh base gives the trained model's logits, and a new run can start."""
    from peft import PeftModel

    client = make_client(**VARIANTS[variant])
    manifest, settings, start = begin(variant)
    trained = client.train(assign(client), {ADAPTER: start}, QUIET)[0][ADAPTER]
    save_peft_directory(tmp_path / "adapter", trained, Layout(manifest, settings))
    base = load_base_model(locate_model(str(tiny_model)), torch.float32).cpu()
    with torch.no_grad():
        bare = base(input_ids=TOKENS).logits
        loaded = PeftModel.from_pretrained(base, tmp_path / "adapter").eval()
        with client.model.using(trained) as model:
            expected = model(input_ids=TOKENS).logits[:, -8:]
        got = loaded(input_ids=TOKENS).logits[:, -8:]
    torch.testing.assert_close(got, expected, rtol=1e-5, atol=1e-5)
    assert (got - bare).abs().max() > 1e-3
    np.testing.assert_array_equal(load_peft_directory(tmp_path / "adapter", manifest), trained)


@each_variant
def test_the_base_is_recorded_as_it_was_named(tiny_model, variant):
    """Not as the directory in which PEFT met it: the adapter is loaded on other machines too."""
    options = {key.partition("__")[2]: value for key, value in VARIANTS[variant].items()}
    location = replace(locate_model(str(tiny_model)), name="some-name")
    layout = adapter_layout(location, AdapterValues(4, 8, 0.0, "all-linear", **options))
    settings = layout.settings
    assert settings.peft_config().base_model_name_or_path == "some-name"


def test_p_tuning_cannot_start_without_its_encoder(begin, tmp_path):
    manifest, settings, start = begin("p-tuning")
    save_peft_directory(tmp_path / "adapter", start, Layout(manifest, settings))
    (tmp_path / "adapter" / "encoder.safetensors").unlink()
    with pytest.raises(AdapterError, match="p-tuning goes on from its encoder, which PEFT does not save"):
        load_peft_directory(tmp_path / "adapter", manifest)


def test_an_adapter_of_another_method_is_refused(begin, tmp_path):
    manifest, settings, start = begin("lora")
    save_peft_directory(tmp_path / "adapter", start, Layout(manifest, settings))
    for variant in ("ia3", "dora", "prompt-tuning"):
        with pytest.raises(AdapterError, match="do not fit the manifest"):
            load_peft_directory(tmp_path / "adapter", begin(variant)[0])


def test_sizes_by_hand(begin):
    """2 layers, hidden size 32, k and v of 16, MLP of 64; 5 virtual tokens.

    (IA)³ scales k and v and what goes into down_proj: 2 (16 + 16 + 64) = 192. A prefix has a key and a value of 16 in
    each layer for each token: 5 · 2 · 2 · 16 = 320. Prompt tuning: 5 · 32 = 160. P-tuning has that and layers
    32 → 24 → 24 → 32 with biases: 160 + (768 + 24) + (576 + 24) + (768 + 32) = 2352.
    """
    sizes = {name: begin(name)[0].size for name in ("ia3", "prefix-tuning", "prompt-tuning", "p-tuning")}
    assert sizes == {"ia3": 192, "prefix-tuning": 320, "prompt-tuning": 160, "p-tuning": 2352}
    assert begin("dora")[0].size - begin("lora")[0].size == 2 * (32 + 16 + 16 + 32 + 64 + 64 + 32)


@each_variant
def test_the_seed_decides_and_torchs_own_is_left_alone(begin, variant):
    torch.manual_seed(1)
    first = begin(variant, seed=3)[2]
    drawn = torch.rand(1)
    torch.manual_seed(1)
    assert torch.rand(1) == drawn
    torch.manual_seed(2)
    assert begin(variant, seed=3)[2].tobytes() == first.tobytes()
    if variant != "ia3":
        assert begin(variant, seed=4)[2].tobytes() != first.tobytes()
    else:
        assert (first == 1).all()


def test_magnitudes_of_dora_are_the_column_norms_of_the_base(begin, tiny_model):
    manifest, _, start = begin("dora")
    weight = load_base_model(locate_model(str(tiny_model)), torch.float32).model.layers[1].mlp.down_proj.weight
    magnitude = manifest.unpack(start)["base_model.model.model.layers.1.mlp.down_proj.lora_magnitude_vector"]
    np.testing.assert_allclose(magnitude, weight.norm(dim=1).cpu().numpy(), rtol=1e-6)


def test_a_model_without_known_modules_for_ia3(tmp_path):
    from transformers import GPTNeoXJapaneseConfig

    config = GPTNeoXJapaneseConfig(num_hidden_layers=1, hidden_size=32, num_attention_heads=4, vocab_size=99)
    config.save_pretrained(tmp_path)
    with pytest.raises(AdapterError, match=r"adapter\.method does not fit GPTNeoXJapaneseForCausalLM"):
        adapter_layout(locate_model(str(tmp_path)), AdapterValues(4, 8, 0.0, "all-linear", method="ia3"))


@each_variant
def test_virtual_tokens_take_positions(variant, run_config):
    """Of a model with 16 learnt positions, which has no 17th: a prompt method's 5 virtual tokens leave 11 to a row,
    though prefixes lie in the attention cache."""
    from transformers import GPT2Config, GPT2LMHeadModel

    overrides = {key.replace("__", ".").replace("_", "-"): value for key, value in VARIANTS[variant].items()}
    config = parse_run_config(run_config | overrides)
    base = GPT2LMHeadModel(GPT2Config(vocab_size=50, n_positions=16, n_embd=8, n_layer=1, n_head=2))
    model = add_adapter(base, peft_config(adapter_values(config)))
    row = torch.arange(16 - config.adapter.positions)[None]
    model(input_ids=row)
    with pytest.raises(IndexError):
        model(input_ids=torch.cat([row, row[:, :1]], dim=1))
