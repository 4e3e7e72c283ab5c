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

Image.MAX_IMAGE_PIXELS = None  # Only headers are read by Pillow here; sizes are checked by whoever decodes.


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
            orientation = image.getexif().get(_ORIENTATION, 1)
            return ImageHeader(
                format=image.format or "",
                stored_size=(image.height, image.width),
                orientation=orientation if orientation in range(1, 9) else 1,
            )
    except (UnidentifiedImageError, OSError, SyntaxError, ValueError) as error:
        what = "is empty" if not data else f"is no readable image ({error.__class__.__name__})"
        raise ImageError(f"image of {len(data)} bytes {what}", "replace the file") from error


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
