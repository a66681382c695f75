"""Attention in blocks of queries: equal to PyTorch's kernel, used in training steps only, and where it can compute."""

import pytest
import torch
from torch.nn.functional import scaled_dot_product_attention

from fedllm_app.training import blocked_attention
from fedllm_app.training.blocked_attention import NAME, BlockedAttention, attention_forward


def tensors(length: int, heads: int, groups: int, dtype=torch.float32, d: int = 8, dv: int = 8):
    """Query, key and value as layers give them: split off a projection, so that heads are not contiguous."""
    torch.manual_seed(length)
    shapes = ((heads, d), (groups, d), (groups, dv))
    return [torch.randn(2, length, *shape).transpose(1, 2).to(dtype).requires_grad_() for shape in shapes]


@pytest.mark.parametrize("length", [2, 63, 64, 95, 96, 97, 128, 200])
@pytest.mark.parametrize(("heads", "groups"), [(4, 4), (6, 2), (3, 1)])
def test_equals_pytorch_forward_and_backward(length, heads, groups):
    """Lengths below, at and above a block of 64 and its remainder of 32."""
    ours, theirs = (tensors(length, heads, groups, dv=6) for _ in range(2))
    out = BlockedAttention.apply(*ours, 0.3)
    key, value = (tensor.repeat_interleave(heads // groups, 1) for tensor in theirs[1:])
    expected = scaled_dot_product_attention(theirs[0], key, value, is_causal=True, scale=0.3).transpose(1, 2)
    torch.testing.assert_close(out, expected, rtol=0, atol=1e-5)
    arriving = torch.randn_like(out)
    out.backward(arriving)
    expected.backward(arriving)
    for own, reference in zip(ours, theirs, strict=True):
        torch.testing.assert_close(own.grad, reference.grad, rtol=0, atol=1e-4)


def test_bfloat16_is_as_near_to_the_truth_as_pytorch():
    """Root mean square of the difference to float32, over that of PyTorch's kernel, of the output and each gradient."""
    exact = tensors(300, 6, 2)
    ours, theirs = ([tensor.detach().bfloat16().requires_grad_() for tensor in exact] for _ in range(2))
    exact = [tensor.detach().float().requires_grad_() for tensor in ours]

    def pytorch(query, key, value):
        return scaled_dot_product_attention(query, key, value, is_causal=True, enable_gqa=True).transpose(1, 2)

    truth, other, own = pytorch(*exact), pytorch(*theirs), BlockedAttention.apply(*ours, 8**-0.5)
    arriving = torch.randn_like(truth).bfloat16()
    for out in (truth, other, own):
        out.backward(arriving.to(out.dtype))
    pairs = [(own, other, truth), *((a.grad, b.grad, c.grad) for a, b, c in zip(ours, theirs, exact, strict=True))]
    for mine, reference, true in pairs:
        error, least = ((tensor.float() - true).square().mean().sqrt() for tensor in (mine, reference))
        assert error < 2.5 * least


def test_blocks_cover_all_queries_once():
    """Of 128 in bfloat16; a remainder below 64 goes with the block before it."""
    assert blocked_attention._blocks(1, torch.bfloat16) == [(0, 1)]
    assert blocked_attention._blocks(192, torch.bfloat16) == [(0, 192)]
    assert blocked_attention._blocks(193, torch.bfloat16) == [(0, 128), (128, 193)]
    assert blocked_attention._blocks(320, torch.bfloat16) == [(0, 128), (128, 320)]


@pytest.mark.parametrize(
    "other",
    [
        {"attention_mask": torch.ones(2, 1, 9, 9, dtype=torch.bool).tril()},
        {"dropout": 0.1},
        {"is_causal": False},
        {"sliding_window": 4},
        {"position_bias": torch.zeros(1, 4, 9, 9)},
    ],
    ids=lambda other: next(iter(other)),
)
def test_what_it_does_not_compute_goes_to_pytorch(other, monkeypatch):
    used = []
    monkeypatch.setattr(BlockedAttention, "apply", lambda *arguments: used.append(arguments) or torch.zeros(1))
    query, key, value = tensors(9, 4, 4)
    module = torch.nn.Module()
    attention_forward(module, query, key, value, **({"attention_mask": None} | other))
    with torch.no_grad():
        attention_forward(module, query, key, value, None)
    assert not used
    attention_forward(module, query, key, value, None, sliding_window=9)
    assert len(used) == 1


def test_a_client_trains_with_it_unless_another_attention_is_named(run_config, tmp_path, monkeypatch):
    """With rows of up to 192 tokens (short ones take eager), a step calls it once a layer; with
    model.attention = "sdpa" never. The adapters are the same up to rounding, and not bit for bit, or the test would
    compare nothing."""
    import numpy as np
    from in_process import run_in_process
    from safetensors.numpy import load

    from fedllm_app.process_cache import PROCESS_CACHE

    calls = []
    apply = BlockedAttention.apply
    monkeypatch.setattr(BlockedAttention, "apply", lambda *arguments: calls.append(1) or apply(*arguments))
    short = run_config | {
        "train.rounds": 1,
        "train.local-steps": 1,
        "clients.number": 2,
        "evaluate.every": 0,
        "train.max-length": 192,
    }
    PROCESS_CACHE.clear()
    blocked = load(run_in_process(short, tmp_path / "auto"))
    layers = len(calls)
    assert layers > 0 and layers % 2 == 0
    calls.clear()
    plain = load(run_in_process(short | {"model.attention": "sdpa"}, tmp_path / "sdpa"))
    assert not calls
    for name in plain:
        np.testing.assert_allclose(blocked[name], plain[name], rtol=0, atol=1e-5)
    assert any((blocked[name] != plain[name]).any() for name in plain)


def test_the_name_is_known_to_transformers(tiny_model):
    from transformers import AutoModelForCausalLM

    base = AutoModelForCausalLM.from_pretrained(tiny_model)
    assert blocked_attention.install_attention(base)
    assert base.config._attn_implementation == NAME
    eager = AutoModelForCausalLM.from_pretrained(tiny_model, attn_implementation="eager")
    assert not blocked_attention.install_attention(eager)
