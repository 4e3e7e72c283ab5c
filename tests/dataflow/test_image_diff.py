"""Difference images against plain integer arithmetic, over every pair of values there is."""

import numpy as np
import pytest

from dataflow.image_diff import DIFF_MODES, SizeMismatchError, absolute_difference, difference, signed_difference
from tests.factories import pixels

VALUES = np.arange(256, dtype=np.int64)
# Every (before, after) pair of values, as an image of 256 x 256 with three equal channels.
BEFORE = np.broadcast_to(VALUES[:, None, None], (256, 256, 3)).astype(np.uint8)
AFTER = np.broadcast_to(VALUES[None, :, None], (256, 256, 3)).astype(np.uint8)


def test_absolute_difference_of_all_values() -> None:
    expected = np.abs(AFTER.astype(np.int64) - BEFORE)
    result = absolute_difference(BEFORE, AFTER)
    assert result.dtype == np.uint8
    np.testing.assert_array_equal(result, expected)


def test_signed_difference_of_all_values() -> None:
    change = AFTER.astype(np.int64) - BEFORE
    # 128 + change / 2 in integers: floor, and one more where a half rounds up to the even number.
    low, half = 128 + change // 2, change % 2
    expected = np.clip(low + (half & (low % 2)), 0, 255)
    result = signed_difference(BEFORE, AFTER)
    assert result.dtype == np.uint8
    np.testing.assert_array_equal(result, expected)


def test_signed_difference_keeps_the_sign_of_every_change_it_can_show() -> None:
    change, result = AFTER.astype(np.int64) - BEFORE, signed_difference(BEFORE, AFTER).astype(np.int64)
    assert (result[change == 0] == 128).all()
    assert (result[change >= 2] > 128).all() and (result[change <= -2] < 128).all()
    assert np.abs((result - 128) * 2 - change).max() <= 2


@pytest.mark.parametrize("mode", DIFF_MODES)
@pytest.mark.parametrize("size", [(1, 1), (3, 17), (64, 65)])
def test_any_size_and_channel(mode: str, size: tuple[int, int]) -> None:
    before, after = pixels(*size, seed=1), pixels(*size, seed=2)
    change = after.astype(np.int64) - before
    expected = np.abs(change) if mode == "absolute" else np.clip(np.rint(128 + change / 2), 0, 255)
    np.testing.assert_array_equal(difference(before, after, mode), expected)  # type: ignore[arg-type]


def test_views_work_and_inputs_stay() -> None:
    before, after = pixels(20, 30, seed=1), pixels(20, 30, seed=2)
    kept = before.copy(), after.copy()
    for mode in DIFF_MODES:
        turned = difference(before[::-1, ::-1], after[::-1, ::-1], mode)
        np.testing.assert_array_equal(turned, difference(before, after, mode)[::-1, ::-1])
    np.testing.assert_array_equal(before, kept[0])
    np.testing.assert_array_equal(after, kept[1])


@pytest.mark.parametrize("mode", DIFF_MODES)
def test_sizes_must_agree(mode: str) -> None:
    with pytest.raises(SizeMismatchError, match="before image is 30x20 px, the after image 20x30 px"):
        difference(pixels(20, 30), pixels(30, 20), mode)  # type: ignore[arg-type]
