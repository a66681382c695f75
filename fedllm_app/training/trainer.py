"""One round of local training with a TRL trainer: what all tasks share.

A trainer is built once for a resident model and serves every round of every client: the adapter, the data and the
learning rate are put in, and the optimizer starts anew, because clients keep no moments between rounds.
"""

import gc
import time
from collections import defaultdict
from collections.abc import Callable, Hashable

import numpy as np
import torch
from datasets import Dataset
from transformers import Trainer, TrainerCallback, TrainingArguments
from transformers.trainer_callback import PrinterCallback

from fedllm_app.config.sections import TrainConfig
from fedllm_app.errors import UserError
from fedllm_app.paths import home, make_directory
from fedllm_app.training.corrections import Correction
from fedllm_app.training.head import install_head
from fedllm_app.training.resident import Resident, freeze_home
from fedllm_app.training.task import Job, Progress, TrainResult


class AdapterAtRest(UserError):
    """A round of training left the adapter as it was, bit for bit."""

    shareable = True


def training_arguments(train: TrainConfig) -> dict:
    """The arguments that every TRL trainer of this app is built with."""
    unused = home() / "trainer"  # transformers wants it to be there, and nothing is written to it
    make_directory(unused)
    return {
        "output_dir": str(unused),
        "max_steps": train.local_steps,
        "per_device_train_batch_size": train.batch_size,
        "gradient_accumulation_steps": train.gradient_accumulation,
        "optim": optimizer_name(train.optimizer, torch.cuda.is_available()),
        "weight_decay": train.weight_decay,
        "max_grad_norm": train.max_grad_norm,
        "lr_scheduler_type": "constant",
        "logging_steps": 1,
        "logging_nan_inf_filter": False,
        "save_strategy": "no",
        "report_to": [],
        "disable_tqdm": True,
        "bf16": False,
        "use_cpu": not torch.cuda.is_available(),
        "activation_checkpointing": train.gradient_checkpointing,
        "remove_unused_columns": False,
        "router_aux_loss_coef": 0.0,  # experts' routers are frozen, and held-out losses do not have that term
    }


def optimizer_name(optimizer: str, on_a_gpu: bool) -> str:
    """What transformers calls `train.optimizer`. On a GPU AdamW is one fused kernel, and 8-bit moments are paged."""
    names = {
        "adamw": ("adamw_torch", "adamw_torch_fused"),
        "adamw-8bit": ("adamw_8bit", "paged_adamw_8bit"),
        "sgd": ("sgd", "sgd"),
    }
    return names[optimizer][on_a_gpu]


def use_one_gpu(arguments: TrainingArguments) -> TrainingArguments:
    """Train on one of the GPUs that this process sees, as the model lies on one.

    Without a word transformers would copy the model to all of them and take `train.batch-size` rows for each.
    """
    arguments._n_gpu = min(arguments.n_gpu, 1)  # n_gpu looks at the machine when it is first asked
    return arguments


def forget_embeddings(optimizer: str) -> None:
    """Let bitsandbytes forget the modules that transformers has named to it, or no model would ever be released."""
    if not optimizer.endswith("8bit"):
        return
    from bitsandbytes.optim import GlobalOptimManager

    manager = GlobalOptimManager.get_instance()
    for kept in (manager.module_weight_config_triple, manager.pid2config, manager.index2config):
        kept.clear()


class RoundCallback(TrainerCallback):
    """Applies the round's corrections, keeps what is logged and reports progress."""

    def __init__(self) -> None:
        self.begin([], [], None)

    def begin(
        self, corrections: list[Correction], parameters: list[torch.nn.Parameter], progress: Progress | None
    ) -> None:
        """Get ready for a round."""
        self.corrections, self.parameters, self.progress = corrections, parameters, progress
        self.logs: dict[str, list[float]] = defaultdict(list)

    def on_train_begin(self, args, state, control, **kwargs):
        if self.progress:
            self.progress(0, state.max_steps, None)

    def on_pre_optimizer_step(self, args, state, control, **kwargs):
        for correction in self.corrections:
            correction.apply(self.parameters)

    def on_log(self, args, state, control, logs=None, **kwargs):
        if "loss" not in logs:  # the summary at the end
            return
        for name, value in logs.items():
            self.logs[name].append(float(value))
        if self.progress:
            self.progress(state.global_step, state.max_steps, self.logs["loss"][-1])


class InGivenOrder:
    """Mixed into a trainer: batches come in the order of the data set, which the client has drawn already."""

    def _get_train_sampler(self, train_dataset=None):
        return torch.utils.data.SequentialSampler(self.train_dataset)


def train_round(job: Job, trainer: Trainer, dataset: Dataset) -> TrainResult:
    """Train a job's adapter for one round on `dataset`, in its order, with the job's corrections."""
    started = time.perf_counter()
    callback = next(c for c in trainer.callback_handler.callbacks if isinstance(c, RoundCallback))
    view = job.model.adapter
    view.write(job.adapter)
    freeze_home(job.model.model, job.model.key.aggregation)  # PEFT unfreezes the whole adapter when it is switched on
    callback.begin(job.corrections, view.parameters, job.progress)
    trainer.train_dataset = dataset
    trainer.args.max_steps = job.train.local_steps * job.assignment.shares
    trainer.args.learning_rate = job.assignment.learning_rate
    trainer.optimizer, trainer.lr_scheduler = None, None
    torch.manual_seed(job.seed)
    job.model.model.train()
    trainer.train()
    forget_embeddings(trainer.args.optim)
    job.model.model.zero_grad(set_to_none=True)
    adapter = view.read()
    if np.array_equal(adapter, job.adapter):
        raise AdapterAtRest(
            f"the adapter did not move in {trainer.state.global_step} optimizer steps at learning rate "
            f"{job.assignment.learning_rate:g}: every gradient or the rate was zero; look at train.learning-rate, "
            "train.min-learning-rate and the losses in the journal"
        )
    return TrainResult(adapter, dict(callback.logs), time.perf_counter() - started)


def resident_trainer(
    resident: Resident,
    key: Hashable,
    trainer_class: type[Trainer],
    arguments: Callable[[], TrainingArguments],
    placeholder: Dataset,
) -> Trainer:
    """The one trainer of a resident model for `key`, built on first use with a data set that only has the right form.

    Building it anew for every message would wrap the model's forward once more each time. `arguments` is called only
    when one is built, because making them resets accelerate's state, on which an earlier trainer depends; that one is
    let go.
    """
    if key not in resident.trainers:
        resident.trainers.clear()
        gc.unfreeze()
        base = resident.model.get_base_model()
        base.activation_checkpointing_disable()  # an earlier trainer may have asked for it
        base.disable_input_require_grads()
        before = [(view, view.read()) for view in (resident.adapter, resident.home)]
        trainer = trainer_class(
            resident.model,
            args=use_one_gpu(arguments()),
            train_dataset=placeholder,
            processing_class=resident.tokenizer,
            callbacks=[RoundCallback()],
        )
        trainer.remove_callback(PrinterCallback)  # it prints every log line
        install_head(base, resident.head)
        for view, vector in before:
            view.restore(vector)  # on a quantized base, TRL has cast it to bfloat16
        freeze_home(resident.model, resident.key.aggregation)
        resident.trainers[key] = trainer
        # Trainers collect garbage in every round, which among the objects of some thousand imported modules takes a
        # third of a second. All that is there now stays until the model is released.
        gc.freeze()
    return resident.trainers[key]


def collate(rows: list[tuple[np.ndarray, int]], device: torch.device) -> tuple[torch.Tensor, torch.Tensor]:
    """Rows (token ids, first completion position) padded on the right.

    Returns input ids (padding 0, never attended to) and labels (-100 on prompt and padding), shape (batch, longest).
    """
    longest = max(len(ids) for ids, _ in rows)
    input_ids = torch.zeros(len(rows), longest, dtype=torch.long)
    labels = torch.full((len(rows), longest), -100)
    for row, (ids, start) in enumerate(rows):
        input_ids[row, : len(ids)] = torch.from_numpy(ids.astype(np.int64))
        labels[row, start : len(ids)] = input_ids[row, start : len(ids)]
    return input_ids.to(device), labels.to(device)
