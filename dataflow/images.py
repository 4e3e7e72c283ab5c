"""Encoded images: their header, whether they are whole, and their upright pixels."""

import io
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import cv2
import numpy as np
import numpy.typing as npt
import simplejpeg
import xxhash
from PIL import Image, UnidentifiedImageError

from dataflow.boxes import Size
from dataflow.errors import ShardboxError

RgbImage = npt.NDArray[np.uint8]
_ORIENTATION = 0x0112
# From here on Pillow warns of an attack by decompression.
_LARGEST_PIXELS = 89_478_485
# Where a PNG may hold it: a chunk of its own, ImageMagick's text, XMP.
_PNG_EXIF = (b"eXIf", b"Raw profile type exif", b"XML:com.adobe.xmp")


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
    return _plain_jpeg_header(data) or _any_header(data)


def _plain_jpeg_header(data: bytes) -> ImageHeader | None:
    """That of a JPEG without Exif or XMP, which is most of them, in a tenth of the time; None for all others."""
    at, size = 2, None
    while data[:3] == b"\xff\xd8\xff" and at + 10 <= len(data) and data[at] == 0xFF:
        marker = data[at + 1]
        if marker in (0xC0, 0xC1, 0xC2) and data[at + 4] == 8 and data[at + 9] in (1, 3, 4):
            size = int.from_bytes(data[at + 5 : at + 7], "big"), int.from_bytes(data[at + 7 : at + 9], "big")
        elif marker == 0xDA:
            fits = size is not None and 0 < size[0] * size[1] <= _LARGEST_PIXELS
            return ImageHeader("JPEG", size, 1) if size is not None and fits else None
        elif not (marker in (0xC4, 0xDB, 0xDD, 0xFE) or (0xE0 <= marker <= 0xEF and marker != 0xE1)):
            return None
        at += 2 + int.from_bytes(data[at + 2 : at + 4], "big")
    return None


def _any_header(data: bytes) -> ImageHeader:
    """The header as Pillow reads it."""
    try:
        with Image.open(io.BytesIO(data)) as image:
            orientation = _orientation(image, data)
            return ImageHeader(
                # MPO is JPEG followed by further views, which nobody here reads.
                format="JPEG" if image.format == "MPO" else image.format or "",
                stored_size=(image.height, image.width),
                orientation=orientation if orientation in range(1, 9) else 1,
            )
    except (UnidentifiedImageError, Image.DecompressionBombError, OSError, SyntaxError, ValueError) as error:
        what = "is empty" if not data else f"is no readable image ({error.__class__.__name__})"
        raise ImageError(f"image of {len(data)} bytes {what}", "replace the file") from error


def _orientation(image: Image.Image, data: bytes) -> Any:
    if image.format == "TIFF":
        return 1  # Pillow and OpenCV turn TIFF upright by themselves, and Pillow reports its upright size.
    pixels = data.find(b"IDAT")
    if image.format == "PNG" and not any(data.find(mark, pixels) >= 0 for mark in _PNG_EXIF):
        # Pillow's own way would decode every pixel to see what comes behind them.
        return Image.Image.getexif(image).get(_ORIENTATION, 1)
    return image.getexif().get(_ORIENTATION, 1)


def is_complete(data: bytes, header: ImageHeader) -> bool:
    """Whether a JPEG, PNG or BMP goes on to its end, as far as can be told without decoding it."""
    if header.format == "JPEG":
        return data.rfind(b"\xff\xd9", _jpeg_parts(data)[1]) >= 0
    if header.format == "PNG":
        return 0 <= data.rfind(b"IEND") <= len(data) - 8  # Its checksum is behind it.
    if header.format == "BMP":
        height, width = header.stored_size
        start, bits = int.from_bytes(data[10:14], "little"), int.from_bytes(data[28:30], "little")
        return len(data) >= start + height * ((width * bits + 31) // 32 * 4)
    return True


def _jpeg_parts(data: bytes) -> tuple[list[bytes], int]:
    """The segments of a JPEG's header, and where its pixels begin, behind the thumbnails that they may hold.

    Bytes between segments are skipped, as libjpeg does (ITU T.81, annex B).
    """
    at, parts = 2, [data[:2]]
    while at + 4 <= len(data) and data[at : at + 2] != b"\xff\xda":
        if data[at] != 0xFF or data[at + 1] in (0x00, 0xFF):
            at += 1
            continue
        stop = at + 2 + int.from_bytes(data[at + 2 : at + 4], "big")
        parts.append(data[at:stop])
        at = stop
    return parts, at


def content_hash(data: bytes) -> int:
    """64 bits that tell files of different content apart, by XXH3: it costs a fiftieth of decoding."""
    return xxhash.xxh3_64_intdigest(data)


# Grey levels between neighbouring cells below which a picture is flat, and its hash noise.
LEAST_STEP = 4


class DamagedImageError(ImageError):
    """Pixels that cannot be decoded as they were encoded."""


def look_hash(data: bytes, header: ImageHeader) -> int | None:
    """128 bits that are alike for pictures that look alike, as stored; None for a picture without any structure.

    A difference hash (Krawetz 2013, "Kind of Like That"), across and down: whether each of 8 x 8 grey cells is darker
    than its neighbour on the right, and than the one below. Every pixel is decoded for it, so it checks them, too.

    Raises:
        DamagedImageError: some pixels cannot be decoded.
    """
    grey = _grey(data, header)
    across = np.diff(cv2.resize(grey, (9, 8), interpolation=cv2.INTER_AREA).astype(np.int16), axis=1)
    down = np.diff(cv2.resize(grey, (8, 9), interpolation=cv2.INTER_AREA).astype(np.int16), axis=0)
    if max(np.abs(across).max(), np.abs(down).max()) < LEAST_STEP:
        return None
    return int.from_bytes(np.packbits([across > 0, down > 0]).tobytes(), "big")


def _grey(data: bytes, header: ImageHeader) -> npt.NDArray[np.uint8]:
    """Pixels (h, w) grey, decoded in full, and at a fraction of the size where that is cheaper."""
    if header.format == "JPEG":
        # At the least fraction that leaves 32 pixels a side.
        reduce = next((n for n in (8, 4, 2) if min(header.stored_size) >= 32 * n), 1)
        try:
            return _jpeg_pixels(data, "GRAY", reduce)[:, :, 0]
        except ValueError as error:
            raise DamagedImageError(f"damaged JPEG: {error}", "replace the file") from error
    try:
        if header.format == "PNG":
            with Image.open(io.BytesIO(data)) as image:
                image.verify()  # Of its checksums, before libpng would complain to standard error.
        pixels = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_GRAYSCALE | cv2.IMREAD_IGNORE_ORIENTATION)
    except (OSError, SyntaxError, ValueError, cv2.error) as error:
        raise DamagedImageError(f"damaged {header.format}: {error}", "replace the file") from error
    if pixels is None:
        raise DamagedImageError(f"damaged {header.format}", "replace the file")
    return np.asarray(pixels, np.uint8)


def turn_upright(pixels: npt.NDArray[np.uint8], orientation: int) -> npt.NDArray[np.uint8]:
    """Pixels (H, W, ...) as stored, turned and mirrored as their EXIF orientation asks for (EXIF 2.32, 4.6.4)."""
    if orientation >= 5:
        pixels = np.swapaxes(pixels, 0, 1)
    if orientation in (2, 3, 6, 7):
        pixels = pixels[:, ::-1]
    if orientation in (3, 4, 7, 8):
        pixels = pixels[::-1]
    return np.ascontiguousarray(pixels)


def _without_alpha(data: bytes) -> RgbImage | None:
    """The colours of a TIFF with an alpha channel, which OpenCV would multiply them by; None for all others."""
    with suppress(UnidentifiedImageError, OSError, SyntaxError, ValueError), Image.open(io.BytesIO(data)) as image:
        if image.mode == "RGBA":
            return np.ascontiguousarray(np.asarray(image)[:, :, :3])
    return None


class Decoded(NamedTuple):
    """What was decoded.

    `pixels` (H, W, 3) uint8 RGB. `reduced`: each side is that of the image divided by this, rounded up. `damage`: what
    a decoder had to pass over to get there, empty where the image is sound.
    """

    pixels: RgbImage
    reduced: int = 1
    damage: str = ""


def decode(data: bytes, orientation: int | None = None, reduce: int = 1, room: RgbImage | None = None) -> Decoded:
    """An encoded image, turned by an EXIF `orientation` (1: as stored; None: its own).

    Grey images get three equal channels, an alpha channel is dropped, 16 bits become 8. JPEG is decoded by
    libjpeg-turbo with the accurate DCT, bit-identical to Pillow; a damaged one, and all other formats, by OpenCV.
    Neither holds the GIL. Orientation comes from Pillow's reading of EXIF, so that the pixels and `read_header` cannot
    disagree.

    Args:
        data: the file.
        orientation: EXIF orientation to apply.
        reduce: decode a JPEG to this fraction of its size: 1, 2, 4 or 8. Each pixel is then about the mean of a square.
            Whether it was done is in `Decoded.reduced`.
        room: where the pixels may be put, rows one behind the other. Whether they were is for the caller to find out.

    Raises:
        ImageError: the bytes cannot be decoded.
    """
    orientation = read_header(data).orientation if orientation is None else orientation
    damage = ""
    if data[:2] == b"\xff\xd8":
        try:
            return Decoded(turn_upright(_jpeg_pixels(data, "RGB", reduce, room), orientation), reduce)
        except ValueError as error:
            damage = str(error)
    return Decoded(turn_upright(_any_pixels(data), orientation), damage=damage)


def decode_rgb(data: bytes, orientation: int | None = None) -> RgbImage:
    """Pixels (H, W, 3) uint8 RGB of an encoded image; see `decode`.

    Raises:
        ImageError: the bytes cannot be decoded.
    """
    return decode(data, orientation).pixels


def _jpeg_pixels(
    data: bytes, colours: Literal["RGB", "GRAY"], reduce: int = 1, room: RgbImage | None = None
) -> npt.NDArray[np.uint8]:
    """Pixels (H, W, 3 or 1) of a JPEG at a fraction of its size; ValueError for whatever harms one of them."""
    options: dict[str, Any] = {"buffer": room}
    if reduce > 1:
        height, width, _, _ = simplejpeg.decode_jpeg_header(data, strict=False)
        options |= {"min_height": -(-height // reduce), "min_width": -(-width // reduce), "min_factor": reduce}
    try:
        return np.asarray(simplejpeg.decode_jpeg(data, colours, **options), np.uint8)
    except ValueError:
        # Bytes between two header segments harm no pixel; behind the header they are what is left of lost ones.
        parts, scan = _jpeg_parts(data)
        return np.asarray(simplejpeg.decode_jpeg(b"".join(parts) + data[scan:], colours, **options), np.uint8)


def _any_pixels(data: bytes) -> RgbImage:
    if data[:4] in (b"II*\0", b"MM\0*") and (opaque := _without_alpha(data)) is not None:
        return opaque
    flags = cv2.IMREAD_COLOR_RGB | cv2.IMREAD_IGNORE_ORIENTATION
    try:
        pixels = cv2.imdecode(np.frombuffer(data, np.uint8), flags) if data else None
    except cv2.error as error:
        raise ImageError(f"image of {len(data)} bytes cannot be decoded ({error.err})", "replace it") from error
    if pixels is None:
        raise ImageError(f"image of {len(data)} bytes cannot be decoded", "replace it")
    return np.asarray(pixels, np.uint8)


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
