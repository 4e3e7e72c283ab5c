"""Differences of a before and an after image.

All images are (H, W, 3) uint8 RGB of the same size and are taken to be aligned; a grey one, (H, W) or (H, W, 1),
counts as three equal channels. `valid` is (H, W) bool: the pixels that have a counterpart in the other frame, None for
all. The others show no change.
"""

from typing import Final, Literal, get_args

import cv2
import numpy as np
import numpy.typing as npt

from dataflow.errors import ShardboxError, UsageError
from dataflow.images import RgbImage

DiffMode = Literal["absolute", "signed", "grey", "threshold", "ssim"]
DIFF_MODES: tuple[DiffMode, ...] = get_args(DiffMode)
Mask = npt.NDArray[np.bool_]

NO_CHANGE: Final[dict[DiffMode, int]] = {"absolute": 0, "signed": 128, "grey": 0, "threshold": 0, "ssim": 0}
"""What a pixel that stayed as it was looks like, in all three channels."""

# Standard deviations of the noise up to which `threshold` sees no change. Rosin (1998) takes 3; noise that went through
# JPEG has longer tails: on PETS, 3 keeps 3 % of the pixels away from people, 4 keeps 1 %.
NOISE_FACTOR = 4.0
# Of a normal distribution about zero: its standard deviation over the median of its absolute values.
NORMAL_MAD = 1.4826

# Wang, Bovik, Sheikh and Simoncelli 2004, "Image quality assessment", section III-B: an 11 x 11 window of 1.5 px, and
# the constants (0.01 L)^2 and (0.03 L)^2 for a range of values L of 255.
_WINDOW, _WINDOW_SIGMA = 11, 1.5
_C1, _C2 = (0.01 * 255) ** 2, (0.03 * 255) ** 2
# Rows worked on at a time, so that what is between lies in the processor's cache.
_STRIP = 32


class SizeMismatchError(ShardboxError):
    """A before and an after image of different sizes, or a mask of another size than theirs."""


def absolute_difference(before: RgbImage, after: RgbImage) -> RgbImage:
    """|after - before| per channel, uint8. A thing that moved shows at both of its places, alike.

    Raises:
        SizeMismatchError: the images differ in size.
    """
    before, after = _same_shape(before, after)
    return np.asarray(cv2.absdiff(after, before), np.uint8)


def signed_difference(before: RgbImage, after: RgbImage) -> RgbImage:
    """128 + (after - before) / 2 per channel, uint8: no change is 128, and the sign tells arrival from departure.

    Halving keeps the whole range of -255 to 255 within 8 bits (0.5 to 255.5, rounded half to even and saturated), at
    the price of the lowest bit.

    Raises:
        SizeMismatchError: the images differ in size.
    """
    before, after = _same_shape(before, after)
    return np.asarray(cv2.addWeighted(after, 0.5, before, -0.5, 128.0), np.uint8)


def grey_difference(before: RgbImage, after: RgbImage) -> RgbImage:
    """|Y(after) - Y(before)| in three equal channels, uint8.

    Y is the luma 0.299 R + 0.587 G + 0.114 B (ITU-R BT.601), rounded to 8 bits in each frame, so that the difference
    of two colour frames is that of their grey versions. Colours of equal luma show no change.

    Raises:
        SizeMismatchError: the images differ in size.
    """
    before, after = _same_shape(before, after)
    change = cv2.absdiff(cv2.cvtColor(after, cv2.COLOR_RGB2GRAY), cv2.cvtColor(before, cv2.COLOR_RGB2GRAY))
    return np.asarray(cv2.cvtColor(change, cv2.COLOR_GRAY2RGB), np.uint8)


def noise_sigma(change: RgbImage, valid: Mask | None = None) -> npt.NDArray[np.float64]:
    """Standard deviation of the noise in an absolute difference `change`, (3,), in grey levels.

    1.4826 times the median of |after - before| per channel: the median absolute deviation (Rousseeuw and Croux 1993),
    taken about zero, where pixels that stayed belong. Up to half of the pixels may have changed, by whatever amount.
    A level n stands for |d| in n - 0.5 to n + 0.5, evenly filled, so the median is no integer; of frames that are
    equal it is 0.25, about what rounding alone would bring. Zeros where no pixel is valid.
    """
    mask = None if valid is None else as_bytes(valid)
    counts = [cv2.calcHist([change], [channel], mask, [256], [0, 256])[:, 0] for channel in range(3)]
    below = np.cumsum(np.array(counts, np.float64), axis=1)
    total = below[:, -1:]
    if not total.all():
        return np.zeros(3)
    level = np.argmax(below >= total / 2, axis=1)
    lower, upper = np.where(level > 0, level - 0.5, 0.0), level + 0.5
    reached = below[range(3), level]
    inside = np.array([count[n] for count, n in zip(counts, level, strict=True)], np.float64)
    median = upper - (reached - total[:, 0] / 2) / inside * (upper - lower)
    return np.asarray(NORMAL_MAD * median, np.float64)


def threshold_difference(before: RgbImage, after: RgbImage, valid: Mask | None = None) -> RgbImage:
    """|after - before| per channel, zero where it is at most `NOISE_FACTOR` times its `noise_sigma`, uint8.

    The noise is that of the pair itself, channel by channel (Rosin 1998, "Thresholding for change detection"); what is
    above it stays as it was. A change of illumination raises the noise: match it before. Where more than half of the
    picture has changed, the change itself passes for noise.

    Raises:
        SizeMismatchError: the images, or the mask, differ in size.
    """
    before, after = checked_pair(before, after, valid)
    change = np.asarray(cv2.absdiff(after, before), np.uint8)
    limits = NOISE_FACTOR * noise_sigma(change, valid)
    levels = np.arange(256)[:, None]
    kept = np.where(levels > limits, levels, 0).astype(np.uint8)
    return np.asarray(cv2.LUT(change, kept[None]), np.uint8)


def structural_difference(before: RgbImage, after: RgbImage) -> RgbImage:
    """255 (1 - SSIM) / 2 per channel, uint8: 0 where the structure is the same, 128 where it is unrelated.

    SSIM (Wang, Bovik, Sheikh and Simoncelli 2004, equation 13) of 11 x 11 px under a Gaussian of 1.5 px, with the
    frames mirrored at their borders. A change shows up to 5 px beyond its own pixels.

    Raises:
        SizeMismatchError: the images differ in size.
    """
    before, after = _same_shape(before, after)
    result, margin = np.empty_like(after), _WINDOW // 2
    for top in range(0, len(after), _STRIP):
        start, stop = max(0, top - margin), min(len(after), top + _STRIP + margin)
        strip = _structural_strip(before[start:stop], after[start:stop])
        bottom = min(top + _STRIP, len(after))
        result[top:bottom] = strip[top - start : bottom - start]
    return result


def _structural_strip(before: RgbImage, after: RgbImage) -> RgbImage:
    """`structural_difference` of a strip; right in rows that are a margin away from where it was cut.

    With s = before + after and d = after - before, m and v their local means and variances, SSIM's two factors are
    (A - a) / (A + a) and (B - b) / (B + b), for a = m_d^2 / 2, b = v_d / 2, A = m_s^2 / 2 + C1, B = v_s / 2 + C2.
    So (1 - SSIM) / 2 = p + q - 2 p q with p = a / (A + a) and q = b / (B + b): one blur less than the usual way,
    and nothing cancels where the frames are alike, which is nearly everywhere.
    """
    mean_d, variance_d = _moments(cv2.subtract(after, before, dtype=cv2.CV_32F))
    mean_s, variance_s = _moments(cv2.add(after, before, dtype=cv2.CV_32F))
    # The halves cancel: p = m_d^2 / (m_s^2 + 2 C1 + m_d^2), and q likewise.
    mean_s += mean_d
    mean_s += np.float32(2 * _C1)
    np.maximum(variance_d, 0, out=variance_d)
    variance_s += variance_d
    variance_s += np.float32(2 * _C2)
    p = np.divide(mean_d, mean_s, out=mean_d)
    q = np.divide(variance_d, variance_s, out=variance_d)
    p += q * (1 - 2 * p)
    return np.asarray(cv2.convertScaleAbs(p, alpha=255.0), np.uint8)


def _moments(values: npt.NDArray[np.float32]) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.float32]]:
    """Square of the local mean, and local variance, of values (h, w, 3)."""
    window = (_WINDOW, _WINDOW)
    mean = cv2.GaussianBlur(values, window, _WINDOW_SIGMA, borderType=cv2.BORDER_REFLECT)
    squares = cv2.GaussianBlur(cv2.multiply(values, values), window, _WINDOW_SIGMA, borderType=cv2.BORDER_REFLECT)
    mean *= mean
    squares -= mean
    return mean, squares


def difference(before: RgbImage, after: RgbImage, mode: DiffMode, valid: Mask | None = None) -> RgbImage:
    """The difference image of `mode`, (H, W, 3) uint8; pixels that are not `valid` have the mode's `NO_CHANGE`.

    Raises:
        SizeMismatchError: the images, or the mask, differ in size.
        UsageError: an image is empty, not of 8 bits, or of neither one nor three channels.
    """
    before, after = checked_pair(before, after, valid)
    if mode == "threshold":
        return _hide(threshold_difference(before, after, valid), valid, mode)
    if mode == "ssim":
        if valid is not None:
            # What lies beyond the border must not reach into the windows of pixels that are inside.
            before = np.asarray(cv2.copyTo(before, as_bytes(valid), after.copy()), np.uint8)
        return _hide(structural_difference(before, after), valid, mode)
    if mode == "grey":
        return _hide(grey_difference(before, after), valid, mode)
    compute = absolute_difference if mode == "absolute" else signed_difference
    return _hide(compute(before, after), valid, mode)


def stack_channels(after: RgbImage, change: RgbImage) -> RgbImage:
    """(H, W, 6) uint8: the after image's channels, then those of a difference image of any mode.

    Raises:
        SizeMismatchError: the images differ in size.
    """
    after, change = _same_shape(after, change)
    stacked = np.empty((*after.shape[:2], 6), np.uint8)
    cv2.mixChannels([after, change], [stacked], [0, 0, 1, 1, 2, 2, 3, 3, 4, 4, 5, 5])
    return stacked


def _hide(change: RgbImage, valid: Mask | None, mode: DiffMode) -> RgbImage:
    if valid is None:
        return change
    # What OpenCV makes by itself is zero where nothing is copied.
    hidden = np.full_like(change, NO_CHANGE[mode]) if NO_CHANGE[mode] else None
    return np.asarray(cv2.copyTo(change, as_bytes(valid), hidden), np.uint8)


def as_bytes(valid: Mask) -> npt.NDArray[np.uint8]:
    """A mask (H, W) as OpenCV takes it: uint8, 1 where valid and 0 elsewhere."""
    return np.ascontiguousarray(valid, np.bool_).view(np.uint8)


def checked_pair(before: RgbImage, after: RgbImage, valid: Mask | None) -> tuple[RgbImage, RgbImage]:
    """Both images as (H, W, 3) uint8.

    Raises:
        SizeMismatchError: the images, or the mask, differ in size.
        UsageError: an image is empty, not of 8 bits, or of neither one nor three channels.
    """
    before, after = _same_shape(before, after)
    if valid is not None and valid.shape != after.shape[:2]:
        (height, width), shape = after.shape[:2], "x".join(map(str, valid.shape[::-1]))
        raise SizeMismatchError(
            f"the mask of valid pixels is {shape} px, the images {width}x{height} px", "give one value per pixel"
        )
    return before, after


def _same_shape(before: RgbImage, after: RgbImage) -> tuple[RgbImage, RgbImage]:
    before, after = _three_channels(before), _three_channels(after)
    if before.shape != after.shape:
        (bh, bw), (ah, aw) = before.shape[:2], after.shape[:2]
        raise SizeMismatchError(
            f"the before image is {bw}x{bh} px, the after image {aw}x{ah} px", "pair images of one size"
        )
    return before, after


def _three_channels(image: RgbImage) -> RgbImage:
    if image.dtype == np.uint8 and image.size and image.ndim == 3 and image.shape[2] == 3:
        return image
    channels = image.shape[2:] in ((), (1,)) and image.ndim >= 2
    if image.dtype != np.uint8 or not image.size or not channels:
        raise UsageError(
            f"an image of shape {image.shape} and type {image.dtype} has no difference",
            "give (H, W, 3) or (H, W) uint8, as decode_rgb does",
        )
    return np.asarray(cv2.cvtColor(image, cv2.COLOR_GRAY2RGB), np.uint8)
