"""What a batch needs in memory: by hand on the tiny model, and against autograd on real tensors."""

import pytest
import torch
from autograd_memory import kept_bytes
from transformers import AutoConfig, AutoModelForCausalLM

from fedllm_app.adapters.methods import AdapterValues, add_adapter, peft_config
from fedllm_app.training.footprint import kept_for_backward, training_memory, weight_bytes

ADAPTER = AdapterValues(4, 8, 0.0, ("q_proj", "v_proj"))


def without_storage(tiny_model, adapter):
    """The tiny model with an adapter, float32."""
    with torch.device("meta"):
        base = AutoModelForCausalLM.from_config(AutoConfig.from_pretrained(tiny_model), dtype=torch.float32)
    base.requires_grad_(False)
    return add_adapter(base, peft_config(adapter))


@pytest.fixture
def skeleton(tiny_model):
    """With LoRA r=4 on q_proj and v_proj."""
    return without_storage(tiny_model, ADAPTER)


@pytest.mark.parametrize(
    ("quantization", "double", "expected"), [("none", False, 151168), ("int8", False, 97920), ("nf4", False, 87808)]
)
def test_weight_bytes_by_hand(skeleton, quantization, double, expected):
    """37,792 float32 numbers are 151,168 bytes.

    The two layers' linear weights are 2 · (3,072 + 6,144) = 18,432 of them, 73,728 bytes, in 2 · 256 rows (q 32, k 16,
    v 16, o 32, gate 64, up 64, down 32). int8: a byte each and 4 a row, 18,432 + 2,048, so 53,248 less. nf4: half a
    byte
    each and 4 a block of 64, 9,216 + 1,152, so 63,360 less.
    """
    assert weight_bytes(skeleton, quantization, double) == expected


def test_double_quantization_takes_a_byte_a_block(skeleton):
    """18,432 weights have 288 blocks of 64: a byte each instead of 4, and 4 bytes a 256 blocks.

    Layer by layer: every weight of 1,024 (q, o: 16 blocks), 512 (k, v: 8) and 2,048 (32 blocks) numbers.
    """
    single, double = weight_bytes(skeleton, "nf4"), weight_bytes(skeleton, "nf4", True)
    assert single - double == pytest.approx(288 * 3 - 4 * 288 / 256, abs=1)


def test_adapter_and_optimizer(skeleton):
    """r = 4: q 4 · (32 + 32), v 4 · (32 + 16), two layers: 896 numbers; Adam keeps two more beside the gradient."""
    adamw, sgd = (training_memory(skeleton, 1, 8, name) for name in ("adamw", "sgd"))
    assert adamw.adapter == sgd.adapter == 4 * 896
    assert adamw.optimizer == 12 * 896
    assert sgd.optimizer == 4 * 896
    assert adamw.held == adamw.weights + adamw.adapter + adamw.optimizer + adamw.activations


def test_moments_in_8_bits(tiny_model):
    """r = 128: A of q and v 128 · 32 = 4,096 numbers, B of q as many, B of v 16 · 128 = 2,048; two layers.

    Adam keeps 2 bytes a number and 2 · 4 bytes a block of 256 for the six of 4,096: 8,192 + 16 · 8 each. The two of
    2,048 are too small for that: 8 bytes a number. Beside them the gradients, 4 bytes.
    """
    model = without_storage(tiny_model, AdapterValues(128, 128, 0.0, ("q_proj", "v_proj")))
    memory = training_memory(model, 1, 8, "adamw-8bit")
    numbers = 2 * (3 * 4096 + 2048)
    assert memory.optimizer == 4 * numbers + 6 * (8192 + 128) + 2 * 8 * 2048


def test_what_is_kept_is_what_autograd_keeps(skeleton, tiny_model):
    """The same backbone with real tensors: the bytes of the storages that autograd saves, parameters not counted.

    Not to the byte: the attention kernel may keep copies that the one for real tensors of this size does without.
    """
    base = AutoModelForCausalLM.from_pretrained(tiny_model, dtype=torch.float32)
    base.requires_grad_(False)
    model = add_adapter(base, peft_config(ADAPTER)).train()
    expected = kept_bytes(model, lambda: base.model(input_ids=torch.zeros(3, 16, dtype=torch.long), use_cache=False))
    assert expected > 3 * 16 * 32 * 4
    assert kept_for_backward(skeleton, 3, 16) == pytest.approx(expected, rel=0.15)


def test_activations_grow_with_rows_and_shrink_with_checkpointing(skeleton):
    """Twice the rows keep twice as much; checkpointed layers keep their inputs and one layer's inside."""
    plain = kept_for_backward(skeleton, 4, 32)
    assert plain == pytest.approx(2 * kept_for_backward(skeleton, 2, 32), rel=0.02)
    skeleton.get_base_model().activation_checkpointing_enable()
    checkpointed = kept_for_backward(skeleton, 4, 32)
    assert plain / 2 < checkpointed < 0.8 * plain
    memory = training_memory(skeleton, 4, 32, "adamw")
    assert memory.gaps == int(max(0.35 * checkpointed, 0.8 * plain - checkpointed))  # all of it is float32
    assert skeleton.get_base_model().is_activation_checkpointing
