"""What this machine has, and what a base model is computed with on it: the dtype of its weights, its attention."""

import os
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch

_SHORT = 128  # tokens
_DRIVERS = ("/proc/driver/nvidia", "/dev/kfd")  # of GPUs of NVIDIA and of AMD
_CGROUP_2 = Path("/sys/fs/cgroup/cpu.max")
_CGROUP_1 = (Path("/sys/fs/cgroup/cpu/cpu.cfs_quota_us"), Path("/sys/fs/cgroup/cpu/cpu.cfs_period_us"))
_VISIBLE = ("CUDA_VISIBLE_DEVICES", "HIP_VISIBLE_DEVICES", "ROCR_VISIBLE_DEVICES")


def has_gpu_driver() -> bool:
    """Whether this machine has a driver for GPUs. It need not have one that works."""
    return any(Path(driver).exists() for driver in _DRIVERS)


def cores() -> int:
    """The cores that this process may use: of the machine, or fewer in a container or under `taskset`, as Ray counts
    them."""
    usable = os.cpu_count() or 1
    if hasattr(os, "sched_getaffinity"):
        usable = min(usable, len(os.sched_getaffinity(0)))
    quota = _quota()
    return max(1, min(usable, int(quota))) if quota else usable


def _quota() -> float:
    """How many cores' time a container may use; 0 for no bound."""
    try:
        if _CGROUP_2.is_file():
            time, period = _CGROUP_2.read_text().split()
        else:
            time, period = (file.read_text().strip() for file in _CGROUP_1)
        return 0.0 if time == "max" or int(time) <= 0 else int(time) / int(period)
    except (OSError, ValueError):  # no container, or one of another kind
        return 0.0


def gpus_are_hidden() -> bool:
    """Whether the machine has a driver for GPUs, and this process was told to see none, as Ray tells its workers."""
    return has_gpu_driver() and any(os.environ.get(name) == "" for name in _VISIBLE)


def choose_dtype(name: str) -> "torch.dtype":
    """The dtype of the frozen weights; "auto" is bfloat16 where the GPU or the CPU multiplies it in hardware.

    On a CPU that means AMX or AVX512-BF16. Elsewhere bfloat16 is emulated and slower than float32: GPUs older than
    Ampere (T4, V100) run it, and torch says that they support it unless asked for hardware.
    """
    import torch

    if name != "auto":
        return getattr(torch, name)
    if torch.cuda.is_available():
        return torch.bfloat16 if torch.cuda.is_bf16_supported(including_emulation=False) else torch.float32
    in_hardware = torch.cpu._is_amx_tile_supported() or torch.cpu._is_avx512_bf16_supported()
    return torch.bfloat16 if in_hardware else torch.float32


def choose_attention(name: str, max_length: int) -> str:
    """The attention implementation of a run; of "auto", eager for short rows on a CPU.

    There the fused kernel's backward pass costs more than it saves: on two cores a training step of 8 rows of 35 tokens
    takes a quarter less with eager attention, one of 4 rows of 200 about the same, with a third more memory. Otherwise
    "auto" stays, and the model's class is asked when it is built: it takes sdpa if it has it, else eager.
    """
    import torch

    if name != "auto":
        return name
    return "eager" if max_length <= _SHORT and not torch.cuda.is_available() else "auto"
