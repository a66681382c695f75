"""Quantized base models: what bitsandbytes is asked for, and what it needs on a CPU."""

import functools
import sys
from typing import TYPE_CHECKING

from fedllm_app.errors import UserError

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel


class QuantizationError(UserError):
    """The base model cannot be quantized as asked on this machine."""

    shareable = True


def bitsandbytes_config(kind: str, double: bool, dtype: "torch.dtype"):
    from transformers import BitsAndBytesConfig

    if kind == "int8":
        return BitsAndBytesConfig(load_in_8bit=True)
    return BitsAndBytesConfig(
        load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_compute_dtype=dtype, bnb_4bit_use_double_quant=double
    )


def compute_in(model: "PreTrainedModel", dtype: "torch.dtype") -> None:
    """Multiply 4-bit weights in `dtype`, whatever the files of a model that is stored in 4 bits say."""
    from bitsandbytes.nn import Linear4bit

    for module in model.modules():
        if isinstance(module, Linear4bit):
            module.compute_dtype, module.compute_type_is_set = dtype, True


def use_one_arithmetic(model: "PreTrainedModel") -> None:
    """Make a quantized model on a CPU compute in evaluation mode what it computes in training mode.

    There, bitsandbytes changes over in evaluation mode: its 4-bit layers repack the frozen weights in place with
    rounded
    scales and stay that way, its 8-bit layers round their inputs as well. The base would depend on whether an
    evaluation came before, and the policy of DPO would differ from the reference before its first step.
    """
    from bitsandbytes.nn import Linear4bit, Linear8bitLt

    for module in model.modules():
        if isinstance(module, Linear4bit):
            block = module.weight.quant_state.blocksize
            if module.in_features % block:
                # There it reads every row's scales from a block of its own, and gives other weights than were stored.
                raise QuantizationError(
                    "model.quantization = 'nf4': on a CPU, bitsandbytes needs layers whose inputs are a multiple of "
                    f"{block}, this model has one of {module.in_features}: set 'int8' or 'none', or use a GPU"
                )
            module.support_avx512bf16_for_cpu = False
        elif isinstance(module, Linear8bitLt):
            module.train()
            module.train = functools.partial(_stay_in_training, module)


def _stay_in_training(module: "torch.nn.Module", mode: bool = True) -> "torch.nn.Module":
    return module


_ABOUT_BITSANDBYTES = (
    *("is_bnb_available", "is_bnb_4bit_available"),  # PEFT
    *("is_bitsandbytes_available", "_is_package_available"),  # transformers
)


def prepare_bitsandbytes(quantization: str, optimizer: str = "") -> None:
    """Import bitsandbytes, or keep PEFT from importing it, before PEFT is imported.

    `model.quantization` may need it, and where a process trains, `train.optimizer`.
    """
    if quantization == "none" and not optimizer.endswith("8bit"):
        leave_out_bitsandbytes()
    else:
        _take_in_bitsandbytes()


def _take_in_bitsandbytes() -> None:
    """Import bitsandbytes, also where an earlier run of this process has left it out."""
    if sys.modules.get("bitsandbytes", sys) is None:
        del sys.modules["bitsandbytes"]
        for name, module in list(sys.modules.items()):
            if name.endswith("import_utils") and name.partition(".")[0] in ("peft", "transformers"):
                for known in _ABOUT_BITSANDBYTES:
                    if clear := getattr(getattr(module, known, None), "cache_clear", None):
                        clear()  # they have noted that it is not there
    import bitsandbytes  # noqa: F401


def leave_out_bitsandbytes() -> None:
    """Keep PEFT from importing bitsandbytes, for a process that will not quantize; no effect once PEFT is imported.

    PEFT imports it wherever it is installed, and torch's compiler with it: a second of every client's start.
    """
    if "peft" not in sys.modules and "bitsandbytes" not in sys.modules:
        sys.modules["bitsandbytes"] = None  # the import system's way of saying that a module cannot be had
