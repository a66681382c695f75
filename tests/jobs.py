"""Jobs and settings of local training, made without a run."""

from places import ROOT

from fedllm_app.config.parse import default_run_config, parse_run_config
from fedllm_app.config.sections import TrainConfig
from fedllm_app.messages import Assignment
from fedllm_app.training.task import Job, TrainResult
from fedllm_app.training.trainer import train_round


def steps(local_steps, batch_size, gradient_accumulation, optimizer, weight_decay, max_grad_norm) -> TrainConfig:
    """The defaults of `train` with these values."""
    return parse_run_config(default_run_config(ROOT)).train.model_copy(
        update={
            "local_steps": local_steps,
            "batch_size": batch_size,
            "gradient_accumulation": gradient_accumulation,
            "optimizer": optimizer,
            "weight_decay": weight_decay,
            "max_grad_norm": max_grad_norm,
        }
    )


def train_on(model, trainer, dataset, adapter, learning_rate, seed, corrections=(), progress=None) -> TrainResult:
    """One round of training on a data set, for no client in particular."""
    job = Job(
        model=model,
        train=TrainConfig.model_construct(local_steps=trainer.args.max_steps),
        shards=None,
        assignment=Assignment(0, 1, 1, 0, learning_rate, ""),
        adapter=adapter,
        reference=None,
        seed=seed,
        corrections=list(corrections),
        progress=progress,
    )
    return train_round(job, trainer, dataset)
