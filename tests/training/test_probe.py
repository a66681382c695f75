"""One row through a loaded model: models that see what they are to predict, forward passes that fail."""

import pytest
import torch
import transformers

from fedllm_app.adapters.layout import AdapterError
from fedllm_app.adapters.methods import AdapterValues, add_adapter, peft_config
from fedllm_app.models.base import load_base_model, load_tokenizer, locate_model
from fedllm_app.models.files import UnusableModel
from fedllm_app.models.location import ModelLocation, ModelValues
from fedllm_app.training.head import install_head, probe_row
from fedllm_app.training.probe import check_trainable, probe_base
from fedllm_app.training.resident import Resident, ResidentKey

HERE = ModelLocation("/somewhere", "some-model")


def made(kind: str, **changes):
    from transformers import AutoModelForCausalLM

    names = {
        "vocab_size": 300,
        "hidden_size": 32,
        "intermediate_size": 64,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "bos_token_id": 0,
        "eos_token_id": 1,
        "pad_token_id": 2,
    }
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return AutoModelForCausalLM.from_config(getattr(transformers, f"{kind}Config")(**names | changes)).eval()


def refusal(base) -> str:
    """Why a model is refused; "" if it is not."""
    try:
        probe_base(base, HERE)
    except UnusableModel as error:
        return str(error)
    return ""


@pytest.mark.parametrize(
    ("kind", "changes"),
    [
        ("Bert", {}),
        ("RoFormer", {}),
        ("MegatronBert", {}),
        ("RemBert", {"input_embedding_size": 16, "output_embedding_size": 16}),
        ("XLNet", {"d_model": 32, "n_layer": 2, "n_head": 4, "d_inner": 64}),
    ],
)
def test_a_model_that_sees_the_future_is_refused_by_name(kind, changes):
    """Some say so in their configuration (BERT), of others only their logits tell (RoFormer, XLNet)."""
    base = made(kind, **changes)
    with pytest.raises(UnusableModel, match=rf"'some-model' is no causal language model: in {type(base).__name__}"):
        probe_base(base, HERE)


@pytest.mark.parametrize(
    ("kind", "changes"),
    [
        ("Llama", {"num_key_value_heads": 2}),
        ("Bert", {"is_decoder": True}),
        ("GPTNeoX", {}),  # its configuration has `is_decoder: false`
        ("Mamba", {"state_size": 4}),
        ("Mixtral", {"num_key_value_heads": 2, "num_local_experts": 4}),
    ],
)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_model_that_does_not_is_taken(kind, changes, dtype):
    assert refusal(made(kind, **changes).to(dtype)) == ""


@pytest.mark.parametrize("quantization", ["int8", "nf4"])
def test_quantized_models_are_taken(wide_model, quantization):
    """8-bit layers round by what else is in the batch; that is not taken for a look into the future."""
    base = load_base_model(locate_model(str(wide_model)), torch.bfloat16, quantization=quantization)
    assert refusal(base) == ""


def test_a_forward_pass_that_fails_is_one_sentence():
    base = made("Llama", num_key_value_heads=2)
    base.model.layers[1].register_forward_pre_hook(lambda *_: [][0])
    with pytest.raises(
        UnusableModel, match=r"the forward pass of LlamaForCausalLM fails on a row of text \(IndexError"
    ):
        probe_base(base, HERE)


def test_running_out_of_memory_is_no_fault_of_the_model():
    base = made("Llama", num_key_value_heads=2)

    def fail(*_):
        raise torch.OutOfMemoryError("no room")

    base.model.layers[1].register_forward_pre_hook(fail)
    with pytest.raises(torch.OutOfMemoryError):
        probe_base(base, HERE)


def test_an_adapter_that_breaks_the_forward_pass_is_one_sentence():
    """Routers of some models are linear layers that return two tensors, which LoRA does not expect."""
    base = made("Llama", num_key_value_heads=2)
    model = add_adapter(base, peft_config(AdapterValues(4, 8, 0.0, ("q_proj",))))
    install_head(base, "completion")
    base.model.layers[0].self_attn.q_proj.register_forward_hook(lambda *_: (1).missing)
    with pytest.raises(
        AdapterError, match="adapter.method = 'lora' does not fit LlamaForCausalLM.*lora.target-modules"
    ):
        check_trainable(model, "lora")


def test_the_probes_row_holds_no_special_token():
    base = made("Llama", num_key_value_heads=2, eos_token_id=[75, 93], pad_token_id=111)
    row = probe_row(base)[0].tolist()
    assert len(set(row)) == 8 and not {75, 93, 111} & set(row)
    assert all(0 <= number < 300 for number in row)


def test_a_tiny_vocabulary_is_enough():
    row = probe_row(made("Llama", num_key_value_heads=2, vocab_size=12))
    assert row.shape == (1, 8) and int(row.max()) < 12


def test_a_loaded_model_was_probed(tiny_model, tmp_path):
    """Of a site whose copy of the model is another one than the server's."""
    config = transformers.RoFormerConfig(
        vocab_size=300, hidden_size=32, num_hidden_layers=1, num_attention_heads=4, intermediate_size=32
    )
    transformers.RoFormerForCausalLM(config).save_pretrained(tmp_path)
    load_tokenizer(locate_model(str(tiny_model))).save_pretrained(tmp_path)
    values = ModelValues(str(tmp_path), "float32")
    with pytest.raises(UnusableModel, match="in RoFormerForCausalLM"):
        _ = Resident(ResidentKey("sft", values, AdapterValues(4, 8, 0.0, "all-linear"))).model


def test_ids_beyond_the_embedding_are_refused(model):
    """The tiny model's embedding has 300 rows."""
    model.check_ids(299)
    with pytest.raises(UnusableModel, match=r"whose id 300 is beyond the 300 rows of the model's embedding"):
        model.check_ids(300)
