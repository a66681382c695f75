"""The head on completion positions against transformers' logits of all positions."""

import numpy as np
import pytest
import torch
import transformers
from torch import nn

from fedllm_app.adapters.methods import AdapterValues, add_adapter, peft_config
from fedllm_app.adapters.view import AdapterView
from fedllm_app.models.base import load_base_model, locate_model
from fedllm_app.training import head
from fedllm_app.training.head import choose_head, completion_log_probs, install_head, own_logits, score_completions

IDS = torch.tensor(np.random.default_rng(0).integers(3, 300, (3, 9)))
# Rows of 9, 6 and 7 tokens, padded on the right; completions begin at 4, 5 and 1: 5 + 1 + 6 = 12 labels.
LENGTHS, STARTS = [9, 6, 7], [4, 5, 1]
LABELS = torch.full_like(IDS, -100)
MASK = torch.zeros_like(IDS)
for row, (length, start) in enumerate(zip(LENGTHS, STARTS, strict=True)):
    LABELS[row, start:length] = IDS[row, start:length]
    MASK[row, :length] = 1
PADDED = IDS * MASK


@pytest.fixture
def model(tiny_model):
    """The tiny model with an adapter whose A and B are both not zero."""
    base = load_base_model(locate_model(str(tiny_model)), torch.float32).cpu()
    adapted = add_adapter(base, peft_config(AdapterValues(4, 8, 0.0, ("q_proj", "v_proj")))).eval()
    view = AdapterView(adapted)
    view.write(np.random.default_rng(1).normal(0, 0.3, view.manifest.size).astype(np.float32))
    return adapted


def full_log_probs(model):
    """Log-probabilities (batch, length - 1, vocabulary) from the whole logits, with the attention mask."""
    logits = model(input_ids=PADDED, attention_mask=MASK).logits
    return logits[:, :-1].log_softmax(-1)


def full_loss(model):
    return nn.functional.nll_loss(full_log_probs(model).flatten(0, 1), LABELS[:, 1:].flatten(), reduction="sum")


def completion_loss(base, ids, labels):
    """Summed negative log-likelihood of the labels by the head under test, and which were most likely."""
    log_probs, correct, _ = completion_log_probs(base, labels, input_ids=ids)
    return -log_probs.sum(), correct


def gradients(model, loss):
    model.zero_grad()
    loss.backward()
    return [parameter.grad.clone() for parameter in model.parameters() if parameter.requires_grad]


@pytest.mark.parametrize("piece", [1, 3, 12, 256])
def test_loss_and_gradients_are_transformers(model, monkeypatch, piece):
    """12 labelled positions, in pieces of 1, 3, 12 and all in one."""
    monkeypatch.setattr(head, "PIECE", piece)
    expected = full_loss(model)
    loss, _ = completion_loss(model.get_base_model(), PADDED, LABELS)
    torch.testing.assert_close(loss, expected, rtol=1e-5, atol=0)
    expected_gradients = gradients(model, expected)
    assert min(gradient.abs().max() for gradient in expected_gradients) > 1e-3
    torch.testing.assert_close(gradients(model, loss), expected_gradients, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("piece", [5, 256])
def test_log_probs_position_by_position(model, monkeypatch, piece):
    monkeypatch.setattr(head, "PIECE", piece)
    log_probs, _, scored = completion_log_probs(model.get_base_model(), LABELS, input_ids=PADDED)
    assert scored.sum(1).tolist() == [5, 1, 6]
    expected = full_log_probs(model)[scored].gather(1, LABELS[:, 1:][scored][:, None])[:, 0]
    torch.testing.assert_close(log_probs, expected, rtol=1e-5, atol=1e-6)


def test_gradient_of_a_weighted_sum(model):
    """DPO weighs each row's log-probability otherwise: position i with weight i - 5 here."""
    weights = torch.arange(12.0) - 5
    log_probs, _, scored = completion_log_probs(model.get_base_model(), LABELS, input_ids=PADDED)
    expected = full_log_probs(model)[scored].gather(1, LABELS[:, 1:][scored][:, None])[:, 0]
    torch.testing.assert_close(
        gradients(model, (weights * log_probs).sum()),
        gradients(model, (weights * expected).sum()),
        rtol=1e-5,
        atol=1e-4,
    )


def test_correct_says_whether_the_label_is_the_most_likely_token(model):
    """Labels replaced by the model's own choice at every second position."""
    choice = full_log_probs(model).argmax(-1)
    labels = LABELS.clone()
    labels[:, 1::2] = torch.where(LABELS[:, 1::2] == -100, -100, choice[:, ::2])
    scored = labels[:, 1:] != -100
    expected = choice[scored] == labels[:, 1:][scored]
    assert 0 < expected.sum() < 12
    _, correct = completion_loss(model.get_base_model(), PADDED, labels)
    assert torch.equal(correct, expected)


def test_right_padding_needs_no_attention_mask(model):
    base = model.get_base_model()
    without, _, _ = completion_log_probs(base, LABELS, input_ids=PADDED)
    masked, _, _ = completion_log_probs(base, LABELS, input_ids=PADDED, attention_mask=MASK)
    torch.testing.assert_close(without, masked, rtol=1e-5, atol=1e-6)


def test_padding_is_never_seen(model):
    """Whatever stands where there is padding, each row's numbers are those of the row alone."""
    base = model.get_base_model()
    together, _, _ = completion_log_probs(base, LABELS, input_ids=IDS)
    alone = [
        completion_log_probs(base, LABELS[row : row + 1, :length], input_ids=IDS[row : row + 1, :length])[0]
        for row, length in enumerate(LENGTHS)
    ]
    torch.testing.assert_close(together, torch.cat(alone), rtol=1e-5, atol=1e-6)


def test_the_first_token_has_no_prediction(model):
    """A label at position 0 has nothing before it: 9 tokens labelled, 8 scored."""
    _, correct = completion_loss(model.get_base_model(), IDS[:1], IDS[:1])
    assert len(correct) == 8


def test_without_gradients_the_loss_is_the_same(model):
    expected, _ = completion_loss(model.get_base_model(), PADDED, LABELS)
    with torch.no_grad():
        loss, _ = completion_loss(model.get_base_model(), PADDED, LABELS)
    assert torch.equal(loss, expected.detach())
    assert not loss.requires_grad


def test_bfloat16_model_gives_float32_losses(tiny_model):
    base = load_base_model(locate_model(str(tiny_model)), torch.bfloat16).cpu()
    loss, _ = completion_loss(base, PADDED, LABELS)
    assert loss.dtype == torch.float32
    torch.testing.assert_close(loss, full_loss(base.float()), rtol=0.02, atol=0)


SMALL = {
    "vocab_size": 300,
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "bos_token_id": 0,
    "eos_token_id": 1,
    "pad_token_id": 2,
}
GROUPED = {"num_key_value_heads": 2, "head_dim": 8}


def small_model(kind: str, spread: float = 0.02, **changes):
    """A random model of a kind of transformers', whose logits are as small as `spread` makes them."""
    from transformers import AutoModelForCausalLM

    config = getattr(transformers, f"{kind}Config")(**SMALL | changes)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        base = AutoModelForCausalLM.from_config(config).eval()
        with torch.no_grad():
            for parameter in base.parameters():
                if parameter.dim() > 1:
                    parameter.normal_(0, spread)
    return base


KINDS = {
    "Llama": ("completion", GROUPED),
    "OPT": ("completion", {"ffn_dim": 64, "word_embed_proj_dim": 16}),
    "Bloom": ("completion", {}),
    "GPT2": ("completion", {"n_embd": 32, "n_layer": 2, "n_head": 4}),
    "Gemma2": ("general", GROUPED | {"query_pre_attn_scalar": 8, "final_logit_softcapping": 30.0}),
    "Cohere": ("general", GROUPED | {"logit_scale": 0.0625}),
    "Granite": ("general", GROUPED | {"logits_scaling": 8.0}),
    "ModernBertDecoder": ("own", {"cls_token_id": 0, "sep_token_id": 1}),
    "RecurrentGemma": (
        "own",
        {"num_hidden_layers": 3, "block_types": ("recurrent", "recurrent", "attention"), "lru_width": 32, "head_dim": 8}
        | {"intermediate_size": 192, "attention_window_size": 64, "logits_soft_cap": 30.0},
    ),
    "Bert": ("own", {"is_decoder": True}),
    "xLSTM": ("own", {"num_heads": 4, "output_logit_soft_cap": 30.0}),
}


@pytest.mark.parametrize("kind", list(KINDS))
@pytest.mark.parametrize("spread", [0.02, 0.2])
def test_the_head_gives_what_the_models_own_logits_give(kind, spread):
    """Whatever a model does between backbone and logits.

    With a spread of 0.02 its logits are some tenths, where a cap of
    30 changes them in the sixth digit: it must be noticed all the same, because training makes logits grow.
    """
    expected, changes = KINDS[kind]
    base = small_model(kind, spread, **changes)
    kind_of_head = choose_head(base, own_logits(base))
    assert kind_of_head == expected
    logits = base(input_ids=PADDED, attention_mask=MASK, use_cache=False).logits.float()
    targets = LABELS[:, 1:].clamp(min=0)[..., None]
    right = logits[:, :-1].log_softmax(-1).gather(2, targets)[..., 0] * (LABELS[:, 1:] != -100)
    install_head(base, kind_of_head)
    scored = base(input_ids=PADDED, attention_mask=MASK, labels=LABELS, use_cache=False, fused_lm_head=True)
    torch.testing.assert_close(scored.log_probs, right, rtol=1e-4, atol=1e-4)


def test_a_head_of_another_model_is_not_taken():
    """The Llama's logits halved by code that no configuration names."""
    base = small_model("Llama", **GROUPED)
    base.lm_head.register_forward_hook(lambda _module, _arguments, output: output / 2)
    assert choose_head(base, own_logits(base)) == "own"


def test_the_cap_is_seen_in_bfloat16():
    """Rounded to 8 bits, logits of 0.1 and their cap at 30 are the same numbers."""
    base = small_model("RecurrentGemma", **KINDS["RecurrentGemma"][1]).bfloat16()
    assert choose_head(base, own_logits(base)) == "own"
    llama = small_model("Llama", **GROUPED).bfloat16()
    assert choose_head(llama, own_logits(llama)) == "completion"


@pytest.mark.parametrize("kind", ["completion", "general", "own"])
def test_gradients_of_every_head_are_those_of_the_whole_logits(model, kind):
    expected = gradients(model, full_loss(model))
    install_head(model.get_base_model(), kind)
    log_probs, _, _ = score_completions(model, PADDED, LABELS)
    torch.testing.assert_close(gradients(model, -log_probs.sum()), expected, rtol=1e-4, atol=1e-5)


def test_installed_head_answers_only_the_call_for_log_probabilities(model):
    base = model.get_base_model()
    before = base(input_ids=PADDED, attention_mask=MASK).logits
    log_probs, correct, scored = completion_log_probs(base, LABELS, input_ids=PADDED)
    install_head(base, "completion")
    assert torch.equal(base(input_ids=PADDED, attention_mask=MASK).logits, before)
    fused = base(input_ids=PADDED, attention_mask=MASK, labels=LABELS, use_cache=False, fused_lm_head=True)
    assert torch.equal(fused.label_mask, scored)
    assert torch.equal(fused.log_probs[scored], log_probs)
    assert not fused.log_probs[~scored].any()
    assert torch.equal(fused.is_top1[scored], correct)


def test_choosing_a_head_leaves_the_model_as_it_was(model):
    base = model.get_base_model()
    before, forward = base(input_ids=PADDED).logits, base.forward
    choose_head(base, own_logits(base))
    assert base.forward == forward
    assert torch.equal(base(input_ids=PADDED).logits, before)
