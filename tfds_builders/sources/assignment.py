"""Which object of the before frame is which of the after frame, where no track ids say so.

Every pair of objects of one class gets a cost from four pieces of evidence, and the cheapest one-to-one assignment
decides (Kuhn 1955, "The Hungarian method for the assignment problem"; here scipy's `linear_sum_assignment`):

| evidence  | measured as                                                                              | cost      |
|-----------|------------------------------------------------------------------------------------------|-----------|
| colour    | 1 - Bhattacharyya coefficient of Lab histograms, upper and lower half of the box apart   | 0 to 1    |
| size      | absolute log ratios of the widths and of the heights, added                              | 0.4 times |
| distance  | 1 - exp(-d), d = distance of the centres over the geometric mean of the two diagonals    | 0 to 0.05 |
| stillness | IoU of the boxes times the shares of both boxes where the pixels of the two frames agree | -0.4 to 0 |

A pair that costs `GATE` or more is none: its objects have vanished and appeared. Colour counts most where the two
frames differ at the object's place, because there the object was and its background is not: between the two frames
of a pair that tells things from background without any model of either. Distance is weak on purpose: how far
things go between two images nobody knows, so it decides between look-alikes only. Stillness keeps an object that
stands still from being swapped with a look-alike that passes by; where the pixels changed, another object may stand
at the same place, and colour and size decide.

The frames are taken to be aligned (a camera that stands still). Without that, stillness says less and the background
counts more: with the after frame shifted by 8 and 5 px, true correspondences found fall from 0.95 to 0.93 (mean of the
table's four columns below), with its brightness at 0.9 to 0.93, at 0.8 to 0.88, in grey to 0.87.

Measured on frames 1 to 200 of PETS09-S2L1 without its track ids (7 frames a second; people walk, and few come or go):
true correspondences found / assigned pairs that are right / objects with the right `Change`. Weights and gates were
chosen on pairs that begin at an odd frame and end by frame 110, and on objects pasted into photographs. These are the
pairs that begin at an even frame, whose neighbours the choice saw, and below them those that begin after frame 110,
which share no frame with it. What counts as evidence at all was chosen with every frame in sight.

| frames apart                  | 5                  | 10                 | 20                 | 40                 |
|-------------------------------|--------------------|--------------------|--------------------|--------------------|
| IoU alone                     | 0.65 / 0.87 / 0.74 | 0.34 / 0.61 / 0.50 | 0.27 / 0.49 / 0.52 | 0.22 / 0.42 / 0.47 |
| distance alone                | 0.94 / 0.94 / 0.98 | 0.87 / 0.87 / 0.96 | 0.49 / 0.51 / 0.85 | 0.28 / 0.30 / 0.75 |
| colour of the whole box alone | 0.98 / 0.98 / 1.00 | 0.92 / 0.92 / 0.98 | 0.84 / 0.83 / 0.94 | 0.76 / 0.74 / 0.89 |
| colour of what changed alone  | 0.96 / 0.96 / 0.99 | 0.95 / 0.95 / 0.98 | 0.93 / 0.92 / 0.96 | 0.87 / 0.83 / 0.93 |
| all                           | 0.99 / 0.99 / 1.00 | 0.98 / 0.98 / 0.99 | 0.95 / 0.95 / 0.98 | 0.87 / 0.86 / 0.94 |
| all, after frame 110          | 0.99 / 0.99 / 1.00 | 0.99 / 0.99 / 0.99 | 0.92 / 0.91 / 0.96 | 0.77 / 0.75 / 0.84 |

So the class of change is right more often than the correspondence: two people swapped have both moved.
"""

from dataclasses import dataclass, replace

import cv2
import numpy as np
import numpy.typing as npt

from dataflow.boxes import Boxes, pairwise_iou
from dataflow.errors import MissingExtraError, UsageError
from dataflow.images import RgbImage
from dataflow.pairs.image_diff import SizeMismatchError
from dataflow.records import Objects
from dataflow.schema import NO_TRACK

GATE = 0.65
"""A pair of objects that costs this or more stays unmatched. From 0.6 to 0.7 results hardly change."""
SIZE_WEIGHT = 0.4
DISTANCE_WEIGHT = 0.05
STILLNESS_WEIGHT = 0.4

_CROP = (32, 16)
"""What every box is scaled to, (height, width): even in height, for the two halves."""
_BINS = 8
"""Bins a channel of Lab."""
_CHROMA_GAIN = 3
"""Colours of things fill about a third of the range that 8-bit Lab gives a and b."""
_CHANGED = 90.0
"""Where |L| + |a| + |b| of two frames differ by this (8-bit Lab) or more, the place surely shows another thing."""
_AGREES = 30
"""Where they differ by less, it shows the same; noise and a cloud before the sun stay below."""
_BACKGROUND = 0.05
"""What a pixel weighs that did not change, against 1.05 for one that did."""

_Floats = npt.NDArray[np.float64]
_Ints = npt.NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class Matches:
    """Objects that are the same in both frames: row `before[k]` of one and row `after[k]` of the other.

    `before`, `after` (K,) int64, `before` ascending; `confidence` (K,) float64 in [0, 1]: by how much the pair costs
    less than the best alternative of either object (to stay unmatched is one), over `GATE`. Near 0 the choice
    was between equals, and wants looking at. On the pairs measured above 0.79 of those below 0.05 were right, 0.93 of
    those from there to 0.1, 0.97 to 0.3, 0.99 to 0.5, and all 385 beyond.
    """

    before: _Ints
    after: _Ints
    confidence: _Floats


@dataclass(frozen=True, eq=False)
class _Side:
    """What one frame shows in its boxes (N of them)."""

    boxes: Boxes
    classes: _Ints
    histograms: _Floats
    """(N, 2 * bins) square roots of frequencies, so that a product of two is a Bhattacharyya coefficient."""
    unchanged: _Floats
    """(N,) share of the box where the other frame shows the same."""


def needs_pixels(before: Objects, after: Objects) -> bool:
    """Whether `assign_tracks` has to look at the images: both frames have objects that no track id decides."""
    rows, columns = _open_rows(before, after)
    return bool(len(rows) and len(columns))


def assign_tracks(
    before: Objects, after: Objects, before_pixels: RgbImage | None = None, after_pixels: RgbImage | None = None
) -> tuple[Objects, Objects]:
    """Both frames' objects with track ids: the same id for the same thing, as `moved_objects` wants them.

    Track ids that both frames have decide, and stay. Objects without one (`NO_TRACK` beside others that have one, or
    frames of which one or both have none at all) are matched among themselves and get new ids above those: the
    frame before in the order of its rows, then what the frame after has besides. Regions to ignore (`is_crowd`) are
    kept and matched with nothing. Pixels are (H, W, 3) uint8 RGB, upright, aligned; only `needs_pixels` needs them.

    Raises:
        UsageError: pixels are needed and missing.
        SizeMismatchError: pixels are needed, and the images differ in size.
        MissingExtraError: scipy is needed, and not installed.
    """
    tracks = _known_tracks(before, after)
    first, second = tracks[0].copy(), tracks[1].copy()
    start = max(int(ids.max(initial=NO_TRACK)) for ids in tracks) + 1
    new = np.flatnonzero(first == NO_TRACK)
    first[new] = start + np.arange(len(new))
    if needs_pixels(before, after):
        if before_pixels is None or after_pixels is None:
            raise UsageError("objects without track ids and no pixels to match them by", "give both decoded images")
        matches = match_objects(before, after, before_pixels, after_pixels)
        second[matches.after] = first[matches.before]
    new = np.flatnonzero(second == NO_TRACK)
    second[new] = max(int(first.max(initial=NO_TRACK)) + 1, start) + np.arange(len(new))
    return replace(before, track_ids=first), replace(after, track_ids=second)


def match_objects(before: Objects, after: Objects, before_pixels: RgbImage, after_pixels: RgbImage) -> Matches:
    """The cheapest one-to-one assignment of objects of one class that no track id decides, by what the pixels show.

    The order of rows does not matter, and frames swapped give the same matches swapped (objects of one frame that
    share box and class aside, which are the same to us).

    Raises:
        SizeMismatchError: the images differ in size.
        MissingExtraError: scipy is not installed.
    """
    if before_pixels.shape != after_pixels.shape:
        sizes = " and ".join(f"{image.shape[1]}x{image.shape[0]} px" for image in (before_pixels, after_pixels))
        raise SizeMismatchError(f"the before and the after image are {sizes}", "pair images of one size")
    rows, columns = _open_rows(before, after)
    # The same computation whichever frame comes first: ties and rounding then fall alike.
    keys = _sort_key(before, rows), _sort_key(after, columns)
    swapped = keys[1] < keys[0] or (keys[1] == keys[0] and after_pixels.tobytes() < before_pixels.tobytes())
    if swapped:
        before, after, before_pixels, after_pixels = after, before, after_pixels, before_pixels
        rows, columns = columns, rows
    costs = _costs(_look(before, rows, before_pixels, after_pixels), _look(after, columns, after_pixels, before_pixels))
    i, j = _cheapest(costs)
    found = [rows[i], columns[j]]
    first, second = reversed(found) if swapped else found
    order = np.argsort(first)
    return Matches(first[order], second[order], _confidence(costs, i, j)[order])


def _known_tracks(before: Objects, after: Objects) -> tuple[_Ints, _Ints]:
    """Track ids of both frames; ids that one frame alone has say nothing about the other."""
    if before.track_ids is None or after.track_ids is None:
        return np.full(len(before), NO_TRACK), np.full(len(after), NO_TRACK)
    return before.track_ids, after.track_ids


def _open_rows(before: Objects, after: Objects) -> tuple[_Ints, _Ints]:
    """Rows of both frames that are to be matched, ordered by class and box, whatever order they came in."""
    rows = []
    for objects, tracks in zip((before, after), _known_tracks(before, after), strict=True):
        order = np.lexsort([*objects.boxes.T[::-1], objects.category_ids])
        rows.append(order[(tracks[order] == NO_TRACK) & ~objects.is_crowd[order]].astype(np.int64))
    return rows[0], rows[1]


def _sort_key(objects: Objects, rows: _Ints) -> tuple[list[int], list[list[float]]]:
    return objects.category_ids[rows].tolist(), objects.boxes[rows].tolist()


def _look(objects: Objects, rows: _Ints, own: RgbImage, other: RgbImage) -> _Side:
    """What the frame `own` shows in the boxes of `rows`, and how far `other` shows the same there."""
    boxes = objects.boxes[rows]
    crops = _lab_crops(own, boxes)
    difference = np.abs(crops - _lab_crops(other, boxes)).sum(axis=3)
    changed = np.minimum(difference / _CHANGED, 1.0)
    return _Side(
        boxes=boxes,
        classes=objects.category_ids[rows],
        histograms=_histograms(crops, changed + _BACKGROUND),
        unchanged=(difference < _AGREES).mean(axis=(1, 2)),
    )


def _lab_crops(pixels: RgbImage, boxes: Boxes) -> npt.NDArray[np.int16]:
    """(N, *_CROP, 3) 8-bit Lab of the boxes, each widened to whole pixels, at least one, and scaled to one size."""
    height, width = _CROP
    limit = np.array(pixels.shape[1::-1])
    low = np.clip(np.floor(boxes[:, :2]).astype(np.int64), 0, limit - 1)
    high = np.clip(np.ceil(boxes[:, 2:]).astype(np.int64), low + 1, limit)
    crops = np.zeros((len(boxes) * height, width, 3), np.uint8)
    for k, ((x0, y0), (x1, y1)) in enumerate(zip(low.tolist(), high.tolist(), strict=True)):
        # Rows and columns beyond four a cell add time, not knowledge.
        rows, columns = max(1, (y1 - y0) // (4 * height)), max(1, (x1 - x0) // (4 * width))
        crop = pixels[y0:y1:rows, x0:x1:columns]
        crops[k * height : (k + 1) * height] = cv2.resize(crop, (width, height), interpolation=cv2.INTER_AREA)
    if len(boxes):
        crops = np.asarray(cv2.cvtColor(crops, cv2.COLOR_RGB2LAB), np.uint8)
    return crops.reshape(len(boxes), height, width, 3).astype(np.int16)


def _histograms(crops: npt.NDArray[np.int16], weights: _Floats) -> _Floats:
    """Weighted Lab histograms of upper and lower halves, (N, 2 * bins) square roots of frequencies over both."""
    cells = np.zeros(crops.shape[:3], np.int64)
    for channel, gain in enumerate((1, _CHROMA_GAIN, _CHROMA_GAIN)):
        values = (crops[..., channel] - 128) * gain + 128
        cells = cells * _BINS + np.clip(values * _BINS // 256, 0, _BINS - 1)
    n, height = len(crops), crops.shape[1]
    size = _BINS**3
    half = np.arange(height)[:, None] * 2 // height
    cells += (np.arange(n)[:, None, None] * 2 + half) * size
    counts = np.bincount(cells.ravel(), weights.ravel(), minlength=n * 2 * size).reshape(n * 2, size)
    frequencies = np.divide(counts, 2.0 * counts.sum(axis=1, keepdims=True))
    return np.asarray(np.sqrt(frequencies).reshape(n, 2 * size), np.float64)


def _costs(a: _Side, b: _Side) -> _Floats:
    """Costs (N, M) as the table above has them; infinite between classes."""
    colour = 1.0 - a.histograms @ b.histograms.T
    sides_a, sides_b = (side.boxes[:, 2:].astype(np.float64) - side.boxes[:, :2] for side in (a, b))
    size = np.abs(np.log(sides_a)[:, None] - np.log(sides_b)[None]).sum(axis=2)
    centres_a, centres_b = ((side.boxes[:, :2].astype(np.float64) + side.boxes[:, 2:]) / 2 for side in (a, b))
    distance = np.hypot(*np.moveaxis(centres_a[:, None] - centres_b[None], 2, 0))
    diagonal = np.sqrt(np.hypot(*sides_a.T)[:, None] * np.hypot(*sides_b.T)[None])
    still = pairwise_iou(a.boxes, b.boxes) * a.unchanged[:, None] * b.unchanged[None]
    costs = (
        colour + SIZE_WEIGHT * size + DISTANCE_WEIGHT * (1 - np.exp(-distance / diagonal)) - STILLNESS_WEIGHT * still
    )
    # Rounded, so that what differs only in the last bits is a tie on every machine.
    return np.where(a.classes[:, None] == b.classes[None], np.round(costs, 6), np.inf)


def _cheapest(costs: _Floats) -> tuple[_Ints, _Ints]:
    """Rows and columns of the partial assignment with the least sum of cost - `GATE`.

    Capping costs at the gate and then leaving out what reached it is that: any partial assignment can be filled up with
    capped pairs, which add nothing.
    """
    try:
        from scipy.optimize import linear_sum_assignment
    except ModuleNotFoundError as error:
        raise MissingExtraError("scipy", "prepare") from error
    i, j = linear_sum_assignment(np.minimum(costs, GATE))
    kept = costs[i, j] < GATE
    return i[kept].astype(np.int64), j[kept].astype(np.int64)


def _confidence(costs: _Floats, i: _Ints, j: _Ints) -> _Floats:
    """How much less the pairs (i, j) cost than the best alternative of either object, over the gate, within [0, 1]."""
    others = costs.copy()
    others[i, j] = GATE
    best = np.minimum(others[i].min(axis=1, initial=GATE), others[:, j].min(axis=0, initial=GATE))
    return np.asarray(np.clip((best - costs[i, j]) / GATE, 0.0, 1.0), np.float64)
