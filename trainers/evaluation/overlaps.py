"""Pairs of boxes in flat arrays, and how far they overlap, without loops over images."""

from collections.abc import Iterator
from typing import Any

import numpy as np
import numpy.typing as npt

Ints = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float64]
Flags = npt.NDArray[np.bool_]

# Pairs in memory at a time: about 200 MB of columns.
_PAIRS = 2_000_000


def pair_parts(group: Ints, other_group: Ints, units: Ints) -> Iterator[tuple[Ints, Ints]]:
    """All pairs (i, j) of the same group, ordered by i and then j, in parts of bounded size.

    Args:
        group: (P,) what each i belongs to.
        other_group: (Q,) what each j belongs to.
        units: (P,) not falling; what has the same number comes in the same part, however large that makes it.
    """
    order = np.argsort(other_group, kind="stable")
    ordered = other_group[order]
    starts = np.searchsorted(ordered, group)
    counts = np.searchsorted(ordered, group, side="right") - starts
    ends = np.cumsum(counts)
    first = 0
    while first < len(group):
        before = ends[first - 1] if first else 0
        last = max(int(np.searchsorted(ends, before + _PAIRS, side="right")), first + 1)
        if last < len(group):  # Back to where a unit begins; or, where one is too large, on to where it ends.
            begin = int(np.searchsorted(units, units[last]))
            last = begin if begin > first else int(np.searchsorted(units, units[first], side="right"))
        part = counts[first:last]
        i = np.repeat(np.arange(first, last), part)
        place = np.arange(len(i)) - np.repeat(ends[first:last] - part - before, part)
        yield i, order[np.repeat(starts[first:last], part) + place]
        first = last


def coco_overlaps(boxes: npt.NDArray[Any], others: npt.NDArray[Any], crowd: Flags) -> Floats:
    """Overlap (N,) of COCO boxes (N, 4) xywh px with others (N, 4), pair by pair.

    The intersection over the union; where `crowd` (N,), over the area of the first (`bbIou` of COCO's maskApi, whose
    order of operations this keeps, so that results are equal to the last bit).
    """
    x, y, w, h = boxes.astype(np.float64).T
    ox, oy, ow, oh = others.astype(np.float64).T
    width = np.minimum(w + x, ow + ox) - np.maximum(x, ox)
    height = np.minimum(h + y, oh + oy) - np.maximum(y, oy)
    shared = np.clip(width, 0, None) * np.clip(height, 0, None)
    area = w * h
    whole = np.where(crowd, area, area + ow * oh - shared)
    overlaps: Floats = np.divide(shared, whole, out=np.zeros_like(shared), where=shared > 0)
    return overlaps


def rank_in_group(group: Ints, scores: npt.NDArray[np.float32]) -> tuple[Ints, Ints]:
    """How things (P,) are ordered by group and then by falling score, ties as they come; and the rank of each."""
    bits = (scores + np.float32(0)).view(np.uint32)  # As numbers, the bits of scores from 0 on rise with them.
    order = np.argsort((group.astype(np.uint64) << 32) | (np.uint64(0xFFFFFFFF) - bits), kind="stable")
    ordered = group[order]
    starts = np.searchsorted(ordered, ordered)
    rank = np.empty(len(group), np.int64)
    rank[order] = np.arange(len(group)) - starts
    return order, rank
