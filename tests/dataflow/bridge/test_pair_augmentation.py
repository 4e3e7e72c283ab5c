"""Augmented pairs: boxes against the pixels they are around, and movements against registration."""

from dataclasses import fields, replace
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dataflow.boxes import box_areas, clip_boxes
from dataflow.bridge.image_augmentation import LEAST_SHOWN
from dataflow.bridge.pair_augmentation import (
    AugmentedPair,
    PairAugmentation,
    PairMotion,
    augment_pair,
    move_objects,
    random_motion,
)
from dataflow.errors import UsageError
from dataflow.images import RgbImage
from dataflow.pairs.camera_motion import random_movement, warp
from dataflow.pairs.image_diff import SizeMismatchError
from dataflow.pairs.motion_models import carry_boxes, corner_error, map_points
from dataflow.pairs.registration import align
from dataflow.records import Change, Objects, no_objects
from tests.factories import pixels

SIZE = (120, 160)
NOTHING = PairAugmentation()
ALL = PairAugmentation(scale=1.6, exposure=0.3, contrast=0.3, colour=0.2, noise=4, shake_px=9, rotation=4, zoom=0.05)
SEEDS = st.integers(0, 2**32 - 1)


def boxed(*boxes: tuple[float, ...], **columns: Any) -> Objects:
    return Objects(np.array(boxes, np.float32), np.arange(len(boxes)), **columns)


def random_boxes(rng: np.random.Generator, n: int, size: tuple[int, int] = SIZE) -> npt.NDArray[np.float32]:
    ends = np.sort(rng.uniform(0, 1, (2, n, 2)), axis=0) * (size[1] - 4, size[0] - 4)
    return np.concatenate([ends[0], ends[1] + 4], axis=1).astype(np.float32)


def augmented(
    augmentation: PairAugmentation, seed: int = 0, objects: Objects | None = None, same: bool = False
) -> AugmentedPair:
    before, after = pixels(*SIZE, seed=1), pixels(*SIZE, seed=1 if same else 2)
    return augment_pair(before, after, objects or no_objects(), augmentation, np.random.default_rng(seed))


def textured(size: tuple[int, int]) -> RgbImage:
    """Smooth enough that a second bilinear drawing costs little."""
    rng = np.random.default_rng(3)
    total = sum(
        layer / layer.std() for layer in (cv2.GaussianBlur(rng.normal(size=(*size, 3)), (0, 0), s) for s in (3, 9))
    )
    return np.clip(115 + 25 * np.asarray(total), 0, 255).astype(np.uint8)


# What is drawn


def test_the_defaults_change_nothing_and_copy_nothing() -> None:
    before, after, objects = pixels(seed=1), pixels(seed=2), boxed((1, 2, 30, 40))
    pair = augment_pair(before, after, objects, NOTHING, np.random.default_rng(0))
    assert pair.before is before and pair.after is after and pair.objects is objects
    np.testing.assert_array_equal(pair.homography, np.eye(3))


def test_a_frame_that_nothing_happens_to_is_not_copied() -> None:
    before = pixels(seed=1)
    pair = augment_pair(before, pixels(seed=2), no_objects(), PairAugmentation(shake_px=3), np.random.default_rng(0))
    assert pair.before is before


@pytest.mark.parametrize("augmentation", [ALL, replace(NOTHING, exposure=0.3), replace(NOTHING, noise=5)])
def test_frames_that_are_given_are_not_written_to(augmentation: PairAugmentation) -> None:
    before, after = pixels(seed=1), pixels(seed=2)
    augment_pair(before, after, no_objects(), augmentation, np.random.default_rng(0))
    assert (before == pixels(seed=1)).all() and (after == pixels(seed=2)).all()


@given(seed=SEEDS)
@settings(max_examples=20, deadline=None)
def test_what_stood_still_stays_aligned(seed: int) -> None:
    pair = augmented(replace(NOTHING, scale=2), seed, same=True)
    np.testing.assert_array_equal(pair.before, pair.after)
    np.testing.assert_array_equal(pair.homography, np.eye(3))


@given(seed=SEEDS)
@settings(max_examples=20, deadline=None)
def test_frames_are_drawn_once_and_lit_after_that(seed: int) -> None:
    """So the light is a function of the level drawn, channel by channel."""
    dark, lit = (
        augmented(replace(ALL, noise=0, **off), seed) for off in ({"exposure": 0, "contrast": 0, "colour": 0}, {})
    )
    changed = False
    for plain, changes in ((dark.before, lit.before), (dark.after, lit.after)):
        for channel in range(3):
            levels = np.zeros(256, np.int64)
            levels[plain[..., channel]] = changes[..., channel]
            np.testing.assert_array_equal(levels[plain[..., channel]], changes[..., channel])
            present = levels[np.unique(plain[..., channel])]
            assert (np.diff(present) >= 0).all()
            changed |= bool((present != np.unique(plain[..., channel])).any())
    assert changed
    np.testing.assert_array_equal(dark.homography, lit.homography)


def test_lights_stay_within_their_bounds() -> None:
    """On grey 100 everywhere: exposure and colour multiply it, contrast moves it away from the middle."""
    grey = np.full((*SIZE, 3), 100, np.uint8)
    for bounds, least, most in (
        ({"exposure": 0.2}, 80, 120),
        ({"colour": 0.1}, 90, 110),
        ({"contrast": 0.4}, 127.5 - 27.5 * 1.4, 127.5 - 27.5 * 0.6),
    ):
        drawn = []
        for seed in range(200):
            pair = augment_pair(grey, grey, no_objects(), replace(NOTHING, **bounds), np.random.default_rng(seed))
            drawn += [pair.before[0, 0], pair.after[0, 0]]
        levels = np.array(drawn)
        assert np.ceil(least - 0.5) <= levels.min() <= least + 2 and most - 2 <= levels.max() <= np.floor(most + 0.5)
        assert (levels == levels[:, :1]).all() == ("colour" not in bounds)
        assert (levels[::2] != levels[1::2]).any(axis=1).mean() > 0.9, "each frame has a light of its own"


@pytest.mark.parametrize("sigma", [1.0, 6.0, 20.0])
def test_noise_is_normal_and_its_own_in_each_frame(sigma: float) -> None:
    grey = np.full((*SIZE, 3), 128, np.uint8)
    pair = augment_pair(grey, grey, no_objects(), replace(NOTHING, noise=sigma), np.random.default_rng(0))
    first, second = (frame.astype(float).ravel() - 128 for frame in (pair.before, pair.after))
    for noise in (first, second):
        # Rounding to whole levels adds a twelfth.
        assert noise.var() == pytest.approx(sigma**2 + 1 / 12, rel=0.03)
        assert abs(noise.mean()) < 4 * sigma / np.sqrt(noise.size)
        assert (np.abs(noise) <= sigma).mean() == pytest.approx(0.6827, abs=0.06 if sigma > 1 else 0.25)
    assert abs(np.corrcoef(first, second)[0, 1]) < 0.02


# Where things are


def rectangle(frame: RgbImage) -> list[float]:
    """The box x0, y0, x1, y1 around what is brighter than half."""
    rows, columns = (np.flatnonzero((frame[..., 0] > 127).any(axis=axis)) for axis in (1, 0))
    return [columns[0], rows[0], columns[-1] + 1, rows[-1] + 1]


MOVING = replace(ALL, exposure=0, contrast=0, colour=0, noise=0)


@pytest.mark.parametrize(
    "augmentation",
    [replace(NOTHING, scale=1.8), replace(NOTHING, scale=1.5, shake_px=12), MOVING],
    ids=["magnified", "moved", "turned"],
)
@given(seed=SEEDS)
@settings(max_examples=40, deadline=None)
def test_boxes_are_around_what_is_drawn(augmentation: PairAugmentation, seed: int) -> None:
    """A white thing in each black frame. None touches the border, which would go on with it beyond."""
    rng = np.random.default_rng(seed)
    frames, boxes = [np.zeros((*SIZE, 3), np.uint8) for _ in range(2)], []
    for frame in frames:
        x0, y0 = rng.integers(1, SIZE[1] - 30), rng.integers(1, SIZE[0] - 30)
        x1, y1 = rng.integers(x0 + 20, SIZE[1]), rng.integers(y0 + 20, SIZE[0])
        frame[y0:y1, x0:x1] = 255
        boxes.append((x0, y0, x1, y1))
    pair = augment_pair(frames[0], frames[1], boxed(*boxes, in_before=[True, False]), augmentation, rng)
    for frame, in_before in ((pair.before, True), (pair.after, False)):
        here = pair.objects.in_before == in_before
        if augmentation.rotation:
            # The corner by which a turned thing reached furthest may be cut off.
            here &= ~pair.objects.is_truncated
        for box in pair.objects.boxes[here]:
            np.testing.assert_allclose(rectangle(frame), box, atol=1)
    assert augmentation.scale > 1 or len(pair.objects) == 2


def carried(boxes: npt.NDArray[np.float32], motion: PairMotion, in_before: npt.NDArray[np.bool_]) -> Any:
    """Corners (N, 4, 2) of boxes, each moved with its frame."""
    corners = boxes[:, [[0, 1], [2, 1], [2, 3], [0, 3]]]
    matrices = [motion.shared if before else motion.after for before in in_before]
    return np.array([map_points(four, matrix) for four, matrix in zip(corners, matrices, strict=True)])


@given(seed=SEEDS, turned=st.booleans())
@settings(max_examples=100, deadline=None)
def test_boxes_hold_their_points_and_are_tight(seed: int, turned: bool) -> None:
    rng = np.random.default_rng(seed)
    motion = random_motion(ALL if turned else replace(ALL, rotation=0), SIZE, rng)
    boxes, in_before = random_boxes(rng, 8), rng.uniform(size=8) < 0.5
    objects = Objects(boxes, np.zeros(8), in_before=in_before, track_ids=np.arange(8), is_crowd=np.ones(8))
    moved = move_objects(objects, motion, SIZE)
    assert moved.track_ids is not None
    limit = np.array(SIZE[::-1])
    corners = carried(boxes, motion, in_before)
    inner = boxes[:, :2] + rng.uniform(0, 1, (8, 2)) * (boxes[:, 2:] - boxes[:, :2])
    for box, track in zip(moved.boxes, moved.track_ids, strict=True):
        [point] = map_points(inner[track], motion.shared if in_before[track] else motion.after)
        if (point >= 0).all() and (point <= limit).all():
            assert (point >= box[:2] - 1e-3).all() and (point <= box[2:] + 1e-3).all()
        low, high = corners[track].min(axis=0), corners[track].max(axis=0)
        np.testing.assert_allclose(box, np.clip([*low, *high], 0, np.tile(limit, 2)), atol=1e-3)
    # Of a region to ignore every part counts, so what is left out is out of sight.
    for track in set(range(8)) - set(moved.track_ids.tolist()):
        low, high = corners[track].min(axis=0), corners[track].max(axis=0)
        assert (high <= 0.02).any() or (low >= limit - 0.02).any()
    moved.check_inside(SIZE)


@given(seed=SEEDS)
@settings(max_examples=100, deadline=None)
def test_what_has_lost_nearly_all_of_itself_is_left_out(seed: int) -> None:
    rng = np.random.default_rng(seed)
    motion = random_motion(replace(ALL, scale=2, shake_px=60), SIZE, rng)
    boxes, in_before = random_boxes(rng, 8), rng.uniform(size=8) < 0.5
    kinds = rng.integers(0, 3, 8)
    objects = Objects(
        boxes,
        kinds,
        in_before=in_before,
        is_crowd=kinds == 2,
        is_truncated=kinds == 1,
        track_ids=10 + np.arange(8),
        changes=np.where(in_before, Change.VANISHED, Change.APPEARED),
        segmentations=["[]"] * 8,
    )
    moved = move_objects(objects, motion, SIZE)
    corners = carried(boxes, motion, in_before)
    whole = np.concatenate([corners.min(axis=1), corners.max(axis=1)], axis=1)
    cut = clip_boxes(whole, SIZE)
    shown = box_areas(cut) / box_areas(whole)
    clear = np.abs(shown - LEAST_SHOWN) > 1e-3
    kept = np.isin(np.arange(8), np.asarray(moved.track_ids) - 10)
    np.testing.assert_array_equal(kept[clear & (kinds < 2)], (shown >= LEAST_SHOWN)[clear & (kinds < 2)])
    np.testing.assert_array_equal(kept[kinds == 2], (cut[:, 2:] - cut[:, :2] >= 1e-2).all(axis=1)[kinds == 2])
    # What is said of an object stays with it.
    for name in ("category_ids", "is_crowd", "in_before", "changes"):
        np.testing.assert_array_equal(getattr(moved, name), getattr(objects, name)[kept])
    is_cut = np.abs(cut - whole).max(axis=1)
    sure = ((is_cut > 0.011) | (is_cut < 0.009))[kept]
    np.testing.assert_array_equal(moved.is_truncated[sure], ((is_cut > 0.01) | (kinds == 1))[kept][sure])
    assert moved.segmentations == ("",) * len(moved), "masks are not moved"


def test_areas_are_scaled_and_lose_what_their_boxes_lose() -> None:
    """Magnified twice about the origin: one whole, one of which half is left, each with and without a mask."""
    boxes = [(10, 10, 30, 20), (70, 10, 90, 30)] * 2
    objects = boxed(*boxes, areas=[200, 400, 150, 100])
    motion = PairMotion(np.diag([2.0, 2.0, 1.0]), np.eye(3))
    moved = move_objects(objects, motion, SIZE)
    np.testing.assert_allclose(moved.boxes[:2], [[20, 20, 60, 40], [140, 20, 160, 60]])
    np.testing.assert_allclose(moved.areas, [800, 800, 600, 200], rtol=1e-6)


def test_the_area_of_a_mask_does_not_grow_with_the_box_around_it_when_it_turns() -> None:
    turn = random_movement(np.random.default_rng(2), 0, 25, 0, 0).homography(SIZE)
    moved = move_objects(
        boxed((40, 50, 120, 60), (40, 50, 120, 60), areas=[800, 500]), PairMotion(np.eye(3), turn), SIZE
    )
    assert (box_areas(moved.boxes) > 1200).all()
    np.testing.assert_allclose(moved.areas, [box_areas(moved.boxes)[0], 500], rtol=1e-4)


def test_the_shake_leaves_objects_of_the_before_frame_as_they_are() -> None:
    square = "[[1, 2, 30, 2, 30, 40]]"
    objects = boxed(
        (1, 2, 30, 40), (1, 2, 30, 40), in_before=[True, False], areas=[551, 551], segmentations=[square] * 2
    )
    pair = augmented(replace(NOTHING, shake_px=9, rotation=2), 1, objects)
    np.testing.assert_array_equal(pair.objects.boxes[0], (1, 2, 30, 40))
    assert pair.objects.segmentations == (square, "") and pair.objects.areas[0] == 551
    assert np.abs(pair.objects.boxes[1] - (1, 2, 30, 40)).max() > 0.5
    # By the movement returned, the boxes of one place meet again.
    np.testing.assert_allclose(
        clip_boxes(carry_boxes(pair.objects.boxes[:1], pair.homography), SIZE), pair.objects.boxes[1:], atol=1e-3
    )


@given(seed=SEEDS)
@settings(max_examples=15, deadline=None)
def test_the_movement_returned_leads_from_one_frame_to_the_other(seed: int) -> None:
    frame = textured((240, 320))
    rng = np.random.default_rng(seed)
    pair = augment_pair(frame, frame, no_objects(), replace(MOVING, noise=2), rng)
    drawn, valid = warp(pair.before, pair.homography, (240, 320))
    apart = np.abs(drawn.astype(int) - pair.after)[valid]
    # Two noises of two levels, one of them smoothed, and rounding.
    assert apart.mean() < 3 and np.percentile(apart, 99) < 10
    unmoved = np.abs(pair.before.astype(int) - pair.after).mean()
    assert unmoved > 2 * apart.mean() or corner_error(pair.homography, np.eye(3), (240, 320)) < 2


@given(seed=SEEDS)
@settings(max_examples=15, deadline=None)
def test_registration_finds_the_movement_returned(seed: int) -> None:
    frame = textured((240, 320))
    augmentation = replace(ALL, scale=1.2, noise=2, contrast=0.1, exposure=0.1, colour=0.1, rotation=2)
    pair = augment_pair(frame, frame, no_objects(), augmentation, np.random.default_rng(seed))
    found = align(pair.before, pair.after)
    assert corner_error(found.homography, pair.homography, (240, 320)) < 0.5


# Chance


@given(seed=SEEDS)
@settings(max_examples=10, deadline=None)
def test_the_same_seed_gives_the_same_bytes_whatever_else_drew(seed: int) -> None:
    objects = Objects(random_boxes(np.random.default_rng(seed), 5), np.zeros(5))
    first = augmented(ALL, seed, objects)
    np.random.default_rng(1).normal()
    cv2.setRNGSeed(seed % 1000)
    second = augmented(ALL, seed, objects)
    for name in ("before", "after", "homography"):
        assert getattr(first, name).tobytes() == getattr(second, name).tobytes()
    assert first.objects.boxes.tobytes() == second.objects.boxes.tobytes()
    assert augmented(ALL, seed + 1, objects).after.tobytes() != first.after.tobytes()


@given(seed=SEEDS)
@settings(max_examples=20, deadline=None)
def test_one_bound_does_not_change_what_another_draws(seed: int) -> None:
    some = random_motion(replace(NOTHING, rotation=2), SIZE, np.random.default_rng(seed))
    more = random_motion(replace(ALL, rotation=2, scale=1, shake_px=0, zoom=0), SIZE, np.random.default_rng(seed))
    np.testing.assert_array_equal(some.shared, more.shared)
    np.testing.assert_array_equal(some.shake, more.shake)


def test_magnifications_are_even_by_their_logarithm_and_show_every_part() -> None:
    rng = np.random.default_rng(5)
    motions = [random_motion(replace(NOTHING, scale=2), SIZE, rng) for _ in range(2000)]
    logs = np.log2([motion.shared[0, 0] for motion in motions])
    assert logs.min() > -1 and logs.max() < 1
    np.testing.assert_allclose(np.quantile(logs, (0.25, 0.5, 0.75)), (-0.5, 0, 0.5), atol=0.06)
    large = [motion for motion in motions if motion.shared[0, 0] > 1.5]
    seen = np.array([map_points([[0, 0], SIZE[::-1]], np.linalg.inv(motion.shared)).ravel() for motion in large])
    assert (seen[:, :2] >= -1e-9).all() and (seen[:, 2:] <= np.array(SIZE[::-1]) + 1e-9).all()
    assert (seen[:, :2].min(axis=0) < 2).all() and (seen[:, 2:].max(axis=0) > np.array(SIZE[::-1]) - 2).all()


# Wrong use


@pytest.mark.parametrize("name", [field.name for field in fields(PairAugmentation)])
@pytest.mark.parametrize("value", [-0.1, 1e6, float("nan"), float("inf")])
def test_numbers_out_of_bounds_are_refused(name: str, value: float) -> None:
    with pytest.raises(UsageError, match=f"with {name} .*; use a number from"):
        PairAugmentation(**{name: value})


def test_frames_of_different_sizes_are_refused() -> None:
    with pytest.raises(SizeMismatchError, match=r"64x48.*60x48"):
        augment_pair(pixels(48, 64), pixels(48, 60), no_objects(), ALL, np.random.default_rng(0))


@pytest.mark.parametrize("size", [(1, 1), (1, 40), (40, 1)])
def test_frames_of_one_pixel_or_row(size: tuple[int, int]) -> None:
    frame = np.full((*size, 3), 90, np.uint8)
    box = boxed((0, 0, size[1], size[0]))
    for seed in range(20):
        pair = augment_pair(frame, frame, box, replace(MOVING, shake_px=0.3), np.random.default_rng(seed))
        assert (pair.before == 90).all() and (pair.after == 90).all()
        pair.objects.check_inside(size)
