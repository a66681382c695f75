"""What one process does for the clients it serves: hold shards, train, evaluate.

A client is a number; between messages nothing of it stays in memory but its tokenized shard. What its algorithm has it
keep lies on its disk.
"""

import resource
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Protocol

import numpy as np
import torch

from fedllm_app.data.client_rows import ClientData, DataSelection, Rows, client_data
from fedllm_app.data.examples import Example
from fedllm_app.data.shards import EmptyShard, PairShard, Shard, batches, cached, join, tokenize, walk
from fedllm_app.data.templates import get_template, template_source
from fedllm_app.errors import UserError
from fedllm_app.messages import ADAPTER, EXAMPLES, PEAK_GPU_MEMORY, PEAK_MEMORY, REFERENCE, Assignment, vector_hash
from fedllm_app.training.client_state import ClientState, ReferenceCache
from fedllm_app.training.corrections import Correction, LocalRound, Numbers, Vectors, corrections_for
from fedllm_app.training.resident import Resident, ResidentKey, resident
from fedllm_app.training.trainer import LocalTraining, Progress, TrainResult, train_round


class ReferenceLost(UserError):
    """The client has no copy of the reference policy's adapter; the server sends it again after this."""


class SiteDataNotPooled(UserError):
    """A site was asked to train on the rows of all, and has only its own."""


@dataclass(frozen=True)
class Tokenization:
    """How rows become tokens. A `system_prompt` of None leaves the template's own."""

    template: str
    system_prompt: str | None
    max_length: int


@dataclass(frozen=True)
class ClientShards:
    """A client's tokenized rows, what it is called, and a key that names the training rows exactly.

    `bad`, `duplicates` and `notes` are those of `ClientData`.
    """

    label: str
    schema: str
    key: str
    train: Shard | PairShard
    held_out: Shard | PairShard
    bad: int = 0
    duplicates: int = 0
    notes: tuple[str, ...] = ()


class Task(Protocol):
    """What differs between instruction tuning and value alignment."""

    pairs: bool

    def train(self, job: "Job", indices: np.ndarray) -> TrainResult:
        """Train one round on the examples at `indices`, in their order."""

    def evaluate(self, job: "Job", examples: int) -> Numbers:
        """Held-out metrics of the job's adapter."""


@dataclass(frozen=True)
class Job:
    """One request to one client with all that a task needs to answer it."""

    model: Resident
    training: LocalTraining
    shards: ClientShards
    assignment: Assignment
    adapter: np.ndarray
    reference: np.ndarray | None
    seed: int
    corrections: list[Correction]
    progress: Progress | None


class InstructionTuning:
    """`train.task = "sft"`."""

    pairs = False

    def train(self, job: Job, indices: np.ndarray) -> TrainResult:
        """See `Task`."""
        from fedllm_app.training.sft import sft_dataset, sft_trainer

        rows = [job.shards.train.example(index) for index in indices]
        return _train(job, sft_trainer(job.model, job.training), sft_dataset(rows))

    def evaluate(self, job: Job, examples: int) -> Numbers:
        """See `Task`."""
        from fedllm_app.training.sft import evaluate_sft

        return evaluate_sft(job.model, job.shards.held_out, job.adapter, examples)


@dataclass(frozen=True)
class ValueAlignment:
    """`train.task = "dpo"`: `beta` and TRL's loss type."""

    beta: float
    loss_type: str
    pairs = True

    def train(self, job: Job, indices: np.ndarray) -> TrainResult:
        """See `Task`."""
        from fedllm_app.training.dpo import complete_references, dpo_dataset, dpo_trainer

        shard, references = job.shards.train, self._references(job, "train", job.shards.train)
        complete_references(job.model, shard, indices, job.reference, references)
        trainer = dpo_trainer(job.model, job.training, self.beta, self.loss_type)
        return _train(job, trainer, dpo_dataset(shard, indices, references))

    def evaluate(self, job: Job, examples: int) -> Numbers:
        """See `Task`."""
        from fedllm_app.training.dpo import evaluate_dpo

        shard = job.shards.held_out
        references = self._references(job, "held-out", shard)
        return evaluate_dpo(job.model, shard, job.adapter, job.reference, references, self.beta, examples)

    def _references(self, job: Job, part: str, shard: PairShard) -> ReferenceCache:
        # Threads and dtype change the last bits of a log-probability.
        numerics = f"{job.model.model.dtype}/{torch.get_num_threads()}"
        parts = [str(job.model.key), numerics, job.assignment.reference, part, job.shards.key]
        return ReferenceCache(parts, len(shard))


class LocalClient:
    """Serves clients of one run from this process's resident model."""

    def __init__(
        self,
        run_id: int,
        model: ResidentKey,
        selection: DataSelection,
        tokenization: Tokenization,
        training: LocalTraining,
        task: Task,
        evaluate_examples: int,
    ) -> None:
        self.run_id = run_id
        self.model = model
        self.selection = selection
        self.tokenization = tokenization
        self.training = training
        self.task = task
        self.evaluate_examples = evaluate_examples
        # Tokens stay on disk until they are read, so this keeps open files and the places of examples in them.
        self.shards = lru_cache(maxsize=16)(self._shards)
        self.pooled_shards = lru_cache(maxsize=1)(self._pooled_shards)

    def describe(self, client: int, pooled: bool = False) -> dict[str, Any]:
        """What the client holds: name, schema, examples, dropped rows, tokens; and the layout of its adapter.

        `pooled` asks whether its rows are among those that a run can train on as if one client owned them all.
        """
        if pooled:
            self._check_pooling()
        held = self.shards(client)
        return {
            "name": held.label,
            "schema": held.schema,
            "examples": len(held.train),
            "held-out": len(held.held_out),
            "dropped": held.train.dropped + held.held_out.dropped,
            "bad": held.bad,
            "duplicates": held.duplicates,
            "notes": "; ".join(held.notes),
            "tokens": held.train.total,
            "manifest": resident(self.model).manifest.hash,
        }

    def train(self, assignment: Assignment, vectors: Vectors, progress: Progress) -> tuple[Vectors, Numbers]:
        """One round of local training: the arrays to send back, and the client's numbers."""
        shards = self.pooled_shards() if assignment.pooled else self.shards(assignment.client)
        corrections = self._corrections(assignment, vectors)
        job = self._job(assignment, vectors, shards, corrections, progress)
        result = self.task.train(job, self.indices(shards.train, assignment))
        arrays, extra = {ADAPTER: result.adapter}, {}
        for correction in corrections:
            more, numbers = correction.finish()
            arrays |= more
            extra |= numbers
        return arrays, {
            EXAMPLES: len(shards.train),
            "train-loss": float(np.mean(result.losses)),
            "first-loss": result.losses[0],
            "last-loss": result.losses[-1],
            "steps": len(result.losses),
            "seconds": result.seconds,
            **_memory(),
            "client": assignment.client,
            **result.preference_metrics,
            **extra,
        }

    def evaluate(self, assignment: Assignment, vectors: Vectors) -> Numbers:
        """Held-out metrics of the adapter on the client's held-out rows."""
        job = self._job(assignment, vectors, self.shards(assignment.client), [], None)
        metrics = self.task.evaluate(job, self.evaluate_examples)
        return {**metrics, **_memory(), "client": assignment.client}

    def _job(self, assignment, vectors: Vectors, shards: ClientShards, corrections, progress) -> Job:
        parts = [self.selection.seed, 3, assignment.client, assignment.server_round]
        return Job(
            model=resident(self.model),
            training=self.training,
            shards=shards,
            assignment=assignment,
            adapter=vectors[ADAPTER],
            reference=self._reference(assignment, vectors),
            seed=int(np.random.SeedSequence(parts).generate_state(1)[0]),
            corrections=corrections,
            progress=progress,
        )

    def _corrections(self, assignment: Assignment, vectors: Vectors) -> list[Correction]:
        return corrections_for(
            LocalRound(
                asked=assignment.asked,
                vectors=vectors,
                pieces=resident(self.model).adapter.pieces,
                state=self._state(assignment),
                server_round=assignment.server_round,
                version=assignment.state_version,
            )
        )

    def _reference(self, assignment: Assignment, vectors: Vectors) -> np.ndarray | None:
        if not assignment.reference:
            return None
        state = self._state(assignment)
        if REFERENCE in vectors:
            state.save_reference(vectors[REFERENCE])
        reference = state.reference()
        if reference is None or vector_hash(reference) != assignment.reference:
            raise ReferenceLost("the adapter of the reference policy is not on this client's disk")
        return reference

    def _state(self, assignment: Assignment) -> ClientState:
        return ClientState(self.run_id, assignment.client)

    def indices(self, shard: Shard | PairShard, assignment: Assignment) -> np.ndarray:
        """The examples of a client's next round, batch by batch."""
        plan, seed = self.training, self.selection.seed
        # The pool of all clients is nobody's shard: it is walked by rounds.
        client = assignment.clients if assignment.pooled else assignment.client
        steps = (assignment.server_round - 1) * plan.local_steps if assignment.pooled else assignment.position
        position = steps * plan.batch_size * plan.gradient_accumulation
        met = walk(len(shard), client, seed, position, plan.examples_per_round)
        return np.concatenate(list(batches(met, shard.lengths, plan.batch_size, [seed, 4, client, steps])))

    def _shards(self, client: int) -> ClientShards:
        data = client_data(self.selection, client)
        train, held_out = self._tokenized("train", data, data.train), self._tokenized("held-out", data, data.held_out)
        if not len(train):
            raise EmptyShard(
                f"none of its {train.dropped} rows has room for a completion within train.max-length = "
                f"{self.tokenization.max_length} tokens"
            )
        key = f"{self._key(data)}"
        return ClientShards(data.label, data.schema, key, train, held_out, data.bad, data.duplicates, data.notes)

    def _pooled_shards(self) -> ClientShards:
        """The rows of all clients, as if one owned them."""
        self._check_pooling()
        held = [self.shards(client) for client in range(self.selection.clients)]
        parts = {part: join([getattr(one, part) for one in held]) for part in ("train", "held_out")}
        return ClientShards("pooled", held[0].schema, " ".join(one.key for one in held), **parts)

    def _check_pooling(self) -> None:
        if self.selection.whole:
            raise SiteDataNotPooled(
                "strategy.name = 'centralized' trains one client on everybody's rows, and this site has its own "
                "(node-config data-path), which no other has: choose another strategy"
            )

    def _key(self, data: ClientData) -> list:
        how = self.tokenization
        template = template_source(how.template) or how.template
        return [resident(self.model).tokenizer_hash, data.fingerprint, template, how.system_prompt, how.max_length]

    def _tokenized(self, part: str, data: ClientData, rows: Rows) -> Shard | PairShard:
        how, tokenizer = self.tokenization, resident(self.model).tokenizer
        template = get_template(how.template, tokenizer)

        def shard(column: str) -> Shard:
            def make() -> Shard:
                examples = (Example(row.prompt, getattr(row, column)) for row in rows)
                return tokenize(examples, template, tokenizer, how.max_length, how.system_prompt)

            return cached([part, column, *self._key(data)], make)

        return PairShard(shard("chosen"), shard("rejected")) if self.task.pairs else shard("completion")


def _train(job: Job, trainer, dataset) -> TrainResult:
    return train_round(
        job.model,
        trainer,
        dataset,
        job.adapter,
        job.assignment.learning_rate,
        job.seed,
        job.corrections,
        job.progress,
    )


def _memory() -> Numbers:
    """What this process has needed at most. On a machine without a GPU the second number is 0, not missing: strategies
    insist on the same metrics from all clients."""
    return {PEAK_MEMORY: peak_memory_mb(), PEAK_GPU_MEMORY: peak_gpu_memory_mb()}


def peak_gpu_memory_mb() -> float:
    """The largest memory that this process has held on its GPU, in MB, beside CUDA's context; 0 without a GPU."""
    return torch.cuda.max_memory_reserved() / 2**20 if torch.cuda.is_available() else 0.0


def peak_memory_mb() -> float:
    """The largest resident memory that this process has had, in MB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
