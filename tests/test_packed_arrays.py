"""Flower's arrays without copies: the same bytes, the same values, and no memory of their own."""

import numpy as np
import pytest
from flwr.app import Array

from fedllm_app.packed_arrays import all_finite, array_view, largest_magnitude, packed_array

VECTORS = [
    np.array([1.5, -2.0], np.float32),
    np.zeros(0, np.float32),
    np.arange(6, dtype=np.float64).reshape(2, 3)[:, ::2],
    np.array(7, np.int32),
    np.arange(5, dtype=np.uint8),
]


@pytest.mark.parametrize("vector", VECTORS)
def test_packed_is_what_flower_packs(vector):
    ours, theirs = packed_array(vector), Array(np.ascontiguousarray(vector))
    assert (ours.dtype, ours.shape, ours.stype, ours.data) == (theirs.dtype, theirs.shape, theirs.stype, theirs.data)


@pytest.mark.parametrize("vector", [*VECTORS, np.asfortranarray(np.arange(6.0).reshape(2, 3)), np.array(["a", "bc"])])
def test_a_view_has_the_values(vector):
    view = array_view(Array(np.asarray(vector)))
    assert view.dtype == vector.dtype
    np.testing.assert_array_equal(view, vector)


def test_a_view_has_no_memory_of_its_own():
    array = Array(np.arange(4, dtype=np.float32))
    assert np.shares_memory(array_view(array), np.frombuffer(array.data, np.uint8))
    with pytest.raises(ValueError, match="read-only"):
        array_view(array)[0] = 1


@pytest.mark.parametrize("data", [b"", b"no array at all", Array(np.arange(4.0)).data[:-3]])
def test_bytes_that_are_no_array(data):
    """Flower's own errors: nothing is read beyond the bytes."""
    with pytest.raises((ValueError, EOFError)):
        array_view(Array("float64", (4,), "numpy.ndarray", data))


def test_no_objects_are_read():
    data = np.array([{}], object)
    with pytest.raises(ValueError, match="Object arrays"):
        array_view(Array("object", (1,), "numpy.ndarray", _saved(data)))


def test_another_serialization_is_refused():
    with pytest.raises(TypeError, match="Unsupported"):
        array_view(Array("float32", (1,), "pickle", b"...."))


def _saved(array) -> bytes:
    import io

    file = io.BytesIO()
    np.save(file, array, allow_pickle=True)
    return file.getvalue()


@pytest.mark.parametrize(
    "vector, largest",
    [([], 0), ([0, -3, 2], 3), ([4, -3], 4), ([-np.inf, 1], np.inf)],
)
def test_largest_magnitude(vector, largest):
    assert largest_magnitude(np.float32(vector)) == largest
    assert all_finite(np.float32(vector)) == np.isfinite(largest)


@pytest.mark.parametrize("place", [0, 1, 299_999])
def test_nan_is_found_wherever_it_is(place):
    """Three blocks of 131,072 values; a NaN in the first must not be covered by what follows."""
    vector = np.ones(300_000, np.float32)
    vector[place] = np.nan
    assert np.isnan(largest_magnitude(vector)) and not all_finite(vector)
