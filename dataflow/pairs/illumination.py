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

from dataflow.images import RgbImage
from dataflow.pairs.image_diff import NORMAL_MAD, Mask, as_bytes, checked_pair

_Floats = npt.NDArray[np.float64]
_Line = tuple[float, float]
_UNCHANGED: _Line = (1.0, 0.0)

# Gains and offsets beyond these are another scene rather than another exposure.
GAINS: Final = (0.5, 2.0)
OFFSETS: Final = (-64.0, 64.0)
# About as many cells as a line, and a field of local gains, need; fewer than the least say nothing.
_CELLS, _FIELD_CELLS, _LEAST_CELLS = 300, 3000, 64
# Of a large cell, as many rows are read.
_CELL_ROWS = 4
# Gains that a fit starts from; how many cells each is tried on, and every cell's weight settled how often afterwards.
_STARTS = np.geomspace(*GAINS, 16)
_TRIED, _ROUNDS = 100, 4
# Means of cells outside of this range hold clipped pixels.
_DARKEST, _BRIGHTEST = 4, 251
# Grey levels; what is less, rounding would spoil again.
_LEAST_CORRECTION = 1.0
# Grey levels by which lines of channels may differ from their mean and pass for one.
_ALIKE = 0.5
# What gains and offsets are multiples of: then the 24 bits of single precision hold any value of 8 bits times a gain of
# up to 4 plus an offset.
_STEP = 2.0**-13
# Grey levels by which a fit may still move when it is taken for settled.
_SETTLED = 0.2
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
        lines = list(zip(self.gain, self.offset, strict=True))
        if len(set(lines)) == 1:
            return lit(image, *lines[0])
        return np.asarray(cv2.merge([lit(c, *line) for c, line in zip(cv2.split(image), lines, strict=True)]), np.uint8)


def lit(values: npt.NDArray[np.uint8], gain: float, offset: float) -> npt.NDArray[np.uint8]:
    """gain * values + offset, both `rounded` and a gain of at most 4; rounded half to even, saturated."""
    if (gain, offset) == (1.0, 0.0):
        return values
    # In single precision, which `_STEP` makes exact: half the time of a table, a third where nothing can be negative.
    if offset >= 0:
        return np.asarray(cv2.convertScaleAbs(values, alpha=gain, beta=offset), np.uint8)
    return np.asarray(cv2.addWeighted(values, gain, values, 0, offset), np.uint8)


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
    and that only where it is twice the noise. Cells with clipped pixels do not count. Channels whose lines agree within
    half a grey level share their mean.

    Raises:
        SizeMismatchError: the images, or the mask, differ in size.
        UsageError: an image is empty, not of 8 bits, or of neither one nor three channels.
    """
    before, after = checked_pair(before, after, valid)
    size = _cell_size(before, _CELLS)
    cells_before, cells_after = _cells(before, size), _cells(after, size)
    usable = _usable(cells_before, cells_after, valid, size)
    x, y = (np.ascontiguousarray(cells[usable].T, np.float64) for cells in (cells_before, cells_after))
    lines = _fit(x, y)
    if len(set(lines)) > 1:
        lines = _shared(lines, x)
    red, green, blue = lines
    return Illumination((red[0], green[0], blue[0]), (red[1], green[1], blue[1]))


def _cell_size(image: RgbImage, cells: int) -> int:
    pixels: int = image.shape[0] * image.shape[1]
    size = max(1, round(math.sqrt(pixels / cells)))
    # A whole number of the rows that are read lets OpenCV's resize take its fast way.
    return size if size < 2 * _CELL_ROWS else size // _CELL_ROWS * _CELL_ROWS


def _cells(image: npt.NDArray[np.uint8], size: int, factor: int = 1) -> npt.NDArray[np.uint8]:
    """Means of cells of size x size px, times `factor`, from some of their rows if they are large.

    What is left over on the right and below is not looked at.
    """
    rows, columns = image.shape[0] // size, image.shape[1] // size
    cut = image[: rows * size : max(1, size // _CELL_ROWS), : columns * size]
    if factor != 1:
        cut = cut * np.uint8(factor)
    if size == 1 or not cut.size:
        return cut
    return np.asarray(cv2.resize(cut, (columns, rows), interpolation=cv2.INTER_AREA), np.uint8)


def _usable(
    before: npt.NDArray[np.uint8], after: npt.NDArray[np.uint8], valid: Mask | None, size: int
) -> npt.NDArray[np.bool_]:
    """Cells (h, w) that are valid throughout and clipped in no channel of either frame."""
    if not before.size:
        return np.zeros(before.shape[:2], np.bool_)
    lowest, highest = (_DARKEST,) * 3, (_BRIGHTEST,) * 3
    usable = cv2.bitwise_and(cv2.inRange(before, lowest, highest), cv2.inRange(after, lowest, highest))
    if valid is not None:
        usable = cv2.bitwise_and(usable, _cells(as_bytes(valid), size, 255))
    return np.asarray(usable == 255, np.bool_)


def _fit(before: _Floats, after: _Floats) -> list[_Line]:
    """Robust lines through values (3, n), one per channel; (1, 0) where the evidence is weak."""
    count = before.shape[1]
    if count < _LEAST_CELLS:
        return [_UNCHANGED] * 3
    # 1, x and y: about their mean, sums of squares keep their precision.
    middle, terms = before.sum(axis=1, keepdims=True) / count, np.empty((3, 3, count))
    terms[:, 0] = 1
    np.subtract(before, middle, out=terms[:, 1])
    np.subtract(after, middle, out=terms[:, 2])
    reach = np.abs(terms[:, 1]).max(axis=1).tolist()
    lines: list[_Line | None] = [*_start(before, after, middle)]
    for _ in range(_ROUNDS):
        sums, noise = _weighted_sums(terms, lines)
        earlier = lines
        lines = [line and _line(own, level) for line, own, level in zip(lines, sums, noise, strict=True)]
        if all(_near(*each) for each in zip(earlier, lines, reach, strict=True)):
            break
    ends, found = _ordered(before, count // 50, -1 - count // 50), []
    for channel, line in enumerate(lines):
        if line is None:
            gain, offset = _offset_only(before[channel], after[channel])
        else:
            gain, offset = line[0], line[1] + (1 - line[0]) * float(middle[channel, 0])
        found.append(_checked(gain, offset, [float(end[channel]) for end in ends]))
    return found


def _start(before: _Floats, after: _Floats, middle: _Floats) -> list[_Line]:
    """Of some gains, and their offsets, those whose lines through values (3, n) are nearest in the median.

    Offsets are of values about their `middle` (3, 1). Channels that hardly differ start as they are.
    """
    gain, offset = np.ones(3), np.zeros(3)
    far = _median(np.abs(after - before)) > _LEAST_CORRECTION
    if far.any():
        every = -(-before.shape[1] // _TRIED)
        rest = after[far, None, ::every] - _STARTS[:, None] * before[far, None, ::every]
        offsets = _median(rest)
        best = _median(np.abs(rest - offsets[..., None])).argmin(axis=1)
        gain[far], offset[far] = _STARTS[best], offsets[np.arange(len(best)), best]
    return list(zip(gain.tolist(), (offset + (gain - 1) * middle[:, 0]).tolist(), strict=True))


def _weighted_sums(terms: _Floats, lines: list[_Line | None]) -> tuple[list[list[list[float]]], list[float]]:
    """What a fit needs of 1, x and y, `terms` (3, 3, n), near their lines: sums per channel, and the noise.

    The sums (2, 3) are those of 1, x, y and of x times them, weighted by Tukey's biweight.
    """
    gains, offsets = np.array([line or _UNCHANGED for line in lines]).T[:, :, None]
    distance = terms[:, 2] - (gains * terms[:, 1] + offsets)
    noise = np.maximum(NORMAL_MAD * _median(np.abs(distance)), 0.3)
    weight = np.square(np.maximum(1 - np.square(distance / (_TUKEY * noise)[:, None]), 0))
    return np.vecdot((weight[:, None] * terms[:, :2])[:, :, None], terms[:, None]).tolist(), noise.tolist()


def _line(sums: list[list[float]], noise: float) -> _Line | None:
    """The line of least squares by weighted sums; None where the values hardly differ, and it has no slope."""
    (total, x, y), (_, xx, xy) = sums
    spread = xx / total - (x / total) ** 2
    if spread < (noise / _SLOPE_EVIDENCE) ** 2:
        return None
    gain = (xy / total - x * y / total**2) / spread
    return gain, (y - gain * x) / total


def _near(earlier: _Line | None, line: _Line | None, reach: float) -> bool:
    """Whether a line has hardly moved, within `reach` of the middle."""
    if earlier is None or line is None:
        return True
    return abs(line[0] - earlier[0]) * reach + abs(line[1] - earlier[1]) < _SETTLED


def _median(values: _Floats) -> _Floats:
    """The upper median along the last axis, in a fraction of `np.median`'s time."""
    (median,) = _ordered(values, values.shape[-1] // 2)
    return median


def _ordered(values: _Floats, *places: int) -> list[_Floats]:
    """What would lie in these places, were the values sorted along the last axis."""
    ordered = values.copy()
    ordered.partition(places)
    return [ordered[..., place] for place in places]


def _offset_only(before: _Floats, after: _Floats) -> _Line:
    change = after - before
    offset = float(np.median(change))
    noise = NORMAL_MAD * float(np.median(np.abs(change - offset)))
    return (1.0, offset) if abs(offset) > 2 * noise else _UNCHANGED


def _checked(gain: float, offset: float, ends: list[float]) -> _Line:
    """A line, if it is within the limits and changes values at one of these ends by enough to survive rounding."""
    within = GAINS[0] <= gain <= GAINS[1] and OFFSETS[0] <= offset <= OFFSETS[1]
    if not within or max(abs((gain - 1) * end + offset) for end in ends) < _LEAST_CORRECTION:
        return _UNCHANGED
    return rounded(gain), rounded(offset)


def _shared(lines: list[_Line], before: _Floats) -> list[_Line]:
    """The mean of three lines, if none departs from it by more than rounding does, over the values there are.

    One line is applied in half the time of three.
    """
    gain, offset = (sum(values) / 3 for values in zip(*lines, strict=True))
    for end in (float(before.min()), float(before.max())):
        if max(abs((slope - gain) * end + rise - offset) for slope, rise in lines) > _ALIKE:
            return lines
    return [(rounded(gain), rounded(offset))] * 3


def rounded(value: float) -> float:
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
