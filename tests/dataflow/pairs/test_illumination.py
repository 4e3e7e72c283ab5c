"""Exposure undone: what was changed comes back, and nothing else is touched."""

from pathlib import Path

import cv2
import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dataflow.errors import UsageError
from dataflow.images import decode_rgb, encode_jpeg
from dataflow.pairs.illumination import GAINS, Illumination, estimate_illumination, lit, match_illumination, rounded
from dataflow.pairs.image_diff import SizeMismatchError, absolute_difference
from tests.factories import pixels

Image = npt.NDArray[np.uint8]
FRAMES = Path(__file__).parents[3].parent / "shared" / "data" / "pets09_s2l1" / "img1"
GAIN, OFFSET = st.floats(0.8, 1.2), st.floats(-15, 15)


def scene(seed: int, height: int = 150, width: int = 210) -> Image:
    """A picture of blurred shapes, 20 to 235, without noise."""
    rng = np.random.default_rng(seed)
    small = rng.integers(20, 236, (height // 10, width // 10, 3)).astype(np.uint8)
    return np.asarray(cv2.resize(small, (width, height), interpolation=cv2.INTER_LINEAR), np.uint8)


def exposed(image: Image, gain: npt.ArrayLike, offset: npt.ArrayLike, sigma: float = 0.0, seed: int = 0) -> Image:
    noise = np.random.default_rng(seed).normal(0, sigma, image.shape) if sigma else 0.0
    return np.clip(np.rint(image * np.asarray(gain) + np.asarray(offset) + noise), 0, 255).astype(np.uint8)


def distance(first: Image, second: Image) -> npt.NDArray[np.int64]:
    return np.abs(first.astype(np.int64) - second)


@given(st.integers(0, 2**32 - 1), st.tuples(GAIN, GAIN, GAIN), st.tuples(OFFSET, OFFSET, OFFSET))
@settings(max_examples=60, deadline=None)
def test_exposure_is_undone_within_two_levels(
    seed: int, gain: tuple[float, float, float], offset: tuple[float, float, float]
) -> None:
    before = scene(seed)
    after = exposed(before, gain, offset)
    assert distance(match_illumination(before, after), after).max() <= 2


@given(st.integers(0, 2**32 - 1), GAIN)
@settings(max_examples=40, deadline=None)
def test_exposure_is_undone_though_frames_are_noisy_and_were_jpeg(seed: int, gain: float) -> None:
    clean = scene(seed)
    before = decode_rgb(encode_jpeg(exposed(clean, 1, 0, 4, seed), 90))
    after = decode_rgb(encode_jpeg(exposed(clean, gain, 0, 4, seed + 1), 90))
    matched = estimate_illumination(before, after).apply(clean)
    wanted = exposed(clean, gain, 0)
    assert distance(matched, wanted)[wanted < 255].max() <= 2


@given(st.integers(0, 2**32 - 1), GAIN, st.floats(0.2, 0.4), st.integers(0, 255))
@settings(max_examples=60, deadline=None)
def test_a_large_moved_object_does_not_pull(seed: int, gain: float, part: float, colour: int) -> None:
    background = scene(seed)
    before, after = background.copy(), exposed(background, gain, 0)
    after[:, : int(part * after.shape[1])] = colour
    before[:20, :20] = 255 - colour
    matched = estimate_illumination(before, after).apply(background)
    assert distance(matched, exposed(background, gain, 0)).max() <= 2


@given(st.integers(0, 2**32 - 1), st.integers(1, 90), st.integers(1, 90), st.booleans())
@settings(max_examples=60, deadline=None)
def test_identical_frames_stay_as_they_are(seed: int, height: int, width: int, local: bool) -> None:
    image = pixels(height, width, seed=seed)
    assert estimate_illumination(image, image.copy()).is_identity
    np.testing.assert_array_equal(match_illumination(image, image.copy(), local=local), image)


@pytest.mark.parametrize("value", [0, 7, 128, 255])
@pytest.mark.parametrize("local", [False, True])
def test_flat_frames(value: int, local: bool) -> None:
    flat = np.full((90, 120, 3), value, np.uint8)
    np.testing.assert_array_equal(match_illumination(flat, flat.copy(), local=local), flat)
    # Against a clipped frame nothing can be said.
    for clipped in (0, 255):
        after = np.full_like(flat, clipped)
        np.testing.assert_array_equal(match_illumination(flat, after, local=local), flat)


def test_a_flat_scene_gets_an_offset_only() -> None:
    flat = np.full((90, 120, 3), 100, np.uint8)
    found = estimate_illumination(exposed(flat, 1, 0, 5, 1), exposed(flat, 1, 18, 5, 2))
    assert found.gain == (1, 1, 1)
    assert found.offset == pytest.approx((18, 18, 18), abs=0.7)


@pytest.mark.parametrize("seed", range(8))
def test_noise_alone_and_unrelated_pictures_change_nothing(seed: int) -> None:
    rng = np.random.default_rng(seed)
    first, second = (rng.integers(0, 256, (200, 300, 3)).astype(np.uint8) for _ in range(2))
    assert match_illumination(first, second) is first
    still = exposed(scene(seed), 1, 0, 6, 1)
    assert match_illumination(still, exposed(scene(seed), 1, 0, 6, 2)) is still
    assert estimate_illumination(scene(seed), scene(seed + 100)).is_identity


@pytest.mark.parametrize("size", [(1, 1), (1, 300), (2, 2), (7, 7)])
def test_too_few_pixels_say_nothing(size: tuple[int, int]) -> None:
    before = pixels(*size, seed=1)
    after = exposed(before, 1.15, 0)
    valid = np.zeros(size, bool)
    assert match_illumination(before, after, valid, local=True) is before
    if size[0] * size[1] < 64:
        assert match_illumination(before, after, local=True) is before


@pytest.mark.parametrize("size", [(1, 5000), (5000, 1), (3, 3000)])
def test_strips_narrower_than_a_cell_say_nothing(size: tuple[int, int]) -> None:
    before = pixels(*size, seed=1)
    assert match_illumination(before, exposed(before, 1.15, 0), np.ones(size, bool)) is before


def test_limits_of_what_counts_as_exposure() -> None:
    before = scene(3)
    assert estimate_illumination(before, exposed(before, GAINS[0] - 0.1, 0)).is_identity
    assert not estimate_illumination(before, exposed(before, GAINS[0] + 0.05, 0)).is_identity
    assert estimate_illumination(before, 255 - before).is_identity


def test_pixels_without_counterpart_do_not_count() -> None:
    before = scene(5)
    after = exposed(before, 1.15, -4)
    valid = np.ones(before.shape[:2], bool)
    valid[:, 100:] = False
    before[~valid] = 30
    found = estimate_illumination(before, after, valid)
    assert found.gain == pytest.approx((1.15, 1.15, 1.15), abs=0.01)
    matched = match_illumination(before, after, valid)
    assert distance(matched, after)[valid].max() <= 2


def test_channels_are_matched_each_on_its_own() -> None:
    before = scene(6)
    found = estimate_illumination(before, exposed(before, (0.85, 1.0, 1.1), (5, 0, -8)))
    assert found.gain == pytest.approx((0.85, 1.0, 1.1), abs=0.01)
    assert found.offset == pytest.approx((5, 0, -8), abs=1)


def test_channels_in_one_light_share_its_line() -> None:
    before = exposed(scene(6), 1, 0, 3)
    found = estimate_illumination(before, exposed(before, 1.12, -6, 3, 1))
    assert len(set(found.gain)) == len(set(found.offset)) == 1
    assert found.gain[0] == pytest.approx(1.12, abs=0.01)


def shading(height: int, width: int) -> npt.NDArray[np.float64]:
    """Gains (H, W, 1) that fall smoothly by a fifth from one corner to the other."""
    rows, columns = np.linspace(0, 1, height)[:, None, None], np.linspace(0, 1, width)[None, :, None]
    return np.asarray(1.1 - 0.2 * (rows + columns) / 2, np.float64)


def test_local_gains_follow_shading() -> None:
    before = scene(7, 300, 400)
    after = exposed(before, shading(300, 400), 0, 2)
    plain = distance(match_illumination(before, after), after).mean()
    locally = distance(match_illumination(before, after, local=True), after)
    # Noise of 2 levels alone brings a mean distance of 1.6.
    assert plain > 4 and locally.mean() < 2.3
    again = match_illumination(before, after, local=True)
    np.testing.assert_array_equal(again, match_illumination(before.copy(), after.copy(), local=True))


def test_local_gains_leave_a_moved_object() -> None:
    before = scene(8, 300, 400)
    after = exposed(before, 1, 0)
    after[120:170, 150:200] = 240
    np.testing.assert_array_equal(match_illumination(before, after, local=True), before)


def test_inputs_stay_and_sizes_must_agree() -> None:
    before = scene(9)
    after = exposed(before, 1.1, 0)
    kept = before.copy(), after.copy()
    match_illumination(before, after, local=True)
    np.testing.assert_array_equal(before, kept[0])
    np.testing.assert_array_equal(after, kept[1])
    with pytest.raises(SizeMismatchError):
        match_illumination(before, after[:-1])
    with pytest.raises(SizeMismatchError):
        match_illumination(before, after, np.ones((3, 3), bool))
    with pytest.raises(UsageError):
        match_illumination(before.astype(np.float32), after)  # type: ignore[arg-type]
    grey = before[:, :, 0]
    matched = match_illumination(grey, exposed(grey, 1.1, 0))
    assert matched.shape == before.shape
    assert distance(matched, exposed(grey, 1.1, 0)[:, :, None]).max() <= 2


def test_applying_rounds_and_saturates() -> None:
    values = np.broadcast_to(np.arange(256, dtype=np.uint8)[:, None, None], (256, 1, 3))
    result = Illumination((1.5, 1.0, 0.5), (0.0, -10.0, 3.25)).apply(values.copy())[:, 0]
    exact = np.arange(256)[:, None] * np.array([1.5, 1.0, 0.5]) + np.array([0.0, -10.0, 3.25])
    assert np.abs(result - np.clip(exact, 0, 255)).max() <= 0.5
    image = pixels()
    assert Illumination().apply(image) is image


@given(st.tuples(*[st.integers(2**12, 2**14)] * 3), st.tuples(*[st.integers(-(2**19), 2**19)] * 3))
@settings(max_examples=60, deadline=None)
def test_what_is_fitted_applies_exactly(gain: tuple[int, int, int], offset: tuple[int, int, int]) -> None:
    # Multiples of 2^-13, as all fits are: the rounding is that of exact numbers, whatever the processor.
    gains, offsets = np.array(gain) / 2**13, np.array(offset) / 2**13
    values = np.repeat(np.arange(256, dtype=np.uint8), 3).reshape(256, 1, 3)
    result = Illumination(tuple(gains.tolist()), tuple(offsets.tolist())).apply(values)
    np.testing.assert_array_equal(result, np.clip(np.rint(values * gains + offsets), 0, 255))
    found = estimate_illumination(scene(6), exposed(scene(6), gains, 0))
    assert all((value * 2**13).is_integer() for value in (*found.gain, *found.offset))


@pytest.mark.parametrize("gain", [0.0, 0.3, 1.7, 4.0])
@pytest.mark.parametrize("offset", [-1020.0, -300.5, -0.25, 0.0, 0.25, 80.0])
def test_light_is_applied_exactly_whether_or_not_values_fall_below_zero(gain: float, offset: float) -> None:
    values = np.arange(256, dtype=np.uint8).reshape(16, 16)
    exact = np.clip(np.rint(values * rounded(gain) + rounded(offset)), 0, 255)
    np.testing.assert_array_equal(lit(values, rounded(gain), rounded(offset)), exact)


@pytest.mark.skipif(not FRAMES.exists(), reason="needs PETS09-S2L1 in ../shared/data")
@pytest.mark.parametrize("gain", [0.8, 0.9, 1.1, 1.2])
def test_frames_of_a_camera_with_people_walking(gain: float) -> None:
    first, second = (decode_rgb((FRAMES / f"{index:06d}.jpg").read_bytes()) for index in (1, 31))
    changed = exposed(second, gain, 0)
    unmatched = absolute_difference(first, changed).mean()
    matched = match_illumination(first, changed)
    steady = absolute_difference(exposed(first, gain, 0), changed).mean()
    assert unmatched > 2 * steady
    assert absolute_difference(matched, changed).mean() < 1.1 * steady
