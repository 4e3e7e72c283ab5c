"""Box conventions against round trips, other libraries and cases worked out by hand."""

from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pycocotools import mask as coco_mask
from tensorflow_datasets.core.features import bounding_boxes_utils as bb_utils

from dataflow import boxes
from dataflow.images import turn_upright

Convert = Callable[..., np.ndarray]

sizes = st.tuples(st.integers(1, 20_000), st.integers(1, 20_000))


@st.composite
def boxes_in_image(draw: st.DrawFn) -> tuple[np.ndarray, tuple[int, int]]:
    """Canonical boxes (N, 4), N from 0 to 6, with sides from 0.01 px, and the size of their image."""
    size = draw(sizes)
    rows = []
    for _ in range(draw(st.integers(0, 6))):
        row = []
        for extent in (size[1], size[0]):
            low = draw(st.floats(0, extent - 0.02))
            row.append((low, draw(st.floats(low + 0.01, extent))))
        rows.append((row[0][0], row[1][0], row[0][1], row[1][1]))
    return np.array(rows, np.float32).reshape(-1, 4), size


RELATIVE = [
    (boxes.xyxy_to_tfds, boxes.tfds_to_xyxy),
    (boxes.xyxy_to_cxcywh, boxes.cxcywh_to_xyxy),
    (boxes.xyxy_to_fiftyone, boxes.fiftyone_to_xyxy),
]
ABSOLUTE = [
    (boxes.xyxy_to_coco, boxes.coco_to_xyxy),
    (boxes.xyxy_to_voc, boxes.voc_to_xyxy),
    (boxes.xyxy_to_mot, boxes.mot_to_xyxy),
]


def rounding(size: tuple[int, int]) -> float:
    """What a few float32 roundings may move an edge of an image of this size by, in px."""
    return 4 * float(np.spacing(np.float32(max(size))))


@pytest.mark.parametrize(("there", "back"), RELATIVE)
@given(case=boxes_in_image())
def test_relative_conventions_return(there: Convert, back: Convert, case: tuple[np.ndarray, tuple[int, int]]) -> None:
    xyxy, size = case
    again = back(there(xyxy, size), size)
    assert again.dtype == np.float32 and again.shape == xyxy.shape
    np.testing.assert_allclose(again, xyxy, rtol=0, atol=rounding(size))


@pytest.mark.parametrize(("there", "back"), ABSOLUTE)
@given(case=boxes_in_image())
def test_absolute_conventions_return(there: Convert, back: Convert, case: tuple[np.ndarray, tuple[int, int]]) -> None:
    xyxy, size = case
    again = back(there(xyxy))
    assert again.dtype == np.float32 and again.shape == xyxy.shape
    np.testing.assert_allclose(again, xyxy, rtol=0, atol=rounding(size))


@given(case=boxes_in_image())
def test_what_tfds_stores_stays_inside_and_stays_a_box(case: tuple[np.ndarray, tuple[int, int]]) -> None:
    """A canonical box must pass TFDS's check (0 to 1) and come back as a canonical box: none may get lost."""
    xyxy, size = case
    relative = boxes.xyxy_to_tfds(xyxy, size)
    assert ((relative >= 0) & (relative <= 1)).all()
    again = boxes.tfds_to_xyxy(relative, size)
    assert (again[:, :2] < again[:, 2:]).all()
    assert (again >= 0).all() and (again[:, [0, 2]] <= size[1]).all() and (again[:, [1, 3]] <= size[0]).all()


@pytest.mark.parametrize("convert", [pair[i] for pair in RELATIVE for i in (0, 1)])
def test_no_boxes_stay_no_boxes_relative(convert: Convert) -> None:
    for empty in (np.zeros((0, 4)), []):
        assert convert(empty, (5, 7)).shape == (0, 4)


@pytest.mark.parametrize("convert", [pair[i] for pair in ABSOLUTE for i in (0, 1)])
def test_no_boxes_stay_no_boxes_absolute(convert: Convert) -> None:
    for empty in (np.zeros((0, 4)), []):
        assert convert(empty).shape == (0, 4)


@given(case=boxes_in_image())
def test_against_torchvision(case: tuple[np.ndarray, tuple[int, int]]) -> None:
    import torch
    from torchvision.ops import box_area, box_convert

    xyxy, size = case
    tensor = torch.from_numpy(xyxy.astype(np.float64))
    scale = np.array([size[1], size[0], size[1], size[0]], np.float64)
    atol = rounding(size)
    np.testing.assert_allclose(boxes.xyxy_to_coco(xyxy), box_convert(tensor, "xyxy", "xywh"), rtol=0, atol=atol)
    np.testing.assert_allclose(boxes.coco_to_xyxy(box_convert(tensor, "xyxy", "xywh")), tensor, rtol=0, atol=atol)
    centre = box_convert(tensor, "xyxy", "cxcywh").numpy() / scale
    np.testing.assert_allclose(boxes.xyxy_to_cxcywh(xyxy, size), centre, rtol=1e-6, atol=1e-7)
    np.testing.assert_allclose(boxes.cxcywh_to_xyxy(centre, size), tensor, rtol=0, atol=atol)
    corner = box_convert(tensor, "xyxy", "xywh").numpy() / scale
    np.testing.assert_allclose(boxes.xyxy_to_fiftyone(xyxy, size), corner, rtol=1e-6, atol=1e-7)
    np.testing.assert_allclose(boxes.fiftyone_to_xyxy(corner, size), tensor, rtol=0, atol=atol)
    np.testing.assert_allclose(boxes.box_areas(xyxy), box_area(tensor), rtol=1e-6)


@given(case=boxes_in_image())
def test_against_tfds(case: tuple[np.ndarray, tuple[int, int]]) -> None:
    """TFDS's own normalisation of pixel boxes to its relative yxyx."""
    xyxy, size = case
    coco = boxes.xyxy_to_coco(xyxy).astype(np.float64)
    ours = boxes.xyxy_to_tfds(xyxy, size)
    for pixel, corner, row in zip(xyxy.astype(np.float64), coco, ours, strict=True):
        np.testing.assert_allclose(row, bb_utils.convert_coordinates_to_bbox(pixel, "XYXY", size), rtol=0, atol=1e-7)
        np.testing.assert_allclose(row, bb_utils.convert_coordinates_to_bbox(corner, "XYWH", size), rtol=0, atol=1e-6)


def test_voc_by_hand() -> None:
    # The first pixel alone, the last pixel of a 10 x 8 image alone, and that whole image.
    voc = [[1, 1, 1, 1], [10, 8, 10, 8], [1, 1, 10, 8]]
    xyxy = [[0, 0, 1, 1], [9, 7, 10, 8], [0, 0, 10, 8]]
    assert boxes.voc_to_xyxy(voc).tolist() == xyxy
    assert boxes.xyxy_to_voc(xyxy).tolist() == voc


def test_mot_by_hand() -> None:
    # MOTChallenge: pixel 1, 1 is the first; the whole 10 x 8 image is 1, 1, 10, 8.
    mot = [[1, 1, 1, 1], [10, 8, 1, 1], [1, 1, 10, 8], [2.5, 3, 4, 2.25]]
    xyxy = [[0, 0, 1, 1], [9, 7, 10, 8], [0, 0, 10, 8], [1.5, 2, 5.5, 4.25]]
    assert boxes.mot_to_xyxy(mot).tolist() == xyxy
    assert boxes.xyxy_to_mot(xyxy).tolist() == mot


def test_relative_by_hand() -> None:
    size, xyxy = (50, 200), [[20, 5, 60, 30]]
    assert boxes.xyxy_to_tfds(xyxy, size).tolist() == [pytest.approx([0.1, 0.1, 0.6, 0.3])]
    assert boxes.xyxy_to_cxcywh(xyxy, size).tolist() == [pytest.approx([0.2, 0.35, 0.2, 0.5])]
    assert boxes.xyxy_to_fiftyone(xyxy, size).tolist() == [pytest.approx([0.1, 0.1, 0.2, 0.5])]
    assert boxes.xyxy_to_coco(xyxy).tolist() == [[20, 5, 40, 25]]


@given(first=boxes_in_image(), second=boxes_in_image())
def test_iou_against_pycocotools(
    first: tuple[np.ndarray, tuple[int, int]], second: tuple[np.ndarray, tuple[int, int]]
) -> None:
    a, b = first[0].astype(np.float64), second[0].astype(np.float64)
    ours = boxes.pairwise_iou(a, b)
    assert ours.shape == (len(a), len(b))
    if len(a) and len(b):
        as_coco = [np.concatenate([rows[:, :2], rows[:, 2:] - rows[:, :2]], axis=1) for rows in (a, b)]
        np.testing.assert_allclose(ours, coco_mask.iou(*as_coco, [0] * len(b)), rtol=1e-6, atol=1e-9)
        np.testing.assert_allclose(ours, boxes.pairwise_iou(b, a).T)
        np.testing.assert_allclose(np.diag(boxes.pairwise_iou(a, a)), 1)


def test_iou_of_empty_boxes_is_zero() -> None:
    assert boxes.pairwise_iou([[1, 1, 1, 1]], [[1, 1, 1, 1], [0, 0, 2, 2]]).tolist() == [[0, 0]]


@given(
    rows=st.lists(st.tuples(*[st.floats(-1e4, 1e4, width=32)] * 4), max_size=6),
    size=sizes,
)
def test_clipping(rows: list[tuple[float, float, float, float]], size: tuple[int, int]) -> None:
    clipped = boxes.clip_boxes(rows, size)
    for row, ours in zip(rows, clipped.tolist(), strict=True):
        limits = (size[1], size[0], size[1], size[0])
        assert ours == [min(max(number, 0.0), limit) for number, limit in zip(row, limits, strict=True)]


@pytest.mark.parametrize("orientation", range(1, 9))
@given(
    height=st.integers(2, 12),
    width=st.integers(2, 12),
    corners=st.tuples(*[st.integers(0, 11)] * 4),
)
def test_boxes_turn_with_their_image(
    orientation: int, height: int, width: int, corners: tuple[int, int, int, int]
) -> None:
    """Against pixels: a rectangle painted on the stored image is the turned box on the upright one."""
    x0, x1 = sorted((corners[0] % width, corners[1] % width))
    y0, y1 = sorted((corners[2] % height, corners[3] % height))
    stored = np.zeros((height, width), np.uint8)
    stored[y0 : y1 + 1, x0 : x1 + 1] = 1
    upright = turn_upright(stored, orientation)
    rows, columns = np.nonzero(upright)
    expected = [columns.min(), rows.min(), columns.max() + 1, rows.max() + 1]
    found = boxes.stored_to_upright([[x0, y0, x1 + 1, y1 + 1]], (height, width), orientation)
    assert found.tolist() == [expected]
