"""From the configuration to the values that each part is given, the same on the server and in every client.

Flower loads this module in processes that never train, so what imports torch is imported where it is used.
"""

from fedllm_app.adapters.methods import AdapterValues
from fedllm_app.config.sections import Config, ConfigError
from fedllm_app.models.base import ModelLocation, ModelValues, choose_attention, context_length


def model_values(config: Config) -> ModelValues:
    """What determines the loaded base model. Imports torch, to see what the machine is good at."""
    model = config.model
    return ModelValues(
        name=model.name,
        dtype=model.dtype,
        attention=choose_attention(model.attention, config.train.max_length),
        trust_remote_code=model.trust_remote_code,
        quantization=model.quantization,
        double_quantization=model.double_quantization,
    )


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
            f"{given}: accepted is at most {context}{together}, the positions of model.name = {config.model.name!r} "
            "(max_position_embeddings)"
        ]
    )


def adapter_values(config: Config) -> AdapterValues:
    """What determines the adapter beside the model."""
    lora, adapter = config.lora, config.adapter
    return AdapterValues(
        r=lora.r,
        alpha=lora.alpha,
        dropout=lora.dropout,
        targets=lora.targets,
        rslora=lora.rslora,
        dora=lora.dora,
        method=adapter.method,
        virtual_tokens=adapter.virtual_tokens,
        encoder_hidden_size=adapter.encoder_hidden_size,
    )


def data_selection(config: Config, clients: int):
    """Which rows this configuration gives the clients."""
    from fedllm_app.data.client_rows import DataSelection
    from fedllm_app.data.readers.base import TextFormat
    from fedllm_app.data.schemas import Columns

    data = config.data
    return DataSelection(
        name=data.name,
        columns=Columns(
            prompt=data.prompt_column,
            input=data.input_column,
            completion=data.completion_column,
            messages=data.messages_column,
            chosen=data.chosen_column,
            rejected=data.rejected_column,
        ),
        clients=clients,
        seed=config.run.seed,
        examples_per_client=data.examples_per_client,
        held_out=data.held_out_examples,
        max_bad_share=data.max_bad_share,
        task=config.train.task,
        split=data.split,
        partition=data.partition,
        partition_column=data.partition_column,
        alpha=data.alpha,
        samples=data.samples,
        held_out_share=data.held_out_share,
        text_format=TextFormat(data.delimiter, data.encoding),
    )


def resident_key(config: Config):
    """What this configuration's resident model is known by."""
    from fedllm_app.training.resident import ResidentKey

    return ResidentKey(config.train.task, model_values(config), adapter_values(config))


def tokenization(config: Config):
    """How this configuration turns rows into tokens."""
    from fedllm_app.client.local_client import Tokenization

    return Tokenization(config.data.template, config.data.system_prompt or None, config.train.max_length)


def local_training(config: Config):
    """How a client trains in a round of this configuration."""
    from fedllm_app.training.trainer import LocalTraining

    train = config.train
    return LocalTraining(
        local_steps=train.local_steps,
        batch_size=train.batch_size,
        gradient_accumulation=train.gradient_accumulation,
        optimizer=train.optimizer,
        weight_decay=train.weight_decay,
        max_grad_norm=train.max_grad_norm,
        gradient_checkpointing=train.gradient_checkpointing,
    )
