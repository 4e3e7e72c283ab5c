"""Illumination of a before frame matched to that of the after frame, so that exposure does not look like change.

Images are (H, W, 3) uint8 RGB of one size, aligned. Per channel, after = gain * before + offset, fitted to means of
square cells: the start by least median of squares (Rousseeuw 1984), so that nearly half of the picture may have moved,
then reweighted by Tukey's biweight. If asked for, a slowly varying gain for shading follows. Nothing is random: equal
frames give equal bytes.
"""

import math
from dataclasses import dataclass
from typing import Final

import cv2
import numpy as np
import numpy.typing as npt

from dataflow.image_diff import NORMAL_MAD, Mask, as_bytes, checked_pair
from dataflow.images import RgbImage

_Floats = npt.NDArray[np.float64]

# Gains and offsets beyond these are another scene rather than another exposure.
GAINS: Final = (0.5, 2.0)
OFFSETS: Final = (-64.0, 64.0)
# About as many cells as a line, and a field of local gains, need; fewer than the least say nothing.
_CELLS, _FIELD_CELLS, _LEAST_CELLS = 500, 3000, 64
# Of a large cell, as many rows are read.
_CELL_ROWS = 4
# Gains that a fit starts from; how many cells each is tried on, and every cell's weight settled how often afterwards.
_STARTS = np.geomspace(*GAINS, 16)
_TRIED, _ROUNDS = 150, 4
# Means of cells outside of this range hold clipped pixels.
_DARKEST, _BRIGHTEST = 4, 251
# Grey levels; what is less, rounding would spoil again.
_LEAST_CORRECTION = 1.0
# What gains and offsets are multiples of: then 23 bits hold any value of 8 bits times a gain plus an offset.
_STEP = 2.0**-13
# Grey levels by which a fit may still move when it is taken for settled.
_SETTLED = 0.02
# How much smaller than the spread of values their distance to the line must be, for its slope to be believed.
_SLOPE_EVIDENCE = 0.25
# Tukey's biweight of 95 % efficiency under normal noise (Huber and Ronchetti 2009, section 4.8).
_TUKEY = 4.685

# The field of local gains: nodes down and across, and how far its values may go.
_NODES: Final = (7, 9)
LOCAL_GAINS: Final = (0.7, 1 / 0.7)
_LEAST_LOCAL = 0.01
# A ratio of values below this is noise.
_DARKEST_RATIO = 16


@dataclass(frozen=True)
class Illumination:
    """after = gain * before + offset, per channel (R, G, B), in grey levels of 0 to 255."""

    gain: tuple[float, float, float] = (1.0, 1.0, 1.0)
    offset: tuple[float, float, float] = (0.0, 0.0, 0.0)

    @property
    def is_identity(self) -> bool:
        """Whether it leaves every value as it is."""
        return self == Illumination()

    def apply(self, image: RgbImage) -> RgbImage:
        """`image` (H, W, 3) in this light, uint8: rounded half to even, saturated; itself if nothing is to change."""
        if self.is_identity:
            return image
        # In half the time of a table; in single precision, which `_STEP` makes exact.
        channels = zip(cv2.split(image), self.gain, self.offset, strict=True)
        return np.asarray(cv2.merge([cv2.addWeighted(c, gain, c, 0, offset) for c, gain, offset in channels]), np.uint8)


def match_illumination(before: RgbImage, after: RgbImage, valid: Mask | None = None, local: bool = False) -> RgbImage:
    """The before frame as it would look in the light of the after frame, (H, W, 3) uint8.

    `valid` (H, W) bool are the pixels that have a counterpart, None for all; the others are changed alike, but say
    nothing about the light. `local` also follows shading that varies slowly over the picture, the same in all
    channels. Values are rounded to 8 bits once for the whole frame, and once more for `local`. The frame itself comes
    back where there is nothing to correct, or too little to tell.

    Raises:
        SizeMismatchError: the images, or the mask, differ in size.
        UsageError: an image is empty, not of 8 bits, or of neither one nor three channels.
    """
    before, after = checked_pair(before, after, valid)
    matched = estimate_illumination(before, after, valid).apply(before)
    return _match_locally(matched, after, valid) if local else matched


def estimate_illumination(before: RgbImage, after: RgbImage, valid: Mask | None = None) -> Illumination:
    """Gain and offset per channel from the before to the after frame; the identity where the evidence is weak.

    A gain needs cells whose values differ (by four times the noise that is left), otherwise only an offset is fitted,
    and that only where it is twice the noise. Cells with clipped pixels do not count.

    Raises:
        SizeMismatchError: the images, or the mask, differ in size.
        UsageError: an image is empty, not of 8 bits, or of neither one nor three channels.
    """
    before, after = checked_pair(before, after, valid)
    size = _cell_size(before, _CELLS)
    cells_before, cells_after = _cells(before, size), _cells(after, size)
    usable = _usable(cells_before, cells_after, valid, size)
    lines = [
        _fit(cells_before[:, :, channel][usable].astype(np.float64), cells_after[:, :, channel][usable])
        for channel in range(3)
    ]
    (red, green, blue) = lines
    return Illumination((red[0], green[0], blue[0]), (red[1], green[1], blue[1]))


def _cell_size(image: RgbImage, cells: int) -> int:
    pixels: int = image.shape[0] * image.shape[1]
    size = max(1, round(math.sqrt(pixels / cells)))
    # A whole number of the rows that are read lets OpenCV's resize take its fast way.
    return size if size < 2 * _CELL_ROWS else size // _CELL_ROWS * _CELL_ROWS


def _cells(image: npt.NDArray[np.uint8], size: int) -> npt.NDArray[np.uint8]:
    """Means of cells of size x size px, from some of their rows if they are large.

    What is left over on the right and below is not looked at.
    """
    rows, columns = image.shape[0] // size, image.shape[1] // size
    if size == 1:
        return image
    if not (rows and columns):
        return image[:0, :0]
    cut = image[: rows * size : max(1, size // _CELL_ROWS), : columns * size]
    return np.asarray(cv2.resize(cut, (columns, rows), interpolation=cv2.INTER_AREA), np.uint8)


def _usable(
    before: npt.NDArray[np.uint8], after: npt.NDArray[np.uint8], valid: Mask | None, size: int
) -> npt.NDArray[np.bool_]:
    """Cells (h, w) that are valid throughout and clipped in no channel of either frame."""
    both = np.concatenate([before, after], axis=2)
    usable = ((both >= _DARKEST) & (both <= _BRIGHTEST)).all(axis=2)
    if valid is not None:
        usable &= _cells(as_bytes(valid) * np.uint8(255), size) == 255
    return np.asarray(usable, np.bool_)


def _fit(before: _Floats, after: npt.NDArray[np.uint8]) -> tuple[float, float]:
    """(gain, offset) of a robust line through values (n,); (1, 0) where the evidence is weak."""
    if len(before) < _LEAST_CELLS or (before == after).all():
        return 1.0, 0.0
    gain, offset = 1.0, 0.0
    distance = after - before
    if _median(np.abs(distance)) > _LEAST_CORRECTION:
        gain, offset = _start(before[:: -(-len(before) // _TRIED)], after[:: -(-len(after) // _TRIED)])
        distance = after - (gain * before + offset)
    # About their mean, sums of squares keep their precision.
    middle = float(before.mean())
    x, y = before - middle, after - middle
    low, high = float(x.min()), float(x.max())
    offset += (gain - 1) * middle
    for _ in range(_ROUNDS):
        noise = max(NORMAL_MAD * float(_median(np.abs(distance))), 0.3)
        weight = np.square(np.maximum(1 - np.square(distance / (_TUKEY * noise)), 0))
        total = float(weight.sum())
        if not total:
            return 1.0, 0.0
        weighted = weight * x
        mean_x, mean_y = float(weighted.sum()) / total, float(weight @ y) / total
        spread = float(weighted @ x) / total - mean_x**2
        if spread < (noise / _SLOPE_EVIDENCE) ** 2:
            return _offset_only(before, after)
        earlier = gain, offset
        gain = (float(weighted @ y) / total - mean_x * mean_y) / spread
        offset = mean_y - gain * mean_x
        if max(abs((gain - earlier[0]) * end + offset - earlier[1]) for end in (low, high)) < _SETTLED:
            break
        distance = y - (gain * x + offset)
    return _checked(gain, offset + (1 - gain) * middle, before)


def _start(before: _Floats, after: npt.NDArray[np.uint8]) -> tuple[float, float]:
    """The gain out of some, and its offset, whose line has the least median distance."""
    rest = after - _STARTS[:, None] * before
    offsets = _median(rest)
    best = int(np.argmin(_median(np.abs(rest - offsets[:, None]))))
    return float(_STARTS[best]), float(offsets[best])


def _median(values: _Floats) -> _Floats:
    """The upper median along the last axis, in a fraction of `np.median`'s time."""
    middle = values.shape[-1] // 2
    return np.asarray(np.partition(values, middle, axis=-1)[..., middle], np.float64)


def _offset_only(before: _Floats, after: npt.NDArray[np.uint8]) -> tuple[float, float]:
    change = after - before
    offset = float(np.median(change))
    noise = NORMAL_MAD * float(np.median(np.abs(change - offset)))
    return _checked(1.0, offset, before) if abs(offset) > 2 * noise else (1.0, 0.0)


def _checked(gain: float, offset: float, before: _Floats) -> tuple[float, float]:
    """The line, if it is within the limits and changes some of the values there are by enough to survive rounding."""
    if not (GAINS[0] <= gain <= GAINS[1] and OFFSETS[0] <= offset <= OFFSETS[1]):
        return 1.0, 0.0
    if max(abs((gain - 1) * end + offset) for end in (before.min(), before.max())) < _LEAST_CORRECTION:
        return 1.0, 0.0
    outermost = len(before) // 50
    ends = np.partition(before, (outermost, -1 - outermost))[[outermost, -1 - outermost]]
    changes = np.abs((gain - 1) * ends + offset)
    return (_rounded(gain), _rounded(offset)) if changes.max() >= _LEAST_CORRECTION else (1.0, 0.0)


def _rounded(value: float) -> float:
    """To whole steps, so that the last bits of sums, which differ between processors, hardly ever reach a pixel."""
    return round(value / _STEP) * _STEP


def _match_locally(before: RgbImage, after: RgbImage, valid: Mask | None) -> RgbImage:
    field = _local_gains(before, after, valid)
    if field is None:
        return before
    height, width = before.shape[:2]
    full = cv2.resize(field, (width, height), interpolation=cv2.INTER_CUBIC)
    return np.asarray(cv2.multiply(before, cv2.merge([full, full, full]), dtype=cv2.CV_8U), np.uint8)


def _local_gains(before: RgbImage, after: RgbImage, valid: Mask | None) -> npt.NDArray[np.float32] | None:
    """Gains (nodes down, nodes across): medians over windows of four by four nodes; None for ones throughout.

    What moves must be smaller than half a window, a quarter of the picture's height and width or so, to leave no trace.
    """
    size = _cell_size(before, _FIELD_CELLS)
    cells_before, cells_after = _cells(before, size), _cells(after, size)
    usable = _usable(cells_before, cells_after, valid, size)
    x, y = (cells.sum(axis=2, dtype=np.float64) for cells in (cells_before, cells_after))
    usable &= (x >= 3 * _DARKEST_RATIO) & (y >= 3 * _DARKEST_RATIO)
    if usable.sum() < _LEAST_CELLS:
        return None
    ratio = np.divide(y, x, out=np.full(x.shape, np.nan), where=usable)
    overall = float(np.nanmedian(ratio))
    field = np.full(_NODES, overall)
    for row in range(_NODES[0]):
        for column in range(_NODES[1]):
            found = ratio[_window(row, _NODES[0], len(ratio)), _window(column, _NODES[1], ratio.shape[1])]
            found = found[~np.isnan(found)]
            if len(found) >= _LEAST_CELLS:
                field[row, column] = np.median(found)
    field = np.clip(field, *LOCAL_GAINS)
    return None if np.abs(field - 1).max() < _LEAST_LOCAL else field.astype(np.float32)


def _window(node: int, nodes: int, cells: int) -> slice:
    """The cells about a node, of which there are `nodes` in the middles of equal parts."""
    centre, reach = (node + 0.5) / nodes * cells, max(2.0, cells / nodes)
    return slice(max(0, round(centre - reach)), round(centre + reach))
