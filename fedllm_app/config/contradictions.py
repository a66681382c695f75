"""Values that are valid alone and impossible together."""

from dataclasses import fields
from pathlib import Path

from fedllm_app.class_paths import ClassPathError, NotImportable, is_class_path
from fedllm_app.config.sections import PROMPT_METHODS, ClientsConfig, Config, DataConfig
from fedllm_app.config.without_effect import without_effect
from fedllm_app.data.examples import Document, Example
from fedllm_app.data.named_sets import BUILT_IN, NAMED_SETS, set_names
from fedllm_app.data.partition import LABELLED
from fedllm_app.data.readers.base import TextFormat
from fedllm_app.data.schemas import Columns, column_fields
from fedllm_app.strategies.registry import build_strategy, minimum_clients
from fedllm_app.strategies.round_strategy import RoundStrategy
from fedllm_app.tasks import TASKS, task_spec
from fedllm_app.updates.chain import UpdateChain
from fedllm_app.updates.table import COMPRESSIONS, build_chain


def contradictions(config: Config) -> list[str]:
    """Values that are fine alone and impossible together."""
    problems = []
    clients, train, data = config.clients, config.train, config.data
    if clients.number and clients.per_round > clients.number:
        problems.append(
            f"clients.per-round = {clients.per_round}: must be between 0 (all) and clients.number = {clients.number}"
        )
    if clients.enough < clients.minimum:
        problems.append(
            f"clients.enough = {clients.enough:g}: must be at least clients.minimum = {clients.minimum:g}, or a round "
            "would be closed before it is one"
        )
    if train.min_learning_rate == 0 and train.rounds > 1:
        problems.append(
            "train.min-learning-rate = 0.0: the last round trains at this rate and would change nothing: set it above 0"
        )
    if train.min_learning_rate > train.learning_rate:
        problems.append(
            f"train.min-learning-rate = {train.min_learning_rate}: must be at most "
            f"train.learning-rate = {train.learning_rate}"
        )
    if config.evaluate.every and not (data.held_out_examples or data.held_out_share):
        problems.append(
            "evaluate.every > 0 needs data.held-out-examples or data.held-out-share above 0; "
            "set evaluate.every = 0 for none"
        )
    problems += _suite_contradictions(config)
    problems += _data_contradictions(data, clients, train.task)
    problems += _task_contradictions(config)
    directory = config.run.directory
    if directory and not Path(directory).is_absolute():
        problems.append(f'run.directory = {directory!r}: must be an absolute path, or "" for a new directory')
    resume = config.run.resume
    if resume and not Path(resume).is_absolute():
        problems.append(f"run.resume = {resume!r}: must be the absolute path of a run directory")
    if resume and directory and Path(directory) != Path(resume):
        problems.append(f'run.directory = {directory!r}: must be that of run.resume, {resume!r}, or ""')
    start = config.adapter.start
    if start and not Path(start).is_absolute():
        problems.append(f"adapter.start = {start!r}: must be an absolute path")
    problems += _adapter_contradictions(config)
    problems += without_effect(config)
    taking_part = clients.per_round or clients.number
    needed = minimum_clients(config.strategy.name, config.strategy.hyper)
    if taking_part and taking_part < needed:
        problems.append(
            f"strategy.name = {config.strategy.name!r} needs at least {needed} clients a round, "
            f"the configuration has {taking_part}"
        )
    return problems or _update_contradictions(config, clients.number or needed)


def _suite_contradictions(config: Config) -> list[str]:
    """A suite that would not be asked, or relative paths, which are others in the processes of a run."""
    evaluate = config.evaluate
    if not evaluate.suite:
        return []
    problems = []
    if not evaluate.every:
        problems.append(f"evaluate.suite = {evaluate.suite!r} needs evaluate.every above 0; it would never be asked")
    if evaluate.suite_at == "server" and config.strategy.name == "local":
        problems.append(
            f"evaluate.suite = {evaluate.suite!r}: the server has no adapter to ask with strategy.name = 'local'; set "
            'evaluate.suite-at = "clients", or use fedllm evaluate after the run'
        )
    file = evaluate.suite.removeprefix("file:")
    is_path = file != evaluate.suite or "/" in file or file.endswith(".py")
    if is_path and not Path(file).is_absolute():
        problems.append(f"evaluate.suite = {evaluate.suite!r}: must be a name, or an absolute path")
    if evaluate.suite_data and not Path(evaluate.suite_data).is_absolute():
        problems.append(f"evaluate.suite-data = {evaluate.suite_data!r}: must be an absolute path")
    return problems


def update_problems(config: Config, chain: UpdateChain, strategy: RoundStrategy) -> list[str]:
    """Why update steps cannot work with the strategy, a sentence each that names both keys."""
    update = config.update
    given = dict.fromkeys(COMPRESSIONS, f"update.compress = {update.compress!r}")
    steps = f"update.steps = {update.steps!r}"
    return [
        f"{given.get(name, steps)} does not work with strategy.name = {config.strategy.name!r}: {problem}"
        for name, problem in chain.problems(strategy).items()
    ]


def _update_contradictions(config: Config, number: int) -> list[str]:
    """The same, as far as their classes can be imported here; the server refuses what is wrong with the others."""
    try:
        chain = build_chain(config.update.steps, config.update.compress)
    except NotImportable:
        return []
    except ClassPathError as error:
        return [f"update.steps = {config.update.steps!r}: {error}"]
    if not chain.steps:
        return []
    try:
        strategy = build_strategy(config.strategy.name, config.strategy.hyper, number)
    except ClassPathError:
        return []
    return update_problems(config, chain, strategy)


def _data_contradictions(data: DataConfig, clients: ClientsConfig, task: str) -> list[str]:
    """Ways to divide rows that the named data does not allow."""
    problems = [
        f"data.{key} = {getattr(data, key)!r}: {problem}"
        for key, problem in TextFormat(data.delimiter, data.encoding).problems().items()
    ]
    if data.test and data.name == BUILT_IN:
        problems.append(
            f"data.test = {data.test!r}: must be \"\" with data.name = '{BUILT_IN}', whose held-out rows are the test"
        )
    names = set_names(data.name)
    if data.partition == "by-domain":
        if "" in names or BUILT_IN in names:
            problems.append(
                f"data.name = {data.name!r}: data.partition = 'by-domain' needs sets separated by commas: "
                "absolute paths, named sets, Hub ids"
            )
        if clients.number != len(names):
            problems.append(
                f"clients.number = {clients.number}: data.partition = 'by-domain' gives each client one set and "
                f"data.name holds {len(names)}: it must be {len(names)}, or 0"
            )
    elif len(names) > 1:
        problems.append(
            f"data.name = {data.name!r} holds {len(names)} names and data.partition = {data.partition!r} divides one "
            "set: give one name (in double quotes if it has a comma), or set data.partition = 'by-domain' to give each "
            "client a set"
        )
    if data.partition in LABELLED and not data.partition_column:
        problems.append(
            f"data.partition = {data.partition!r} divides by a label: data.partition-column must be the name "
            "of a column, not ''"
        )
    if data.name == BUILT_IN and data.partition not in ("iid", "by-domain"):
        problems.append(
            f"data.partition = {data.partition!r}: must be 'iid' with data.name = '{BUILT_IN}', because the "
            "built-in corpus gives every client one domain"
        )
    if data.learn_turns == "all" and task in TASKS and TASKS[task].rows != Example.kind:
        problems.append(
            f"data.learn-turns = 'all': must be 'last' with train.task = {task!r}, which does not learn conversations"
        )
    if data.name == BUILT_IN and data.samples:
        problems.append(
            f"data.samples = {data.samples}: must be 0 with data.name = '{BUILT_IN}'; the rows of the built-in "
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
        problems.append(f"lora.target-modules = {lora.target_modules!r}: must be names of modules, or all-linear")
    if method == "lora" and "lm_head" in lora.targets:
        problems.append(
            f"lora.target-modules = {lora.target_modules!r}: must name modules below the language-model head, "
            "lm_head, which stays frozen"
        )
    if lora.aggregation == "ffa" and lora.dora:
        problems.append(
            "lora.dora = true: must be false with lora.aggregation = 'ffa'; DoRA divides by the norm of W + s·BA, "
            "so that the mean of B is no longer the mean of the clients' weights"
        )
    if config.model.device_map != "none" and method == "prefix-tuning":
        problems.append(
            f"model.device-map = {config.model.device_map!r}: must be 'none' with adapter.method = 'prefix-tuning', "
            "whose prefixes lie on one GPU"
        )
    if train.gradient_checkpointing and method == "prefix-tuning":
        problems.append(
            "train.gradient-checkpointing = true: must be false with adapter.method = 'prefix-tuning', whose "
            "prefix travels in the attention cache, which checkpointed layers have not"
        )
    if method in PROMPT_METHODS and config.adapter.virtual_tokens >= train.max_length:
        problems.append(
            f"adapter.virtual-tokens = {config.adapter.virtual_tokens}: must be less than train.max-length = "
            f"{train.max_length}"
        )
    return problems
