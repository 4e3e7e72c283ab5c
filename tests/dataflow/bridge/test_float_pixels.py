"""Floats of bytes against numpy's, wherever in memory they begin and end."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from dataflow.bridge.float_pixels import put_normalised, repeated
from tests.factories import pixels

SHIFT, SCALE = np.float32([123.7, 116.3, 103.5]), np.float32([58.4, 57.1, 57.4])
LEVELS = repeated(SHIFT, SCALE)


@given(
    size=st.tuples(st.integers(1, 40), st.integers(1, 40)),
    more=st.tuples(st.integers(0, 3), st.integers(0, 30)),
    images=st.sampled_from([1, 2]),
    offset=st.integers(0, 31),
)
def test_floats_are_numpys_and_nothing_beside_them_is_touched(
    size: tuple[int, int], more: tuple[int, int], images: int, offset: int
) -> None:
    image = np.concatenate([pixels(*size, seed=i) for i in range(images)], axis=2)
    shape = size[0] + more[0], size[1] + more[1], 3 * images
    memory = np.full(offset + int(np.prod(shape)) + 40, 7, np.float32)
    expected = memory.copy()
    place = slice(offset, offset + int(np.prod(shape)))
    shift, scale = np.tile(SHIFT, images), np.tile(SCALE, images)
    expected[place].reshape(shape)[: size[0], : size[1]] = (image.astype(np.float32) - shift) / scale
    put_normalised(image, LEVELS, memory[place].reshape(shape))
    np.testing.assert_array_equal(memory.view(np.uint32), expected.view(np.uint32))
