"""The language-model head, on completion positions only, without keeping the logits.

A causal language model's head is a product with a (vocabulary, hidden) matrix: for a small model over a large
vocabulary it costs as much as many layers. Prompt and padding positions have no label, so they are never scored; and
since the head is frozen, the gradient with respect to the hidden states is formed in the forward pass, piece by piece,
so that logits of one piece at a time are all that is held.

TRL's trainers ask the model for log-probabilities with `fused_lm_head=True`. `install_head` answers that call, so that
every loss of TRL works on it unchanged.

Some models do more between backbone and logits: they cap or scale the logits, or have another layer there. So a head is
held against the model's own logits when the model is loaded (`choose_head`), and used only where it gives the same.
"""

import types
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial

import torch
from torch import nn
from trl.trainer.utils import FusedCausalLMOutput, add_fused_lm_head

PIECE = 256  # positions scored at a time: 256 x 49152 float32 logits are 50 MB

_FIELDS = ("log_probs", "entropy", "mean_logits", "is_top1")  # what the trainers read of TRL's general head
_SPREAD = 60.0  # logits of this size show a cap or a scale that small ones hide
_ROUNDING = {torch.float32: 1e-4}  # of a log-probability, relative to the largest logit
_COARSE = 1e-2  # of narrower types


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


def backbone_of(base: nn.Module) -> nn.Module:
    """The model below its language-model head; `base` itself where it does not name one."""
    return base.get_decoder() if base.base_model is base else base.base_model


def completion_log_probs(
    base: nn.Module, labels: torch.Tensor, **inputs: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Log-probabilities of the labels of a causal language model whose logits are its head's output as it is.

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
    hidden = backbone_of(base)(**inputs, use_cache=False).last_hidden_state
    next_labels = labels[:, 1:]
    scored = next_labels != -100
    head = base.get_output_embeddings()
    gpu = head.weight.device  # a base that lies on several has its last layer, head and embedding on any of them
    chosen, target = hidden[:, :-1][scored.to(hidden.device)].to(gpu), next_labels[scored].to(gpu)
    log_probs, correct = _LabelLogProbs.apply(chosen, head.weight, head.bias, target)
    return log_probs.to(labels.device), correct.to(labels.device), scored


def own_log_probs(
    base: nn.Module, logits_of: Callable, labels: torch.Tensor, **inputs: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """As `completion_log_probs`, from the logits that the model's own forward pass `logits_of` gives."""
    next_labels = labels[:, 1:]
    scored = next_labels != -100
    logits = logits_of(**inputs, use_cache=False).logits[:, :-1][scored].float()
    target = next_labels[scored][:, None].to(logits.device)
    log_probs = logits.log_softmax(-1).gather(1, target)[:, 0]
    return log_probs, logits.amax(-1) <= logits.gather(1, target)[:, 0], scored


@dataclass(frozen=True)
class OwnLogits:
    """What a model's own forward pass gives for two rows that differ in their last token.

    Attributes
    ----------
    ids : torch.Tensor
        Shape (2, length).
    logits : torch.Tensor
        Shape (2, length, vocabulary), float32; of enlarged input to the head.
    factor : float
        How much it was enlarged; 0 if the head was not called once, as a module, so that it is not known.
    """

    ids: torch.Tensor
    logits: torch.Tensor
    factor: float


def own_logits(base: nn.Module) -> OwnLogits:
    """Run the two rows, without gradients. What goes into the head is made so large that logits are of the size of
    `_SPREAD`: the cap of a model with small logits would not show otherwise."""
    row = probe_row(base)
    ids = torch.cat([row, row])
    ids[1, -1] = row[0, 0]
    head = base.get_output_embeddings()
    factors: list[float] = []

    def enlarge(module, arguments):
        if not arguments:
            return None
        hidden = arguments[0].to(module.weight.device)
        size = float(nn.functional.linear(hidden, module.weight, module.bias).float().abs().max())
        factors.append(max(1.0, _SPREAD / max(size, 1e-6)))
        return (arguments[0] * factors[-1], *arguments[1:])

    handle = head.register_forward_pre_hook(enlarge) if isinstance(head, nn.Linear) else None
    try:
        with torch.no_grad():
            logits = base(input_ids=ids, use_cache=False).logits.float()
    finally:
        if handle:
            handle.remove()
    return OwnLogits(ids, logits, factors[0] if len(factors) == 1 else 0.0)


def choose_head(base: nn.Module, own: OwnLogits) -> str:
    """Which head gives what the model's own logits give: "completion", "general" or "own".

    Returns
    -------
    str
        "completion" is `completion_log_probs`; "general" is TRL's head, which knows some scales and caps by their names
        in a configuration and holds little of the logits, too; "own" are the model's own logits, of all positions,
        which
        are right for every causal model.
    """
    forward, ids = base.forward, own.ids
    backbone = backbone_of(base)
    if not own.factor or backbone is base:
        return "own"
    expected = own.logits[:, :-1].log_softmax(-1).gather(2, ids[:, 1:, None])[..., 0]
    weight = base.get_output_embeddings().weight
    tolerance = _ROUNDING.get(weight.dtype, _COARSE) * (1 + float(expected.abs().max()))
    with torch.no_grad(), _enlarged_output(backbone, own.factor) as calls:
        backbone(input_ids=ids[:1, :1], use_cache=False)
        if not calls:
            return "own"
        if _alike(completion_log_probs(base, ids, input_ids=ids)[0], expected.flatten(), tolerance):
            return "completion"
        if len({parameter.device for parameter in base.parameters()}) > 1:
            return "own"  # TRL's head takes all to be on one device
        add_fused_lm_head(base, outputs=_FIELDS)
        try:
            general = base(input_ids=ids, labels=ids, fused_lm_head=True).log_probs
        finally:
            base.forward = forward
        return "general" if _alike(general, expected, tolerance) else "own"


@contextmanager
def _enlarged_output(backbone: nn.Module, factor: float) -> Iterator[list[bool]]:
    """Multiply the last hidden states of the backbone; the list grows with every call that gives them by that name."""
    calls: list[bool] = []

    def enlarge(_module, _arguments, output):
        if isinstance(output, dict) and output.get("last_hidden_state") is not None:
            calls.append(True)
            output["last_hidden_state"] = output["last_hidden_state"] * factor
        return output

    handle = backbone.register_forward_hook(enlarge)
    try:
        yield calls
    finally:
        handle.remove()


def _alike(log_probs: torch.Tensor, expected: torch.Tensor, tolerance: float) -> bool:
    return bool(((log_probs.to(expected.device) - expected).abs() <= tolerance).all())


def probe_row(base: nn.Module, length: int = 8) -> torch.Tensor:
    """Token ids (1, length), all different where the vocabulary allows it, none of them special to the model."""
    config = base.config.get_text_config()
    rows = base.get_input_embeddings().weight.shape[0]
    names = ("bos_token_id", "eos_token_id", "pad_token_id")
    special = {number for name in names for number in _numbers(getattr(config, name, None))}
    step = max(1, rows // (2 * length))
    ids = [number for number in range(rows // 4, rows, step) if number not in special][:length]
    ids = (ids * length)[:length]
    return torch.tensor([ids], device=base.get_input_embeddings().weight.device)


def _numbers(value: object) -> list[int]:
    return value if isinstance(value, list) else [] if value is None else [value]


def install_head(base: nn.Module, kind: str) -> None:
    """Make `base(..., labels=labels, fused_lm_head=True)` use a head of `choose_head`; any other call is as before.

    Call it when the model is loaded, and again after TRL's trainer was built: the trainer puts its own head there,
    which
    scores every position where there is no GPU and computes an entropy and mean logits for metrics that federated
    rounds do not read (here both are zero).
    """
    if kind == "general":
        add_fused_lm_head(base, outputs=_FIELDS)
        return
    other_calls, plain = base.forward, kind == "completion"

    def forward(self, *args, fused_lm_head=False, labels=None, **kwargs):
        if not fused_lm_head:
            return other_calls(*args, labels=labels, **kwargs)
        del kwargs["use_cache"]
        if plain and kwargs.get("past_key_values") is None and kwargs.get("cache") is None:
            kwargs.pop("attention_mask", None)  # the trainers' collators pad on the right
        scores = completion_log_probs if plain else partial(own_log_probs, logits_of=other_calls)
        log_probs, correct, scored = scores(self, labels=labels, **kwargs)
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
        A PEFT model on whose base `install_head` was called.
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
