"""The arrays of a reply, held against what is expected before a byte of them is decoded."""

import math

import numpy as np
from flwr.app import Array, ArrayRecord
from flwr.common.constant import SType

from fedllm_app.errors import UserError
from fedllm_app.packed_arrays import array_header, array_view

_MOST_ARRAYS = 100  # that one reply may carry in an encoding of an update step's own
_ENCODED = 2  # times the bytes of the float32 vector that such an array may take
_SMALL = 65536  # bytes that it may take for a small adapter


class UnreadableArray(UserError):
    """An array of a reply whose bytes are no NumPy array of numbers, or not the one that was expected."""


def read_arrays(record: ArrayRecord, size: int, encoded: bool) -> dict[str, np.ndarray]:
    """The arrays of a reply by name, read-only, in the memory of the reply.

    Parameters
    ----------
    size : int
        Length of the global adapter: each array must be float32 of shape (size,).
    encoded : bool
        Whether update steps will decode the arrays: then they may have other shapes and types, within bounds.

    Raises
    ------
    UnreadableArray
        Bytes are no array, or one of another shape, type or length, which was then not decoded.
    """
    if len(record) > _MOST_ARRAYS:
        raise UnreadableArray(f"the reply carries {len(record)} arrays")
    arrays = {}
    for name, array in record.items():
        _check_header(name, array, size, encoded)
        arrays[name] = array_view(array)
    return arrays


def _check_header(name: str, array: Array, size: int, encoded: bool) -> None:
    shape, dtype, header = _header(name, array)
    if dtype.hasobject or dtype.kind not in "biuf":
        raise UnreadableArray(f"{name} has dtype {dtype}, it must be float32")
    count = math.prod(shape)
    if not encoded and shape != (size,):
        raise UnreadableArray(f"{name} has shape {shape}, sent was ({size},)")
    if not encoded and dtype != np.float32:
        raise UnreadableArray(f"{name} has dtype {dtype}, it must be float32")
    if encoded and count * dtype.itemsize > max(_SMALL, _ENCODED * 4 * size):
        raise UnreadableArray(f"{name} takes {count * dtype.itemsize} bytes, the adapter {4 * size}")
    if header + count * dtype.itemsize != len(array.data):
        raise UnreadableArray(
            f"the array {name} of the reply cannot be read: shape {shape} of {dtype} after {header} bytes of header, "
            f"and {len(array.data)} bytes in all"
        )


def _header(name: str, array: Array) -> tuple[tuple[int, ...], np.dtype, int]:
    """Shape, dtype and number of bytes before the values."""
    if array.stype != SType.NUMPY:
        raise UnreadableArray(f"the array {name} of the reply cannot be read: its serialization is {array.stype!r:.40}")
    try:
        shape, dtype, header, _ = array_header(array)
    except Exception as error:  # whatever NumPy says of bytes that somebody else wrote
        raise UnreadableArray(
            f"the array {name} of the reply cannot be read: {type(error).__name__}: {error}"
        ) from error
    if not all(isinstance(length, int) and length >= 0 for length in shape):
        raise UnreadableArray(f"the array {name} of the reply cannot be read: its shape is {shape}")
    return shape, dtype, header
