"""Masks as COCO writes them: whether they are well formed, and their areas (Lin et al. 2014; cocoapi, maskApi.c).

A mask is a list of polygons, each `[x0, y0, x1, y1, ...]` px, or run lengths `{"size": [h, w], "counts": ...}` that
go down the columns, background first; `counts` is a list of numbers, or their compressed text.
"""

import json
import math
from collections.abc import Sequence
from typing import Any

from dataflow.boxes import Size

LARGEST_AREA = 1e12
"""Px2 that no image has."""
# More bits than the runs of any image need; a text that goes on and on is no number.
_MOST_BITS = 60


def segmentation_area(segmentation: str, size: Size) -> float:
    """The area in px2 of a mask, COCO's `segmentation` as JSON, on an image of `size` (height, width) px.

    Polygons of one mask are taken as its parts, which do not overlap. Counting pixels gives about the same: they
    differ by what the outline cuts.

    Raises:
        ValueError: it is no mask, or not one of an image of this size; the message says what is wrong.
    """
    shape = json.loads(segmentation)
    if isinstance(shape, list):
        area = sum(_polygon_area(polygon) for polygon in shape)
        if not area < LARGEST_AREA:
            raise ValueError("polygons larger than any image")
        return area
    if isinstance(shape, dict) and {"size", "counts"} <= shape.keys():
        return _runs_area(shape["counts"], shape["size"], size)
    raise ValueError("neither polygons nor run lengths with their size")


def _polygon_area(polygon: Any) -> float:
    """The area of a polygon as a file has it, if it is one."""
    if not isinstance(polygon, list) or len(polygon) < 6 or len(polygon) % 2:
        raise ValueError("a polygon is no list of x, y, x, y, ... of three points or more")
    if not all(_is_finite(number) for number in polygon):
        raise ValueError("a polygon holds something other than finite numbers")
    return enclosed_area(polygon)


def enclosed_area(polygon: Sequence[float]) -> float:
    """The area in px2 of a simple polygon x0, y0, x1, y1, ... px by its corners (the shoelace formula)."""
    x, y = polygon[::2], polygon[1::2]
    # From the first corner on: products of coordinates far from the origin would lose digits.
    u, v = [value - x[0] for value in x], [value - y[0] for value in y]
    turns = (u[i - 1] * v[i] - u[i] * v[i - 1] for i in range(len(u)))
    return abs(float(sum(turns))) / 2


def _is_finite(number: Any) -> bool:
    return isinstance(number, int | float) and not isinstance(number, bool) and abs(number) < LARGEST_AREA


def _runs_area(counts: Any, stated: Any, size: Size) -> float:
    if stated != list(size):
        raise ValueError(f"run lengths of size {stated!r} for an image of {list(size)} (height, width)"[:200])
    runs = decode_counts(counts) if isinstance(counts, str) else counts
    if not isinstance(runs, list) or not all(type(run) is int and run >= 0 for run in runs):
        raise ValueError("counts are not whole numbers from 0 on")
    if sum(runs) != math.prod(size):
        raise ValueError(f"run lengths add up to {sum(runs)} px, the image has {math.prod(size)}")
    return float(sum(runs[1::2]))


def decode_counts(text: str) -> Sequence[int]:
    """The run lengths in a compressed text: 5 bits and a mark to go on per character; from the fourth number on the
    difference to the last but one (cocoapi, `rleFrString`).

    Raises:
        ValueError: it is no such text.
    """
    runs: list[int] = []
    value = shift = 0
    for character in text:
        bits = ord(character) - 48
        if not 0 <= bits < 64 or shift > _MOST_BITS:
            raise ValueError("counts are no compressed run lengths")
        value |= (bits & 31) << shift
        shift += 5
        if bits & 32:
            continue
        if bits & 16:
            value -= 1 << shift
        if len(runs) > 2:
            value += runs[-2]
        runs.append(value)
        value = shift = 0
    if shift:
        raise ValueError("counts end within a number")
    return runs
