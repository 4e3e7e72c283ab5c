"""What alignment looks at of a frame, beside numpy's."""

import numpy as np
import pytest

from dataflow.pairs.frame import Frame
from tests.factories import pixels


def test_grey_is_luma() -> None:
    image = pixels(60, 80)
    luma = image @ np.array([0.299, 0.587, 0.114])
    assert np.abs(Frame(image).grey - luma).max() <= 0.51
    for one in (image[:, :, 0], image[:, :, :1]):
        np.testing.assert_array_equal(Frame(one).grey, image[:, :, 0])


def test_large_frames_are_worked_on_reduced_and_small_ones_as_they_are() -> None:
    frame = Frame(pixels(576, 768))
    means = frame.grey.reshape(288, 2, 384, 2).mean(axis=(1, 3))
    assert np.abs(frame.working - means).max() <= 0.5
    assert Frame(pixels(1080, 1920)).working.shape == (216, 384)
    small = Frame(pixels(300, 400))
    np.testing.assert_array_equal(small.working, small.grey)


def test_brightness_is_that_of_every_fourth_row() -> None:
    frame = Frame(pixels(100, 90))
    rows = frame.working[::4]
    assert frame.brightness == pytest.approx((rows.mean(), rows.std()))


def test_detail_has_no_slow_changes() -> None:
    ramp = (np.add.outer(np.arange(120), np.arange(160)) // 2).astype(np.uint8)
    assert np.abs(Frame(ramp).detail[4:-4, 4:-4]).max() < 1
    frame = Frame(pixels(120, 160))
    half = frame.working.reshape(60, 2, 80, 2).mean(axis=(1, 3))
    # Means of four are rounded to whole levels first.
    assert frame.detail[30, 40] == pytest.approx(half[30, 40] - half[27:34, 37:44].mean(), abs=1)
    assert frame.roughness == pytest.approx(np.sqrt(np.mean(frame.detail.astype(np.float64) ** 2)))


def test_everything_is_made_once() -> None:
    frame = Frame(pixels(576, 768))
    assert frame.grey is frame.grey and frame.working is frame.working and frame.detail is frame.detail
