"""Broken image files. Every format reads them in the same way: here they are those of a YOLO source."""

import io
from collections.abc import Sequence
from typing import Any

import numpy as np
from PIL import Image

from dataflow.findings import Code
from tests.factories import Thing
from tests.tfds_builders.broken_cases import CAT, FOLDER, Case, Found, Link, Things, info, picture, warning
from tests.tfds_builders.broken_yolo import TWO_FOLDERS, broken

IMAGE = "images/bad.jpg"


def with_image(name: str, content: Any, *found: Found, bad: Things | None = None, **more: Any) -> Case:
    return broken(name, {IMAGE: content}, found, bad, **more)


def named(name: str, file: str, content: bytes, *found: Found, bad: Things | None = None) -> Case:
    """The image is called `file`, of the same stem."""
    return broken(name, {IMAGE: None, f"images/{file}": content}, found, bad)


def error(code: Code, file: str = IMAGE) -> Found:
    return Found(code, file)


def flipped(data: bytes, places: Sequence[float]) -> bytes:
    """Bytes with one bit turned over at each of these places, as shares of the length."""
    changed = bytearray(data)
    for place in places:
        changed[int(place * len(data))] ^= 0x10
    return bytes(changed)


LARGE = picture(2, 200, 300)
FILES = (
    with_image("an image of 0 bytes", b"", error(Code.IMAGE_EMPTY)),
    with_image("text for an image", b"this is no photograph", error(Code.IMAGE_UNREADABLE)),
    with_image("a JPEG that is cut", LARGE[: len(LARGE) // 2], error(Code.IMAGE_TRUNCATED)),
    with_image("a JPEG that is cut by two bytes", LARGE[:-2], error(Code.IMAGE_TRUNCATED)),
    with_image("a JPEG that ends in its header", LARGE[:100], error(Code.IMAGE_UNREADABLE)),
    with_image("a JPEG of which bits flipped", flipped(LARGE, (0.5, 0.6, 0.7)), error(Code.IMAGE_UNREADABLE)),
    with_image("an image that is not there", Link("gone.jpg"), error(Code.IMAGE_MISSING)),
    with_image("an image outside", Link("../../secret.jpg"), error(Code.IMAGE_OUTSIDE_ROOT)),
    with_image("a link to itself", Link("bad.jpg"), error(Code.IMAGE_UNREADABLE)),
    named(
        "a PNG that is cut",
        "bad.png",
        picture(2, 200, 300, encoding="PNG")[:-4000],
        error(Code.IMAGE_TRUNCATED, "images/bad.png"),
    ),
    named(
        "a PNG of which a bit flipped",
        "bad.png",
        flipped(picture(2, 200, 300, encoding="PNG"), (0.5,)),
        error(Code.IMAGE_UNREADABLE, "images/bad.png"),
    ),
    named(
        "a BMP that is cut", "bad.bmp", picture(encoding="BMP")[:-100], error(Code.IMAGE_TRUNCATED, "images/bad.bmp")
    ),
    named("a WebP", "bad.webp", picture(encoding="WEBP"), error(Code.IMAGE_UNSUPPORTED, "images/bad.webp")),
    named("a GIF", "bad.gif", picture(encoding="GIF"), error(Code.IMAGE_UNSUPPORTED, "images/bad.gif")),
    named("a TIFF", "bad.tif", picture(encoding="TIFF"), error(Code.IMAGE_UNSUPPORTED, "images/bad.tif")),
    with_image("a PNG named jpg", picture(encoding="PNG"), warning(Code.IMAGE_TYPE, IMAGE), bad=(CAT,)),
    named("a JPEG named png", "bad.png", picture(), warning(Code.IMAGE_TYPE, "images/bad.png"), bad=(CAT,)),
    with_image(
        "a WebP named jpg",
        picture(encoding="WEBP"),
        warning(Code.IMAGE_TYPE, IMAGE),
        error(Code.IMAGE_UNSUPPORTED),
    ),
    with_image("a folder named jpg", FOLDER, Found(Code.LABEL_WITHOUT_IMAGE, "labels/bad.txt", None, None), images=1),
)

# Stored 64 high and 32 wide, it shows 32 x 64 when upright.
TURNED = picture(2, 64, 32, orientation=6)
EXIF = (
    with_image(
        "a turned image, upright",
        TURNED,
        info(Code.EXIF_ORIENTATION, IMAGE, None, "bad"),
        bad=(Thing(0, (24, 8, 40, 24)),),
        sizes={"bad": (32, 64)},
    ),
    with_image(
        "a turned image, as stored",
        TURNED,
        info(Code.EXIF_ORIENTATION, IMAGE, None, "bad"),
        bad=(Thing(0, (12, 16, 20, 48)),),
        sizes={"bad": (64, 32)},
        exif="ignore",
    ),
    with_image("a turned image, refused", TURNED, error(Code.EXIF_ORIENTATION), exif="refuse"),
    with_image(
        "a mirrored image",
        picture(orientation=2),
        info(Code.EXIF_ORIENTATION, IMAGE, None, "bad"),
        bad=(CAT,),
    ),
)

SCENE = picture(1, 240, 320)


def changed(size: tuple[int, int] = (320, 240), quality: int = 90, gain: float = 1.0, plus: float = 0.0) -> bytes:
    """The scene as another JPEG: of (width, height) `size`, brightened by a factor and an offset."""
    image = Image.open(io.BytesIO(SCENE)).resize(size, Image.Resampling.LANCZOS)
    pixels = np.clip(np.asarray(image, np.float32) * gain + plus, 0, 255).astype(np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "JPEG", quality=quality)
    return buffer.getvalue()


def near(name: str, copy: bytes, size: tuple[int, int]) -> Case:
    height, width = size

    def box(height: int, width: int) -> Things:
        return (Thing(0, (0.375 * width, 0.25 * height, 0.625 * width, 0.75 * height)),)

    return broken(
        f"a copy in another split, {name}",
        {**TWO_FOLDERS, "images/train/good.jpg": SCENE, "images/val/bad.jpg": copy},
        [warning(Code.NEAR_DUPLICATE, "images/train/good.jpg", None, "good")],
        prepared={"good": box(240, 320), "bad": box(height, width)},
        sizes={"good": (240, 320), "bad": size},
        splits=None,
    )


COPIES = (
    near("encoded again", changed(quality=60), (240, 320)),
    near("at half the size", changed((160, 120)), (120, 160)),
    near("brighter", changed(gain=1.1, plus=8), (240, 320)),
)
CASES = (*FILES, *EXIF, *COPIES)
