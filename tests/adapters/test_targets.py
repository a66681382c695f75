"""What an adapter was asked for against what it trains: misspelt names, other modalities, modules without a
gradient."""

import re

import numpy as np
import pytest
import torch
import transformers

from fedllm_app.adapters.layout import AdapterError, Layout, Manifest
from fedllm_app.adapters.methods import (
    AdapterValues,
    adapter_layout,
    add_adapter,
    draw_adapter,
    fitted_config,
    left_out,
    peft_config,
)
from fedllm_app.adapters.reach import unreached
from fedllm_app.adapters.targets import excluded_patterns, exclusion, pattern
from fedllm_app.adapters.view import AdapterView
from fedllm_app.models.base import load_base_model, load_tokenizer, locate_model
from fedllm_app.models.skeleton import skeleton
from fedllm_app.training.head import choose_head, install_head, own_logits
from fedllm_app.training.probe import check_trainable

SMALL = {"vocab_size": 300, "bos_token_id": 0, "eos_token_id": 1, "pad_token_id": 2}


def lora(*targets, **options) -> AdapterValues:
    return AdapterValues(4, 8, 0.0, targets or "all-linear", **options)


def asked(directory, *targets) -> Layout:
    return adapter_layout(locate_model(str(directory)), lora(*targets))


@pytest.fixture
def save(tiny_model, tmp_path):
    """Save a random model of a kind of transformers' with the tiny model's tokenizer."""

    def make(kind: str, model_class: str = "", **config):
        made = getattr(transformers, f"{kind}Config")(**config)
        torch.manual_seed(0)
        getattr(transformers, model_class or f"{kind}ForCausalLM")(made).save_pretrained(tmp_path / kind)
        load_tokenizer(locate_model(str(tiny_model))).save_pretrained(tmp_path / kind)
        return tmp_path / kind

    return make


@pytest.fixture
def seeing(save):
    """A Gemma 3 with a vision tower whose layers have the names of the language model's: q_proj, k_proj, v_proj."""
    return save(
        "Gemma3",
        "Gemma3ForConditionalGeneration",
        text_config=SMALL
        | {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4}
        | {"num_key_value_heads": 2, "head_dim": 8, "sliding_window": 16},
        vision_config={"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4}
        | {"image_size": 28, "patch_size": 14},
        mm_tokens_per_image=4,
        image_token_index=290,
        boi_token_index=291,
        eoi_token_index=292,
    )


@pytest.mark.parametrize(
    ("targets", "named"),
    [
        (("q_proj", "v_porj"), r"'v_porj' is no module of this model \(did you mean 'v_proj'"),
        (("qproj",), r"'qproj' is no module of this model \(did you mean 'q_proj'"),
        (("c_attn", "q_proj"), r"'c_attn' is no module of this model \(its layers are "),
        (("mlp",), r"'mlp' is a LlamaMLP, which LoRA cannot adapt; the layers in it are down_proj, gate_proj, up_proj"),
        (("input_layernorm", "q_proj"), "'input_layernorm' is a LlamaRMSNorm, which LoRA cannot adapt"),
        (("q_porj", "v_porj"), "'q_porj' is no module.*; 'v_porj' is no module"),
        (("attn.q_proj",), "'attn.q_proj' is no module"),
    ],
)
def test_names_that_match_nothing_are_all_named(tiny_model, targets, named):
    with pytest.raises(AdapterError, match=rf"lora\.target-modules: {named}"):
        asked(tiny_model, *targets)


@pytest.mark.parametrize("targets", [("q_proj",), ("self_attn.q_proj", "down_proj"), ("layers.1.mlp.up_proj",)])
def test_names_that_match(tiny_model, targets):
    names = asked(tiny_model, *targets).manifest.names
    for target in targets:
        assert any(f".{target}." in name for name in names)


def test_no_adapter_where_text_does_not_pass(seeing):
    """All linear layers of the language model, none of the vision tower's, whose rows are pictures."""
    layout = asked(seeing)
    assert not [name for name in layout.manifest.names if "vision" in name]
    assert len(layout.manifest.names) == 2 * 2 * 7  # A and B of seven layers in each of two blocks
    assert "no adapter on modules that rows of text do not pass through" in left_out(layout)
    assert "model.vision_tower.encoder.layers.*.self_attn.q_proj" in left_out(layout)


def test_a_name_that_both_towers_have_adapts_the_language_model(seeing):
    layout = asked(seeing, "q_proj")
    assert len(layout.manifest.names) == 2 * 2
    assert all("language_model" in name for name in layout.manifest.names)
    assert "vision_tower" in left_out(layout)


def test_a_name_that_only_the_other_tower_has_is_refused(seeing):
    with pytest.raises(
        AdapterError, match=r"'fc1' is in this model only where rows of text do not pass \(.*vision_tower"
    ):
        asked(seeing, "q_proj", "fc1")


def test_the_left_out_are_left_out_by_clients_and_by_peft(seeing, tmp_path):
    """The settings that are saved exclude them, so that whoever loads them comes to the same layout."""
    layout = asked(seeing)
    base = load_base_model(locate_model(str(seeing)), torch.float32).cpu()
    assert AdapterView(add_adapter(base, layout.settings.peft_config())).manifest == layout.manifest


def test_cross_attention_without_an_encoder(save):
    """The decoder of BART alone: two layers of encoder_attn that no row passes through."""
    directory = save(
        "Bart",
        **SMALL,
        d_model=32,
        decoder_layers=2,
        decoder_attention_heads=4,
        decoder_ffn_dim=64,
        max_position_embeddings=64,
        is_encoder_decoder=False,
        is_decoder=True,
    )
    layout = asked(directory)
    assert not [name for name in layout.manifest.names if "encoder_attn" in name]
    assert len(layout.manifest.names) == 2 * 2 * 6  # q, k, v, out, fc1, fc2


def test_a_model_of_text_alone_loses_nothing(tiny_model):
    layout = asked(tiny_model)
    assert left_out(layout) == ""
    assert layout.settings.values["exclude_modules"] is None


def test_patterns_and_their_regular_expression():
    assert pattern("model.layers.11.mlp.experts.3.up") == "model.layers.*.mlp.experts.*.up"
    patterns = ["model.vision.layers.*.fc-1", "model.merger"]
    assert excluded_patterns(exclusion(patterns)) == patterns
    assert re.fullmatch(exclusion(patterns), "model.vision.layers.12.fc-1")
    assert not re.fullmatch(exclusion(patterns), "model.vision.layers.12.fc-1.inner")
    assert not re.fullmatch(exclusion(patterns), "modelXmerger")


class Idle(torch.nn.Module):
    """A linear layer whose output is compared and not differentiated, as the indexer's in sparse attention."""

    def __init__(self, inner: torch.nn.Module) -> None:
        super().__init__()
        self.inner, self.score = inner, torch.nn.Linear(32, 1)

    def forward(self, hidden, *arguments, **options):
        self.score(hidden.detach()).argmax()
        return self.inner(hidden, *arguments, **options)


def test_a_module_without_a_gradient_is_named_when_weights_are_loaded(tiny_model):
    """Text passes through it, so a walk without values does not find it."""
    base = load_base_model(locate_model(str(tiny_model)), torch.float32).cpu()
    for layer in base.model.layers:
        layer.mlp = Idle(layer.mlp)
    model = add_adapter(base, peft_config(lora()))
    install_head(base, choose_head(base, own_logits(base)))
    with pytest.raises(AdapterError, match=r"never be\s+trained: model\.layers\.\*\.mlp\.score\. Name other modules"):
        check_trainable(model, "lora")
    assert all(parameter.grad is None for parameter in model.parameters())


def test_experts_that_a_short_row_does_not_meet_are_no_idle_modules(save):
    """Two of eight experts read a token, so some layers have no gradient of a row of 8 tokens by chance alone.

    The model is taken, and the look leaves no gradient.
    """
    directory = save(
        "JetMoe",
        **SMALL,
        hidden_size=32,
        num_hidden_layers=2,
        num_key_value_heads=2,
        kv_channels=8,
        intermediate_size=32,
        num_local_experts=8,
        num_experts_per_tok=2,
    )
    base = load_base_model(locate_model(str(directory)), torch.float32).cpu()
    model = add_adapter(base, peft_config(lora()))
    install_head(base, choose_head(base, own_logits(base)))
    check_trainable(model, "lora")
    assert all(parameter.grad is None for parameter in model.parameters())


def test_an_embedding_can_be_trained(tiny_model):
    """It starts with A at zero and B drawn, so the first forward pass is the base's, and A has a gradient; with both at
    zero neither would ever have one.
    """
    layout = asked(tiny_model, "embed_tokens")
    assert [name.rpartition(".")[2] for name in layout.manifest.names] == ["lora_embedding_A", "lora_embedding_B"]
    vector = draw_adapter(layout.manifest, seed=0)
    a, b = (layout.unpack(vector)[name] for name in layout.manifest.names)
    assert a.shape == (4, 300) and b.shape == (32, 4)
    assert not a.any() and b.std() > 0.5
    base = load_base_model(locate_model(str(tiny_model)), torch.float32).cpu()
    tokens = torch.tensor([[5, 6, 7, 8]])
    expected = base(tokens).logits
    model = add_adapter(base, layout.settings.peft_config()).eval()
    view = AdapterView(model)
    view.write(vector)
    torch.testing.assert_close(model(tokens).logits, expected)
    model(tokens).logits.square().sum().backward()
    assert [bool(parameter.grad.abs().max() > 0) for parameter in view.parameters] == [True, False]


def test_a_convolutions_bound_is_that_of_all_its_inputs():
    """A kernel of 4 over 8 channels has 32 inputs: ±1/√32."""
    drawn = draw_adapter(Manifest(("conv.lora_A.weight",), ((16, 8, 4),)), seed=0)
    assert 0.17 < np.abs(drawn).max() <= 1 / np.sqrt(32)


@pytest.mark.parametrize("method", ["prompt-tuning", "p-tuning"])
def test_virtual_tokens_have_the_width_of_the_embedding(save, method):
    """OPT-350m embeds tokens in 16 of its 32 dimensions here and projects them; a virtual token has 16."""
    directory = save(
        "OPT",
        **SMALL,
        hidden_size=32,
        word_embed_proj_dim=16,
        num_hidden_layers=2,
        num_attention_heads=4,
        ffn_dim=64,
        max_position_embeddings=64,
    )
    values = lora(method=method, virtual_tokens=5, encoder_hidden_size=24)
    layout = adapter_layout(locate_model(str(directory)), values)
    assert layout.manifest.shapes[0] == (5, 16)
    base = load_base_model(locate_model(str(directory)), torch.float32).cpu()
    model = add_adapter(base, layout.settings.peft_config()).eval()
    install_head(base, choose_head(base, own_logits(base)))
    check_trainable(model, method)
    assert model(torch.tensor([[5, 6, 7]])).logits.shape == (1, 5 + 3, 300)


def test_virtual_tokens_where_the_configuration_names_no_heads(save):
    """RWKV has neither attention nor heads, which virtual tokens do not need."""
    directory = save("Rwkv", vocab_size=300, hidden_size=32, num_hidden_layers=2, context_length=64)
    layout = adapter_layout(locate_model(str(directory)), lora(method="prompt-tuning", virtual_tokens=5))
    assert layout.manifest.shapes == ((5, 32),)


MODELS_WITHOUT_PREFIX = {
    "Falcon": {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4},  # one key for all its heads
    "Mamba": {"hidden_size": 32, "num_hidden_layers": 2, "state_size": 4},
}


@pytest.mark.parametrize("kind", list(MODELS_WITHOUT_PREFIX))
def test_a_prefix_that_does_not_fit_is_refused_before_weights_are_loaded(save, kind):
    directory = save(kind, **SMALL, **MODELS_WITHOUT_PREFIX[kind])
    with pytest.raises(AdapterError, match=r"adapter\.method (= 'prefix-tuning' )?does not fit"):
        adapter_layout(locate_model(str(directory)), lora(method="prefix-tuning", virtual_tokens=5))


def test_a_prefix_that_is_not_read_is_refused(save):
    """Mamba 2 has heads and no attention cache: the prefix would be handed on and never looked at.

    Its forward pass depends on values, so it takes its weights to know.
    """
    directory = save(
        "Mamba2", **SMALL, hidden_size=32, num_hidden_layers=1, state_size=4, num_heads=8, head_dim=8, n_groups=1
    )
    base = load_base_model(locate_model(str(directory)), torch.float32).cpu()
    values = lora(method="prefix-tuning", virtual_tokens=5)
    model = add_adapter(base, fitted_config(base, values)).eval()
    install_head(base, choose_head(base, own_logits(base)))
    with pytest.raises(AdapterError, match="nothing of the adapter takes part in the forward pass"):
        check_trainable(model, "prefix-tuning")


def test_a_model_that_cannot_be_walked_through_is_left_to_the_load(tiny_model):
    """Its forward pass depends on a value, which there is none of on the meta device."""
    base = skeleton(locate_model(str(tiny_model)))
    base.model.layers[0].register_forward_pre_hook(lambda _module, arguments: bool(arguments[0].sum() > 0) and None)
    model = add_adapter(base, peft_config(lora()))
    assert unreached(model, "lora") == []


def test_peft_refuses_and_the_layers_are_named(save):
    """PEFT knows that Mamba's fast path reads out_proj without its adapter."""
    directory = save("Mamba", **SMALL, **MODELS_WITHOUT_PREFIX["Mamba"])
    with pytest.raises(
        AdapterError, match=r"lora\.target-modules does not fit MambaForCausalLM: .*layers of this model: "
    ):
        asked(directory)
    assert asked(directory, "in_proj", "x_proj").size > 0
