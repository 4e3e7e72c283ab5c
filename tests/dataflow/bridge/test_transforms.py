"""Transforms of other libraries in the loader: torchvision's v2 and albumentations, with their boxes."""

import random
from itertools import islice
from typing import Any

import albumentations
import numpy as np
import pytest
import torch
from torchvision.transforms import v2

from dataflow.boxes import shown_to_xyxy
from dataflow.bridge.batches import Batch, targets_to_predictions
from dataflow.bridge.drafts import ExampleError
from dataflow.bridge.loader import BatchLoader
from dataflow.bridge.padding import PadToSize
from dataflow.bridge.resize import ResizePolicy
from dataflow.bridge.transforms import Transform, albumentations_transform, torchvision_transform
from dataflow.errors import UsageError
from dataflow.prepared import PreparedDataset
from tests.dataflow.detection_sets import make_records, write_ours

POLICY = ResizePolicy(40, 60)
N = 14


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> PreparedDataset:
    return write_ours(tmp_path_factory.mktemp("ours") / "small" / "1.0.0", make_records(N), (9, 5))


def loader(dataset: PreparedDataset, transform: Transform | None, **options: Any) -> BatchLoader:
    options = {"training": True, "threads": 2, "transform": transform} | options
    return BatchLoader(dataset, "train", POLICY, 4, **options)


def boxes_px(batch: Batch, i: int) -> np.ndarray[Any, Any]:
    height, width = batch.sizes[i].tolist()
    return shown_to_xyxy(batch.targets[i].boxes.numpy(), (0, 0, width, height))


def flip_of(kind: str) -> Transform:
    """The library's own mirroring, top to bottom."""
    if kind == "torchvision":
        return torchvision_transform(v2.RandomVerticalFlip(1.0))
    boxes = albumentations.BboxParams(format="pascal_voc", label_fields=["category_ids"])
    return albumentations_transform(albumentations.Compose([albumentations.VerticalFlip(p=1.0)], bbox_params=boxes))


def chain_of(kind: str) -> Transform:
    """Something at random that changes sizes, loses boxes and touches colours."""
    if kind == "torchvision":
        steps = [
            v2.RandomRotation(20),
            v2.RandomCrop((30, 35), pad_if_needed=True),
            v2.ColorJitter(0.5),
            v2.SanitizeBoundingBoxes(),
        ]
        return torchvision_transform(v2.Compose(steps))
    boxes = albumentations.BboxParams(format="pascal_voc", label_fields=["category_ids"], min_visibility=0.1)
    steps = [
        albumentations.RandomCrop(30, 35, pad_if_needed=True),
        albumentations.Affine(rotate=(-20, 20)),
        albumentations.GaussNoise(p=0.5),
    ]
    return albumentations_transform(albumentations.Compose(steps, bbox_params=boxes))


KINDS = ["torchvision", "albumentations"]


@pytest.mark.parametrize("kind", KINDS)
def test_pixels_and_boxes_go_through_the_library(dataset: PreparedDataset, kind: str) -> None:
    changed = islice(loader(dataset, flip_of(kind)), 3)
    for batch, plain in zip(changed, loader(dataset, None), strict=False):
        assert batch.image_ids == plain.image_ids
        for i, (height, width) in enumerate(plain.sizes.tolist()):
            expected = plain.pixel_values[i, :, :height, :width].flip(1)
            assert torch.equal(batch.pixel_values[i, :, :height, :width], expected)
            assert batch.targets[i].category_ids.tolist() == plain.targets[i].category_ids.tolist()
            turned = boxes_px(plain, i)[:, [0, 3, 2, 1]] * [1, -1, 1, -1] + [0, height, 0, height]
            np.testing.assert_allclose(boxes_px(batch, i), turned, atol=1e-3)
        assert torch.equal(batch.original_sizes, plain.original_sizes)


@pytest.mark.parametrize("kind", KINDS)
def test_batches_stay_a_function_of_seed_epoch_and_image(dataset: PreparedDataset, kind: str) -> None:
    def batches(**options: Any) -> list[Batch]:
        return list(islice(loader(dataset, chain_of(kind), **options), 6))

    def same(a: Batch, b: Batch) -> bool:
        return a.image_ids == b.image_ids and torch.equal(a.pixel_values, b.pixel_values)

    first = batches()
    random.seed(99)
    np.random.seed(99)
    torch.manual_seed(99)
    assert all(map(same, first, batches(threads=1)))
    assert all(map(same, first[4:], batches(start_step=4)))
    assert not any(map(same, first, batches(seed=1)))
    assert all(tuple(size) == (30, 35) for batch in first for size in batch.sizes.tolist())


@pytest.mark.parametrize("kind", KINDS)
def test_training_draws_what_it_would_have_drawn_without(dataset: PreparedDataset, kind: str) -> None:
    def drawn(transform: Transform | None) -> list[float]:
        random.seed(1)
        np.random.seed(1)
        torch.manual_seed(1)
        found = []
        for _ in islice(loader(dataset, transform), 4):
            found += [random.random(), float(np.random.rand()), torch.rand(1).item()]
        return found

    assert drawn(chain_of(kind)) == drawn(None)


def test_floats_and_a_fixed_canvas_come_after_it(dataset: PreparedDataset) -> None:
    from dataflow.bridge.batches import normalise
    from dataflow.bridge.drawing import Normalisation

    of = Normalisation((0.5, 0.4, 0.3), (0.2, 0.3, 0.4))
    options: dict[str, Any] = {"pad": PadToSize(50, 61)}
    floats = islice(loader(dataset, chain_of("torchvision"), normalisation=of, **options), 3)
    for batch, plain in zip(floats, loader(dataset, chain_of("torchvision"), **options), strict=False):
        assert batch.pixel_values.shape[2:] == (50, 61)
        expected = normalise(plain.pixel_values, plain.pixel_mask, of.mean, of.std)
        assert torch.equal(batch.pixel_values, expected)


def test_there_is_no_way_back(dataset: PreparedDataset) -> None:
    batch = next(iter(loader(dataset, flip_of("torchvision"))))
    assert batch.shown.isnan().all()
    with pytest.raises(UsageError, match="was changed by a transform"):
        targets_to_predictions(batch, "oracle")


def test_evaluation_has_none(dataset: PreparedDataset) -> None:
    with pytest.raises(UsageError, match="a transform for evaluation"):
        loader(dataset, flip_of("torchvision"), training=False)


@pytest.mark.parametrize(
    ("transform", "says"),
    [
        (lambda image, boxes, ids: (image / 255, boxes, ids), "an image of float64"),
        (lambda image, boxes, ids: (image[:, :, 0], boxes, ids), "an image of uint8"),
        (lambda image, boxes, ids: (image[:, :, :2], boxes, ids), "an image of uint8"),
        (lambda image, boxes, ids: (image, boxes, [*ids, 1]), "class ids"),
        (lambda image, boxes, ids: (image[1000], boxes, ids), "an error: IndexError"),
    ],
)
def test_what_is_no_image_with_boxes_is_named(dataset: PreparedDataset, transform: Transform, says: str) -> None:
    with pytest.raises(ExampleError, match=rf"image 'image\d+' \(.*example \d+\): the transform gave .*{says}"):
        list(islice(loader(dataset, transform), 2))


def test_boxes_are_cut_and_those_without_area_left_out(dataset: PreparedDataset) -> None:
    def moved(image: Any, boxes: Any, ids: Any) -> Any:
        more = np.array([[-5, -5, 10, 10], [3, 3, 3, 9], [-9, 0, -1, 5]], np.float32)
        return image, more, np.array([2, 1, 0])

    batch = next(iter(loader(dataset, moved)))
    for i in range(len(batch)):
        assert batch.targets[i].category_ids.tolist() == [2]
        np.testing.assert_allclose(boxes_px(batch, i), [[0, 0, 10, 10]], atol=1e-4)
