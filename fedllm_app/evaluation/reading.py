"""Forward passes that go on from texts which were read already: what questions have in common is read once.

Rows of different lengths are padded on the right, behind their own tokens, and the attention mask hides the padding
from what follows. Whether a model's cache and positions allow that is found out by trying (`SharedReader.agrees`);
where they do not, rows are read whole (`asking`).
"""

import copy
import inspect
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from fedllm_app.training.head import backbone_of, probe_row

if TYPE_CHECKING:
    from transformers import PreTrainedModel

_TOLERANCE = {torch.float32: 1e-3}  # of a hidden state, relative to the largest
_COARSE = 5e-2  # of narrower types


@dataclass(frozen=True)
class Past:
    """What a model has read: keys and values, which of them are real, and how many real tokens each row has.

    Attributes
    ----------
    cache : Any
        Transformers' DynamicCache of n rows.
    mask : torch.Tensor
        Shape (n, positions), 1 where a position holds a token.
    lengths : torch.Tensor
        Shape (n,): real tokens.
    """

    cache: Any
    mask: torch.Tensor
    lengths: torch.Tensor

    def select(self, rows: Sequence[int]) -> "Past":
        """The rows at these places, which may repeat; this object stays as it is."""
        indices = torch.as_tensor(rows, device=self.mask.device)
        cache = copy.copy(self.cache)
        cache.layers = [copy.copy(layer) for layer in self.cache.layers]
        for layer in cache.layers:
            if self.mask.shape[0] == 1:  # one row for all: a view, no copy
                layer.keys = layer.keys.expand(len(indices), -1, -1, -1)
                layer.values = layer.values.expand(len(indices), -1, -1, -1)
            else:
                layer.batch_select_indices(indices)
        return Past(cache, self.mask[indices], self.lengths[indices])


@dataclass(frozen=True)
class SharedReader:
    """Reads rows behind a past, with a causal language model whose head is a plain product (`head.choose_head`)."""

    base: "PreTrainedModel"

    @property
    def device(self) -> torch.device:
        """Where rows are read."""
        return self.base.get_input_embeddings().weight.device

    @cached_property
    def backbone(self) -> nn.Module:
        """The model below its head."""
        return backbone_of(self.base)

    @cached_property
    def _past_keyword(self) -> str:
        """What the model calls its cache: transformers 5.24 renames it, model by model."""
        accepted = inspect.signature(self.backbone.forward).parameters
        return "cache" if "cache" in accepted else "past_key_values"

    def read(self, rows: Sequence[Sequence[int]], past: Past | None = None) -> tuple[torch.Tensor, Past]:
        """Read token ids, each row behind the same row of `past`.

        Returns
        -------
        tuple[torch.Tensor, Past]
            Hidden states (rows, longest row, hidden) and all that was read.
        """
        from transformers import DynamicCache

        longest = max(map(len, rows))
        ids = torch.tensor([[*row, *[0] * (longest - len(row))] for row in rows], device=self.device)
        lengths = torch.tensor([len(row) for row in rows], device=self.device)
        places = torch.arange(longest, device=self.device)
        mask = (places < lengths[:, None]).long()
        positions = places.expand_as(mask)
        cache = DynamicCache(config=self.base.config)
        if past is not None:
            mask = torch.cat([past.mask, mask], 1)
            positions = positions + past.lengths[:, None]
            lengths = lengths + past.lengths
            cache = past.cache
        behind = {self._past_keyword: cache}
        hidden = self.backbone(
            input_ids=ids, attention_mask=mask, position_ids=positions, use_cache=True, **behind
        ).last_hidden_state
        return hidden, Past(cache, mask, lengths)

    def logits(self, hidden: torch.Tensor) -> torch.Tensor:
        """Logits (n, vocabulary), float32, of hidden states (n, hidden)."""
        head = self.base.get_output_embeddings()
        return nn.functional.linear(hidden, head.weight, head.bias).float()

    @torch.no_grad()
    def agrees(self) -> str:
        """Why this model cannot be read in parts; "" if two rows read in parts equal the same rows read whole."""
        row = probe_row(self.base, 12)[0].tolist()
        rows = [row, [*row[:4], *row[8:]]]
        try:
            _, prefix = self.read([row[:4]])
            layers = {type(layer).__name__ for layer in prefix.cache.layers}
            if layers != {"DynamicLayer"}:
                return f"its cache has layers of other kinds ({', '.join(sorted(layers))})"
            # Three parts, so that padding of the second lies between what belongs together.
            _, past = self.read([rows[0][4:8], rows[1][4:6]], prefix.select([0, 0]))
            hidden, _ = self.read([rows[0][8:], rows[1][6:]], past)
        except (TypeError, ValueError, RuntimeError, AttributeError) as error:
            lines = str(error).strip().splitlines() or [""]
            return f"{type(error).__name__}: {lines[0][:200]}"
        for number, whole in enumerate(rows):
            expected = self.backbone(
                input_ids=torch.tensor([whole], device=self.device), use_cache=False
            ).last_hidden_state[0, -1]
            tolerance = _TOLERANCE.get(expected.dtype, _COARSE) * float(expected.abs().max())
            last = hidden[number, len(whole) - (8 if number == 0 else 6) - 1]
            if float((last - expected).abs().max()) > tolerance:
                return "rows read in parts give other hidden states than rows read whole"
        return ""
