"""Masks of valid pixels as PNG: 255 where a pixel of the after frame has a counterpart in the before frame, else 0."""

import struct
import zlib
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
# Depths that masks have; earlier versions wrote 8 bits.
_DEPTHS = (1, 8)


def encode_mask(valid: Mask) -> bytes:
    """A mask (H, W) bool as a grey PNG of one bit; readers of 8 bits make 0 and 255 of it."""
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
    """(height, width) of a grey PNG of 1 or 8 bits, read from its header; None of anything else."""
    if len(png) < _HEADER.size or not png.startswith(_SIGNATURE):
        return None
    chunk, width, height, bits, colour = _HEADER.unpack_from(png)
    return (height, width) if chunk == b"IHDR" and bits in _DEPTHS and colour == 0 else None


def _encode(valid: Mask) -> bytes:
    """A file of three chunks; an eighth of the bytes are compressed in an eighth of the time of OpenCV's 8 bits."""
    height, width = valid.shape
    # Every row begins with its filter: 0, none.
    rows = np.zeros((height, 1 + (width + 7) // 8), np.uint8)
    rows[:, 1:] = np.packbits(valid, axis=1)
    head = struct.pack(">IIBBBBB", width, height, 1, 0, 0, 0, 0)
    return _SIGNATURE + _chunk(b"IHDR", head) + _chunk(b"IDAT", zlib.compress(rows.tobytes(), 1)) + _chunk(b"IEND", b"")


def _chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
