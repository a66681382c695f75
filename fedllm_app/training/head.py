"""The language-model head, on completion positions only, without keeping the logits.

A causal language model's head is a product with a (vocabulary, hidden) matrix: for a small model over a large
vocabulary it costs as much as many layers. Prompt and padding positions have no label, so they are never scored; and
since the head is frozen, the gradient with respect to the hidden states is formed in the forward pass, piece by piece,
so that logits of one piece at a time are all that is held.

TRL's trainers ask the model for log-probabilities with `fused_lm_head=True`. `install_completion_head` answers that
call with this head, so that every loss of TRL works on it unchanged.
"""

import types

import torch
from torch import nn
from trl.trainer.utils import FusedCausalLMOutput, add_fused_lm_head

PIECE = 256  # positions scored at a time: 256 x 49152 float32 logits are 50 MB

# Heads that scale or cap their logits are left to TRL's general head.
_SCALED_HEADS = (
    "final_logit_softcapping",
    "logit_scale",
    "output_multiplier",
    "lm_head_multiplier",
    "logits_scaling",
)


class _LabelLogProbs(torch.autograd.Function):
    """Log-probabilities of `labels` (n,) given `hidden` (n, d) under the frozen head `weight` (v, d), float32."""

    @staticmethod
    def forward(context, hidden, weight, bias, labels):
        log_probs = torch.empty(labels.shape, dtype=torch.float32, device=labels.device)
        correct = torch.empty(labels.shape, dtype=torch.bool, device=labels.device)
        gradient = torch.empty_like(hidden)
        for start in range(0, len(labels), PIECE):
            piece = slice(start, start + PIECE)
            logits = nn.functional.linear(hidden[piece], weight, bias).float()
            target = labels[piece, None]
            chosen = logits.gather(1, target)
            correct[piece] = logits.amax(1) <= chosen[:, 0]
            normaliser = logits.logsumexp(1, keepdim=True)
            log_probs[piece] = (chosen - normaliser)[:, 0]
            if context.needs_input_grad[0]:
                # d(log p)/d(logits) = onehot - softmax; the sign is turned in the backward pass.
                probabilities = logits.sub_(normaliser).exp_()
                probabilities.scatter_add_(1, target, torch.full_like(chosen, -1.0))
                gradient[piece] = probabilities.to(weight.dtype) @ weight
        context.save_for_backward(gradient)
        context.mark_non_differentiable(correct)
        return log_probs, correct

    @staticmethod
    def backward(context, gradient_of_log_probs, _gradient_of_correct):
        (gradient,) = context.saved_tensors
        return -gradient * gradient_of_log_probs[:, None].to(gradient.dtype), None, None, None


def has_plain_head(config) -> bool:
    """Whether the model's logits are the head's output as it is, and no auxiliary loss of experts is asked for."""
    text = config.get_text_config()
    plain = all(getattr(text, name, None) in (None, 1.0) for name in _SCALED_HEADS)
    return plain and not getattr(text, "output_router_logits", False)


def completion_log_probs(
    base: nn.Module, labels: torch.Tensor, **inputs: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Log-probabilities of the labels of a causal language model.

    Parameters
    ----------
    base : nn.Module
        A transformers causal language model (with adapters injected) whose head is frozen.
    labels : torch.Tensor
        Shape (batch, length); -100 where nothing is predicted.
    inputs : torch.Tensor
        What the backbone takes: `input_ids` (batch, length) and so on. Rows padded on the right need no attention
        mask: attention is causal, so no labelled position sees padding, and without a mask the upper half of the
        attention matrix is skipped.

    Returns
    -------
    tuple[torch.Tensor, torch.Tensor, torch.Tensor]
        For the n labelled positions, row by row: log-probability of the label (float32) and whether it is the most
        likely next token; and the mask of the labelled positions, shape (batch, length - 1).
    """
    backbone = getattr(base, base.base_model_prefix)
    hidden = backbone(**inputs, use_cache=False).last_hidden_state
    next_labels = labels[:, 1:]
    scored = next_labels != -100
    head = base.get_output_embeddings()
    log_probs, correct = _LabelLogProbs.apply(hidden[:, :-1][scored], head.weight, head.bias, next_labels[scored])
    return log_probs, correct, scored


def install_completion_head(base: nn.Module) -> None:
    """Make `base(..., labels=labels, fused_lm_head=True)` use this head; any other call is as before.

    Call it when the model is loaded, and again after TRL's trainer was built: the trainer puts its own head there, which
    scores every position where there is no GPU and computes an entropy and mean logits for metrics that federated
    rounds do not read (here both are zero). A model whose head is not plain gets TRL's.
    """
    if not has_plain_head(base.config):
        add_fused_lm_head(base, outputs=("log_probs", "entropy", "mean_logits", "is_top1"))
        return
    other_calls = base.forward

    def forward(self, *args, fused_lm_head=False, labels=None, **kwargs):
        if not fused_lm_head:
            return other_calls(*args, labels=labels, **kwargs)
        del kwargs["use_cache"]
        if kwargs.get("past_key_values") is None:
            kwargs.pop("attention_mask", None)  # the trainers' collators pad on the right
        log_probs, correct, scored = completion_log_probs(self, labels, **kwargs)
        # masked_scatter keeps the graph connected even if no position is labelled.
        spread = log_probs.new_zeros(scored.shape).masked_scatter(scored, log_probs)
        unread = torch.zeros_like(spread, requires_grad=False)
        return FusedCausalLMOutput(
            log_probs=spread,
            entropy=unread,
            mean_logits=unread,
            is_top1=torch.zeros_like(scored).masked_scatter(scored, correct),
            label_mask=scored,
        )

    base.forward = types.MethodType(forward, base)


def score_completions(
    model: nn.Module, input_ids: torch.Tensor, labels: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Score the labels under a PEFT model as it is: whatever its method adds to the rows, and its adapter on or off.

    Parameters
    ----------
    model : nn.Module
        A PEFT model on whose base `install_completion_head` was called.
    input_ids, labels : torch.Tensor
        Shape (batch, length), rows padded on the right; labels -100 where nothing is predicted.

    Returns
    -------
    tuple[torch.Tensor, torch.Tensor, torch.Tensor]
        For the predictions of each row, shape (batch, length - 1): log-probability of the label (float32, zero where
        there is none), whether it is the most likely next token, and where there is a label.
    """
    scores = model(input_ids=input_ids, labels=labels, use_cache=False, fused_lm_head=True)
    own = slice(-(labels.shape[1] - 1), None)  # virtual tokens come first
    return scores.log_probs[:, own], scores.is_top1[:, own], scores.label_mask[:, own]
