"""Encoded images: their header, and their upright pixels."""

import io
from dataclasses import dataclass

import cv2
import numpy as np
import numpy.typing as npt
from PIL import Image, UnidentifiedImageError

from dataflow.boxes import Size
from dataflow.errors import ShardboxError

RgbImage = npt.NDArray[np.uint8]
_ORIENTATION = 0x0112


class ImageError(ShardboxError):
    """Bytes that are not an image we can read."""


@dataclass(frozen=True)
class ImageHeader:
    """What an image says of itself, read without decoding its pixels."""

    format: str
    """Pillow's name of the format, such as "JPEG" or "PNG"."""
    stored_size: Size
    orientation: int
    """EXIF orientation, 1 (upright) to 8 (EXIF 2.32, section 4.6.4)."""

    @property
    def size(self) -> Size:
        """(height, width) of the upright image."""
        height, width = self.stored_size
        return (width, height) if self.orientation >= 5 else (height, width)


def read_header(data: bytes) -> ImageHeader:
    """The header of an encoded image.

    Raises:
        ImageError: the bytes are empty or no known image.
    """
    try:
        with Image.open(io.BytesIO(data)) as image:
            # Pillow and OpenCV turn TIFF upright by themselves, and Pillow reports its upright size.
            orientation = 1 if image.format == "TIFF" else image.getexif().get(_ORIENTATION, 1)
            return ImageHeader(
                # MPO is JPEG followed by further views, which nobody here reads.
                format="JPEG" if image.format == "MPO" else image.format or "",
                stored_size=(image.height, image.width),
                orientation=orientation if orientation in range(1, 9) else 1,
            )
    except (UnidentifiedImageError, Image.DecompressionBombError, OSError, SyntaxError, ValueError) as error:
        what = "is empty" if not data else f"is no readable image ({error.__class__.__name__})"
        raise ImageError(f"image of {len(data)} bytes {what}", "replace the file") from error


def is_complete(data: bytes, header: ImageHeader) -> bool:
    """Whether a JPEG, PNG or BMP goes on to its end, as far as can be told without decoding it."""
    if header.format == "JPEG":
        return data.rfind(b"\xff\xd9", _jpeg_scan(data)) >= 0
    if header.format == "PNG":
        return data.rfind(b"IEND") >= 0
    if header.format == "BMP":
        height, width = header.stored_size
        start, bits = int.from_bytes(data[10:14], "little"), int.from_bytes(data[28:30], "little")
        return len(data) >= start + height * ((width * bits + 31) // 32 * 4)
    return True


def _jpeg_scan(data: bytes) -> int:
    """Where the pixels of a JPEG begin, behind the thumbnails that its metadata may hold (ITU T.81, annex B)."""
    at = 2
    while at + 4 <= len(data) and data[at + 1] != 0xDA:
        filler = data[at] != 0xFF or data[at + 1] == 0xFF
        at += 1 if filler else 2 + int.from_bytes(data[at + 2 : at + 4], "big")
    return at


def turn_upright(pixels: npt.NDArray[np.uint8], orientation: int) -> npt.NDArray[np.uint8]:
    """Pixels (H, W, ...) as stored, turned and mirrored as their EXIF orientation asks for (EXIF 2.32, 4.6.4)."""
    if orientation >= 5:
        pixels = np.swapaxes(pixels, 0, 1)
    if orientation in (2, 3, 6, 7):
        pixels = pixels[:, ::-1]
    if orientation in (3, 4, 7, 8):
        pixels = pixels[::-1]
    return np.ascontiguousarray(pixels)


def decode_rgb(data: bytes, apply_exif: bool = True) -> RgbImage:
    """Pixels (H, W, 3) uint8 RGB of an encoded image; upright when `apply_exif`, as stored otherwise.

    Grey images get three equal channels, an alpha channel is dropped, 16 bits become 8. OpenCV decodes (without the
    GIL, with the accurate DCT: bit-identical to Pillow on JPEG); orientation comes from Pillow's reading of EXIF,
    so that the pixels and `read_header` cannot disagree.

    Raises:
        ImageError: the bytes cannot be decoded.
    """
    orientation = read_header(data).orientation if apply_exif else 1
    flags = cv2.IMREAD_COLOR_RGB | cv2.IMREAD_IGNORE_ORIENTATION
    try:
        pixels = cv2.imdecode(np.frombuffer(data, np.uint8), flags) if data else None
    except cv2.error as error:
        raise ImageError(f"image of {len(data)} bytes cannot be decoded ({error.err})", "replace it") from error
    if pixels is None:
        raise ImageError(f"image of {len(data)} bytes cannot be decoded", "replace it")
    return turn_upright(np.asarray(pixels, np.uint8), orientation)


def encode_png(pixels: RgbImage) -> bytes:
    """RGB pixels (H, W, 3) uint8 as PNG, lossless."""
    ok, data = cv2.imencode(".png", cv2.cvtColor(pixels, cv2.COLOR_RGB2BGR), [cv2.IMWRITE_PNG_COMPRESSION, 3])
    assert ok
    return bytes(data)


def encode_jpeg(pixels: RgbImage, quality: int = 95) -> bytes:
    """RGB pixels (H, W, 3) uint8 as JPEG of `quality` without chroma subsampling (4:4:4)."""
    options = [
        cv2.IMWRITE_JPEG_QUALITY,
        quality,
        cv2.IMWRITE_JPEG_SAMPLING_FACTOR,
        cv2.IMWRITE_JPEG_SAMPLING_FACTOR_444,
    ]
    ok, data = cv2.imencode(".jpg", cv2.cvtColor(pixels, cv2.COLOR_RGB2BGR), options)
    assert ok
    return bytes(data)
