"""The typed configuration of a run, validated as a whole before anything is loaded.

Flower hands every app a flat mapping (`{"lora.r": 8, "train.rounds": 3, ...}`) in which overrides are already merged
over the defaults of pyproject.toml. `parse_run_config` turns it into frozen models, one a concern, or raises one
`ConfigError` that lists every problem at once. The defaults stand in pyproject.toml only.
"""

from collections.abc import Mapping
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field

from fedllm_app.errors import UserError
from fedllm_app.strategies.class_path import Argument

PROMPT_METHODS = ("prefix-tuning", "p-tuning", "prompt-tuning")

FlatConfig = Mapping[str, bool | int | float | str]


class ConfigError(UserError):
    """The run configuration is invalid. The message names every key that is wrong, its value and what is accepted."""

    shareable = True

    def __init__(self, problems: list[str]) -> None:
        self.problems = problems
        count = "1 problem" if len(problems) == 1 else f"{len(problems)} problems"
        super().__init__(f"the run configuration has {count}:\n" + "\n".join(f"  - {line}" for line in problems))


def kebab(name: str) -> str:
    return name.replace("_", "-")


class _Section(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, alias_generator=kebab, allow_inf_nan=False)


Positive = Annotated[int, Field(ge=1)]
NotNegative = Annotated[int, Field(ge=0)]
Share = Annotated[float, Field(ge=0.0, lt=1.0)]


class RunConfig(_Section):
    """Seed, files, time-outs and threads. Times in seconds; `threads` 0 means an equal share of the cores."""

    seed: NotNegative
    directory: str
    fetch: str
    fetch_checkpoints: bool
    resume: str
    checkpoint_every: NotNegative
    wait_timeout: Annotated[float, Field(gt=0)]
    describe_timeout: Annotated[float, Field(gt=0)]
    round_timeout: Annotated[float, Field(gt=0)]
    threads: NotNegative


class ModelConfig(_Section):
    """The base model: built-in name, absolute directory or Hub id, and how its frozen weights are kept."""

    name: Annotated[str, Field(min_length=1)]
    dtype: Literal["auto", "float32", "bfloat16"]
    attention: Literal["auto", "sdpa", "eager", "flash_attention_2", "flash_attention_3"]
    trust_remote_code: bool
    quantization: Literal["none", "int8", "nf4"]
    double_quantization: bool
    device_map: Literal["none", "auto"]


class LoraConfig(_Section):
    """LoRA (Hu et al. 2021): rank `r`, scale `alpha / r` (rslora: `alpha / √r`), input dropout, adapted modules.

    `aggregation` says which factors are trained and travel: both, or B alone (ffa).
    """

    r: Positive
    alpha: Positive
    dropout: Share
    target_modules: Annotated[str, Field(min_length=1)]
    rslora: bool
    dora: bool
    aggregation: Literal["factors", "ffa"]

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
    text_column: str
    label_column: str
    split: str
    delimiter: str
    encoding: str
    max_bad_share: Annotated[float, Field(ge=0.0, le=1.0)]
    examples_per_client: Positive
    held_out_examples: NotNegative
    held_out_share: Share
    minimum_rows: Positive
    test: str
    seed: NotNegative
    partition: Literal["iid", "dirichlet", "shard", "linear", "square", "exponential", "natural-id", "by-domain"]
    partition_column: str
    alpha: Annotated[float, Field(gt=0)]
    samples: NotNegative
    template: Annotated[str, Field(min_length=1)]
    system_prompt: str
    special_tokens_in_text: bool
    learn_turns: Literal["last", "all"]


class ClientsConfig(_Section):
    """How many clients there are (0: one a node), how many take part in a round (0: all), and how many must answer.

    `minimum` and `enough` are shares of the clients drawn, `grace` is in seconds. `describe` says whether all clients
    tell before round 1 what they hold, or each when it is drawn first.
    """

    number: NotNegative
    per_round: NotNegative
    minimum: Annotated[float, Field(ge=0, le=1)]
    enough: Annotated[float, Field(gt=0, le=1)]
    grace: Annotated[float, Field(ge=0)]
    too_few: Literal["repeat", "skip"]
    retries: NotNegative
    describe: Literal["auto", "all", "drawn"]

    @property
    def simulated(self) -> int:
        """Clients of a simulation: `number`, or as many as Flower simulates by default."""
        return self.number or 2


class TrainConfig(_Section):
    """Local training of one client in one round. Lengths in tokens."""

    task: Annotated[str, Field(min_length=1)]
    rounds: Positive
    local_steps: Positive
    batch_size: Positive
    gradient_accumulation: Positive
    learning_rate: Annotated[float, Field(gt=0)]
    min_learning_rate: Annotated[float, Field(ge=0)]
    max_length: Annotated[int, Field(ge=8)]
    optimizer: Literal["adamw", "adamw-8bit", "sgd"]
    weight_decay: Annotated[float, Field(ge=0)]
    max_grad_norm: Annotated[float, Field(ge=0)]
    gradient_checkpointing: bool
    corrections: str

    @property
    def examples_per_round(self) -> int:
        """Examples that one client meets in one round."""
        return self.local_steps * self.batch_size * self.gradient_accumulation


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
    """Value alignment (Rafailov et al. 2023): the strength of the reference policy, and TRL's loss type.

    `label_smoothing` is the share of pairs that are taken to be labelled the wrong way round, for the losses that know
    one.
    """

    beta: Annotated[float, Field(gt=0)]
    label_smoothing: Annotated[float, Field(ge=0.0, lt=0.5)]
    loss_type: Literal[
        "sigmoid",
        "hinge",
        "ipo",
        "exo_pair",
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


class KtoConfig(_Section):
    """Answers with a thumb up or down (Ethayarajh et al. 2024): as `DpoConfig`, and a weight for each kind."""

    beta: Annotated[float, Field(gt=0)]
    loss_type: Literal["kto", "apo_zero_unpaired"]
    desirable_weight: Annotated[float, Field(gt=0)]
    undesirable_weight: Annotated[float, Field(gt=0)]


class TextConfig(_Section):
    """Continued pretraining: whether a window may hold several documents."""

    packing: bool


class UpdateConfig(_Section):
    """What happens to an update between training and sending: own steps by class path, then compression."""

    compress: Literal["none", "int8"]
    steps: str


class EvaluateConfig(_Section):
    """Evaluation every so many rounds (0: never): on so many held-out examples of each client, and on a suite.

    `suite` "": none; `suite_limit` questions of each of its sets (0: all), `suite_data` their folder.
    """

    every: NotNegative
    examples: Positive
    suite: str
    suite_data: str
    suite_limit: NotNegative
    suite_at: Literal["server", "clients"]


class TrackingConfig(_Section):
    """An experiment tracker that the server feeds, and the name of the project there."""

    backend: Literal["none", "tensorboard", "wandb", "mlflow", "trackio"]
    project: Annotated[str, Field(min_length=1)]


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
    kto: KtoConfig
    text: TextConfig
    update: UpdateConfig
    evaluate: EvaluateConfig
    tracking: TrackingConfig
    strategy: StrategyConfig
