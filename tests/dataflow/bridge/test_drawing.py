"""Resizing against torchvision, and floats against the ones that are made of a finished batch."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torchvision.transforms.v2 import functional as tv

from dataflow.bridge.batches import normalise
from dataflow.bridge.drawing import ByteCanvas, FloatCanvas, Normalisation, Place, draw, resize
from tests.factories import pixels

SIDE = st.integers(1, 90)
OF_IMAGENET = Normalisation((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))


@given(st.tuples(SIDE, SIDE), st.tuples(SIDE, SIDE))
def test_resizing_gives_the_values_of_torchvision(size: tuple[int, int], to: tuple[int, int]) -> None:
    image = pixels(*size)
    expected = tv.resize(torch.from_numpy(image).permute(2, 0, 1), list(to), antialias=True).permute(1, 2, 0)
    np.testing.assert_array_equal(resize(image, to), expected.numpy())


@given(st.tuples(SIDE, SIDE), st.tuples(SIDE, SIDE))
def test_an_extent_of_all_pixels_changes_nothing(size: tuple[int, int], to: tuple[int, int]) -> None:
    image = pixels(*size)
    np.testing.assert_array_equal(resize(image, to, (float(size[0]), float(size[1]))), resize(image, to))


@pytest.mark.parametrize("share", [1 / 8, 1 / 2, 7 / 8])
def test_what_lies_beyond_the_extent_moves_nothing(share: float) -> None:
    """A ramp, of whose last column only a share is meant, keeps its slope."""
    ramp = np.repeat(np.arange(0, 200, 2, dtype=np.uint8)[None, :, None], 12, axis=0).repeat(3, axis=2)
    extent = 99 + share
    resized = resize(np.ascontiguousarray(ramp), (12, 50), (12.0, extent)).astype(float)
    # The pixel i of the ramp has the value 2 i at its centre i + 0.5.
    expected = 2 * ((np.arange(50) + 0.5) * extent / 50 - 0.5)
    assert np.abs(resized[5, 1:-1, 0] - expected[1:-1]).max() <= 0.51


@pytest.mark.parametrize("images", [1, 2])
@given(size=st.tuples(SIDE, SIDE), more=st.tuples(st.integers(0, 20), st.integers(0, 20)), seed=st.integers(0, 99))
def test_floats_are_those_of_the_bytes(images: int, size: tuple[int, int], more: tuple[int, int], seed: int) -> None:
    pictures = [pixels(*size, seed=seed + i) for i in range(images)]
    canvas = size[0] + more[0], size[1] + more[1]
    bytes_ = Place(np.full((*canvas, 3 * images), 7, np.uint8), np.ones(canvas, np.bool_))
    floats = Place(np.full((*canvas, 3 * images), np.nan, np.float32), np.ones(canvas, np.bool_))
    draw(pictures, bytes_, ByteCanvas())
    draw(pictures, floats, FloatCanvas(OF_IMAGENET))
    np.testing.assert_array_equal(bytes_.mask, floats.mask)
    expected = normalise(
        torch.from_numpy(bytes_.pixels).permute(2, 0, 1)[None],
        torch.from_numpy(bytes_.mask)[None],
        OF_IMAGENET.mean,
        OF_IMAGENET.std,
    )
    assert torch.equal(torch.from_numpy(floats.pixels).permute(2, 0, 1)[None], expected)


@given(st.tuples(SIDE, SIDE), st.tuples(SIDE, SIDE))
def test_an_image_resized_into_its_place_has_the_same_values(size: tuple[int, int], to: tuple[int, int]) -> None:
    image = pixels(*size)
    canvas = np.full((to[0] + 3, to[1], 3), 9, np.uint8)
    room = ByteCanvas().room(to, canvas)
    assert room is not None
    made = resize(image, to, room=room)
    np.testing.assert_array_equal(made, resize(image, to))
    assert made is image or np.shares_memory(made, canvas)
    assert (canvas[to[0] :] == 9).all()


def test_there_is_room_only_in_whole_rows_of_one_image_of_bytes() -> None:
    assert ByteCanvas().room((4, 5), np.zeros((6, 6, 3), np.uint8)) is None
    assert ByteCanvas().room((4, 6), np.zeros((6, 6, 6), np.uint8)) is None
    assert FloatCanvas(OF_IMAGENET).room((4, 6), np.zeros((6, 6, 3), np.float32)) is None
