"""The small pictures of an audit: an image made small, and over it the box that is in question."""

import math
import stat
import warnings
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import cv2
import numpy as np
import simplejpeg

from dataflow.boxes import Size
from dataflow.findings import Finding
from dataflow.images import ImageError, RgbImage, decode_rgb, read_header, turn_upright
from tfds_builders.pages.markup import Content, Markup, el, jpeg_address, markup

THUMBNAIL_PX: Final = 160
"""Longer side of a picture, in pixels."""
_QUALITY = 60
_MAX_BYTES = 1 << 28
# Formats without scaled decoding are decoded whole: what is larger would take seconds.
_MAX_PIXELS = 60_000_000
# How far, in shares of the longer side, a box may leave the picture and still be shown, and its least side, px.
_MARGIN = 0.35
_LEAST_SIDE = 4.0
# Room for an arrow towards a box further away, px.
_ARROW_ROOM = 26.0

Corners = tuple[float, float, float, float]


@dataclass(frozen=True)
class Thumbnail:
    """An upright image made small."""

    jpeg: bytes
    size: Size
    """(height, width) of the small picture, px."""
    original_size: Size
    """(height, width) of the upright image, px."""

    @property
    def shown(self) -> tuple[float, float]:
        """(height, width) on the page, px: small images are enlarged, so that lines and margins look alike on all."""
        height, width = self.size
        scale = THUMBNAIL_PX / max(self.size)
        return height * scale, width * scale


def read_thumbnail(path: Path) -> Thumbnail | str:
    """The image at `path` made small, or in a few words why it cannot be shown. Never raises."""
    try:
        return _read(path)
    except ImageError as error:
        return error.message
    except OSError as error:
        return error.strerror or type(error).__name__
    except Exception as error:  # Anything may be in that file, and a page about broken files has to cope with them.
        return str(error) or type(error).__name__


def _read(path: Path) -> Thumbnail:
    state = path.stat()
    if not stat.S_ISREG(state.st_mode):
        raise ImageError("not a regular file", "replace it")
    if state.st_size > _MAX_BYTES:
        raise ImageError(f"a file of {state.st_size:,} bytes is too large to be shown", "look at it elsewhere")
    data = path.read_bytes()
    with warnings.catch_warnings(action="ignore"):  # Of Pillow, about strange metadata and large images.
        header = read_header(data)
        pixels = _decode_jpeg(data) if header.format == "JPEG" else None
        if pixels is not None:
            pixels = turn_upright(pixels, header.orientation)
        elif math.prod(header.size) > _MAX_PIXELS:
            value = f"an image of {header.size[1]} x {header.size[0]} px is too large to be shown"
            raise ImageError(value, "look at it elsewhere")
        else:
            pixels = decode_rgb(data)
    return make_thumbnail(pixels, header.size)


def make_thumbnail(pixels: RgbImage, original_size: Size, longest: int = THUMBNAIL_PX) -> Thumbnail:
    """Upright pixels (H, W, 3), of an image of `original_size`, made small: at most `longest` px on a side."""
    scale = min(1.0, longest / max(pixels.shape[:2]))
    height, width = (max(1, round(side * scale)) for side in pixels.shape[:2])
    small: RgbImage = cv2.resize(pixels, (width, height), interpolation=cv2.INTER_AREA)
    jpeg = simplejpeg.encode_jpeg(np.ascontiguousarray(small), _QUALITY, "RGB", "420")
    return Thumbnail(jpeg, (height, width), original_size)


def _decode_jpeg(data: bytes) -> RgbImage | None:
    """Pixels at the least of libjpeg's scales that is large enough; what is left of a damaged one."""
    try:
        side = THUMBNAIL_PX
        pixels = simplejpeg.decode_jpeg(data, "RGB", min_height=side, min_width=side, min_factor=1, strict=False)
        return np.asarray(pixels, np.uint8)
    except ValueError:  # Of other colours than RGB or grey.
        return None


def draw_picture(finding: Finding, picture: Thumbnail | str) -> Markup:
    """A picture with the box of `finding`, or a tile that says why there is none."""
    if isinstance(picture, str):
        return el("figure", el("div", el("b", "cannot be shown"), picture, class_="none"))
    frame, drawn = (0.0, 0.0, *picture.shown[::-1]), None
    if finding.box is not None and all(map(math.isfinite, finding.box)):
        box = _scaled(finding.box, picture)
        frame = _frame(frame, box)
        drawn = _rectangle(box, frame) if _meet(box, frame) else _arrow(box, frame)
    return el("figure", _svg(picture, frame, drawn, finding.image_id or finding.file))


def draw_boxes(picture: Thumbnail, boxes: Iterable[tuple[Corners, str]], caption: str) -> Markup:
    """A picture with boxes (xyxy px of the original image, and a CSS class) over it, and a caption under it."""
    frame = (0.0, 0.0, *picture.shown[::-1])
    drawn = [_rectangle(_scaled(box, picture), frame, kind) for box, kind in boxes]
    return el("figure", _svg(picture, frame, drawn, caption), el("figcaption", caption))


def _svg(picture: Thumbnail, frame: Corners, drawn: Content, name: str) -> Markup:
    """What `frame` shows of a picture, and what is drawn over it."""
    (height, width), (x0, y0, x1, y1) = picture.shown, frame
    return el(
        "svg",
        el("image", width=width, height=height, href=jpeg_address(picture.jpeg)),
        drawn,
        class_="thumb",
        role="img",
        aria_label=name,
        viewBox=f"{x0:.4g} {y0:.4g} {x1 - x0:.4g} {y1 - y0:.4g}",
    )


def _scaled(box: Corners, picture: Thumbnail) -> Corners:
    """The box in pixels of the page, its corners the right way round, large enough to be seen."""
    (height, width), (full_height, full_width) = picture.shown, picture.original_size
    x0, x1 = _side(box[0], box[2], width / full_width)
    y0, y1 = _side(box[1], box[3], height / full_height)
    return x0, y0, x1, y1


def _side(a: float, b: float, scale: float) -> tuple[float, float]:
    low, high = min(a, b) * scale, max(a, b) * scale
    missing = max(0.0, _LEAST_SIDE - (high - low)) / 2
    return low - missing, high + missing


def _frame(picture: Corners, box: Corners) -> Corners:
    """What is shown: the picture, and as much around it as the box needs and the margin allows."""
    frame = _widened(picture, box, _MARGIN * max(picture))
    return frame if _meet(box, frame) else _widened(picture, box, _ARROW_ROOM)


def _widened(picture: Corners, box: Corners, margin: float) -> Corners:
    """The picture with at most `margin` px more on the sides where the box leaves it visibly."""
    edge = 4.0  # So that the border of a box can be seen.
    low = [p if b > p - 1 else max(b - edge, p - margin) for p, b in zip(picture[:2], box[:2], strict=True)]
    high = [p if b < p + 1 else min(b + edge, p + margin) for p, b in zip(picture[2:], box[2:], strict=True)]
    return low[0], low[1], high[0], high[1]


def _meet(box: Corners, frame: Corners) -> bool:
    return box[0] < frame[2] and box[2] > frame[0] and box[1] < frame[3] and box[3] > frame[1]


def _rectangle(box: Corners, frame: Corners, kind: str = "") -> Markup:
    """The box, of a CSS class; a side beyond the frame is left open, so that one sees that it goes on."""
    beyond = 9.0
    x0, y0 = max(box[0], frame[0] - beyond), max(box[1], frame[1] - beyond)
    x1, y1 = min(box[2], frame[2] + beyond), min(box[3], frame[3] + beyond)
    place = {"x": f"{x0:.1f}", "y": f"{y0:.1f}", "width": f"{x1 - x0:.1f}", "height": f"{y1 - y0:.1f}"}
    return markup(el("rect", class_="halo", **place), el("rect", class_=kind or None, **place))


def _arrow(box: Corners, frame: Corners) -> Markup:
    """An arrow at the edge of the frame towards a box that is nowhere near it."""
    x, y = (box[0] / 2 + box[2] / 2, box[1] / 2 + box[3] / 2)
    inset = _ARROW_ROOM / 2
    at_x = min(max(x, frame[0] + inset), frame[2] - inset)
    at_y = min(max(y, frame[1] + inset), frame[3] - inset)
    turn = math.degrees(math.atan2(y - at_y, x - at_x))
    place = f"translate({at_x:.1f} {at_y:.1f}) rotate({turn:.0f})"
    return el("path", el("title", "the box is far outside, this way"), d="M-9-7 8 0-9 7-5 0z", transform=place)
