"""The typed configuration of a run, validated as a whole before anything is loaded.

Flower hands every app a flat mapping (`{"lora.r": 8, "train.rounds": 3, ...}`) in which overrides are already merged
over the defaults of pyproject.toml. `parse_run_config` turns it into frozen models, one a concern, or raises one
`ConfigError` that lists every problem at once. The defaults stand in pyproject.toml only.
"""

import difflib
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from fedllm_app.data.partition import LABELLED
from fedllm_app.data.sources import BUILT_IN, set_names
from fedllm_app.strategies.class_path import Argument, ClassPathError, parse_arguments
from fedllm_app.strategies.registry import (
    STRATEGIES,
    UnknownStrategyError,
    hyperparameter_problems,
    minimum_clients,
    strategy_spec,
)

PROMPT_METHODS = ("prefix-tuning", "p-tuning", "prompt-tuning")

FlatConfig = Mapping[str, bool | int | float | str]


class ConfigError(ValueError):
    """The run configuration is invalid. The message names every key that is wrong, its value and what is accepted."""

    def __init__(self, problems: list[str]) -> None:
        self.problems = problems
        count = "1 problem" if len(problems) == 1 else f"{len(problems)} problems"
        super().__init__(f"the run configuration has {count}:\n" + "\n".join(f"  - {line}" for line in problems))


def _kebab(name: str) -> str:
    return name.replace("_", "-")


class _Section(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, alias_generator=_kebab, allow_inf_nan=False)


Positive = Annotated[int, Field(ge=1)]
NotNegative = Annotated[int, Field(ge=0)]
Share = Annotated[float, Field(ge=0.0, lt=1.0)]


class RunConfig(_Section):
    """Seed, files, time-outs and threads. Times in seconds; `threads` 0 means an equal share of the cores."""

    seed: NotNegative
    directory: str
    checkpoint_every: NotNegative
    wait_timeout: Annotated[float, Field(gt=0)]
    round_timeout: Annotated[float, Field(gt=0)]
    threads: NotNegative


class ModelConfig(_Section):
    """The base model: built-in name, absolute directory or Hub id, and how its frozen weights are kept."""

    name: Annotated[str, Field(min_length=1)]
    dtype: Literal["auto", "float32", "bfloat16"]
    attention: Literal["auto", "sdpa", "eager", "flash_attention_2"]
    trust_remote_code: bool
    quantization: Literal["none", "int8", "nf4"]
    double_quantization: bool


class LoraConfig(_Section):
    """LoRA (Hu et al. 2021): rank `r`, scale `alpha / r` (rslora: `alpha / √r`), input dropout, adapted modules."""

    r: Positive
    alpha: Positive
    dropout: Share
    target_modules: Annotated[str, Field(min_length=1)]
    rslora: bool
    dora: bool

    @property
    def targets(self) -> tuple[str, ...] | str:
        """The adapted modules: names, or "all-linear"."""
        if self.target_modules == "all-linear":
            return self.target_modules
        return tuple(name.strip() for name in self.target_modules.split(",") if name.strip())


class DataConfig(_Section):
    """What the clients train on, how rows are read and divided, and how prompts are written."""

    name: Annotated[str, Field(min_length=1)]
    prompt_column: str
    input_column: str
    completion_column: str
    messages_column: str
    chosen_column: str
    rejected_column: str
    split: str
    max_bad_share: Annotated[float, Field(ge=0.0, le=1.0)]
    examples_per_client: Positive
    held_out_examples: NotNegative
    held_out_share: Share
    partition: Literal["iid", "dirichlet", "shard", "linear", "square", "exponential", "natural-id", "by-domain"]
    partition_column: str
    alpha: Annotated[float, Field(gt=0)]
    samples: NotNegative
    template: Annotated[str, Field(min_length=1)]
    system_prompt: str


class ClientsConfig(_Section):
    """How many clients there are (0: one a node) and how many take part in a round (0: all)."""

    number: NotNegative
    per_round: NotNegative


class TrainConfig(_Section):
    """Local training of one client in one round. Lengths in tokens."""

    task: Literal["sft", "dpo"]
    rounds: Positive
    local_steps: Positive
    batch_size: Positive
    gradient_accumulation: Positive
    learning_rate: Annotated[float, Field(gt=0)]
    min_learning_rate: Annotated[float, Field(ge=0)]
    max_length: Annotated[int, Field(ge=8)]
    optimizer: Literal["adamw", "sgd"]
    weight_decay: Annotated[float, Field(ge=0)]
    max_grad_norm: Annotated[float, Field(ge=0)]
    gradient_checkpointing: bool


class AdapterConfig(_Section):
    """What is trained, and where it starts: "" draws a new one; else the absolute path of a run or PEFT directory."""

    method: Literal["lora", "ia3", "prefix-tuning", "p-tuning", "prompt-tuning"]
    virtual_tokens: Positive
    encoder_hidden_size: Positive
    start: str

    @property
    def positions(self) -> int:
        """What the adapter takes of the model's positions: those of its virtual tokens, prefixes in the cache too."""
        return self.virtual_tokens if self.method in PROMPT_METHODS else 0


class DpoConfig(_Section):
    """Value alignment (Rafailov et al. 2023): the strength of the reference policy, and TRL's loss type."""

    beta: Annotated[float, Field(gt=0)]
    loss_type: Literal[
        "sigmoid",
        "hinge",
        "ipo",
        "nca_pair",
        "robust",
        "bco_pair",
        "sppo_hard",
        "aot",
        "aot_unpaired",
        "apo_zero",
        "apo_down",
        "discopop",
        "sft",
        "sigmoid_norm",
    ]


class EvaluateConfig(_Section):
    """Held-out evaluation on the clients: every so many rounds (0: never), on so many examples each."""

    every: NotNegative
    examples: Positive


class StrategyConfig(_Section):
    """The aggregation strategy by name and the hyper-parameters of that strategy alone.

    Those of a name come from keys of their own, those of a class path from `arguments`.
    """

    name: str
    arguments: str
    hyper: dict[str, Argument]


class Config(_Section):
    """A whole run."""

    run: RunConfig
    model: ModelConfig
    lora: LoraConfig
    adapter: AdapterConfig
    data: DataConfig
    clients: ClientsConfig
    train: TrainConfig
    dpo: DpoConfig
    evaluate: EvaluateConfig
    strategy: StrategyConfig


def parse_run_config(flat: FlatConfig) -> Config:
    """Build the configuration from Flower's flat mapping, or raise `ConfigError` with every problem in it."""
    sections, hyper = _nest(flat)
    problems: list[str] = []
    known = _known_keys()
    strategy = sections.setdefault("strategy", {})
    problems += _strategy_problems(strategy.get("name"), hyper)
    strategy["hyper"] = hyper.get(str(strategy.get("name")), {})
    arguments, wrong = _class_path_arguments(strategy.get("name"), strategy.get("arguments"))
    strategy["hyper"] |= arguments
    problems += wrong
    try:
        config = Config.model_validate(sections)
    except ValidationError as error:
        # The registry has checked the hyper-parameters, and says what each accepts.
        for entry in error.errors():
            if entry["loc"][:2] != ("strategy", "hyper"):
                problems += _explain(entry, known)
        raise ConfigError(problems) from None
    config = _with_a_client_a_set(config)
    problems = problems or _contradictions(config)
    if problems:
        raise ConfigError(problems)
    return config


def default_run_config(project: Path) -> dict[str, bool | int | float | str]:
    """The flat defaults that stand in `project`/pyproject.toml."""
    if not (project / "pyproject.toml").is_file():
        raise ConfigError([f"{project} holds no app: {project / 'pyproject.toml'} does not exist"])
    with open(project / "pyproject.toml", "rb") as file:
        return flatten(tomllib.load(file)["tool"]["flwr"]["app"]["config"])


def flatten(nested: Mapping[str, Any], prefix: str = "") -> dict[str, bool | int | float | str]:
    """Flatten nested tables to dotted keys, as Flower does with the tables of a TOML file."""
    flat: dict[str, bool | int | float | str] = {}
    for key, value in nested.items():
        if isinstance(value, Mapping):
            flat.update(flatten(value, f"{prefix}{key}."))
        else:
            flat[prefix + key] = value
    return flat


def _nest(flat: FlatConfig) -> tuple[dict[str, dict[str, Any]], dict[str, dict[str, Any]]]:
    """Split dotted keys into sections, and the hyper-parameters `strategy.<name>.<hyper>` from them."""
    sections: dict[str, dict[str, Any]] = {}
    hyper: dict[str, dict[str, Any]] = {}
    for key, value in flat.items():
        section, _, rest = key.partition(".")
        if section == "strategy" and "." in rest:
            strategy, _, name = rest.partition(".")
            hyper.setdefault(strategy, {})[name] = value
        else:
            sections.setdefault(section, {})[rest] = value
    return sections, hyper


def _strategy_problems(name: object, hyper: Mapping[str, Mapping[str, Any]]) -> list[str]:
    problems = []
    if isinstance(name, str) and "." not in name:  # with a dot it is a class path, imported when the run begins
        try:
            strategy_spec(name)
        except UnknownStrategyError as error:
            problems.append(f"strategy.name = {name!r}: {error}")
    for strategy, values in hyper.items():
        if strategy not in STRATEGIES:
            problems.append(f"strategy.{strategy}: unknown strategy; known: {', '.join(STRATEGIES)}")
        else:
            problems += [f"strategy.{strategy}: {problem}" for problem in hyperparameter_problems(strategy, values)]
    return problems


def _class_path_arguments(name: object, text: object) -> tuple[dict[str, Argument], list[str]]:
    """What `strategy.arguments` gives a class path, and what is wrong with it; a name of the table takes none."""
    if not isinstance(name, str) or not isinstance(text, str) or not text.strip():
        return {}, []
    if "." not in name:
        own = strategy_spec(name).hyperparameters if name in STRATEGIES else ()
        keys = ", ".join(f"strategy.{name}.{parameter.name}" for parameter in own)
        return {}, [
            f'strategy.arguments = {text!r}: accepted with strategy.name = {name!r} is "", because only a class path '
            "takes arguments; hyper-parameters of a name have keys of their own, strategy.<name>.<hyper>: "
            f"{keys or 'none'}"
        ]
    try:
        return parse_arguments(text), []
    except ClassPathError as error:
        return {}, [
            f"strategy.arguments = {text!r}: {error}; accepted is name=value, separated by commas, text in quotes: "
            "eta=0.01, name='x', flag=true"
        ]


def _known_keys() -> list[str]:
    keys = []
    for section, field in Config.model_fields.items():
        keys += [f"{section}.{_kebab(name)}" for name in field.annotation.model_fields if name != "hyper"]
    for strategy, spec in STRATEGIES.items():
        keys += [f"strategy.{strategy}.{parameter.name}" for parameter in spec.hyperparameters]
    return keys


def _explain(entry: Mapping[str, Any], known: list[str]) -> list[str]:
    """A sentence for each key of one pydantic error: the key, the value received, what is accepted."""
    key = ".".join(str(part) for part in entry["loc"])
    if entry["type"] == "extra_forbidden":
        section = len(entry["loc"]) == 1
        keys = [f"{key}.{name}" for name in entry["input"]] if section else [key]
        return [_unknown(key.rstrip("."), known) for key in keys]
    if entry["type"] == "missing":
        return [f"{key}: missing; pyproject.toml sets a default for every key"]
    accepted = entry["msg"].removeprefix("Input should be ")
    return [f"{key} = {entry['input']!r}: accepted is {accepted}"]


def _unknown(key: str, known: list[str]) -> str:
    near = difflib.get_close_matches(key, known, n=1)
    return f"{key}: unknown key" + (f"; did you mean {near[0]}?" if near else f"; known keys: {', '.join(known)}")


def _with_a_client_a_set(config: Config) -> Config:
    """With `by-domain`, `clients.number = 0` means as many clients as there are sets, for every process that parses."""
    if config.data.partition != "by-domain" or config.clients.number:
        return config
    number = len(set_names(config.data.name))
    return config.model_copy(update={"clients": config.clients.model_copy(update={"number": number})})


def _contradictions(config: Config) -> list[str]:
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
