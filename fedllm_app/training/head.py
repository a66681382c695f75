"""The language-model head and its loss, on completion positions only, without keeping the logits.

A causal language model's head is a product with a (vocabulary, hidden) matrix: for a small model over a large
vocabulary it costs as much as many layers. Prompt and padding positions have no label, so they are never scored; and
since the head is frozen, the gradient with respect to the hidden states is formed in the forward pass, piece by piece,
so that logits of one piece at a time are all that is held.
"""

import torch
from torch import nn

_PIECE = 256  # positions scored at a time: 256 x 49152 float32 logits are 50 MB

# Heads that scale or cap their logits are left to TRL's general head.
_SCALED_HEADS = (
    "final_logit_softcapping",
    "logit_scale",
    "output_multiplier",
    "lm_head_multiplier",
    "logits_scaling",
)


class _CompletionLoss(torch.autograd.Function):
    """Summed negative log-likelihood of `labels` (n,) given `hidden` (n, d) under the head `weight` (v, d)."""

    @staticmethod
    def forward(context, hidden, weight, bias, labels):
        total = hidden.new_zeros((), dtype=torch.float32)
        correct = torch.empty(labels.shape, dtype=torch.bool, device=labels.device)
        gradient = torch.empty_like(hidden)
        for start in range(0, len(labels), _PIECE):
            piece = slice(start, start + _PIECE)
            logits = nn.functional.linear(hidden[piece], weight, bias).float()
            target = labels[piece, None]
            chosen = logits.gather(1, target)
            correct[piece] = logits.amax(1) <= chosen[:, 0]
            normaliser = logits.logsumexp(1, keepdim=True)
            total += (normaliser - chosen).sum()
            if context.needs_input_grad[0]:
                # d(-log p)/d(logits) = softmax - onehot, written over the logits.
                probabilities = logits.sub_(normaliser).exp_()
                probabilities.scatter_add_(1, target, torch.full_like(chosen, -1.0))
                gradient[piece] = probabilities.to(weight.dtype) @ weight
        context.save_for_backward(gradient)
        context.mark_non_differentiable(correct)
        return total, correct

    @staticmethod
    def backward(context, gradient_of_total, _gradient_of_correct):
        (gradient,) = context.saved_tensors
        return gradient * gradient_of_total.to(gradient.dtype), None, None, None


def has_plain_head(config) -> bool:
    """Whether the model's logits are the head's output as it is."""
    text = config.get_text_config()
    return all(getattr(text, name, None) in (None, 1.0) for name in _SCALED_HEADS)


def completion_loss(
    base: nn.Module, input_ids: torch.Tensor, labels: torch.Tensor, attention_mask: torch.Tensor | None = None
) -> tuple[torch.Tensor, torch.Tensor]:
    """Loss of a causal language model on the positions that have a label.

    Parameters
    ----------
    base : nn.Module
        A transformers causal language model (with adapters injected) whose head is frozen.
    input_ids, labels : torch.Tensor
        Shape (batch, length), padded on the right; labels are -100 where nothing is predicted. With right padding and
        causal attention no labelled position sees padding, so the attention mask may be None, which lets attention
        skip the masked half.

    Returns
    -------
    tuple[torch.Tensor, torch.Tensor]
        Summed negative log-likelihood (float32 scalar), and for each labelled position whether the label is the most
        likely next token.
    """
    backbone = getattr(base, base.base_model_prefix)
    hidden = backbone(input_ids=input_ids, attention_mask=attention_mask, use_cache=False).last_hidden_state
    next_labels = labels[:, 1:]
    scored = next_labels != -100
    head = base.get_output_embeddings()
    return _CompletionLoss.apply(hidden[:, :-1][scored], head.weight, head.bias, next_labels[scored])
