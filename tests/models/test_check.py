"""Base models held against their files: before a run without weights, and when they are loaded."""

import json
import shutil

import pytest
import torch
from safetensors.torch import load_file, save_file

from fedllm_app.models.base import (
    ModelValues,
    load_base_model,
    load_model_config,
    load_tokenizer,
    locate_model,
)
from fedllm_app.models.check import check_model, tokenizer_notes
from fedllm_app.models.files import UnusableModel
from fedllm_app.models.packaged import ModelNotFound

Q = "model.layers.1.self_attn.q_proj.weight"


@pytest.fixture
def copy(tiny_model, tmp_path):
    """A copy of the tiny model that may be damaged."""
    return shutil.copytree(tiny_model, tmp_path / "copy")


@pytest.fixture
def change(copy):
    """Change the weights and the configuration of the copy; a weight of None is taken out."""

    def apply(weights=(), **config):
        tensors = load_file(copy / "model.safetensors")
        for name, tensor in dict(weights).items():
            if tensor is None:
                del tensors[name]
            else:
                tensors[name] = tensor
        save_file(tensors, copy / "model.safetensors", metadata={"format": "pt"})
        settings = json.loads((copy / "config.json").read_text())
        (copy / "config.json").write_text(json.dumps(settings | config))
        return copy

    return apply


def values_of(directory, **options):
    return locate_model(str(directory)), ModelValues(str(directory), "float32", **options)


def assert_both_refuse(directory, match, **options):
    """The check without weights and the load refuse with the same words."""
    location, values = values_of(directory, **options)
    for look in (
        lambda: check_model(location, values),
        lambda: load_base_model(location, torch.float32, values.attention, values.quantization),
    ):
        with pytest.raises(UnusableModel, match=match):
            look()


def test_a_sound_model_is_told_nothing_of(tiny_model, wide_model):
    for directory in (tiny_model, wide_model):
        assert check_model(*values_of(directory)) == ()


def test_a_missing_weight_is_named(change):
    assert_both_refuse(change({Q: None}), f"1 weights are not in its files and would be drawn at random: {Q}")


def test_a_weight_of_another_shape_is_named(change):
    assert_both_refuse(
        change({Q: torch.zeros(16, 32)}), rf"another shape than config\.json says: {Q} \(16, 32\), not \(32, 32\)"
    )


def test_more_layers_than_the_configuration_says(change):
    """One layer of two would be left out in silence: half of the model."""
    assert_both_refuse(
        change(num_hidden_layers=1), "9 weights are in its files that config.json has no place for.*model.layers.1"
    )


def test_fewer_layers_than_the_configuration_says(change):
    assert_both_refuse(change(num_hidden_layers=3), "9 weights are not in its files")


def test_a_bias_that_the_configuration_switches_off(change):
    bias = Q.replace("weight", "bias")
    assert_both_refuse(change({bias: torch.ones(32)}), f"has no place for, though it has modules of that name: {bias}")


def test_a_tied_head_is_no_missing_weight(change):
    directory = change({"lm_head.weight": None}, tie_word_embeddings=True)
    assert check_model(*values_of(directory)) == ()
    model = load_base_model(locate_model(str(directory)), torch.float32)
    assert model.lm_head.weight is model.model.embed_tokens.weight


def test_a_head_that_is_not_tied_is_one(change):
    assert_both_refuse(change({"lm_head.weight": None}), "lm_head.weight")


def test_parts_of_another_model_are_told_of(change, caplog):
    """A value head, a vision tower: the language model is whole without them."""
    directory = change({"v_head.summary.weight": torch.ones(1, 32), "vision.layers.0.fc.weight": torch.ones(2, 2)})
    location, values = values_of(directory)
    (note,) = check_model(location, values)
    assert "2 weights in the model's files are no part of LlamaForCausalLM and are not used" in note
    load_base_model(location, torch.float32)
    assert note in caplog.text


def test_what_was_found_is_kept_until_a_file_changes(change, monkeypatch):
    directory = change()
    location, values = values_of(directory)
    check_model(location, values)
    monkeypatch.setattr("fedllm_app.models.check.skeleton", lambda *_, **__: pytest.fail("looked again"))
    assert check_model(location, values) == ()
    change({Q: None})
    with pytest.raises(BaseException, match="looked again"):
        check_model(location, values)


def test_a_base_that_is_stored_quantized(copy, change):
    assert_both_refuse(change(quantization_config={"quant_method": "gptq", "bits": 4}), "quant_method = 'gptq'")
    stored = {"quant_method": "bitsandbytes", "load_in_4bit": True, "bnb_4bit_quant_type": "nf4"}
    assert_both_refuse(change(quantization_config=stored), r"set model\.quantization = 'nf4'")


def test_a_base_that_is_stored_in_4_bits_is_loaded_as_such(wide_model, tmp_path):
    """It gives the logits of the same weights quantized at loading, multiplied in the dtype that is asked for, whatever
    dtype its own configuration names for that.
    """
    location = locate_model(str(wide_model))
    expected = load_base_model(location, torch.bfloat16, quantization="nf4")
    expected.save_pretrained(tmp_path / "stored")
    load_tokenizer(location).save_pretrained(tmp_path / "stored")
    settings = json.loads((tmp_path / "stored/config.json").read_text())
    settings["quantization_config"]["bnb_4bit_compute_dtype"] = "float32"
    (tmp_path / "stored/config.json").write_text(json.dumps(settings))
    stored = locate_model(str(tmp_path / "stored"))
    assert check_model(stored, ModelValues(stored.name, "bfloat16", quantization="nf4")) == ()
    model = load_base_model(stored, torch.bfloat16, quantization="nf4")
    assert model.model.layers[0].mlp.up_proj.compute_dtype == torch.bfloat16
    tokens = torch.tensor([[5, 6, 7, 8]], device=model.device)
    torch.testing.assert_close(model(tokens).logits, expected(tokens).logits)


def test_an_adapter_in_the_models_directory(copy):
    (copy / "adapter_config.json").write_text("{}")
    assert_both_refuse(copy, "holds an adapter")


def test_an_encoder_decoder_model_is_one_sentence(tmp_path):
    from transformers import T5Config

    T5Config(d_model=32, num_layers=1, num_heads=2, d_ff=32, vocab_size=300).save_pretrained(tmp_path)
    (tmp_path / "model.safetensors").write_bytes((2).to_bytes(8, "little") + b"{}")
    with pytest.raises(UnusableModel, match=r"is an encoder-decoder model \(t5\): name a decoder-only model") as caught:
        check_model(*values_of(tmp_path))
    assert len(str(caught.value)) < 400


def test_a_model_of_another_task(tmp_path):
    from transformers import ViTConfig

    ViTConfig(hidden_size=32, num_hidden_layers=1).save_pretrained(tmp_path)
    (tmp_path / "model.safetensors").write_bytes((2).to_bytes(8, "little") + b"{}")
    with pytest.raises(
        UnusableModel, match="a model of type 'vit', which transformers knows no causal language model of"
    ):
        check_model(*values_of(tmp_path))


@pytest.mark.parametrize(("decoder", "fits"), [(False, False), (True, True)])
def test_bert_is_refused_unless_it_is_a_decoder(tiny_model, tmp_path, decoder, fits):
    from transformers import BertConfig, BertLMHeadModel

    config = BertConfig(
        vocab_size=300,
        hidden_size=32,
        num_hidden_layers=1,
        num_attention_heads=4,
        intermediate_size=32,
        is_decoder=decoder,
    )
    BertLMHeadModel(config).save_pretrained(tmp_path)
    load_tokenizer(locate_model(str(tiny_model))).save_pretrained(tmp_path)
    if fits:
        assert check_model(*values_of(tmp_path)) == ()
    else:
        with pytest.raises(UnusableModel, match="no causal language model: in BertLMHeadModel"):
            check_model(*values_of(tmp_path))


def test_attention_that_the_model_has_not(tiny_model, tmp_path):
    """Gemma 2 caps its attention scores, which sdpa cannot; Bloom's class has none either."""
    from transformers import BloomConfig, BloomForCausalLM

    BloomForCausalLM(BloomConfig(vocab_size=300, hidden_size=32, n_layer=1, n_head=4)).save_pretrained(tmp_path)
    load_tokenizer(locate_model(str(tiny_model))).save_pretrained(tmp_path)
    assert_both_refuse(
        tmp_path, r"model\.attention = 'sdpa' does not work with.*Set model\.attention = 'auto'", attention="sdpa"
    )
    location, values = values_of(tmp_path)
    assert check_model(location, values) == ()
    assert load_base_model(location, torch.float32).config._attn_implementation == "eager"
    assert load_base_model(locate_model(str(tiny_model)), torch.float32).config._attn_implementation == "sdpa"


def test_flash_attention_is_a_matter_of_the_client(tiny_model):
    location, values = values_of(tiny_model, attention="flash_attention_2")
    assert check_model(location, values) == ()
    with pytest.raises(UnusableModel, match=r"model\.attention = 'flash_attention_2' does not work"):
        load_base_model(location, torch.bfloat16, "flash_attention_2")


def test_gradient_checkpointing_that_the_model_has_not(tiny_model, tmp_path):
    from transformers import OpenAIGPTConfig, OpenAIGPTLMHeadModel

    config = OpenAIGPTConfig(vocab_size=300, n_embd=32, n_layer=1, n_head=4)
    OpenAIGPTLMHeadModel(config).save_pretrained(tmp_path)
    load_tokenizer(locate_model(str(tiny_model))).save_pretrained(tmp_path)
    location, values = values_of(tmp_path)
    assert check_model(location, values) == ()
    with pytest.raises(
        UnusableModel, match=r"train\.gradient-checkpointing = true: OpenAIGPTLMHeadModel does not support it"
    ):
        check_model(location, values, checkpointing=True)


class TestOwnCode:
    """A model that brings its own configuration and class."""

    @pytest.fixture
    def directory(self, copy):
        (copy / "configuration_mine.py").write_text(
            "from transformers import LlamaConfig\n\n\nclass MineConfig(LlamaConfig):\n    model_type = 'mine'\n"
        )
        (copy / "modeling_mine.py").write_text(
            "from transformers import LlamaForCausalLM\n\nfrom .configuration_mine import MineConfig\n\n\n"
            "class MineForCausalLM(LlamaForCausalLM):\n    config_class = MineConfig\n"
        )
        settings = json.loads((copy / "config.json").read_text()) | {
            "model_type": "mine",
            "architectures": ["MineForCausalLM"],
            "auto_map": {
                "AutoConfig": "configuration_mine.MineConfig",
                "AutoModelForCausalLM": "modeling_mine.MineForCausalLM",
            },
        }
        (copy / "config.json").write_text(json.dumps(settings))
        return copy

    def test_is_not_run_and_nobody_is_asked(self, directory, monkeypatch):
        monkeypatch.setattr("builtins.input", lambda *_: pytest.fail("asked on the terminal"))
        for look in (
            lambda location: check_model(location, ModelValues("x", "float32")),
            load_model_config,
            lambda location: load_base_model(location, torch.float32),
        ):
            with pytest.raises(
                ModelNotFound, match=r"model\.trust-remote-code = true \(fedllm chat: --trust-remote-code"
            ):
                look(locate_model(str(directory)))

    def test_is_run_where_it_is_trusted(self, directory):
        location = locate_model(str(directory), trust_remote_code=True)
        assert check_model(location, ModelValues("x", "float32", trust_remote_code=True)) == ()
        assert type(load_base_model(location, torch.float32)).__name__ == "MineForCausalLM"

    def test_weights_are_checked_there_too(self, directory, change):
        change({Q: None})
        location = locate_model(str(directory), trust_remote_code=True)
        with pytest.raises(UnusableModel, match=Q):
            check_model(location, ModelValues("x", "float32", trust_remote_code=True))

    def test_another_code_is_looked_at_again(self, directory, monkeypatch):
        """What is kept of a model depends on its code, not on its configuration alone."""
        location = locate_model(str(directory), trust_remote_code=True)
        values = ModelValues("x", "float32", trust_remote_code=True)
        check_model(location, values)
        monkeypatch.setattr("fedllm_app.models.check.skeleton", lambda *_, **__: pytest.fail("looked again"))
        assert check_model(location, values) == ()
        (directory / "modeling_mine.py").write_text("")
        with pytest.raises(BaseException, match="looked again"):
            check_model(location, values)

    def test_a_tokenizer_of_its_own(self, copy):
        settings = json.loads((copy / "tokenizer_config.json").read_text())
        settings |= {"tokenizer_class": "Mine", "auto_map": {"AutoTokenizer": ["tokenization_mine.Mine", None]}}
        (copy / "tokenizer_config.json").write_text(json.dumps(settings))
        with pytest.raises(ModelNotFound, match=r"model\.trust-remote-code"):
            load_tokenizer(locate_model(str(copy)))


class TestTokenizers:
    """The tiny model's embedding has 300 rows, its tokenizer ids 0 to 258."""

    def test_with_more_tokens_than_rows(self, copy, change):
        """As after `add_tokens` without `resize_token_embeddings`: 258 + 42 is the first id beyond."""
        tokenizer = load_tokenizer(locate_model(str(copy)))
        tokenizer.add_tokens([f"<new{n}>" for n in range(42)])
        tokenizer.save_pretrained(copy)
        location, values = values_of(copy)
        (note,) = check_model(location, values)
        assert "1 added tokens beyond the 300 rows of the embedding ('<new41>')" in note

    def test_of_another_model(self, copy, change):
        embedding = torch.zeros(200, 32)
        change({"model.embed_tokens.weight": embedding, "lm_head.weight": embedding.clone()}, vocab_size=200)
        with pytest.raises(UnusableModel, match="59 tokens beyond the 200 rows of the model's embedding"):
            check_model(*values_of(copy))

    def test_whose_padding_is_beyond(self, copy):
        tokenizer = load_tokenizer(locate_model(str(copy)))
        tokenizer.add_tokens([f"<new{n}>" for n in range(41)])
        tokenizer.add_special_tokens({"pad_token": "<padding>"})
        assert tokenizer.pad_token_id == 300
        with pytest.raises(UnusableModel, match="'<padding>'"):
            tokenizer_notes(tokenizer, 300, locate_model(str(copy)))
