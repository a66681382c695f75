"""What a client process keeps loaded between messages: the base model with its adapter slot, and the tokenizer.

A simulation's actors live across messages, and loading the base for every message is the largest avoidable cost.
Clients share it: before each use the adapter is written anew, so nothing of one client is left for the
next.
"""

import gc
import hashlib
import json
import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np

from fedllm_app.adapters.layout import Manifest
from fedllm_app.adapters.methods import AdapterValues, adapter_layout, add_adapter, check_dora
from fedllm_app.adapters.view import AdapterView
from fedllm_app.models.base import (
    ModelLocation,
    ModelValues,
    load_model,
    load_model_config,
    load_tokenizer,
    locate_model,
    stop_ids,
)
from fedllm_app.models.check import tokenizer_notes
from fedllm_app.models.files import UnusableModel
from fedllm_app.models.hardware import cores
from fedllm_app.process_cache import PROCESS_CACHE
from fedllm_app.updates.parts import AGGREGATIONS

if TYPE_CHECKING:
    from peft import PeftModel
    from transformers import PreTrainedTokenizerBase


_KIND = "resident model"
_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class ResidentKey:
    """Everything that the loaded model depends on. The task is part of it: DPO switches dropout off for good."""

    task: str
    model: ModelValues
    adapter: AdapterValues
    aggregation: str = "factors"


@dataclass
class Resident:
    """A loaded base model with an adapter slot. `trainers` holds the trainers built on it, by what they do."""

    key: ResidentKey
    trainers: dict[Any, Any] = field(default_factory=dict)
    head: str = ""  # of the loaded model, see `head.choose_head`

    @cached_property
    def location(self) -> ModelLocation:
        """Where the base model is."""
        return locate_model(self.key.model.name, self.key.model.trust_remote_code)

    @cached_property
    def tokenizer(self) -> "PreTrainedTokenizerBase":
        """The base model's tokenizer. UnusableModel if it is not one for this model."""
        tokenizer = load_tokenizer(self.location)
        for note in tokenizer_notes(tokenizer, self.rows, self.location):
            _log.warning(note)
        return tokenizer

    @cached_property
    def rows(self) -> int:
        """Rows of the model's embedding: one more than the largest token id that it can read."""
        return load_model_config(self.location).get_text_config().vocab_size

    def check_ids(self, largest: int) -> None:
        """Refuse tokenized rows that hold an id without a row in the embedding. UnusableModel names it."""
        if largest >= self.rows:
            token = self.tokenizer.convert_ids_to_tokens(largest)
            raise UnusableModel(
                f"rows of text hold the token {token!r}, whose id {largest} is beyond the {self.rows} rows of the "
                "model's "
                "embedding: take it out of the data and the template, or name a model that was trained with it"
            )

    @cached_property
    def stops(self) -> tuple[int, ...]:
        """Ids at which the base model's files say that generation stops."""
        return stop_ids(locate_model(self.key.model.name, self.key.model.trust_remote_code))

    @cached_property
    def tokenizer_hash(self) -> str:
        """SHA-256 over what the tokenizer does to text: its vocabulary and rules, special tokens and chat template."""
        tokenizer = self.tokenizer
        rules = tokenizer.backend_tokenizer.to_str() if tokenizer.is_fast else json.dumps(tokenizer.get_vocab())
        text = "\n".join([rules, str(tokenizer.special_tokens_map), str(tokenizer.chat_template)])
        return hashlib.sha256(text.encode()).hexdigest()

    @cached_property
    def model(self) -> "PeftModel":
        """The base model with the adapter injected; adapter weights are float32, the base is frozen."""
        from fedllm_app.training.allocator import return_large_blocks
        from fedllm_app.training.blocked_attention import install_attention
        from fedllm_app.training.head import choose_head, install_head
        from fedllm_app.training.lean_layers import install_lean_layers
        from fedllm_app.training.lean_lora import install_lean_lora
        from fedllm_app.training.probe import check_trainable, probe_base

        return_large_blocks()
        check_dora(self.key.adapter.dora, self.key.model.quantization)
        layout = adapter_layout(self.location, self.key.adapter)
        base = load_model(self.key.model)
        self.head = choose_head(base, probe_base(base, self.location))
        model = add_adapter(base, layout.settings.peft_config()).eval()
        freeze_home(model, self.key.aggregation)
        install_lean_lora(model)
        install_lean_layers(model)
        install_head(base, self.head)
        if self.key.model.attention == "auto":
            install_attention(base)
        check_trainable(model, self.key.adapter.method)
        return model

    @cached_property
    def adapter(self) -> AdapterView:
        """The part of the adapter that is trained and travels, as a packed vector."""
        return AdapterView(self.model, AGGREGATIONS[self.key.aggregation])

    @cached_property
    def home(self) -> AdapterView:
        """The part of the adapter that stays at home, as a packed vector; of size 0 where everything travels."""
        travels = AGGREGATIONS[self.key.aggregation]
        return AdapterView(self.model, lambda name: not travels(name))

    @property
    def manifest(self) -> Manifest:
        """The layout of the adapter slot."""
        return self.adapter.manifest

    @contextmanager
    def using(self, adapter: np.ndarray | None) -> "Iterator[PeftModel]":
        """The model in evaluation mode under the packed vector `adapter`, or as the base alone if it is None."""
        self.model.eval()
        if adapter is None:
            with self.model.disable_adapter():
                yield self.model
        else:
            self.adapter.write(adapter)
            yield self.model


def resident(key: ResidentKey) -> Resident:
    """The process's resident model for `key`; a model loaded for another key is let go first."""
    PROCESS_CACHE.on_drop(_KIND, _collect)
    return PROCESS_CACHE.get(_KIND, key, lambda: Resident(key))


def set_threads(threads: int) -> int:
    """Use `threads` CPU threads for tensor arithmetic (0: the CPUs that Ray gave this process, else all). Returns it.

    The number of threads changes the order of floating-point sums, so it is part of what makes a run reproducible.
    """
    import torch

    wanted = threads or int(os.environ.get("OMP_NUM_THREADS") or 0) or cores()
    torch.set_num_threads(wanted)
    return wanted


def release() -> None:
    """Forget the resident model (after running out of memory, so that the next message finds a clean process)."""
    PROCESS_CACHE.clear(_KIND)


def _collect() -> None:
    gc.unfreeze()  # see `resident_trainer`
    gc.collect()


def freeze_home(model: "PeftModel", aggregation: str) -> None:
    """Keep the part of the adapter that does not travel from being trained."""
    travels = AGGREGATIONS[aggregation]
    for name, parameter in model.named_parameters():
        if parameter.requires_grad and not travels(name):
            parameter.requires_grad_(False)
