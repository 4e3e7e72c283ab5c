"""Outlines that annotation tools draw: their boxes and areas, and COCO's `segmentation` for them and back."""

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from dataflow.boxes import Boxes, Size, box_areas
from tfds_builders.sources.inspection import Corners
from tfds_builders.sources.masks import LARGEST_AREA, decode_counts, segmentation_area

Pixels = npt.NDArray[np.bool_]
# A box that is farther than this from its outline's own says something that the outline does not.
SAME_BOX_PX = 1e-2


@dataclass(frozen=True)
class Outline:
    """What an outline encloses: its box xyxy px, COCO's `segmentation` as JSON ("" for a box), its area (None: own)."""

    box: Corners
    segmentation: str = ""
    area: float | None = None


def box_of(points: Sequence[tuple[float, float]]) -> Corners:
    """The box xyxy around points (x, y); not finite where one of them is not."""
    columns = np.array(points, np.float64)
    low, high = columns.min(axis=0), columns.max(axis=0)
    return float(low[0]), float(low[1]), float(high[0]), float(high[1])


def outline_of(points: Sequence[tuple[float, float]]) -> Outline:
    """A polygon through three or more points (x, y) px, which are kept.

    Raises:
        ValueError: there are fewer points.
    """
    if len(points) < 3:
        raise ValueError(f"a polygon of {len(points)} points")
    box = box_of(points)
    if not all(math.isfinite(number) and abs(number) < LARGEST_AREA for number in box):
        return Outline(box)
    segmentation = json.dumps([[number for point in points for number in point]], separators=(",", ":"))
    try:
        area = segmentation_area(segmentation, (0, 0))
    except ValueError:  # Larger than any image: so is its box, which says it.
        return Outline(box)
    return Outline(box, segmentation, area or None)


def single_polygon(segmentation: str, box: Sequence[float]) -> list[tuple[float, float]] | None:
    """The points of a mask that is one polygon around which `box` fits, so that it says as much; else None."""
    shape = json.loads(segmentation) if segmentation else None
    if not isinstance(shape, list) or len(shape) != 1 or len(shape[0]) < 6:
        return None
    points = list(zip(shape[0][::2], shape[0][1::2], strict=True))
    return points if np.abs(np.subtract(box_of(points), box)).max() <= SAME_BOX_PX else None


def own_areas(boxes: Boxes, segmentations: Sequence[str], size: Size) -> npt.NDArray[np.float32]:
    """The areas (N,) px2 of masks on an image of `size`; of the boxes (N, 4) where one is "" or has no area."""
    areas = box_areas(boxes)
    for index, segmentation in enumerate(segmentations):
        if segmentation:
            areas[index] = segmentation_area(segmentation, size) or areas[index]
    return areas


def runs_to_pixels(segmentation: str) -> Pixels | None:
    """The pixels (H, W) of a mask of run lengths; None for polygons and for no mask."""
    shape = json.loads(segmentation) if segmentation else None
    if not isinstance(shape, dict):
        return None
    counts = shape["counts"]
    runs = decode_counts(counts) if isinstance(counts, str) else counts
    height, width = shape["size"]
    pixels: Pixels = np.repeat(np.arange(len(runs)) % 2, runs) == 1
    return pixels.reshape(width, height).T


def pixels_to_runs(pixels: Pixels) -> list[int]:
    """Run lengths of pixels in the order given, background first: COCO's go down columns, CVAT's along rows."""
    edges = np.flatnonzero(np.diff(pixels)) + 1
    runs: list[int] = np.diff([0, *edges.tolist(), len(pixels)]).tolist()
    return [0, *runs] if len(pixels) and pixels[0] else runs


def pixels_to_segmentation(pixels: Pixels) -> str:
    """Pixels (H, W) as COCO's run lengths, as JSON."""
    content = {"size": list(pixels.shape), "counts": pixels_to_runs(pixels.T.reshape(-1))}
    return json.dumps(content, separators=(",", ":"))
