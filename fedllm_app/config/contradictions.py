"""Values that are valid alone and impossible together."""

from dataclasses import fields
from pathlib import Path

from fedllm_app.class_paths import is_class_path
from fedllm_app.config.sections import PROMPT_METHODS, ClientsConfig, Config, DataConfig
from fedllm_app.data.examples import Document
from fedllm_app.data.partition import LABELLED
from fedllm_app.data.schemas import Columns, column_fields
from fedllm_app.data.sources import BUILT_IN, NAMED_SETS, set_names
from fedllm_app.strategies.registry import (
    minimum_clients,
)
from fedllm_app.tasks import task_spec


def contradictions(config: Config) -> list[str]:
    """Values that are fine alone and impossible together."""
    problems = []
    clients, train, data = config.clients, config.train, config.data
    if clients.number and clients.per_round > clients.number:
        problems.append(
            f"clients.per-round = {clients.per_round}: accepted is 0 (all) to clients.number = {clients.number}"
        )
    if train.min_learning_rate > train.learning_rate:
        problems.append(
            f"train.min-learning-rate = {train.min_learning_rate}: accepted is at most "
            f"train.learning-rate = {train.learning_rate}"
        )
    if config.evaluate.every and not (data.held_out_examples or data.held_out_share):
        problems.append(
            "evaluate.every > 0 needs data.held-out-examples of at least 1 or a data.held-out-share above 0; "
            "set evaluate.every = 0 for none"
        )
    problems += _data_contradictions(data, clients)
    problems += _task_contradictions(config)
    directory = config.run.directory
    if directory and not Path(directory).is_absolute():
        problems.append(f'run.directory = {directory!r}: accepted is an absolute path, or "" for a new one')
    start = config.adapter.start
    if start and not Path(start).is_absolute():
        problems.append(f"adapter.start = {start!r}: accepted is an absolute path")
    problems += _adapter_contradictions(config)
    taking_part = clients.per_round or clients.number
    needed = minimum_clients(config.strategy.name, config.strategy.hyper)
    if taking_part and taking_part < needed:
        problems.append(
            f"strategy.name = {config.strategy.name!r} needs at least {needed} clients a round, "
            f"the configuration has {taking_part}"
        )
    return problems


def _data_contradictions(data: DataConfig, clients: ClientsConfig) -> list[str]:
    """Ways to divide rows that the named data does not allow."""
    problems = []
    names = set_names(data.name)
    if data.partition == "by-domain":
        if "" in names or BUILT_IN in names:
            problems.append(
                f"data.name = {data.name!r}: accepted with data.partition = 'by-domain' is sets separated by commas: "
                "absolute paths, named sets, Hub ids"
            )
        if clients.number != len(names):
            problems.append(
                f"clients.number = {clients.number}: data.partition = 'by-domain' gives each client one set and "
                f"data.name holds {len(names)}: accepted is {len(names)}, or 0"
            )
    elif len(names) > 1:
        problems.append(
            f"data.name = {data.name!r} holds {len(names)} names and data.partition = {data.partition!r} divides one "
            "set: accepted is one name, or data.partition = 'by-domain' for a client a set"
        )
    if data.partition in LABELLED and not data.partition_column:
        problems.append(
            f"data.partition = {data.partition!r} divides by a label: accepted for data.partition-column is the name "
            "of a column, not ''"
        )
    if data.name == BUILT_IN and data.partition not in ("iid", "by-domain"):
        problems.append(
            f"data.partition = {data.partition!r}: accepted with data.name = '{BUILT_IN}' is 'iid', because the "
            "built-in corpus gives every client one domain"
        )
    if data.name == BUILT_IN and data.samples:
        problems.append(
            f"data.samples = {data.samples}: accepted with data.name = '{BUILT_IN}' is 0; the rows of the built-in "
            "corpus are set by data.examples-per-client"
        )
    return problems


def _task_contradictions(config: Config) -> list[str]:
    """Values that the task does not go with. What a task of the user's own needs is known when the run begins."""
    task, data = config.train.task, config.data
    if is_class_path(task):
        return []
    rows, problems = task_spec(task).rows, []
    for name in set_names(data.name):
        if name in NAMED_SETS and NAMED_SETS[name].rows != rows:
            fitting = ", ".join(key for key, known in NAMED_SETS.items() if known.rows == rows) or "none"
            problems.append(
                f"data.name = {name!r} has {NAMED_SETS[name].rows} rows, and train.task = {task!r} needs {rows} rows; "
                f"named sets that have them: {fitting}"
            )
    read = column_fields(rows)
    for field in fields(Columns):
        column = getattr(data, f"{field.name}_column")
        if column and field.name not in read:
            keys = ", ".join(f"data.{known.name}-column" for known in fields(Columns) if known.name in read)
            problems.append(
                f'data.{field.name}-column = {column!r}: must be "" with train.task = {task!r}, which reads {keys}'
            )
    if rows == Document.kind and data.system_prompt:
        problems.append(
            f'data.system-prompt = {data.system_prompt!r}: must be "" with train.task = {task!r}, which trains on text '
            "as it stands; for a chat with the result, give it to fedllm chat --system-prompt"
        )
    if task == "kto" and config.kto.loss_type == "kto" and config.train.batch_size < 2:
        problems.append(
            "train.batch-size = 1: must be at least 2 with kto.loss-type = 'kto', which compares each row with another "
            "of its batch; kto.loss-type = 'apo_zero_unpaired' does not"
        )
    return problems


def _adapter_contradictions(config: Config) -> list[str]:
    """Values of model, adapter and LoRA that are fine alone and impossible together."""
    problems = []
    lora, method, train = config.lora, config.adapter.method, config.train
    if not lora.targets:
        problems.append(f"lora.target-modules = {lora.target_modules!r}: accepted is names or all-linear")
    if method == "lora" and "lm_head" in lora.targets:
        problems.append(
            f"lora.target-modules = {lora.target_modules!r}: accepted is modules below the language-model head, lm_head, "
            "which stays frozen"
        )
    for key, wanted in (("rslora", lora.rslora), ("dora", lora.dora)):
        if wanted and method != "lora":
            problems.append(f"lora.{key} = true: accepted is false with adapter.method = {method!r}")
    if config.model.double_quantization and config.model.quantization != "nf4":
        problems.append(
            "model.double-quantization = true: accepted is false with model.quantization = "
            f"{config.model.quantization!r}; it quantizes the scales of nf4"
        )
    if train.gradient_checkpointing and method == "prefix-tuning":
        problems.append(
            "train.gradient-checkpointing = true: accepted is false with adapter.method = 'prefix-tuning', whose prefix "
            "travels in the attention cache, which checkpointed layers have not"
        )
    if method in PROMPT_METHODS and config.adapter.virtual_tokens >= train.max_length:
        problems.append(
            f"adapter.virtual-tokens = {config.adapter.virtual_tokens}: accepted is less than train.max-length = "
            f"{train.max_length}"
        )
    return problems
