"""Small shifts of quarters: a camera that moved by a third of a pixel is told from one before which people walk."""

from pathlib import Path

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dataflow.images import decode_rgb
from dataflow.pairs.camera_motion import Movement, shake
from dataflow.pairs.frame import Detail
from dataflow.pairs.quarter_shifts import quarter_shifts
from dataflow.pairs.registration import align

PETS = Path(__file__).parents[3].parent / "shared" / "data" / "pets09_s2l1" / "img1"


def detail(seed: int) -> Detail:
    noise = np.random.default_rng(seed).normal(0, 60, (144, 192)).astype(np.float32)
    return np.asarray(cv2.GaussianBlur(noise, (0, 0), 1.5), np.float32)


@given(st.floats(-0.5, 0.5), st.floats(-0.5, 0.5), st.floats(0.7, 1.4), st.integers(0, 20))
@settings(max_examples=40, deadline=None)
def test_shifts_of_less_than_a_pixel_are_found_whatever_the_light(x: float, y: float, gain: float, seed: int) -> None:
    first = detail(seed)
    matrix = np.array([[1, 0, x], [0, 1, y]])
    second = cv2.warpAffine(first, matrix, (192, 144), flags=cv2.INTER_LANCZOS4, borderMode=cv2.BORDER_REFLECT_101)
    shifts = quarter_shifts(first, np.asarray(second * np.float32(gain), np.float32))
    assert shifts is not None and shifts.shape == (4, 2)
    np.testing.assert_allclose(shifts, np.tile([x, y], (4, 1)), atol=0.1)


def test_what_cannot_be_told() -> None:
    first = detail(1)
    assert quarter_shifts(first, detail(2)) is None
    assert quarter_shifts(first, np.roll(first, 6, axis=1)) is None
    plain = first.copy()
    plain[:72, :96] = 0
    assert quarter_shifts(plain, plain) is None
    assert quarter_shifts(np.zeros_like(first), np.zeros_like(first)) is None
    assert quarter_shifts(first[:20, :20], first[:20, :20]) is None


@pytest.mark.skipif(not PETS.is_dir(), reason="needs PETS09-S2L1 in ../shared/data")
@pytest.mark.parametrize(
    "movement",
    [Movement(0.3), Movement(0, -0.3), Movement(0.22, 0.22), Movement(rotation=0.05), Movement(zoom=1.001)],
    ids=["right", "up", "aslant", "turn", "zoom"],
)
def test_the_least_movements_that_matter_are_not_missed(movement: Movement) -> None:
    for number in range(1, 180, 36):
        before, after = (decode_rgb((PETS / f"{index:06d}.jpg").read_bytes()) for index in (number, number + 10))
        assert align(before, after).model == "identity"
        assert align(before, shake(after, movement).pixels).model != "identity"
