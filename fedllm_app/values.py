"""From the configuration to the values that determine model and adapter, the same on the server and in every client."""

from fedllm_app.adapter_methods import AdapterValues
from fedllm_app.config import Config
from fedllm_app.models import ModelValues, choose_attention


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
        base=config.model.name,
    )
