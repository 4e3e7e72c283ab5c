from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from transformers import DetrImageProcessor

from dataflow.boxes import xyxy_to_cxcywh
from dataflow.bridge.batches import (
    Batch,
    BatchError,
    Target,
    detections_to_predictions,
    normalise,
    targets_to_predictions,
)
from dataflow.bridge.resize import ResizePolicy

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


def make_target(*boxes: tuple[float, float, float, float]) -> Target:
    return Target(torch.tensor(boxes, dtype=torch.float32).reshape(-1, 4), torch.arange(len(boxes)))


def make_batch(targets: list[Target], sizes: list[tuple[int, int]], original: list[tuple[int, int]]) -> Batch:
    n = len(targets)
    height, width = (max(size[axis] for size in sizes) for axis in (0, 1))
    mask = torch.zeros(n, height, width, dtype=torch.bool)
    for i, (h, w) in enumerate(sizes):
        mask[i, :h, :w] = True
    pixels = torch.from_numpy(np.random.default_rng(0).integers(0, 256, (n, 3, height, width), np.uint8))
    return Batch(
        pixel_values=pixels * mask[:, None],
        pixel_mask=mask,
        targets=tuple(targets),
        image_ids=tuple(f"image{i}" for i in range(n)),
        sizes=torch.tensor(sizes),
        original_sizes=torch.tensor(original),
    )


@pytest.fixture
def batch() -> Batch:
    targets = [make_target((0.5, 0.5, 0.2, 0.4), (0.1, 0.1, 0.2, 0.2)), make_target()]
    return make_batch(targets, [(20, 30), (25, 16)], [(200, 300), (500, 320)])


@pytest.mark.parametrize("channels_last", [True, False])
def test_normalised_values_are_those_of_hugging_face_bit_for_bit(batch: Batch, channels_last: bool) -> None:
    processor = DetrImageProcessor(do_resize=False, image_mean=MEAN, image_std=STD)
    sizes = batch.sizes.tolist()
    images = [pixels[:, :h, :w] for pixels, (h, w) in zip(batch.pixel_values, sizes, strict=True)]
    expected = processor(images, return_tensors="pt")
    layout = torch.channels_last if channels_last else torch.contiguous_format
    values = normalise(batch.pixel_values.contiguous(memory_format=layout), batch.pixel_mask, MEAN, STD)
    assert values.dtype == torch.float32
    assert torch.equal(values.view(torch.int32), expected["pixel_values"].view(torch.int32))
    assert torch.equal(batch.pixel_mask, expected["pixel_mask"].bool())


def test_padding_is_zero_whatever_lies_there(batch: Batch) -> None:
    dirty = torch.full_like(batch.pixel_values, 200)
    values = normalise(dirty, batch.pixel_mask, MEAN, STD)
    padding = ~batch.pixel_mask[:, None].expand_as(values)
    assert padding.any()
    assert (values[padding] == 0).all()
    assert (values[~padding] != 0).all()


def test_normalising_leaves_the_batch_as_it_was(batch: Batch) -> None:
    before = batch.pixel_values.clone()
    normalise(batch.pixel_values, batch.pixel_mask, MEAN, STD)
    assert torch.equal(batch.pixel_values, before)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_normalising_on_the_gpu_gives_the_same_bits(batch: Batch) -> None:
    there = batch.to("cuda")
    expected = normalise(batch.pixel_values, batch.pixel_mask, MEAN, STD)
    assert torch.equal(normalise(there.pixel_values, there.pixel_mask, MEAN, STD).cpu(), expected)


def test_a_batch_moves_as_a_whole(batch: Batch) -> None:
    there = batch.to("meta")  # A device that every machine has.
    tensors = [there.pixel_values, there.pixel_mask, there.sizes, there.original_sizes]
    tensors += [tensor for target in there.targets for tensor in (target.boxes, target.category_ids)]
    assert {tensor.device.type for tensor in tensors} == {"meta"}
    assert there.image_ids == batch.image_ids
    assert len(there) == 2


@pytest.mark.parametrize(
    "change",
    [
        {"pixel_values": torch.zeros(2, 3, 25, 30, dtype=torch.float64)},
        {"shown": torch.zeros(2, 3, dtype=torch.float64)},
        {"pixel_values": torch.zeros(2, 25, 30, 3, dtype=torch.uint8)},
        {"pixel_mask": torch.zeros(2, 25, 30, dtype=torch.int64)},
        {"pixel_mask": torch.zeros(2, 25, 31, dtype=torch.bool)},
        {"sizes": torch.tensor([[20, 30], [26, 16]])},
        {"sizes": torch.tensor([[20, 30], [0, 16]])},
        {"sizes": torch.tensor([[20, 30]])},
        {"original_sizes": torch.tensor([[20.0, 30.0], [25.0, 16.0]])},
        {"image_ids": ("one",)},
        {"targets": ()},
    ],
    ids=lambda change: next(iter(change)),
)
def test_a_batch_that_does_not_fit_together_is_refused(batch: Batch, change: dict[str, object]) -> None:
    with pytest.raises(BatchError):
        replace(batch, **change)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("boxes", "category_ids"),
    [
        (torch.tensor([[0.5, 0.5, 0.2]]), torch.tensor([0])),
        (torch.tensor([[0.5, 0.5, 0.2, 0.2]], dtype=torch.float64), torch.tensor([0])),
        (torch.tensor([[0.5, 0.5, 0.2, 0.2]]), torch.tensor([0.0])),
        (torch.tensor([[0.5, 0.5, 0.2, 0.2]]), torch.tensor([0, 1])),
        (torch.tensor([[0.5, 0.5, 0.2, 0.2]]), torch.tensor([-1])),
        (torch.tensor([[0.5, 0.5, 0.0, 0.2]]), torch.tensor([0])),
        (torch.tensor([[0.5, 0.5, float("nan"), 0.2]]), torch.tensor([0])),
        (torch.tensor([[0.5, 0.5, 1.1, 0.2]]), torch.tensor([0])),
        (torch.tensor([[50.0, 50.0, 20.0, 20.0]]), torch.tensor([0])),
    ],
)
def test_a_target_that_is_not_relative_cxcywh_is_refused(boxes: torch.Tensor, category_ids: torch.Tensor) -> None:
    with pytest.raises(BatchError):
        Target(boxes, category_ids)


def test_a_target_may_touch_its_borders() -> None:
    assert len(make_target((0.5, 0.5, 1.0, 1.0), (0.95, 0.05, 0.1, 0.1))) == 2


def test_the_oracle_gives_pixels_of_the_original_image(batch: Batch) -> None:
    first, second = targets_to_predictions(batch, "oracle")
    assert (first.image_id, first.run_id) == ("image0", "oracle")
    np.testing.assert_allclose(first.boxes, [[120, 60, 180, 140], [0, 0, 60, 40]], atol=1e-4)
    assert first.scores.tolist() == [1.0, 1.0]
    assert first.category_ids.tolist() == [0, 1]
    assert len(second) == 0


def test_padding_does_not_enter_into_the_way_back(batch: Batch) -> None:
    wider = make_batch(list(batch.targets), [(20, 30), (400, 600)], [(200, 300), (500, 320)])
    assert wider.pixel_values.shape != batch.pixel_values.shape
    for a, b in zip(targets_to_predictions(batch, ""), targets_to_predictions(wider, ""), strict=True):
        np.testing.assert_array_equal(a.boxes, b.boxes)


def test_detections_are_clipped_clamped_and_cleared_of_what_is_none() -> None:
    nan, inf = float("nan"), float("inf")
    rows = [
        ((0.0, 0.0, 1.0, 1.0), 1.5, 3),  # leaves the image, and its score 0..1
        ((0.5, 0.5, 0.0, 0.5), 0.9, 1),  # empty
        ((2.0, 2.0, 0.1, 0.1), 0.9, 1),  # wholly outside
        ((0.5, 0.5, nan, 0.5), 0.9, 1),
        ((0.5, 0.5, inf, 0.5), 0.9, 1),
        ((0.5, 0.5, 0.2, 0.2), nan, 1),
        ((0.5, 0.5, -0.2, 0.2), 0.9, 1),  # turned inside out
        ((0.5, 0.5, 0.2, 0.2), -0.25, 2),
    ]
    boxes, scores, category_ids = zip(*rows, strict=True)
    (found,) = detections_to_predictions(
        ["a"],
        torch.tensor([[100, 200]]),
        boxes=[torch.tensor(boxes)],
        scores=[torch.tensor(scores)],
        category_ids=[torch.tensor(category_ids)],
        run_id="run",
    )
    np.testing.assert_allclose(found.boxes, [[0, 0, 100, 50], [80, 40, 120, 60]], atol=1e-4)
    assert found.scores.tolist() == [1.0, 0.0]
    assert found.category_ids.tolist() == [3, 2]


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_detections_may_come_in_any_float_type(dtype: torch.dtype) -> None:
    boxes = torch.tensor([[0.5, 0.5, 0.25, 0.25]], dtype=dtype, requires_grad=True)
    (found,) = detections_to_predictions(
        ["a"], [(64, 64)], boxes=[boxes], scores=[boxes[:, 0]], category_ids=[torch.tensor([0])], run_id=""
    )
    assert found.boxes.tolist() == [[24, 24, 40, 40]]


def test_a_list_of_another_length_is_noticed() -> None:
    with pytest.raises(ValueError, match="zip"):
        detections_to_predictions(["a", "b"], [(9, 9)], boxes=[], scores=[], category_ids=[], run_id="")


side = st.integers(1, 8000)


@given(
    size=st.tuples(side, side),
    corners=st.lists(st.tuples(*[st.floats(0, 1, width=32)] * 4), max_size=5),
    edges=st.tuples(st.integers(1, 1400), st.integers(1, 1400)).map(sorted),
)
def test_boxes_come_back_within_a_hundredth_of_a_pixel(
    size: tuple[int, int], corners: list[tuple[float, float, float, float]], edges: list[int]
) -> None:
    scale = np.array([size[1], size[0], size[1], size[0]], np.float32)
    x0, y0, x1, y1 = np.array(corners, np.float32).reshape(-1, 4).T
    ordered = np.stack([np.minimum(x0, x1), np.minimum(y0, y1), np.maximum(x0, x1), np.maximum(y0, y1)], 1) * scale
    boxes = ordered[(ordered[:, 2:] - ordered[:, :2] > 0.05).all(axis=1)]
    target = Target(torch.from_numpy(xyxy_to_cxcywh(boxes, size)), torch.zeros(len(boxes), dtype=torch.int64))
    resized = ResizePolicy(*edges).target_size(size)
    batch = Batch(
        pixel_values=torch.zeros(1, 3, *resized, dtype=torch.uint8),
        pixel_mask=torch.ones(1, *resized, dtype=torch.bool),
        targets=(target,),
        image_ids=("a",),
        sizes=torch.tensor([resized]),
        original_sizes=torch.tensor([size]),
    )
    (found,) = targets_to_predictions(batch, "oracle")
    assert len(found) == len(boxes)
    np.testing.assert_allclose(found.boxes, boxes, atol=0.01)
