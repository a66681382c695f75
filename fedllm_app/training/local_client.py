"""What one process does for the clients it serves: hold shards, train, evaluate.

A client is a number; between messages nothing of it is kept but its tokenized shard.
"""

import resource
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np

from fedllm_app.data.loading import DataSelection, client_data
from fedllm_app.data.shards import EmptyShard, Shard, batches, cached, tokenize, walk
from fedllm_app.data.templates import get_template
from fedllm_app.messages import EXAMPLES, Assignment
from fedllm_app.training.resident import ResidentKey, resident


@dataclass(frozen=True)
class Tokenization:
    """How rows become tokens. A `system_prompt` of None leaves the template's own."""

    template: str
    system_prompt: str | None
    max_length: int


@dataclass(frozen=True)
class ClientShards:
    """A client's tokenized rows, and what it is called."""

    label: str
    schema: str
    train: Shard
    held_out: Shard


class LocalClient:
    """Serves clients of one run from this process's resident model."""

    def __init__(
        self, model: ResidentKey, selection: DataSelection, tokenization: Tokenization, training, evaluate_examples: int
    ) -> None:
        self.model = model
        self.selection = selection
        self.tokenization = tokenization
        self.training = training
        self.evaluate_examples = evaluate_examples
        # A process serves few clients at a time, and a shard is small beside the model.
        self.shards = lru_cache(maxsize=16)(self._shards)

    def describe(self, client: int) -> dict[str, Any]:
        """What the client holds: name, schema, examples, dropped rows, tokens; and the layout of its adapter."""
        held = self.shards(client)
        return {
            "name": held.label,
            "schema": held.schema,
            "examples": len(held.train),
            "held-out": len(held.held_out),
            "dropped": held.train.dropped + held.held_out.dropped,
            "tokens": len(held.train.tokens),
            "manifest": resident(self.model).manifest.hash,
        }

    def train(
        self, assignment: Assignment, adapter: np.ndarray, progress: Callable[[int, int, float], None]
    ) -> tuple[np.ndarray, dict[str, int | float]]:
        """One round of local training: the client's new packed adapter and its numbers."""
        import torch

        from fedllm_app.training.corrections import Proximal
        from fedllm_app.training.sft import train_sft

        loaded = resident(self.model)
        corrections = []
        if assignment.proximal_mu > 0:
            start = loaded.adapter.split(torch.from_numpy(adapter.copy()).to(loaded.model.device))
            corrections.append(Proximal(assignment.proximal_mu, start))
        shard = self.shards(assignment.client).train
        result = train_sft(
            loaded,
            self._rows(shard, assignment),
            self.training,
            adapter,
            assignment.learning_rate,
            self._seed(3, assignment),
            corrections,
            progress,
        )
        return result.adapter, {
            EXAMPLES: len(shard),
            "train-loss": float(np.mean(result.losses)),
            "first-loss": result.losses[0],
            "last-loss": result.losses[-1],
            "steps": len(result.losses),
            "tokens": result.tokens,
            "seconds": result.seconds,
            "peak-memory-mb": peak_memory_mb(),
            "client": assignment.client,
        }

    def evaluate(self, assignment: Assignment, adapter: np.ndarray) -> dict[str, int | float]:
        """Held-out loss and exact match of the adapter on the client's held-out rows."""
        from fedllm_app.training.sft import evaluate_sft

        held_out = self.shards(assignment.client).held_out
        metrics = evaluate_sft(resident(self.model), held_out, adapter, self.evaluate_examples)
        return {**metrics, "peak-memory-mb": peak_memory_mb(), "client": assignment.client}

    def _rows(self, shard: Shard, assignment: Assignment) -> list[tuple[np.ndarray, int]]:
        """The examples of this client's next round, batch by batch."""
        plan = self.training
        position = assignment.position * plan.batch_size * plan.gradient_accumulation
        met = walk(len(shard), assignment.client, self.selection.seed, position, plan.examples_per_round)
        seed = [self.selection.seed, 4, assignment.client, assignment.position]
        ordered = batches(met, shard.lengths, plan.batch_size, seed)
        return [shard.example(index) for batch in ordered for index in batch]

    def _seed(self, purpose: int, assignment: Assignment) -> int:
        parts = [self.selection.seed, purpose, assignment.client, assignment.server_round]
        return int(np.random.SeedSequence(parts).generate_state(1)[0])

    def _shards(self, client: int) -> ClientShards:
        how, data = self.tokenization, client_data(self.selection, client)
        tokenizer = resident(self.model).tokenizer
        template = get_template(how.template, tokenizer)

        def shard(part: str, rows) -> Shard:
            key = [self.model.model, part, data.fingerprint, how.template, how.system_prompt, how.max_length]
            return cached(key, lambda: tokenize(rows, template, tokenizer, how.max_length, how.system_prompt))

        held = ClientShards(data.label, data.schema, shard("train", data.train), shard("held-out", data.held_out))
        if not len(held.train):
            raise EmptyShard(
                f"none of its {held.train.dropped} rows has room for a completion within train.max-length = "
                f"{how.max_length} tokens"
            )
        return held


def peak_memory_mb() -> float:
    """The largest resident memory that this process has had, in MB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
