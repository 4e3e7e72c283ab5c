"""Pixels resized, and onto a canvas as bytes or as normalised floats, in native code without the GIL."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import cv2
import numpy as np
import numpy.typing as npt
import torch

from dataflow.boxes import Size
from dataflow.bridge.batches import shares_to_levels
from dataflow.images import RgbImage

Channels = tuple[float, float, float]

_SIX_CHANNELS = [n for channel in range(6) for n in (channel, channel)]
"""For OpenCV: every channel of two images to the same channel of one."""


@dataclass(frozen=True)
class Normalisation:
    """(value / 255 - mean) / std of each channel of an image, as `dataflow.bridge.batches.normalise` has it."""

    mean: Channels
    std: Channels


class Place(NamedTuple):
    """Where one image goes: `pixels` (H, W, C) uint8 or float32 and `mask` (H, W) bool, both written in full."""

    pixels: npt.NDArray[Any]
    mask: npt.NDArray[np.bool_]


class ByteCanvas:
    """Draws bytes as they are."""

    dtype: type[np.generic] = np.uint8

    def room(self, size: Size, pixels: npt.NDArray[Any]) -> RgbImage | None:
        """Where an image of `size` (height, width) can be made on `pixels` (H, W, C), if it fills whole rows."""
        return pixels[: size[0]] if pixels.shape[1:] == (size[1], 3) else None

    def put(self, images: Sequence[RgbImage], pixels: npt.NDArray[Any]) -> None:
        """One or two images (h, w, 3) side by side into the channels of `pixels` (H, W, C), at its top left."""
        height, width = images[0].shape[:2]
        part = pixels[:height, :width]
        if len(images) > 1:
            cv2.mixChannels(list(images), [part], _SIX_CHANNELS)
        elif not np.may_share_memory(part, images[0]):  # Unless it was made there.
            np.copyto(part, images[0])


class FloatCanvas:
    """Draws normalised floats, with the very values of `dataflow.bridge.batches.normalise`."""

    dtype: type[np.generic] = np.float32

    def __init__(self, normalisation: Normalisation) -> None:
        from dataflow.bridge.float_pixels import put_normalised, repeated

        self._put = put_normalised
        shift, scale = (shares_to_levels(values).numpy() for values in (normalisation.mean, normalisation.std))
        self._levels = repeated(shift, scale)

    def room(self, size: Size, pixels: npt.NDArray[Any]) -> RgbImage | None:
        """None: an image is made of bytes first."""
        return None

    def put(self, images: Sequence[RgbImage], pixels: npt.NDArray[Any]) -> None:
        """One or two images (h, w, 3) side by side into the channels of `pixels` (H, W, C), at its top left."""
        image = images[0]
        if len(images) > 1:
            image = np.empty((*image.shape[:2], pixels.shape[2]), np.uint8)
            cv2.mixChannels(list(images), [image], _SIX_CHANNELS)
        self._put(image, self._levels, pixels)


Canvas = ByteCanvas | FloatCanvas


def draw(images: Sequence[RgbImage], place: Place, canvas: Canvas) -> None:
    """Put images (h, w, 3) of one size at the top left of a place, zero the rest, and say so in the mask."""
    height, width = images[0].shape[:2]
    pixels, mask = place
    canvas.put(images, pixels)
    mask[:height, :width] = True
    if height < len(mask):
        pixels[height:] = 0
        mask[height:] = False
    if width < mask.shape[1]:
        pixels[:height, width:] = 0
        mask[:height, width:] = False


def resize(
    pixels: RgbImage, size: Size, extent: tuple[float, float] | None = None, room: RgbImage | None = None
) -> RgbImage:
    """Pixels (H, W, 3) uint8 resized to `size` (height, width): bilinear with antialias, in fixed-point arithmetic.

    It is the operation that torchvision applies to uint8 tensors on a CPU with AVX2 (or on ARM), and gives its values.

    Args:
        pixels: the image, rows one behind the other.
        size: what it becomes.
        extent: (height, width) px of what is resized, from the top left, where that is less than all of it by part of
            a pixel.
        room: (height, width, 3), rows one behind the other: where the result is put, unless it is `pixels` themselves.
    """
    height, width = pixels.shape[:2]
    if size == (height, width) and extent is None:
        return pixels
    # Told apart from a contiguous tensor by its batch stride alone, the image is read and written with the channels
    # last, as it lies in memory, without being repacked on the way in and out.
    scales = (None, None) if extent is None else (size[0] / extent[0], size[1] / extent[1])
    made = np.empty((*size, 3), np.uint8) if room is None else room
    # What `F.interpolate` calls; it hands on a size or a scale, but not both, and has no place for the result.
    torch.ops.aten._upsample_bilinear2d_aa.out(
        _channels_first(pixels), list(size), False, *scales, out=_channels_first(made)
    )
    return made


def _channels_first(pixels: RgbImage) -> torch.Tensor:
    """The same memory as (1, 3, H, W)."""
    height, width = pixels.shape[:2]
    strides = (height * width * 3, 1, width * 3, 3)
    return torch.from_numpy(pixels).as_strided((1, 3, height, width), strides)
