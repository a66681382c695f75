"""Asking a model: its answers to prompts that are written and tokenized as in training."""

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from fedllm_app.errors import UserError

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

    from fedllm_app.data.templates import Template


class ContextTooLong(UserError):
    """A conversation has no room left for an answer in what the model reads at a time."""


def generate(
    model: "PreTrainedModel",
    tokenizer: "PreTrainedTokenizerBase",
    template: "Template",
    prompts: Sequence[list[int]],
    max_new_tokens: int,
    temperature: float = 0.0,
    show: Callable[[str], None] | None = None,
) -> list[str]:
    """Answer a batch of prompts, each up to a token that ends the template's turns or the model's texts.

    Parameters
    ----------
    prompts : Sequence[list[int]]
        What `encode_prompts` gives with this template and tokenizer.
    temperature : float
        0 decodes greedily; else tokens are drawn from softmax(logits / temperature) over the whole vocabulary.
    show : Callable[[str], None] | None
        Given the pieces of the answer to a single prompt as they are generated; joined, they are the answer.

    Returns
    -------
    list[str]
        The answers, without special tokens and without what the template puts before and behind an answer.
    """
    import torch
    from torch.nn.utils.rnn import pad_sequence

    rows = [torch.tensor(prompt, device=model.device) for prompt in prompts]
    padded = [
        pad_sequence(those, batch_first=True, padding_value=value, padding_side="left")
        for those, value in ((rows, tokenizer.pad_token_id), ([torch.ones_like(row) for row in rows], 0))
    ]
    sampling = {"do_sample": True, "temperature": temperature, "top_k": 0} if temperature else {"do_sample": False}
    model.eval()
    with torch.inference_mode():
        output = model.generate(
            input_ids=padded[0],
            attention_mask=padded[1],
            max_new_tokens=max_new_tokens,
            use_cache=True,
            pad_token_id=tokenizer.pad_token_id,
            eos_token_id=list(stop_tokens(tokenizer, template)),
            streamer=_Stream(tokenizer, template, show) if show else None,
            **sampling,
        )
    return [answer_text(ids, tokenizer, template) for ids in output[:, padded[0].shape[1] :].tolist()]


def stop_tokens(tokenizer: "PreTrainedTokenizerBase", template: "Template") -> dict[int, None]:
    """Ids of the tokens at which an answer ends: the one that ends the template's turns first."""
    return dict.fromkeys([tokenizer.convert_tokens_to_ids(template.end), *template.stops])


def answer_text(ids: list[int], tokenizer: "PreTrainedTokenizerBase", template: "Template") -> str:
    """An answer up to the token that ends it, without what the template puts before and behind."""
    # Text as it was generated: in a conversation it is rendered and tokenized again.
    stops = stop_tokens(tokenizer, template)
    end = next((place for place, token in enumerate(ids) if token in stops), len(ids))
    text = tokenizer.decode(ids[:end], skip_special_tokens=True, clean_up_tokenization_spaces=False)
    text = text.removeprefix(template.controls.remove(template.completion_prefix))
    return text.removesuffix(template.closing) if end < len(ids) else text


class _Stream:
    """Transformers' streamer (`put` is given the prompt, then every token): hands on text as soon as it is settled."""

    def __init__(self, tokenizer: "PreTrainedTokenizerBase", template: "Template", show: Callable[[str], None]) -> None:
        self.tokenizer, self.template, self.show = tokenizer, template, show
        self.ids: list[int] | None = None
        self.shown = 0  # characters

    def put(self, tokens: "torch.Tensor") -> None:
        """Take the prompt, which comes first and is not shown, or the next token."""
        if self.ids is None:
            self.ids = []
            return
        self.ids += tokens.reshape(-1).tolist()
        text = answer_text(self.ids, self.tokenizer, self.template)
        # The next token may complete a character, what stands before the answer, or what stands behind it.
        before = self.template.controls.remove(self.template.completion_prefix)
        held = len(self.template.closing)
        if not text.endswith("\N{REPLACEMENT CHARACTER}") and not before.startswith(text):
            self._show(text[: max(len(text) - held, self.shown)])

    def end(self) -> None:
        """Show what was held back."""
        self._show(answer_text(self.ids or [], self.tokenizer, self.template))

    def _show(self, text: str) -> None:
        self.show(text[self.shown :])
        self.shown = len(text)
