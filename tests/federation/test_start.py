"""Where runs start: models of many kinds through a whole run, notes in the journal, adapters to go on from."""

import json
import shutil

import pytest
import torch
import transformers
from in_process import run_in_process
from safetensors.torch import load_file, save_file

from fedllm_app.adapters.layout import AdapterError
from fedllm_app.config.parse import parse_run_config
from fedllm_app.evaluation.conversation import Chat, find_source
from fedllm_app.federation.start import checked_start, starting_point
from fedllm_app.models.base import load_tokenizer, locate_model
from fedllm_app.runs.directory import read_journal

SMALL = {
    "vocab_size": 300,
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 8,
    "max_position_embeddings": 512,
    "bos_token_id": 0,
    "eos_token_id": 1,
    "pad_token_id": 2,
}


@pytest.fixture
def save(tiny_model, tmp_path):
    """Save a random model of a kind of transformers' with the tiny model's tokenizer."""

    def make(kind: str, **config) -> str:
        torch.manual_seed(0)
        made = getattr(transformers, f"{kind}Config")(**SMALL | config)
        transformers.AutoModelForCausalLM.from_config(made).save_pretrained(tmp_path / kind)
        load_tokenizer(locate_model(str(tiny_model))).save_pretrained(tmp_path / kind)
        return str(tmp_path / kind)

    return make


@pytest.fixture
def short(run_config):
    """One round of two clients, two steps each."""
    return run_config | {"train.rounds": 1, "clients.number": 2, "evaluate.every": 1, "run.checkpoint-every": 0}


@pytest.mark.slow
@pytest.mark.parametrize("length", [128, 256])
def test_a_model_without_sdpa_runs_and_answers(save, short, tmp_path, length):
    """Gemma 2. Rows of 128 tokens are trained with eager attention on a CPU; of longer ones the model's class is
    asked, and
    so it is by the chat.
    """
    model = save("Gemma2", sliding_window=16, query_pre_attn_scalar=8, final_logit_softcapping=3.0)
    run_in_process(short | {"model.name": model, "train.max-length": length}, tmp_path / "run")
    answer = Chat(find_source(tmp_path / "run"), max_new_tokens=4).answer([("user", "hi")])
    assert isinstance(answer, str)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("kind", "config"),
    [
        (
            "RecurrentGemma",
            {"num_hidden_layers": 3, "block_types": ("recurrent", "recurrent", "attention")}
            | {"lru_width": 32, "attention_window_size": 64, "intermediate_size": 192},
        ),
        ("OPT", {"ffn_dim": 64, "word_embed_proj_dim": 16}),
    ],
)
@pytest.mark.parametrize("method", ["lora", "prompt-tuning"])
def test_what_is_evaluated_is_what_the_model_computes(save, short, tmp_path, kind, config, method):
    """Held-out loss before round 1 is close to that of a uniform guess, ln 300 = 5.70: its weights are drawn small."""
    overrides = {"model.name": save(kind, **config), "adapter.method": method, "adapter.virtual-tokens": 4}
    run_in_process(short | overrides, tmp_path / "run")
    losses = [event["eval_loss"] for event in read_journal(tmp_path / "run") if event["event"] == "evaluation"]
    assert losses[0] == pytest.approx(5.70, abs=0.15)
    assert losses[1] < losses[0]


def test_what_is_not_used_is_in_the_journal(tiny_model, short, tmp_path):
    copy = shutil.copytree(tiny_model, tmp_path / "copy")
    tensors = load_file(copy / "model.safetensors") | {"v_head.summary.weight": torch.ones(1, 32)}
    save_file(tensors, copy / "model.safetensors", metadata={"format": "pt"})
    run_in_process(short | {"model.name": str(copy)}, tmp_path / "run")
    warnings = [event["reason"] for event in read_journal(tmp_path / "run") if event["event"] == "warning"]
    assert len(warnings) == 1
    assert "1 weights in the model's files are no part of LlamaForCausalLM and are not used" in warnings[0]


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_a_run_goes_on_from_an_adapter_in_16_bits(short, tmp_path, dtype):
    run_in_process(short, tmp_path / "first")
    file = tmp_path / "elsewhere" / "adapter_model.safetensors"
    file.parent.mkdir()
    (file.parent / "adapter_config.json").write_bytes((tmp_path / "first/adapter/adapter_config.json").read_bytes())
    saved = {
        name: tensor.to(dtype)
        for name, tensor in load_file(tmp_path / "first/adapter/adapter_model.safetensors").items()
    }
    save_file(saved, file)
    config = parse_run_config(short | {"adapter.start": str(file.parent)})
    start = starting_point(config)
    read = start.layout.unpack(start.full)
    assert all((torch.from_numpy(read[name].copy()) == tensor.float()).all() for name, tensor in saved.items())
    assert start.notes == ()


def test_a_start_is_checked_without_weights_or_clients(short, tmp_path):
    """What differs, and what is told of, in one look."""
    run_in_process(short, tmp_path / "first")
    settings = tmp_path / "first/adapter/adapter_config.json"
    settings.write_text(json.dumps(json.loads(settings.read_text()) | {"lora_dropout": 0.1}))
    go_on = short | {"adapter.start": str(tmp_path / "first")}
    assert checked_start(parse_run_config(go_on)).notes == (
        "adapter.start: it was trained with lora_dropout = 0.1, lora.dropout = 0.0 here",
    )
    with pytest.raises(AdapterError, match="scale: 2 there"):
        checked_start(parse_run_config(go_on | {"lora.alpha": 32}))
