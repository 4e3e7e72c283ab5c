"""Differences of a before and an after image.

All images are (H, W, 3) uint8 RGB of the same size and are taken to be aligned.
"""

from typing import Literal, get_args

import cv2
import numpy as np

from dataflow.errors import ShardboxError
from dataflow.images import RgbImage

DiffMode = Literal["absolute", "signed"]
DIFF_MODES: tuple[DiffMode, ...] = get_args(DiffMode)


class SizeMismatchError(ShardboxError):
    """A before and an after image of different sizes."""


def _check_sizes(before: RgbImage, after: RgbImage) -> None:
    if before.shape != after.shape:
        (bh, bw), (ah, aw) = before.shape[:2], after.shape[:2]
        raise SizeMismatchError(
            f"the before image is {bw}x{bh} px, the after image {aw}x{ah} px", "pair images of one size"
        )


def absolute_difference(before: RgbImage, after: RgbImage) -> RgbImage:
    """|after - before| per channel, uint8. A thing that moved shows at both of its places, alike.

    Raises:
        SizeMismatchError: the images differ in size.
    """
    _check_sizes(before, after)
    return np.asarray(cv2.absdiff(after, before), np.uint8)


def signed_difference(before: RgbImage, after: RgbImage) -> RgbImage:
    """128 + (after - before) / 2 per channel, uint8: no change is 128, and the sign tells arrival from departure.

    Halving keeps the whole range of -255 to 255 within 8 bits (0.5 to 255.5, rounded half to even and saturated), at
    the price of the lowest bit.

    Raises:
        SizeMismatchError: the images differ in size.
    """
    _check_sizes(before, after)
    return np.asarray(cv2.addWeighted(after, 0.5, before, -0.5, 128.0), np.uint8)


def difference(before: RgbImage, after: RgbImage, mode: DiffMode) -> RgbImage:
    """The difference image of `mode`, (H, W, 3) uint8.

    Raises:
        SizeMismatchError: the images differ in size.
    """
    return absolute_difference(before, after) if mode == "absolute" else signed_difference(before, after)
