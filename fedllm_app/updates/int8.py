"""Updates in 8 bits by blocks, with error feedback: a quarter of the bytes."""

from typing import ClassVar

import numpy as np

from fedllm_app.updates.update import Arrays, Numbers, StepState, UpdateError, UpdateStep

BLOCK = 256  # coordinates that share a scale
_LEVELS = 127
_HEADER = 4  # bytes of the float32 scale of the whole vector


class Int8Blocks(UpdateStep):
    """Quantize every change to 8 bits and keep the rest for the next round.

    With `Q` the quantizer and `e` the error of this client's last accepted reply (Seide et al. 2014; Karimireddy et al.
    2019, arXiv:1901.09847, Algorithm 1)::

        v = Δ + e        send Q(v)        e ← v − Q(v)

    A block of 256 coordinates shares one scale: a float16 share of the vector's largest scale, which is float32 (a LoRA
    move of 5e-4 divided by 127 is below float16's normal numbers). A coordinate costs 1 + 2 / 256 bytes, 0.252 of
    float32, and an error is at most half a step of its block.

    `e` lies on the client's disk under the round of its reply, so that the error of a reply that the server never
    accepted is not used. A lost `e` starts at zero and is journaled as "error-reset".
    """

    name: ClassVar[str] = "int8"
    needs_fixed_coordinates: ClassVar[bool] = True

    def on_client(self, changes: Arrays, state: StepState) -> tuple[Arrays, Numbers]:
        """Send `Q(Δ + e)` as bytes; keep `e`."""
        sent, reset = {}, 0
        for name, change in changes.items():
            error = state.load(name)
            reset += error is None and state.expected
            wanted = change if error is None else change + error
            sent[name] = quantize(wanted)
            state.save(name, wanted - dequantize(sent[name], wanted.size))
        return sent, {"error-reset": reset}

    def on_server(self, arrays: Arrays, size: int) -> Arrays:
        """Read the bytes back. UpdateError for an array of another length or type."""
        for name, array in arrays.items():
            if array.dtype != np.uint8 or array.shape != (packed_size(size),):
                raise UpdateError(
                    f"{name} is {array.dtype} of shape {array.shape}, an update in 8 bits must be {packed_size(size)} "
                    "bytes: does the client run with the same update.compress?"
                )
        return {name: dequantize(array, size) for name, array in arrays.items()}


def packed_size(size: int) -> int:
    """Bytes of a quantized vector: the largest scale, a float16 a block, and a byte a coordinate."""
    return _HEADER + 2 * -(-size // BLOCK) + size


def quantize(vector: np.ndarray) -> np.ndarray:
    """A float32 vector, shape (n,), as uint8, shape (packed_size(n),).

    A vector with a value that is not finite becomes NaN throughout, which the server refuses.
    """
    size = vector.size
    blocks = np.zeros((-(-size // BLOCK), BLOCK), np.float32)
    blocks.reshape(-1)[:size] = vector
    scales = np.abs(blocks).max(axis=1) / np.float32(_LEVELS)
    largest = scales.max(initial=np.float32(0))
    if not np.isfinite(largest):
        return _packed(np.float32(np.nan), np.ones(len(scales), np.float16), np.zeros(size, np.int8))
    shares = _round_up(scales / largest) if largest else np.zeros(len(scales), np.float16)
    steps = largest * shares.astype(np.float32)
    steps[steps == 0] = 1  # a block of zeros
    codes = np.clip(np.rint(blocks / steps[:, None]), -_LEVELS, _LEVELS).astype(np.int8)
    return _packed(largest, shares, codes.reshape(-1)[:size])


def dequantize(packed: np.ndarray, size: int) -> np.ndarray:
    """The float32 vector, shape (size,), that `quantize` made `packed` of, to half a step."""
    count = -(-size // BLOCK)
    largest = packed[:_HEADER].copy().view(np.float32)[0]
    shares = packed[_HEADER : _HEADER + 2 * count].copy().view(np.float16).astype(np.float32)
    codes = np.zeros(count * BLOCK, np.float32)
    codes[:size] = packed[_HEADER + 2 * count :].view(np.int8)
    return (codes.reshape(count, BLOCK) * (largest * shares)[:, None]).reshape(-1)[:size]


def _packed(largest: np.float32, shares: np.ndarray, codes: np.ndarray) -> np.ndarray:
    return np.concatenate([part.view(np.uint8) for part in (largest.reshape(1), shares, codes)])


def _round_up(shares: np.ndarray) -> np.ndarray:
    """Shares between 0 and 1 as float16, never smaller, so that no coordinate needs more than 127 steps."""
    half = shares.astype(np.float16)
    return np.where(half < shares, np.nextafter(half, np.float16(np.inf)), half)
