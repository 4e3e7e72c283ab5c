"""Masks of valid pixels: PNG and back, as other tools read them too."""

import io

import cv2
import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as stn
from PIL import Image

from dataflow.images import ImageError
from dataflow.pairs.camera_motion import Movement, shake
from dataflow.pairs.valid_pixels import decode_mask, encode_mask, mask_size, whole_mask
from tests.factories import photograph

MASKS = stn.arrays(np.bool_, stn.array_shapes(min_dims=2, max_dims=2, max_side=40))


@given(MASKS)
def test_there_and_back(valid: npt.NDArray[np.bool_]) -> None:
    png = encode_mask(valid)
    assert mask_size(png) == valid.shape
    np.testing.assert_array_equal(decode_mask(png, (valid.shape[0], valid.shape[1])), valid)
    with Image.open(io.BytesIO(png)) as image:
        np.testing.assert_array_equal(np.asarray(image.convert("L")), np.where(valid, 255, 0))
    # As tfds.data_source reads it.
    read = cv2.imdecode(np.frombuffer(png, np.uint8), cv2.IMREAD_UNCHANGED)
    np.testing.assert_array_equal(read, np.where(valid, 255, 0))


@given(MASKS)
def test_masks_of_8_bits_are_read_too(valid: npt.NDArray[np.bool_]) -> None:
    file = io.BytesIO()
    Image.fromarray(valid.astype(np.uint8) * np.uint8(255)).save(file, "PNG")
    assert mask_size(file.getvalue()) == valid.shape
    np.testing.assert_array_equal(decode_mask(file.getvalue(), (valid.shape[0], valid.shape[1])), valid)


@given(st.tuples(st.integers(1, 60), st.integers(1, 60)))
def test_a_whole_mask_is_encoded_once(size: tuple[int, int]) -> None:
    assert decode_mask(whole_mask(size), size).all() and decode_mask(b"", size).all()
    assert encode_mask(np.ones(size, np.bool_)) is whole_mask(size)


def test_a_mask_of_a_movement_is_small() -> None:
    valid = shake(np.zeros((576, 768, 3), np.uint8), Movement(9.3, -5.1, rotation=1.7)).valid
    assert (~valid).sum() > 0 and len(encode_mask(valid)) < 2000


def test_what_is_no_mask() -> None:
    for data in (b"", b"\x89PNG\r\n\x1a\n", photograph(), photograph(encoding="PNG"), whole_mask((4, 5))[1:]):
        assert mask_size(data) is None
    assert mask_size(photograph(encoding="PNG", mode="L")) == (48, 64)
    with pytest.raises(ImageError, match="is no image of 5x4 px"):
        decode_mask(whole_mask((5, 4)), (4, 5))
    with pytest.raises(ImageError, match="is no image of 5x4 px"):
        decode_mask(whole_mask((4, 5))[:30], (4, 5))
