"""Masks of valid pixels as PNG: 255 where a pixel of the after frame has a counterpart in the before frame, else 0."""

import struct
from functools import lru_cache

import cv2
import numpy as np
import numpy.typing as npt

from dataflow.boxes import Size
from dataflow.images import ImageError

Mask = npt.NDArray[np.bool_]

_SIGNATURE = b"\x89PNG\r\n\x1a\n"
# Width, height, bits, colour type (0: grey) at the head of every PNG (ISO/IEC 15948, 11.2.2).
_HEADER = struct.Struct(">8x4x4sIIBB")
# Long runs of equal pixels are all there is: so the file is less than half of the usual, in a quarter of the time.
_OPTIONS = [
    cv2.IMWRITE_PNG_COMPRESSION,
    1,
    cv2.IMWRITE_PNG_STRATEGY,
    cv2.IMWRITE_PNG_STRATEGY_RLE,
    cv2.IMWRITE_PNG_FILTER,
    cv2.IMWRITE_PNG_FILTER_NONE,
]


def encode_mask(valid: Mask) -> bytes:
    """A mask (H, W) bool as a grey PNG of 8 bits."""
    if valid.all():
        return whole_mask((valid.shape[0], valid.shape[1]))
    return _encode(valid)


@lru_cache(maxsize=64)
def whole_mask(size: Size) -> bytes:
    """The PNG of a mask of `size` (height, width) in which every pixel is valid; encoded once per size."""
    return _encode(np.ones(size, np.bool_))


def decode_mask(png: bytes, size: Size) -> Mask:
    """The mask (H, W) bool of a PNG; b"" is that of `size` (height, width) in which every pixel is valid.

    Raises:
        ImageError: the bytes cannot be decoded, or to another size.
    """
    if not png:
        return np.ones(size, np.bool_)
    grey = cv2.imdecode(np.frombuffer(png, np.uint8), cv2.IMREAD_GRAYSCALE)
    if grey is None or grey.shape != tuple(size):
        raise ImageError(f"a mask of {len(png)} bytes is no image of {size[1]}x{size[0]} px", "prepare it again")
    return np.asarray(grey > 0, np.bool_)


def mask_size(png: bytes) -> Size | None:
    """(height, width) of a PNG of 8 bits grey, read from its header; None of anything else."""
    if len(png) < _HEADER.size or not png.startswith(_SIGNATURE):
        return None
    chunk, width, height, bits, colour = _HEADER.unpack_from(png)
    return (height, width) if (chunk, bits, colour) == (b"IHDR", 8, 0) else None


def _encode(valid: Mask) -> bytes:
    pixels = np.ascontiguousarray(valid, np.bool_).view(np.uint8) * np.uint8(255)
    ok, data = cv2.imencode(".png", pixels, _OPTIONS)
    assert ok
    return bytes(data)
