"""What training one batch needs in memory, found without weights: the model is walked once with tensors that have a
shape and no storage, and autograd is asked what it would keep."""

import math
from collections import Counter
from dataclasses import dataclass

import psutil
import torch
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.nn import Parameter

from fedllm_app.errors import UserError
from fedllm_app.training.head import PIECE, backbone_of

# Measured on a CPU, see benchmarks/plan.py. What a process needs beyond what it holds, relative to what autograd keeps:
# memory that the allocator has and cannot give back, and what the backward pass holds for a moment. Checkpointing makes
# and drops a layer's activations all the time; its gaps go with what would be kept in float32 without, the large
# pieces.
_GAPS = 0.35
_CHECKPOINTING = 0.8
_WORKSPACE = 128 * 2**20  # the libraries' own buffers for matrix products

# Of a piece of logits: float32, its copy while it is made, and the weight's dtype for the product with the head.
_HEAD_BYTES = 12

_SMALLEST_IN_8_BITS = 4096  # numbers of a tensor whose moments bitsandbytes keeps in 8 bits
_NF4_BLOCK = 64
_DOUBLE_BLOCK = 256


class NotWalkable(UserError):
    """The model's forward pass depends on the values of its tensors, and there are none without its weights."""


@dataclass(frozen=True)
class TrainingMemory:
    """Bytes of one client while it trains, beside the process itself. `gaps` are lost to a CPU's allocator."""

    weights: int
    adapter: int
    optimizer: int
    activations: int
    gaps: int

    @property
    def held(self) -> int:
        """What tensors hold."""
        return self.weights + self.adapter + self.optimizer + self.activations


def training_memory(
    model: torch.nn.Module, rows: int, length: int, optimizer: str, quantization: str = "none", double: bool = False
) -> TrainingMemory:
    """Estimate the memory of training a batch of `rows` rows of `length` tokens.

    Parameters
    ----------
    model : torch.nn.Module
        A PEFT model on the meta device, its base in the dtype that it would be loaded in.
    optimizer : str
        "adamw" keeps two float32 numbers a parameter, "adamw-8bit" two bytes, "sgd" none.
    quantization : str
        "none", "int8" or "nf4" (`double`: with quantized scales) for the base's linear layers below the head.
    """
    trained = sum(parameter.numel() for parameter in model.parameters() if parameter.requires_grad)
    kept = kept_for_backward(model, rows, length)
    gaps = _GAPS * kept
    base = model.get_base_model()
    if base.is_activation_checkpointing:
        base.activation_checkpointing_disable()
        float32 = kept_by_dtype(model, rows, length)[torch.float32]
        base.activation_checkpointing_enable()
        gaps = max(gaps, _CHECKPOINTING * float32 - kept)
    return TrainingMemory(
        weights=weight_bytes(model, quantization, double),
        adapter=4 * trained,
        optimizer=4 * trained + _moment_bytes(model, optimizer),  # the gradient is counted here
        activations=_head_bytes(model) + _WORKSPACE + kept,
        gaps=int(gaps),
    )


def _moment_bytes(model: torch.nn.Module, optimizer: str) -> int:
    """What an optimizer keeps from step to step. In 8 bits, a block of 256 has a float32 scale, and small tensors and
    embeddings stay in float32."""
    if optimizer == "sgd":
        return 0
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    if optimizer == "adamw":
        return 8 * sum(parameter.numel() for parameter in trained)
    embeddings = {id(module.weight) for module in model.modules() if isinstance(module, torch.nn.Embedding)}
    plain = [p.numel() for p in trained if id(p) in embeddings or p.numel() < _SMALLEST_IN_8_BITS]
    small = [p.numel() for p in trained if id(p) not in embeddings and p.numel() >= _SMALLEST_IN_8_BITS]
    return 8 * sum(plain) + sum(2 * size + 8 * math.ceil(size / 256) for size in small)


def process_bytes() -> int:
    """Resident bytes of this process with all that a client imports."""
    from trl import DPOTrainer, SFTTrainer  # noqa: F401  imported only when they are asked for

    return psutil.Process().memory_info().rss


def weight_bytes(model: torch.nn.Module, quantization: str = "none", double: bool = False) -> int:
    """Bytes of the frozen weights, tied ones once; bitsandbytes quantizes all linear layers but the head."""
    frozen = {id(p): p for p in model.parameters() if not p.requires_grad}
    plain = sum(p.numel() * p.element_size() for p in frozen.values())
    if quantization == "none":
        return plain
    head = model.get_output_embeddings()
    saved = 0.0
    for module in model.modules():
        if isinstance(module, torch.nn.Linear) and module is not head and id(module.weight) in frozen:
            weight = module.weight
            saved += weight.numel() * weight.element_size() - _quantized_bytes(weight, quantization, double)
    return int(plain - saved)


def _quantized_bytes(weight: torch.Tensor, quantization: str, double: bool) -> float:
    if quantization == "int8":
        return weight.numel() + 4 * weight.shape[0]  # a float32 scale a row
    blocks = math.ceil(weight.numel() / _NF4_BLOCK)
    return weight.numel() / 2 + (blocks + 4 * blocks / _DOUBLE_BLOCK if double else 4 * blocks)


def _head_bytes(model: torch.nn.Module) -> int:
    return PIECE * model.get_output_embeddings().weight.shape[0] * _HEAD_BYTES


def kept_for_backward(model: torch.nn.Module, rows: int, length: int) -> int:
    """Bytes of activations that a step holds at most: what autograd keeps of a forward pass through the backbone.

    With gradient checkpointing on, what one layer keeps while it is computed anew is added.
    """
    base = model.get_base_model()
    kept = kept_by_dtype(model, rows, length).total()
    if base.is_activation_checkpointing:
        base.activation_checkpointing_disable()
        kept += kept_by_dtype(model, rows, length).total() // base.config.get_text_config().num_hidden_layers
        base.activation_checkpointing_enable()
    return kept


def kept_by_dtype(model: torch.nn.Module, rows: int, length: int) -> Counter[torch.dtype]:
    """Bytes that autograd keeps of a forward pass, by dtype; every storage once, parameters not counted."""
    base = model.get_base_model()
    backbone = backbone_of(base)
    model.train()
    with FakeTensorMode():
        own = _make_fake(model)
        kept: dict[int, tuple[torch.dtype, torch.UntypedStorage]] = {}

        def note(tensor: torch.Tensor) -> torch.Tensor:
            storage = tensor.untyped_storage()
            if storage._cdata not in own:
                kept[storage._cdata] = tensor.dtype, storage  # held, so that its address is not given to another
            return tensor

        try:
            with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
                output = backbone(input_ids=torch.zeros(rows, length, dtype=torch.long), use_cache=False)
        except Exception as error:  # a model's code may raise anything where a tensor has no values
            raise NotWalkable(
                f"what training needs in memory is not known: {type(base).__name__} cannot be walked through without "
                "its "
                f"weights ({type(error).__name__}: {(str(error).splitlines() or [''])[0][:120]})"
            ) from error
        by_dtype: Counter[torch.dtype] = Counter()
        for dtype, storage in kept.values():
            by_dtype[dtype] += storage.nbytes()
        del output
    return by_dtype


def _make_fake(model: torch.nn.Module) -> set[int]:
    """Replace all tensors of the model by ones on the CPU without storage; the addresses of their storages."""
    made: dict[int, Parameter] = {}
    addresses = set()
    for module in model.modules():
        for name, parameter in module._parameters.items():
            if parameter is None:
                continue
            if id(parameter) not in made:
                empty = torch.empty(parameter.shape, dtype=parameter.dtype, device="cpu")
                made[id(parameter)] = Parameter(empty, requires_grad=parameter.requires_grad)
            module._parameters[name] = made[id(parameter)]
            addresses.add(made[id(parameter)].untyped_storage()._cdata)
        for name, buffer in module._buffers.items():
            if buffer is not None:
                module._buffers[name] = torch.empty(buffer.shape, dtype=buffer.dtype, device="cpu")
                addresses.add(module._buffers[name].untyped_storage()._cdata)
    return addresses
