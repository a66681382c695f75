"""What one process does for the clients it serves: describe, train, evaluate.

A client is a number; between messages nothing of it stays in memory but its tokenized shard. What its algorithm has it
keep lies on its disk.
"""

import resource
from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
import torch

from fedllm_app.client.disclosure import write_site_log
from fedllm_app.client.policy import check_pooling
from fedllm_app.client.shards import ShardStore, round_indices
from fedllm_app.config.sections import TrainConfig
from fedllm_app.errors import UserError
from fedllm_app.evaluation.during import SuiteWatch
from fedllm_app.evaluation.suite import DATA_FILE
from fedllm_app.messages import (
    ADAPTER,
    EXAMPLES,
    HOME,
    PEAK_GPU_MEMORY,
    PEAK_MEMORY,
    REFERENCE,
    Assignment,
    ClientHolding,
    vector_hash,
)
from fedllm_app.models.digest import base_digests
from fedllm_app.models.location import locate_model
from fedllm_app.training.client_state import ClientState, RoundState
from fedllm_app.training.corrections import Correction, LocalRound, Numbers, Vectors, corrections_for
from fedllm_app.training.resident import Resident, ResidentKey, resident
from fedllm_app.training.task import ClientShards, Job, Progress, Task
from fedllm_app.updates.chain import UpdateChain


class ArrayLost(UserError):
    """The client has no copy of an array that the server sends once; the server sends it again after this."""

    shareable = True


@dataclass(frozen=True)
class LocalClient:
    """Serves the clients of one run from this process's resident model.

    Attributes
    ----------
    key : ResidentKey
        The model and adapter.
    corrections : tuple[type[Correction], ...]
        Corrections of the user's own, beside those of the table.
    seed : int
        Of the order of rows and of dropout: `run.seed`.
    evaluate_examples : int
        Held-out rows of an evaluation.
    draw_home : Callable[[], np.ndarray]
        Draws the part of the starting adapter that stays at home, packed, as the server draws it.
    suite : SuiteWatch | None
        A suite that is asked at every evaluation.
    discreet : bool
        Whether the rows belong to somebody else than the run: then the description of what a client holds names neither
        files nor columns.
    """

    run_id: int
    key: ResidentKey
    store: ShardStore
    train_config: TrainConfig
    task: Task
    chain: UpdateChain
    corrections: tuple[type[Correction], ...]
    seed: int
    evaluate_examples: int
    draw_home: Callable[[], np.ndarray]
    suite: SuiteWatch | None = None
    discreet: bool = False

    @property
    def model(self) -> Resident:
        """The resident model."""
        return resident(self.key)

    def shards(self, client: int) -> ClientShards:
        """A client's tokenized rows."""
        return self.store.client(client, self.model)

    def pooled_shards(self) -> ClientShards:
        """The rows of all clients, as if one owned them."""
        return self.store.pooled(self.model)

    def describe(self, client: int, pooled: bool = False) -> tuple[ClientHolding, str]:
        """What the client holds, and the hash of the layout of what it will send.

        `pooled` asks whether its rows are among those that a run can train on as if one client owned them all.
        """
        if pooled:
            check_pooling(self.store.selection)
        model = self.key.model
        digests = base_digests(locate_model(model.name, model.trust_remote_code))
        holding = replace(self.describe_rows(client), base=digests.weights, tokenizer=digests.tokenizer)
        return holding, self.model.manifest.hash

    def describe_rows(self, client: int) -> ClientHolding:
        """What the client holds."""
        shards = self.shards(client)
        name, notes = shards.label, shards.notes
        if self.discreet:
            write_site_log(f"what client {client} of run {self.run_id} holds: {'; '.join(notes)}")
            name, notes = self.store.selection.site or f"client {client}", shards.public_notes
        return ClientHolding(
            name=name,
            schema=shards.schema,
            examples=len(shards.train),
            held_out=len(shards.held_out),
            dropped=shards.train.dropped + shards.held_out.dropped,
            bad=shards.bad,
            tokens=shards.train.total,
            cut=shards.train.cut + shards.held_out.cut,
            cut_training=shards.train.cut,
            refused=shards.refused,
            first_refused=shards.first_refused,
            equal=shards.train.equal + shards.held_out.equal,
            one_kind=shards.train.one_kind,
            duplicates=shards.duplicates,
            notes="; ".join(notes),
        )

    def train(self, assignment: Assignment, vectors: Vectors, progress: Progress) -> tuple[Vectors, Numbers]:
        """One round of local training: the arrays to send back, and the client's numbers."""
        shards = self.pooled_shards() if assignment.pooled else self.shards(assignment.client)
        corrections = self._corrections(assignment, vectors)
        job = self._job(assignment, vectors, shards, corrections, progress)
        result = self.task.train(job, self.indices(shards, assignment))
        arrays, numbers = {ADAPTER: result.adapter}, {}
        for correction in corrections:
            more, reported = correction.finish()
            arrays |= more
            numbers |= reported
        assignment.check_honoured()
        arrays, reported = self.chain.outgoing(arrays, vectors[ADAPTER], self._round_state(assignment))
        return arrays, {
            EXAMPLES: len(shards.train),
            "train-loss": float(np.mean(result.losses)),
            "first-loss": result.losses[0],
            "last-loss": result.losses[-1],
            "steps": len(result.losses),
            "seconds": result.seconds,
            **_memory(),
            "client": assignment.client,
            **result.metrics,
            **numbers,
            **reported,
        }

    def evaluate(self, assignment: Assignment, vectors: Vectors) -> Numbers:
        """Metrics of the adapter on the client's held-out rows, as "test-…" on those of the common test set, and as
        "suite-…" on a suite."""
        job = self._job(assignment, vectors, self.shards(assignment.client), [], None)
        metrics = self.task.evaluate(job, self.evaluate_examples)
        test = self.store.test(self.model)
        if test is not None:
            tested = self.task.evaluate(replace(job, shards=test), self.evaluate_examples)
            metrics |= {f"test-{name}": value for name, value in tested.items()}
        if self.suite is not None:
            figures = self.suite.figures(self.model, vectors[ADAPTER])
            metrics |= {f"suite-{self._suite_metric(name)}": value for name, value in figures.items()}
        assignment.check_honoured()
        return {**metrics, **_memory(), "client": assignment.client}

    def _suite_metric(self, name: str) -> str:
        """The name of a suite's figure, "set/metric"; the set of a data file is called after it, which a site hides."""
        hidden = self.discreet and self.suite.name.startswith(DATA_FILE)
        return f"file/{name.rpartition('/')[2]}" if hidden else name

    def indices(self, shards: ClientShards, assignment: Assignment) -> np.ndarray:
        """The examples of a client's next round, batch by batch."""
        train, pooled, shares = self.train_config, assignment.pooled, assignment.shares
        return round_indices(
            shards,
            client=assignment.client,
            clients=assignment.clients,
            pooled=pooled,
            seed=self.seed,
            # The pool is walked by rounds, because another client may walk it in each; all rounds have as many shares.
            steps=(assignment.server_round - 1) * train.local_steps * shares if pooled else assignment.position,
            per_step=train.batch_size * train.gradient_accumulation,
            batch=train.batch_size,
            count=train.examples_per_round * shares,
        )

    def _job(self, assignment, vectors: Vectors, shards: ClientShards, corrections, progress) -> Job:
        self._place_home(assignment, vectors)
        parts = [self.seed, 3, assignment.client, assignment.server_round]
        return Job(
            model=self.model,
            train=self.train_config,
            shards=shards,
            assignment=assignment,
            adapter=vectors[ADAPTER],
            reference=self._sent_once(REFERENCE, assignment, vectors),
            seed=int(np.random.SeedSequence(parts).generate_state(1)[0]),
            corrections=corrections,
            progress=progress,
        )

    def _corrections(self, assignment: Assignment, vectors: Vectors) -> list[Correction]:
        local_round = LocalRound(
            config=assignment.config,
            vectors=vectors,
            pieces=self.model.adapter.pieces,
            state=self._state(assignment),
            server_round=assignment.server_round,
            version=assignment.state_version,
        )
        return corrections_for(local_round, self.corrections)

    def _place_home(self, assignment: Assignment, vectors: Vectors) -> None:
        """Write the part of the adapter that stays at home into the model."""
        home = self._sent_once(HOME, assignment, vectors, self.draw_home)
        if home is not None:
            self.model.home.write(home)

    def _sent_once(
        self, name: str, assignment: Assignment, vectors: Vectors, derive: Callable[[], np.ndarray] | None = None
    ) -> np.ndarray | None:
        """An array that the server sends once: from the message, from disk or derived; None if the run has none."""
        if name not in assignment.once:
            return None
        state = self._state(assignment)
        if name in vectors:
            state.keep(name, vectors[name])
        array = state.kept(name)
        if array is None and derive is not None:
            array = derive()
            state.keep(name, array)
        if array is None or vector_hash(array) != assignment.once[name]:
            raise ArrayLost(f"the array {name!r} that the server sends once is not on this client's disk")
        return array

    def _state(self, assignment: Assignment) -> ClientState:
        return ClientState(assignment.run, assignment.client, assignment.checkpoints)

    def _round_state(self, assignment: Assignment) -> RoundState:
        return RoundState(self._state(assignment), assignment.state_version, assignment.server_round)


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
