"""From the configuration to the values that each part is given, the same on the server and in every client.

Flower loads this module in processes that never train, so what imports torch is imported where it is used.
"""

from dataclasses import fields

from fedllm_app.adapters.methods import AdapterValues
from fedllm_app.config.sections import Config, ConfigError
from fedllm_app.data.client_rows import DataSelection
from fedllm_app.data.readers.base import TextFormat
from fedllm_app.data.schemas import Columns
from fedllm_app.data.tokenization import Tokenization
from fedllm_app.models.base import ModelLocation, ModelValues, choose_attention, context_length


def model_values(config: Config) -> ModelValues:
    """What determines the loaded base model. Imports torch, to see what the machine is good at."""
    model = config.model.model_dump()
    model["attention"] = choose_attention(model["attention"], config.train.max_length)
    return ModelValues(**model)


def check_context(config: Config, location: ModelLocation) -> None:
    """Refuse rows that are longer than the model has positions. `ConfigError` with the largest that is accepted."""
    length, virtual, context = config.train.max_length, config.adapter.positions, context_length(location)
    if context is None or length + virtual <= context:
        return
    given, together = f"train.max-length = {length}", ""
    if virtual:
        given, together = f"{given} and adapter.virtual-tokens = {virtual}", " together"
    raise ConfigError(
        [
            f"{given}: must be at most {context}{together}, the positions of model.name = {config.model.name!r} "
            "(max_position_embeddings)"
        ]
    )


def adapter_values(config: Config) -> AdapterValues:
    """What determines the adapter beside the model."""
    lora = config.lora.model_dump(exclude={"target_modules", "aggregation"})
    adapter = config.adapter.model_dump(exclude={"start"})
    return AdapterValues(**lora, **adapter, targets=config.lora.targets)


def data_selection(config: Config, clients: int, rows: str) -> DataSelection:
    """Which rows, of which kind, this configuration gives the clients."""
    data = config.data.model_dump()
    columns = Columns(**{field.name: data.pop(f"{field.name}_column") for field in fields(Columns)})
    held_out = data.pop("held_out_examples")
    text_format = TextFormat(data.pop("delimiter"), data.pop("encoding"))
    for name in ("template", "system_prompt", "special_tokens_in_text", "learn_turns"):
        del data[name]  # of the tokens, below
    return DataSelection(
        **data,
        columns=columns,
        held_out=held_out,
        clients=clients,
        rows=rows,
        text_format=text_format,
    )


def tokenization(config: Config) -> Tokenization:
    """How this configuration turns rows into tokens."""
    data = config.data
    return Tokenization(
        template=data.template,
        system_prompt=data.system_prompt or None,
        max_length=config.train.max_length,
        special_tokens_in_text=data.special_tokens_in_text,
        learn_turns=data.learn_turns,
        packing=config.text.packing,
    )
