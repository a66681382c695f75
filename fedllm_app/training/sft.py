"""Instruction tuning: TRL's SFTTrainer on a resident model, scoring completion positions only."""

import time
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from datasets import Dataset
from transformers import TrainerCallback
from trl import SFTConfig, SFTTrainer

from fedllm_app.data.shards import Shard
from fedllm_app.training.corrections import Correction
from fedllm_app.training.head import completion_loss, has_plain_head
from fedllm_app.training.resident import Resident

Progress = Callable[[int, int, float], None]  # step, steps, loss


@dataclass(frozen=True)
class LocalTraining:
    """How a client trains in a round; fixed for the run."""

    local_steps: int
    batch_size: int
    gradient_accumulation: int
    optimizer: str
    weight_decay: float
    max_grad_norm: float

    @property
    def examples_per_round(self) -> int:
        """Examples that one client meets in one round."""
        return self.local_steps * self.batch_size * self.gradient_accumulation


@dataclass(frozen=True)
class TrainResult:
    """What local training gave: the new packed adapter, the loss of every optimizer step, tokens and seconds."""

    adapter: np.ndarray
    losses: list[float]
    tokens: int
    seconds: float


class CompletionTrainer(SFTTrainer):
    """SFTTrainer without what federated rounds do not use.

    It takes batches in the order given, scores completion positions only, and computes no metric but the loss: TRL's
    own head scores prompt and padding too where there is no GPU, and its entropy and accuracy are read by nobody here.
    """

    def _get_train_sampler(self, train_dataset=None):
        return torch.utils.data.SequentialSampler(self.train_dataset)

    def compute_loss(self, model, inputs, return_outputs=False, num_items_in_batch=None):
        """Mean negative log-likelihood per completion token of the optimizer step, as TRL's."""
        base = self.model.get_base_model()
        if return_outputs or self.aux_loss_enabled or not has_plain_head(base.config):
            return super().compute_loss(model, inputs, return_outputs, num_items_in_batch)
        total, correct = completion_loss(base, inputs["input_ids"], inputs["labels"])
        return total / (len(correct) if num_items_in_batch is None else num_items_in_batch)


class _RoundCallback(TrainerCallback):
    """Applies the round's corrections, keeps the losses and reports progress."""

    def __init__(self) -> None:
        self.corrections: list[Correction] = []
        self.parameters: list[torch.nn.Parameter] = []
        self.progress: Progress | None = None
        self.losses: list[float] = []

    def on_pre_optimizer_step(self, args, state, control, **kwargs):
        for correction in self.corrections:
            correction.apply(self.parameters)

    def on_log(self, args, state, control, logs=None, **kwargs):
        if "loss" in logs:
            self.losses.append(float(logs["loss"]))
            if self.progress:
                self.progress(state.global_step, state.max_steps, self.losses[-1])


def train_sft(
    resident: Resident,
    rows: list[tuple[np.ndarray, int]],
    training: LocalTraining,
    adapter: np.ndarray,
    learning_rate: float,
    seed: int,
    corrections: list[Correction] | None = None,
    progress: Progress | None = None,
) -> TrainResult:
    """Train the adapter for one round, from `adapter`, on `rows` in their order.

    Parameters
    ----------
    rows : list[tuple[np.ndarray, int]]
        Exactly `training.examples_per_round` tokenized examples (token ids, first completion position), batch by batch.
    adapter : np.ndarray
        The packed global adapter, shape (manifest.size,).
    learning_rate : float
        Constant within the round.
    seed : int
        Seeds dropout, so that it depends on the client and the round and not on which process serves them.
    """
    started = time.perf_counter()
    trainer, callback = _trainer(resident, training)
    resident.adapter.write(adapter)
    callback.corrections = corrections or []
    callback.parameters = resident.adapter.by_manifest()
    callback.progress, callback.losses = progress, []
    trainer.train_dataset = _dataset(rows)
    trainer.args.learning_rate = learning_rate
    # Clients keep no optimizer state between rounds.
    trainer.optimizer, trainer.lr_scheduler = None, None
    torch.manual_seed(seed)
    resident.model.train()
    trainer.train()
    resident.model.zero_grad(set_to_none=True)
    return TrainResult(
        adapter=resident.adapter.read(),
        losses=callback.losses,
        tokens=sum(len(ids) for ids, _ in rows),
        seconds=time.perf_counter() - started,
    )


@torch.no_grad()
def evaluate_sft(resident: Resident, shard: Shard, adapter: np.ndarray, examples: int, batch_size: int = 16) -> dict:
    """Held-out loss and exact match of `adapter` on the first `examples` rows of a shard.

    Exact match counts the rows whose completion greedy decoding would produce token by token, end token included: given
    the right tokens so far, each next one must be the most likely. That needs one forward pass and no decoding loop.

    Returns
    -------
    dict
        `num-examples`, `eval-loss` (mean over completion tokens) and `exact-match` (share of rows).
    """
    resident.adapter.write(adapter)
    resident.model.eval()
    base = resident.model.get_base_model()
    total, tokens, exact = 0.0, 0, 0
    order = np.argsort(shard.lengths[:examples], kind="stable")
    for start in range(0, len(order), batch_size):
        input_ids, labels = _collate([shard.example(index) for index in order[start : start + batch_size]])
        device = next(base.parameters()).device
        loss, correct = completion_loss(base, input_ids.to(device), labels.to(device))
        total += float(loss)
        tokens += len(correct)
        row_of_token = (labels[:, 1:] != -100).nonzero()[:, 0]
        missed = torch.zeros(len(labels)).index_add_(0, row_of_token, (~correct.cpu()).float())
        exact += int((missed == 0).sum())
    return {"num-examples": len(order), "eval-loss": total / tokens, "exact-match": exact / len(order)}


def _trainer(resident: Resident, training: LocalTraining) -> tuple[CompletionTrainer, _RoundCallback]:
    """The one trainer of this resident model and these settings: built once, used in every round by every client."""
    if training not in resident.trainers:
        callback = _RoundCallback()
        arguments = SFTConfig(
            output_dir="unused",
            max_steps=training.local_steps,
            per_device_train_batch_size=training.batch_size,
            gradient_accumulation_steps=training.gradient_accumulation,
            optim="adamw_torch" if training.optimizer == "adamw" else "sgd",
            weight_decay=training.weight_decay,
            max_grad_norm=training.max_grad_norm,
            lr_scheduler_type="constant",
            logging_steps=1,
            logging_nan_inf_filter=False,
            save_strategy="no",
            report_to=[],
            disable_tqdm=True,
            bf16=False,
            use_cpu=not torch.cuda.is_available(),
            gradient_checkpointing=False,
            dataset_kwargs={"skip_prepare_dataset": True},
            remove_unused_columns=False,
        )
        placeholder = _dataset([(np.zeros(2, np.int32), 1)])
        trainer = CompletionTrainer(
            resident.model,
            args=arguments,
            train_dataset=placeholder,
            processing_class=resident.tokenizer,
            callbacks=[callback],
        )
        resident.trainers[training] = (trainer, callback)
    return resident.trainers[training]


def _dataset(rows: list[tuple[np.ndarray, int]]) -> Dataset:
    """Rows as TRL takes them: labels are the tokens, -100 on the prompt."""
    labels = [np.concatenate([np.full(start, -100), ids[start:]]) for ids, start in rows]
    return Dataset.from_dict({"input_ids": [ids for ids, _ in rows], "labels": labels})


def _collate(rows: list[tuple[np.ndarray, int]]) -> tuple[torch.Tensor, torch.Tensor]:
    """Rows padded on the right: input ids (padding 0, never attended to) and labels (-100), shape (batch, longest)."""
    longest = max(len(ids) for ids, _ in rows)
    input_ids = torch.zeros(len(rows), longest, dtype=torch.long)
    labels = torch.full((len(rows), longest), -100)
    for row, (ids, start) in enumerate(rows):
        input_ids[row, : len(ids)] = torch.from_numpy(ids.astype(np.int64))
        labels[row, start : len(ids)] = input_ids[row, start : len(ids)]
    return input_ids, labels
