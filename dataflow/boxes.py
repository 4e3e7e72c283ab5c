"""Box conventions, and the only places where units change.

The canonical box is **xyxy**: absolute pixels of the upright image, float32, continuous coordinates
(0 is the outer edge of the first pixel, `width` the outer edge of the last). Every other convention is
reached from it by a pair of functions `a_to_b`:

| name       | layout          | unit                        | used by                                 |
|------------|-----------------|-----------------------------|-----------------------------------------|
| `tfds`     | ymin xmin ymax xmax | relative to the image   | TFDS `BBoxFeature`                      |
| `cxcywh`   | centre x y, w h | relative to the image       | YOLO text, DETR targets and predictions |
| `coco`     | left top w h    | pixels                      | COCO JSON                               |
| `shown`    | centre x y, w h | relative to the part that is shown | training targets                  |
| `fiftyone` | left top w h    | relative to the image       | FiftyOne                                |
| `voc`      | xmin ymin xmax ymax | pixels, 1-based, inclusive | Pascal VOC                           |
| `mot`      | left top w h    | pixels, 1-based left and top | MOTChallenge                           |
| `stored`   | x0 y0 x1 y1     | pixels as stored, not turned by EXIF | boxes drawn by tools that ignore EXIF |

Shapes: boxes are (N, 4); `size` is (height, width) in pixels, as everywhere in Shardbox. Results are float32;
the arithmetic is float64, so that a box converted forth and back moves by float32 rounding only.
"""

from typing import Any

import numpy as np
import numpy.typing as npt

Boxes = npt.NDArray[np.float32]
Size = tuple[int, int]
Sizes = tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]
"""A size for each of N boxes: heights (N,) and widths (N,) px."""

# The least side a box must have, in pixels, to stay a box when stored as relative float32.
LEAST_SIDE_PX = 1e-2


def _columns(boxes: npt.ArrayLike) -> npt.NDArray[np.float64]:
    """(N, 4) or empty input as four float64 columns (4, N)."""
    return np.asarray(boxes, np.float64).reshape(-1, 4).T


def _rows(*columns: npt.NDArray[Any]) -> Boxes:
    """Four columns as (N, 4) float32."""
    return np.stack(columns, axis=1).astype(np.float32)


def tfds_to_xyxy(boxes: npt.ArrayLike, size: Size | Sizes) -> Boxes:
    """Relative (ymin, xmin, ymax, xmax) to pixel xyxy."""
    y0, x0, y1, x1 = _columns(boxes)
    height, width = size
    return _rows(x0 * width, y0 * height, x1 * width, y1 * height)


def xyxy_to_tfds(boxes: npt.ArrayLike, size: Size) -> Boxes:
    """Pixel xyxy to relative (ymin, xmin, ymax, xmax)."""
    x0, y0, x1, y1 = _columns(boxes)
    height, width = size
    return _rows(y0 / height, x0 / width, y1 / height, x1 / width)


def cxcywh_to_xyxy(boxes: npt.ArrayLike, size: Size) -> Boxes:
    """Relative (centre x, centre y, w, h) to pixel xyxy."""
    cx, cy, w, h = _columns(boxes)
    height, width = size
    return _rows((cx - w / 2) * width, (cy - h / 2) * height, (cx + w / 2) * width, (cy + h / 2) * height)


def xyxy_to_cxcywh(boxes: npt.ArrayLike, size: Size) -> Boxes:
    """Pixel xyxy to relative (centre x, centre y, w, h)."""
    x0, y0, x1, y1 = _columns(boxes)
    height, width = size
    return _rows((x0 + x1) / 2 / width, (y0 + y1) / 2 / height, (x1 - x0) / width, (y1 - y0) / height)


def shown_to_xyxy(boxes: npt.ArrayLike, edges: npt.ArrayLike) -> Boxes:
    """(centre x, centre y, w, h) relative to what is shown of an image to pixel xyxy of the image.

    `edges` (4,) are where the left, top, right and bottom edge of what is shown are in the image, px: left > right
    where it is mirrored.
    """
    cx, cy, w, h = _columns(boxes)
    left, top, right, bottom = np.asarray(edges, np.float64)
    sides = (cx - w / 2) * (right - left) + left, (cx + w / 2) * (right - left) + left
    x0, x1 = sides if left <= right else sides[::-1]
    return _rows(x0, (cy - h / 2) * (bottom - top) + top, x1, (cy + h / 2) * (bottom - top) + top)


def xyxy_to_shown(boxes: npt.ArrayLike, edges: npt.ArrayLike) -> Boxes:
    """Pixel xyxy of an image to (centre x, centre y, w, h) relative to what is shown of it; see `shown_to_xyxy`.

    `edges` are (4,) or, where boxes are of several images, (N, 4).
    """
    x0, y0, x1, y1 = _columns(boxes)
    left, top, right, bottom = np.asarray(edges, np.float64).T
    width, height = right - left, bottom - top
    return _rows(
        ((x0 + x1) / 2 - left) / width, ((y0 + y1) / 2 - top) / height, (x1 - x0) / abs(width), (y1 - y0) / height
    )


def coco_to_xyxy(boxes: npt.ArrayLike) -> Boxes:
    """Pixel (left, top, w, h) to pixel xyxy."""
    x, y, w, h = _columns(boxes)
    return _rows(x, y, x + w, y + h)


def xyxy_to_coco(boxes: npt.ArrayLike) -> Boxes:
    """Pixel xyxy to pixel (left, top, w, h)."""
    x0, y0, x1, y1 = _columns(boxes)
    return _rows(x0, y0, x1 - x0, y1 - y0)


def fiftyone_to_xyxy(boxes: npt.ArrayLike, size: Size) -> Boxes:
    """Relative (left, top, w, h) to pixel xyxy."""
    x, y, w, h = _columns(boxes)
    height, width = size
    return _rows(x * width, y * height, (x + w) * width, (y + h) * height)


def xyxy_to_fiftyone(boxes: npt.ArrayLike, size: Size) -> Boxes:
    """Pixel xyxy to relative (left, top, w, h)."""
    x0, y0, x1, y1 = _columns(boxes)
    height, width = size
    return _rows(x0 / width, y0 / height, (x1 - x0) / width, (y1 - y0) / height)


def voc_to_xyxy(boxes: npt.ArrayLike) -> Boxes:
    """1-based inclusive pixel (xmin, ymin, xmax, ymax) to pixel xyxy.

    VOC's first pixel is 1 and its last pixel belongs to the box, so the outer edges are one less on the near
    side and the same number on the far side.
    """
    x0, y0, x1, y1 = _columns(boxes)
    return _rows(x0 - 1, y0 - 1, x1, y1)


def xyxy_to_voc(boxes: npt.ArrayLike) -> Boxes:
    """Pixel xyxy to 1-based inclusive pixel (xmin, ymin, xmax, ymax)."""
    x0, y0, x1, y1 = _columns(boxes)
    return _rows(x0 + 1, y0 + 1, x1, y1)


def mot_to_xyxy(boxes: npt.ArrayLike) -> Boxes:
    """MOTChallenge (left, top, w, h), whose first pixel is 1, to pixel xyxy (Milan et al. 2016, section 3.4)."""
    x, y, w, h = _columns(boxes)
    return _rows(x - 1, y - 1, x - 1 + w, y - 1 + h)


def xyxy_to_mot(boxes: npt.ArrayLike) -> Boxes:
    """Pixel xyxy to MOTChallenge (left, top, w, h), whose first pixel is 1."""
    x0, y0, x1, y1 = _columns(boxes)
    return _rows(x0 + 1, y0 + 1, x1 - x0, y1 - y0)


def stored_to_upright(boxes: npt.ArrayLike, stored_size: Size, orientation: int) -> Boxes:
    """Pixel xyxy on the pixels as stored to pixel xyxy on the upright image (EXIF 2.32, section 4.6.4)."""
    x0, y0, x1, y1 = _columns(boxes)
    height, width = stored_size
    if orientation >= 5:
        x0, y0, x1, y1 = y0, x0, y1, x1
        height, width = width, height
    if orientation in (2, 3, 6, 7):
        x0, x1 = width - x1, width - x0
    if orientation in (3, 4, 7, 8):
        y0, y1 = height - y1, height - y0
    return _rows(x0, y0, x1, y1)


def box_areas(boxes: npt.ArrayLike) -> npt.NDArray[np.float32]:
    """Areas (N,) in square pixels of xyxy boxes (N, 4)."""
    x0, y0, x1, y1 = _columns(boxes)
    areas: npt.NDArray[np.float32] = ((x1 - x0) * (y1 - y0)).astype(np.float32)
    return areas


def clip_boxes(boxes: npt.ArrayLike, size: Size) -> Boxes:
    """Xyxy boxes cut at the borders of an image of `size`; a box wholly outside becomes empty on the border."""
    x0, y0, x1, y1 = _columns(boxes)
    height, width = size
    return _rows(np.clip(x0, 0, width), np.clip(y0, 0, height), np.clip(x1, 0, width), np.clip(y1, 0, height))


def pairwise_iou(a: npt.ArrayLike, b: npt.ArrayLike) -> npt.NDArray[np.float64]:
    """Intersection over union (N, M) of xyxy boxes (N, 4) and (M, 4); 0 where both are empty."""
    ax0, ay0, ax1, ay1 = (column[:, None] for column in _columns(a))
    bx0, by0, bx1, by1 = (column[None, :] for column in _columns(b))
    width = np.clip(np.minimum(ax1, bx1) - np.maximum(ax0, bx0), 0, None)
    height = np.clip(np.minimum(ay1, by1) - np.maximum(ay0, by0), 0, None)
    intersection = width * height
    union = (ax1 - ax0) * (ay1 - ay0) + (bx1 - bx0) * (by1 - by0) - intersection
    iou: npt.NDArray[np.float64] = np.divide(intersection, union, out=np.zeros_like(intersection), where=union > 0)
    return iou
