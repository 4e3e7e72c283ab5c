"""Augmented images: boxes against the pixels they are around, and the way back to the original image."""

from dataclasses import fields, replace
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from dataflow.boxes import box_areas
from dataflow.bridge.batches import targets_to_predictions
from dataflow.bridge.image_augmentation import (
    LEAST_SHOWN,
    ImageAugmentation,
    objects_within,
    random_region,
    whole,
)
from dataflow.bridge.loader import BatchLoader
from dataflow.bridge.padding import Padding, PadToLargest, PadToSize
from dataflow.bridge.pair_augmentation import PairAugmentation
from dataflow.bridge.resize import FixedSize, KeepSize, LongestEdge, Resize, ResizePolicy
from dataflow.errors import UsageError
from dataflow.images import encode_png
from dataflow.prepared import PreparedDataset
from dataflow.records import FramePair, Objects
from tests.dataflow.detection_sets import make_record, random_objects, write_ours

ALL = ImageAugmentation(scale=2.0, crop=0.5, exposure=0.3, contrast=0.3, colour=0.2, noise=4)
POLICY = ResizePolicy(90, 140)
SIDE = st.integers(8, 400)
BOUNDS = st.builds(ImageAugmentation, scale=st.floats(1, 8), crop=st.floats(0.1, 1))


@given(size=st.tuples(SIDE, SIDE), n=st.integers(0, 4), bounds=BOUNDS, seed=st.integers(0, 2**32 - 1))
def test_what_is_shown_is_a_part_that_keeps_an_object_whole(
    size: tuple[int, int], n: int, bounds: ImageAugmentation, seed: int
) -> None:
    objects = random_objects(size, n, seed=seed % 1000)
    (x0, y0, x1, y1), factor = random_region(bounds, size, objects, np.random.default_rng(seed))
    assert 0 <= x0 < x1 <= size[1] and 0 <= y0 < y1 <= size[0]
    assert 1 / bounds.scale - 1e-9 <= factor <= 1
    within = (objects.boxes >= [x0, y0, x0, y0]) & (objects.boxes <= [x1, y1, x1, y1])
    assert n == 0 or within.all(axis=1).any()
    left = objects_within(objects, (x0, y0, x1, y1))
    assert n == 0 or len(left) > 0
    left.check_inside(size)


def test_parts_are_as_large_as_asked_for() -> None:
    rng, none = np.random.default_rng(0), random_objects((400, 600), 0, seed=0)
    found = [random_region(ImageAugmentation(scale=2.0), (400, 600), none, rng) for _ in range(2000)]
    shares = np.array([(y1 - y0) / 400 for (_, y0, _, y1), _ in found])
    factors = np.array([factor for _, factor in found])
    assert shares.min() == pytest.approx(0.5, abs=0.02) and factors.min() == pytest.approx(0.5, abs=0.02)
    assert ((shares < 1) & (factors < 1)).sum() == 0, "an image is shown larger or smaller, not both"
    assert np.mean(factors < 1) == pytest.approx(0.5, abs=0.05)
    centres = np.array([(x0 + x1) / 2 for (x0, _, x1, _), _ in found])[shares < 0.6]
    assert centres.min() < 185 and centres.max() > 415, "parts come from everywhere"


def test_objects_are_cut_and_left_out_where_too_little_is_left() -> None:
    boxes = np.array([[0, 0, 10, 10], [8, 0, 18, 10], [10, 0, 20, 10], [11, 0, 40, 10], [60, 0, 70, 10]], np.float32)
    objects = Objects(boxes, np.arange(5), is_crowd=np.array([False] * 4 + [True]), areas=np.full(5, 50, np.float32))
    left = objects_within(objects, (9, 0, 30, 30))
    assert left.category_ids.tolist() == [1, 2, 3], "of the first a tenth is left, of the last nothing"
    np.testing.assert_array_equal(left.boxes, [[9, 0, 18, 10], [10, 0, 20, 10], [11, 0, 30, 10]])
    assert left.is_truncated.tolist() == [True, False, True]
    np.testing.assert_allclose(left.areas, [45, 50, 50 * 19 / 29], rtol=1e-5)
    assert LEAST_SHOWN == 0.2


@pytest.mark.parametrize(
    "bad", [{"scale": 0.9}, {"scale": 9}, {"crop": 0}, {"crop": 1.1}, {"exposure": -0.1}, {"noise": 41}], ids=str
)
def test_bounds_are_checked(bad: dict[str, float]) -> None:
    with pytest.raises(UsageError, match=f"augmentation with {next(iter(bad))}"):
        ImageAugmentation(**bad)


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> PreparedDataset:
    records = [make_record(f"image{i:02d}", 150 + 7 * i, 140 + 11 * i, n=3, seed=i) for i in range(12)]
    return write_ours(tmp_path_factory.mktemp("ours") / "small" / "1.0.0", records, (7, 5))


def loader(dataset: PreparedDataset, policy: Resize = POLICY, **options: Any) -> BatchLoader:
    options = {"training": True, "threads": 2, "flip": 0.5, "augmentation": ALL} | options
    return BatchLoader(dataset, "train", policy, 4, **options)


POLICIES: tuple[Resize, ...] = (POLICY, FixedSize(80, 100), LongestEdge(200), KeepSize())
PADDINGS: tuple[Padding, ...] = (PadToLargest(), PadToLargest(32), PadToSize(500, 600))


@settings(max_examples=12, deadline=None)
@given(
    bounds=BOUNDS,
    flip=st.sampled_from([0.0, 0.5, 1.0]),
    sizes=st.tuples(st.sampled_from(POLICIES), st.sampled_from(PADDINGS)),
    seed=st.integers(0, 99),
)
def test_boxes_return_to_the_original_image(
    dataset: PreparedDataset, bounds: ImageAugmentation, flip: float, sizes: tuple[Resize, Padding], seed: int
) -> None:
    """Each as it was, or as it was cut at the border of what is shown."""
    truth = {record.image_id: record.objects for record in dataset.records("train")}
    returned = 0
    for batch in islice(loader(dataset, sizes[0], augmentation=bounds, flip=flip, pad=sizes[1], seed=seed), 3):
        for found, edges in zip(targets_to_predictions(batch, "oracle"), batch.shown.tolist(), strict=True):
            x0, y0, x1, y1 = min(edges[0], edges[2]), edges[1], max(edges[0], edges[2]), edges[3]
            left = objects_within(truth[found.image_id], (int(x0), int(y0), int(x1), int(y1)))
            np.testing.assert_allclose(found.boxes, left.boxes, atol=0.01)
            np.testing.assert_array_equal(found.category_ids, left.category_ids)
            returned += len(found)
    assert returned >= 12, "of every image at least one object stays"


def test_boxes_are_around_the_pixels_they_were_around(tmp_path: Path) -> None:
    """Bright rectangles on dark ground, found again in the augmented image by their brightness."""
    rng = np.random.default_rng(1)
    records = []
    for i in range(24):
        picture = rng.integers(20, 40, (160, 200, 3), np.uint8)
        x, y = rng.integers(0, 120, 2).tolist()
        picture[y : y + 37, x : x + 53] = 220
        boxes = np.array([[x, y, x + 53, y + 37]], np.float32)
        record = make_record(f"image{i}", 160, 200, n=0, image=encode_png(picture))
        records.append(replace(record, objects=Objects(boxes, np.zeros(1, np.int64))))
    dataset = write_ours(tmp_path / "small" / "1.0.0", records, (24,))
    seen = set()
    for batch in islice(loader(dataset, augmentation=ImageAugmentation(scale=1.8, crop=0.6)), 6):
        for i, (height, width) in enumerate(batch.sizes.tolist()):
            bright = batch.pixel_values[i, 0, :height, :width].numpy() > 130
            rows, columns = np.flatnonzero(bright.any(axis=1)), np.flatnonzero(bright.any(axis=0))
            cx, cy, w, h = (batch.targets[i].boxes[0].numpy() * [width, height, width, height]).tolist()
            around = [cx - w / 2, cy - h / 2, cx + w / 2, cy + h / 2]
            np.testing.assert_allclose(around, [columns[0], rows[0], columns[-1] + 1, rows[-1] + 1], atol=1.0)
            seen.add(batch.image_ids[i])
    assert len(seen) == 24


def test_pixels_of_a_part_are_those_of_the_part(dataset: PreparedDataset) -> None:
    from dataflow.images import decode_rgb

    images = {record.image_id: decode_rgb(record.image) for record in dataset.records("train")}
    cut = mirrored = 0
    for batch in islice(loader(dataset, KeepSize(), augmentation=ImageAugmentation(crop=0.4)), 6):
        for i, (height, width) in enumerate(batch.sizes.tolist()):
            left, top, right, bottom = map(int, batch.shown[i].tolist())
            expected = images[batch.image_ids[i]][top:bottom, min(left, right) : max(left, right)]
            expected = expected[:, ::-1] if left > right else expected
            np.testing.assert_array_equal(batch.pixel_values[i, :, :height, :width].permute(1, 2, 0), expected)
            cut, mirrored = cut + (expected.shape != images[batch.image_ids[i]].shape), mirrored + (left > right)
    assert cut > 10 and mirrored > 5


def test_it_depends_on_seed_epoch_and_image_alone(dataset: PreparedDataset) -> None:
    def by_image(n: int, **options: Any) -> dict[tuple[int, str], torch.Tensor]:
        found = {}
        for number, batch in enumerate(islice(loader(dataset, FixedSize(80, 100), **options), n)):
            for name, image, (h, w) in zip(batch.image_ids, batch.pixel_values, batch.sizes.tolist(), strict=True):
                found[number // 3, name] = image[:, :h, :w].clone()
        return found

    first = by_image(6)
    again = by_image(6, threads=1, group=1)
    assert len(first) == 24
    assert all(torch.equal(first[key], again[key]) for key in first)
    assert not any(torch.equal(first[0, name], first[1, name]) for _, name in list(first)[:12])
    assert not any(torch.equal(first[key], image) for key, image in by_image(6, seed=1).items())


def test_each_property_changes_only_with_its_own_bound(dataset: PreparedDataset) -> None:
    def shown(**bounds: Any) -> list[list[float]]:
        changed = ImageAugmentation(scale=2.0, crop=0.5, **bounds)
        return [batch.shown.tolist() for batch in islice(loader(dataset, augmentation=changed), 3)]

    assert shown() == shown(exposure=0.5, noise=10) == shown(colour=0.1)


def test_evaluation_is_not_augmented(dataset: PreparedDataset) -> None:
    plain = list(loader(dataset, training=False, augmentation=None, flip=0.0))
    for batch, expected in zip(loader(dataset, training=False), plain, strict=True):
        assert torch.equal(batch.pixel_values, expected.pixel_values)
        assert torch.equal(batch.shown, expected.shown)


def test_light_moves_nothing_and_spares_the_padding(dataset: PreparedDataset) -> None:
    bright = ImageAugmentation(exposure=0.8, contrast=0.5, colour=0.3, noise=20)
    for batch, plain in zip(
        islice(loader(dataset, augmentation=bright), 3), loader(dataset, augmentation=None), strict=False
    ):
        assert not torch.equal(batch.pixel_values, plain.pixel_values)
        assert torch.equal(batch.shown, plain.shown) and torch.equal(batch.pixel_mask, plain.pixel_mask)
        assert not batch.pixel_values.permute(0, 2, 3, 1)[~batch.pixel_mask].any()


def test_no_light_for_pairs_and_differences(tmp_path: Path) -> None:
    before, after = make_record("b", 50, 70, seed=1), make_record("a", 50, 70, seed=2)
    pair = FramePair("pair", before, replace(after, group_id="b"), after.objects)
    dataset = write_ours(tmp_path / "pairs" / "1.0.0", [pair], [1], "pairs")
    with pytest.raises(UsageError, match="a change of light would be taken for a change of the scene"):
        loader(dataset, augmentation=ImageAugmentation(exposure=0.1))
    (batch,) = islice(
        BatchLoader(dataset, "train", KeepSize(), 1, training=True, augmentation=ImageAugmentation(crop=0.5)), 1
    )
    assert batch.shown.tolist() != [[0, 0, 70, 50]]


def test_both_augmentations_have_the_same_light() -> None:
    light = {"exposure", "contrast", "colour", "noise"}
    for kind in (ImageAugmentation, PairAugmentation):
        assert light < {field.name for field in fields(kind)}
    assert ImageAugmentation(noise=1).lights and not ImageAugmentation(scale=2, crop=0.5).lights
    assert whole((5, 7)) == (0, 0, 7, 5)
    assert box_areas(np.array([[0, 0, 7, 5]], np.float32)) == 35
