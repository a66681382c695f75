"""Causal attention for training on a CPU: scaled dot-product attention in blocks of queries.

PyTorch's own kernel spends most of a training step's attention in its backward pass, above all in bfloat16. Here a
block of queries is multiplied with the keys that it may see, one row of the batch at a time, by the library's matrix
products; the backward pass computes the probabilities again instead of keeping them, so that it needs no more memory
than PyTorch's kernel. `benchmarks/attention.py` compares the two.
"""

import functools
from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from transformers import PreTrainedModel

NAME = "fedllm_blocked"
"""What transformers calls this attention."""

_BLOCK = {torch.bfloat16: 128, torch.float32: 64}  # queries, by measurement
_UNKNOWN = (
    "softcap",
    "s_aux",
    "sinks",
    "position_bias",
    "cache",
)  # what some models add to attention; not computed here


class BlockedAttention(torch.autograd.Function):
    """softmax(scale · q kᵀ + causal mask) v (Vaswani et al. 2017, equation 1), with grouped keys (Ainslie et al. 2023).

    The query is (batch, heads, length, d), key and value are (batch, groups, length, d); the result is (batch, length,
    heads, d), as transformers wants it.
    """

    @staticmethod
    def forward(ctx, query, key, value, scale):
        batch, heads, length, d = query.shape
        groups = key.shape[1]
        query = query.view(batch, groups, heads // groups, length, d)
        out = query.new_empty(batch, length, groups, heads // groups, value.shape[-1])
        for row in range(batch):
            for start, end in _blocks(length, query.dtype):
                probabilities = _probabilities(query[row], key[row], start, end, scale)
                seen = torch.bmm(probabilities, value[row, :, :end])
                out[row, start:end] = seen.view(groups, heads // groups, end - start, -1).permute(2, 0, 1, 3)
        ctx.save_for_backward(query, key, value)
        ctx.scale = scale
        return out.view(batch, length, heads, -1)

    @staticmethod
    def backward(ctx, gradient):
        query, key, value = ctx.saved_tensors
        batch, groups, shared, length, d = query.shape
        gradient = gradient.reshape(batch, length, groups, shared, -1).permute(0, 2, 3, 1, 4)
        d_query = torch.empty_like(query)
        # Sums over blocks would lose digits in a narrow type.
        d_key, d_value = (torch.zeros_like(tensor, dtype=torch.float32) for tensor in (key, value))
        for row in range(batch):
            for start, end in _blocks(length, query.dtype):
                probabilities = _probabilities(query[row], key[row], start, end, ctx.scale)
                arriving = gradient[row, :, :, start:end].reshape(groups, shared * (end - start), -1)
                asked = query[row, :, :, start:end].reshape(groups, shared * (end - start), d)
                d_value[row, :, :end] += torch.bmm(probabilities.transpose(1, 2), arriving)
                d_probabilities = torch.bmm(arriving, value[row, :, :end].transpose(1, 2))
                d_scores = torch._softmax_backward_data(d_probabilities, probabilities, -1, probabilities.dtype)
                of_block = torch.bmm(d_scores, key[row, :, :end]).view(groups, shared, end - start, d)
                torch.mul(of_block, ctx.scale, out=d_query[row, :, :, start:end])
                d_key[row, :, :end] += torch.bmm(d_scores.transpose(1, 2), asked)
        d_query = d_query.view(batch, groups * shared, length, d)
        return d_query, d_key.mul_(ctx.scale).to(key.dtype), d_value.to(value.dtype), None


def _blocks(length: int, dtype: torch.dtype) -> list[tuple[int, int]]:
    """First and last + 1 of each block of queries; a remainder below half a block goes with the one before it."""
    block = _BLOCK[dtype]
    starts = list(range(0, max(length - block // 2, 1), block))
    return list(zip(starts, [*starts[1:], length], strict=True))


def _probabilities(query: torch.Tensor, key: torch.Tensor, start: int, end: int, scale: float) -> torch.Tensor:
    """(groups, queries a group, end) of one row: how much each query of a block sees of each key before the end."""
    groups, shared, _, d = query.shape
    block = query[:, :, start:end].reshape(groups, shared * (end - start), d)
    mask = _mask(shared, start, end, query.dtype)
    return torch.baddbmm(mask, block, key[:, :end].transpose(1, 2), alpha=scale).softmax(-1)


@functools.lru_cache(maxsize=16)
def _mask(shared: int, start: int, end: int, dtype: torch.dtype) -> torch.Tensor:
    """(1, queries a group, end): 0 where a query may look, else -∞."""
    later = torch.full((end - start, end), float("-inf"), dtype=dtype).triu(1 + start)
    return later.repeat(shared, 1)[None]


def attention_forward(
    module: torch.nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    dropout: float = 0.0,
    scaling: float | None = None,
    is_causal: bool | None = None,
    **options,
) -> tuple[torch.Tensor, None]:
    """`BlockedAttention` in training steps that it can compute; else PyTorch's kernel, as transformers calls it."""
    causal = getattr(module, "is_causal", True) if is_causal is None else is_causal
    length, window = query.shape[2], options.get("sliding_window")
    plain = attention_mask is None and causal and not dropout and 1 < length == key.shape[2]
    if (
        plain
        and torch.is_grad_enabled()
        and (query.requires_grad or key.requires_grad or value.requires_grad)
        and query.device.type == "cpu"
        and query.dtype == key.dtype == value.dtype
        and query.dtype in _BLOCK
        and (window is None or window >= length)
        and all(options.get(name) is None for name in _UNKNOWN)
    ):
        return BlockedAttention.apply(query, key, value, query.shape[-1] ** -0.5 if scaling is None else scaling), None
    from transformers.integrations.sdpa_attention import sdpa_attention_forward

    return sdpa_attention_forward(
        module, query, key, value, attention_mask, dropout=dropout, scaling=scaling, is_causal=is_causal, **options
    )


def install_attention(base: "PreTrainedModel") -> bool:
    """Let a model on a CPU that uses PyTorch's kernel through transformers' attention interface use this; whether it
    does."""
    from transformers import AttentionInterface, AttentionMaskInterface
    from transformers.masking_utils import sdpa_mask

    if base.device.type != "cpu" or base.config._attn_implementation != "sdpa":
        return False
    if not type(base)._can_set_attn_implementation():
        return False
    AttentionInterface.register(NAME, attention_forward)
    AttentionMaskInterface.register(NAME, sdpa_mask)
    base.set_attn_implementation(NAME)
    return True
