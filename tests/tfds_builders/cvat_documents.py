"""Small annotations of CVAT, for images and for videos."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any
from xml.sax.saxutils import quoteattr

from tests.factories import photograph, write

JPEG = photograph()  # 64 wide, 48 high
XML = "annotations.xml"
BOX = 'xtl="10" ytl="12" xbr="30" ybr="40"'
FIRST = 4  # The line of the first element behind <meta>.


def element(tag: str, attributes: str, inside: str = "", label: str = "cat") -> str:
    return f'<{tag} label="{label}" source="manual" occluded="0" {attributes}>{inside}</{tag}>'


CAT = element("box", BOX)


def image(*shapes: str, name: str = "a.jpg", size: tuple[int, int] = (48, 64), more: str = "") -> str:
    """An <image>: itself, each shape and its end on a line each."""
    start = f'<image id="0" name={quoteattr(name)} width="{size[1]}" height="{size[0]}" {more}>'
    return "\n".join([start, *shapes, "</image>"])


def document(*elements: str, labels: Sequence[str] = ("cat", "dog"), owner: str = "task", meta: str = "") -> str:
    named = "".join(f"<label><name>{name}</name><attributes/></label>" for name in labels)
    head = f"<annotations><version>1.1</version><meta><{owner}><labels>{named}</labels>{meta}</{owner}></meta>"
    return "\n".join(['<?xml version="1.0" encoding="utf-8"?>', head, *elements, "</annotations>"])


def one_image(root: Path, *shapes: str, **more: Any) -> Path:
    write(root / "images" / "a.jpg", JPEG)
    write(root / XML, document(image(*shapes, **more)))
    return root


def video(root: Path, *tracks: str, frames: Sequence[int] = (0, 1, 2), name: str = "frame_{:06d}.jpg") -> Path:
    for number in frames:
        write(root / "images" / name.format(number), photograph(seed=number))
    size = "<original_size><width>64</width><height>48</height></original_size>"
    write(root / XML, document(*tracks, meta=size))
    return root


def track(number: int, *frames: int, label: str = "cat", outside: int = -1) -> str:
    boxes = "\n".join(
        f'<box frame="{frame}" outside="{int(frame == outside)}" occluded="0" keyframe="1" {BOX}></box>'
        for frame in frames
    )
    return f'<track id="{number}" label="{label}" source="manual">\n{boxes}\n</track>'
