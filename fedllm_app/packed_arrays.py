"""Packed vectors in Flower's `Array`, with one copy on the way in and none on the way out.

`Array(vector)` and `Array.numpy()` go through files in memory, each of which takes the bytes of the vector once more.
"""

import io

import numpy as np
from flwr.app import Array
from flwr.common.constant import SType
from numpy.typing import NDArray

_BLOCK = 1 << 17  # values looked at twice while they are in the processor's cache
_HEADERS = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}


def packed_array(vector: NDArray) -> Array:
    """The same as `Array(vector)`, byte for byte."""
    vector = np.ascontiguousarray(vector)
    header = io.BytesIO()
    np.lib.format.write_array_header_1_0(header, np.lib.format.header_data_from_array_1_0(vector))
    values = memoryview(vector).cast("B") if vector.size else b""
    data = b"".join((header.getvalue(), values))
    return Array(dtype=str(vector.dtype), shape=tuple(vector.shape), stype=SType.NUMPY, data=data)


def array_header(array: Array) -> tuple[tuple[int, ...], np.dtype, int, bool]:
    """Shape, dtype, number of bytes before the values, and whether their order is Fortran's, of NumPy's format.

    Whatever NumPy raises of bytes that are none of its arrays, and KeyError for a version of the format that is not
    read here.
    """
    file = io.BytesIO(array.data)  # shares the bytes
    read = _HEADERS[np.lib.format.read_magic(file)]
    shape, fortran, dtype = read(file)
    return shape, dtype, file.tell(), fortran


def array_view(array: Array) -> NDArray:
    """The values of an array, read-only, in the memory of the array itself.

    Errors are those of `Array.numpy`, which is also used where the bytes are not plain numbers in C order.
    """
    if array.stype != SType.NUMPY:
        return array.numpy()
    try:
        shape, dtype, start, fortran = array_header(array)
        if dtype.hasobject or fortran:
            return array.numpy()
        return np.frombuffer(array.data, dtype, offset=start).reshape(shape)
    except (KeyError, ValueError):
        return array.numpy()


def largest_magnitude(vector: NDArray) -> float:
    """The largest absolute value, NaN where a value is NaN; 0 for no values. It makes no second vector."""
    largest = 0.0
    for start in range(0, len(vector), _BLOCK):
        block = vector[start : start + _BLOCK]
        largest = max(np.maximum(block.max(), -block.min()), largest)  # NaN comes first: max keeps it
        if np.isnan(largest):
            break
    return float(largest)


def all_finite(vector: NDArray) -> bool:
    """Whether no value is infinite or NaN."""
    return bool(np.isfinite(largest_magnitude(vector)))
