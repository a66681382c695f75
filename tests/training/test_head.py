"""The head on completion positions against transformers' logits of all positions."""

import numpy as np
import pytest
import torch
from torch import nn

from fedllm_app.adapters.methods import AdapterValues, add_adapter, peft_config
from fedllm_app.adapters.view import AdapterView
from fedllm_app.models.base import load_base_model, locate_model
from fedllm_app.training import head
from fedllm_app.training.head import completion_log_probs, has_plain_head, install_completion_head, score_completions

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


@pytest.mark.parametrize(
    ("name", "value", "plain"),
    [
        ("logit_scale", 0.0625, False),
        ("final_logit_softcapping", 30.0, False),
        ("logits_scaling", 8.0, False),
        ("output_router_logits", True, False),
        ("logit_scale", 1.0, True),
        ("final_logit_softcapping", None, True),
        ("output_router_logits", False, True),
    ],
)
def test_heads_that_do_more_are_not_plain(name, value, plain):
    from transformers import LlamaConfig

    assert has_plain_head(LlamaConfig())
    config = LlamaConfig()
    setattr(config, name, value)
    assert has_plain_head(config) is plain


def test_installed_head_answers_only_the_call_for_log_probabilities(model):
    base = model.get_base_model()
    before = base(input_ids=PADDED, attention_mask=MASK).logits
    log_probs, correct, scored = completion_log_probs(base, LABELS, input_ids=PADDED)
    install_completion_head(base)
    assert torch.equal(base(input_ids=PADDED, attention_mask=MASK).logits, before)
    fused = base(input_ids=PADDED, attention_mask=MASK, labels=LABELS, use_cache=False, fused_lm_head=True)
    assert torch.equal(fused.label_mask, scored)
    assert torch.equal(fused.log_probs[scored], log_probs)
    assert not fused.log_probs[~scored].any()
    assert torch.equal(fused.is_top1[scored], correct)


def test_a_head_that_is_not_plain_is_scored_by_trl(model):
    """Logits halved, as a `logit_scale` of 0.5 asks for: the log-probabilities are those of half the logits."""
    base = model.get_base_model()
    base.config.logit_scale = 0.5
    logits = model(input_ids=PADDED, attention_mask=MASK).logits
    install_completion_head(base)
    log_probs, correct, scored = score_completions(model, PADDED, LABELS)
    targets = LABELS[:, 1:].clamp(min=0)[..., None]
    expected = (0.5 * logits[:, :-1]).log_softmax(-1).gather(2, targets)[..., 0] * scored
    torch.testing.assert_close(log_probs, expected, rtol=1e-5, atol=1e-5)
    assert torch.equal(correct[scored], (logits[:, :-1].argmax(-1) == LABELS[:, 1:])[scored])
