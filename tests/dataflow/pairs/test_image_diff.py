"""Difference images against plain integer arithmetic, over every pair of values there is, and against scikit-image."""

import io

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from skimage.metrics import structural_similarity

from dataflow.errors import UsageError
from dataflow.images import decode_rgb, encode_jpeg, encode_png
from dataflow.pairs.image_diff import (
    DIFF_MODES,
    NO_CHANGE,
    NOISE_FACTOR,
    DiffMode,
    SizeMismatchError,
    absolute_difference,
    difference,
    grey_difference,
    noise_sigma,
    signed_difference,
    stack_channels,
    structural_difference,
    threshold_difference,
)
from tests.factories import pixels

VALUES = np.arange(256, dtype=np.int64)
# Every (before, after) pair of values, as an image of 256 x 256 with three equal channels.
BEFORE = np.broadcast_to(VALUES[:, None, None], (256, 256, 3)).astype(np.uint8)
AFTER = np.broadcast_to(VALUES[None, :, None], (256, 256, 3)).astype(np.uint8)


def with_noise(image: npt.NDArray[np.uint8], sigma: float, seed: int) -> npt.NDArray[np.uint8]:
    noise = np.random.default_rng(seed).normal(0, sigma, image.shape)
    return np.clip(np.rint(image + noise), 0, 255).astype(np.uint8)


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


@pytest.mark.parametrize("mode", ["absolute", "signed"])
@pytest.mark.parametrize("size", [(1, 1), (3, 17), (64, 65)])
def test_any_size_and_channel(mode: DiffMode, size: tuple[int, int]) -> None:
    before, after = pixels(*size, seed=1), pixels(*size, seed=2)
    change = after.astype(np.int64) - before
    expected = np.abs(change) if mode == "absolute" else np.clip(np.rint(128 + change / 2), 0, 255)
    np.testing.assert_array_equal(difference(before, after, mode), expected)


def test_grey_is_the_difference_of_grey_frames() -> None:
    before, after = pixels(31, 47, seed=1), pixels(31, 47, seed=2)
    luma = [np.asarray(Image.fromarray(image).convert("L"), np.int64) for image in (before, after)]
    result = grey_difference(before, after)
    # Pillow truncates what OpenCV rounds.
    assert np.abs(result[:, :, 0] - np.abs(luma[1] - luma[0])).max() <= 1
    assert (result == result[:, :, :1]).all()
    np.testing.assert_array_equal(grey_difference(BEFORE, AFTER), absolute_difference(BEFORE, AFTER))


@pytest.mark.parametrize("sigma", [1.0, 3.0, 10.0])
def test_noise_is_measured_though_a_third_of_the_picture_changed(sigma: float) -> None:
    scene = np.full((200, 300, 3), 120, np.uint8)
    before, after = with_noise(scene, sigma, 1), with_noise(scene, sigma, 2)
    # Both frames have the noise, and that of rounding.
    expected = (2 * (sigma**2 + 1 / 12)) ** 0.5
    assert noise_sigma(absolute_difference(before, after)) == pytest.approx(expected, rel=0.06)
    after[:, :100] = 250
    # The median is then the upper quartile of what is left.
    assert noise_sigma(absolute_difference(before, after)) == pytest.approx(expected * 1.15 / 0.6745, rel=0.06)
    valid = np.ones((200, 300), bool)
    valid[:, :100] = False
    assert noise_sigma(absolute_difference(before, after), valid) == pytest.approx(expected, rel=0.06)


def test_noise_is_measured_per_channel() -> None:
    scene = np.full((200, 300, 3), 120, np.uint8)
    before, after = scene.copy(), scene.copy()
    for channel, sigma in enumerate((1.0, 4.0, 12.0)):
        before[:, :, channel] = with_noise(scene[:, :, 0], sigma, channel)
        after[:, :, channel] = with_noise(scene[:, :, 0], sigma, 9 + channel)
    found = noise_sigma(absolute_difference(before, after))
    assert found == pytest.approx((2 * (np.array([1.0, 4.0, 12.0]) ** 2 + 1 / 12)) ** 0.5, rel=0.06)


def test_threshold_hides_noise_and_keeps_change_as_it_is() -> None:
    scene = np.full((200, 300, 3), 120, np.uint8)
    before, after = with_noise(scene, 4, 1), with_noise(scene, 4, 2)
    after[50:90, 60:100] = 220
    change, result = absolute_difference(before, after), threshold_difference(before, after)
    still = np.ones((200, 300), bool)
    still[50:90, 60:100] = False
    assert (change[still] > 0).mean() > 0.8
    assert (result[still] > 0).mean() < 0.001
    np.testing.assert_array_equal(result[~still], change[~still])
    limit = NOISE_FACTOR * noise_sigma(change)
    np.testing.assert_array_equal(result, np.where(change > limit, change, 0))


@given(st.integers(0, 2**32 - 1), st.integers(11, 60), st.integers(11, 80))
@settings(max_examples=25, deadline=None)
def test_structural_difference_is_that_of_scikit_image(seed: int, height: int, width: int) -> None:
    before, after = pixels(height, width, seed=seed), pixels(height, width, seed=seed)
    after[height // 3 : height // 2] = 255 - after[height // 3 : height // 2]
    after = with_noise(after, 5, seed)
    options = {"gaussian_weights": True, "sigma": 1.5, "use_sample_covariance": False, "data_range": 255, "full": True}
    similarity = structural_similarity(before, after, channel_axis=2, **options)[1]
    expected = 255 * (1 - similarity) / 2
    assert np.abs(structural_difference(before, after) - expected).max() <= 0.51


def test_structural_difference_of_large_images_has_no_seams() -> None:
    before, after = pixels(150, 64, seed=1), pixels(150, 64, seed=2)
    whole, flipped = structural_difference(before, after), structural_difference(before[::-1], after[::-1])[::-1]
    # Strips begin elsewhere when counted from below.
    assert np.abs(whole.astype(int) - flipped).max() <= 1


@pytest.mark.parametrize("mode", DIFF_MODES)
@pytest.mark.parametrize("size", [(1, 1), (1, 40), (3, 2), (70, 33)])
@pytest.mark.parametrize("value", [None, 0, 255])
def test_identical_frames_show_no_change(mode: DiffMode, size: tuple[int, int], value: int | None) -> None:
    image = pixels(*size) if value is None else np.full((*size, 3), value, np.uint8)
    result = difference(image, image.copy(), mode)
    assert result.dtype == np.uint8 and result.shape == image.shape
    assert (result == NO_CHANGE[mode]).all()


@pytest.mark.parametrize("mode", DIFF_MODES)
def test_a_changed_pixel_shows_in_every_mode(mode: DiffMode) -> None:
    before = np.full((40, 50, 3), 90, np.uint8)
    after = before.copy()
    after[20, 30] = 200
    result = difference(before, after, mode)
    assert (result[20, 30] != NO_CHANGE[mode]).all()
    assert (result[:10] == NO_CHANGE[mode]).all()
    one = difference(before[:1, :1], after[20:21, 30:31], mode)
    # A single pixel has no noise that could be told from it, and all of it has changed.
    assert one.shape == (1, 1, 3) and ((one != NO_CHANGE[mode]).all() or mode == "threshold")


@pytest.mark.parametrize("mode", DIFF_MODES)
def test_pixels_without_counterpart_show_no_change_and_do_not_matter(mode: DiffMode) -> None:
    before, after = pixels(60, 80, seed=1), with_noise(pixels(60, 80, seed=1), 3, 5)
    after[30:40, 20:40] = 240
    valid = np.ones((60, 80), bool)
    valid[:9], valid[:, 70:] = False, False
    result = difference(before, after, mode, valid)
    assert (result[~valid] == NO_CHANGE[mode]).all()
    assert (result[32:38, 22:38] != NO_CHANGE[mode]).any()
    other = before.copy()
    other[~valid] = 255 - other[~valid]
    np.testing.assert_array_equal(difference(other, after, mode, valid), result)
    np.testing.assert_array_equal(
        difference(before, after, mode, np.ones((60, 80), bool)), difference(before, after, mode)
    )
    assert (difference(before, after, mode, np.zeros((60, 80), bool)) == NO_CHANGE[mode]).all()


@pytest.mark.parametrize("mode", ["absolute", "signed", "grey"])
def test_a_mask_changes_nothing_inside_of_it(mode: DiffMode) -> None:
    before, after = pixels(20, 30, seed=1), pixels(20, 30, seed=2)
    valid = np.random.default_rng(0).random((20, 30)) < 0.7
    np.testing.assert_array_equal(difference(before, after, mode, valid)[valid], difference(before, after, mode)[valid])


def test_views_work_and_inputs_stay() -> None:
    before, after = pixels(20, 30, seed=1), pixels(20, 30, seed=2)
    valid = np.random.default_rng(0).random((20, 30)) < 0.7
    kept = before.copy(), after.copy(), valid.copy()
    for mode in DIFF_MODES:
        turned = difference(before[::-1, ::-1], after[::-1, ::-1], mode, valid[::-1, ::-1])
        straight = difference(before, after, mode, valid)[::-1, ::-1]
        assert np.abs(turned.astype(int) - straight).max() <= (mode == "ssim")
    for array, copy in zip((before, after, valid), kept, strict=True):
        np.testing.assert_array_equal(array, copy)


@pytest.mark.parametrize("mode", DIFF_MODES)
def test_a_grey_frame_against_a_coloured_one(mode: DiffMode) -> None:
    grey, colour = pixels(20, 30, seed=1)[:, :, 0], pixels(20, 30, seed=2)
    expected = difference(np.dstack([grey] * 3), colour, mode)
    np.testing.assert_array_equal(difference(grey, colour, mode), expected)
    np.testing.assert_array_equal(difference(grey[:, :, None], colour, mode), expected)


@pytest.mark.parametrize("mode", DIFF_MODES)
def test_sizes_must_agree(mode: DiffMode) -> None:
    with pytest.raises(SizeMismatchError, match="before image is 30x20 px, the after image 20x30 px"):
        difference(pixels(20, 30), pixels(30, 20), mode)
    with pytest.raises(SizeMismatchError, match="mask of valid pixels is 20x30 px, the images 30x20 px"):
        difference(pixels(20, 30), pixels(20, 30), mode, np.ones((30, 20), bool))


@pytest.mark.parametrize(
    "image",
    [
        np.zeros((0, 4, 3), np.uint8),
        np.zeros((4, 4, 4), np.uint8),
        np.zeros((4, 4, 3), np.uint16),
        np.zeros((4, 4, 3), np.float32),
        np.zeros(4, np.uint8),
    ],
)
def test_what_is_no_8_bit_image_is_refused(image: npt.NDArray[np.uint8]) -> None:
    with pytest.raises(UsageError, match="has no difference; give"):
        difference(image, image, "absolute")


def test_stack_holds_the_after_frame_and_the_change() -> None:
    before, after = pixels(20, 30, seed=1), pixels(20, 30, seed=2)
    change = difference(before, after, "signed")
    stacked = stack_channels(after, change)
    assert stacked.shape == (20, 30, 6) and stacked.dtype == np.uint8
    np.testing.assert_array_equal(stacked, np.concatenate([after, change], axis=2))
    with pytest.raises(SizeMismatchError):
        stack_channels(after, change[:10])


@pytest.mark.parametrize("mode", DIFF_MODES)
def test_differences_survive_being_stored(mode: DiffMode) -> None:
    before = np.full((64, 96, 3), (90, 120, 60), np.uint8)
    after = with_noise(before, 2, 1)
    after[10:40, 20:50] = (200, 30, 90)
    change = difference(before, after, mode)
    np.testing.assert_array_equal(decode_rgb(encode_png(change)), change)
    halved = io.BytesIO()
    Image.fromarray(change).save(halved, "JPEG", quality=95, subsampling="4:2:0")
    stored, smeared = (
        np.abs(decode_rgb(data).astype(int) - change)[5:45, 15:55].mean()
        for data in (encode_jpeg(change), halved.getvalue())
    )
    # Three equal channels have no colour that halved chroma could smear.
    assert stored < 2 and (mode == "grey" or stored < 0.75 * smeared)
