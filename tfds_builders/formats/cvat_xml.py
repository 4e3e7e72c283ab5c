"""The XML of CVAT: its elements one at a time with their lines, and the shapes in them."""

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from xml.parsers import expat

import numpy as np

from dataflow.boxes import Size
from dataflow.errors import UsageError
from tfds_builders.sources.outlines import Outline, outline_of, pixels_to_segmentation

_CHUNK = 2**16
_CORNERS = ("xtl", "ytl", "xbr", "ybr")
_AXES = ("cx", "cy", "rx", "ry")
_PLACE = ("left", "top", "width", "height")
_OF_SHAPE = frozenset({"label", "rotation", "points", "rle", *_CORNERS, *_AXES, *_PLACE})
_IGNORE = ("is_crowd", "iscrowd", "crowd", "difficult", "ignore")
_TRUNCATED = ("truncated", "is_truncated")
_TRACK = "track_id"
_MARKS = frozenset({*_IGNORE, *_TRUNCATED, _TRACK})
_SET = ("true", "1")


@dataclass
class Node:
    """An element: its attributes, its line in the file, the elements in it, and its text."""

    tag: str
    attributes: dict[str, str]
    line: int
    children: list["Node"] = field(default_factory=list)
    parts: list[str] = field(default_factory=list)

    @property
    def text(self) -> str:
        """The text directly in it, without blanks around it."""
        return "".join(self.parts).strip()

    def all(self, *path: str) -> Iterator["Node"]:
        """The elements at a path of tags below it."""
        if not path:
            yield self
            return
        for child in self.children:
            if child.tag == path[0]:
                yield from child.all(*path[1:])


class _Parser:
    """Gathers the elements right below the root."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.done: list[Node] = []
        self._open: list[Node] = []
        self.expat = expat.ParserCreate()
        self.expat.buffer_text = True
        self.expat.StartElementHandler = self._start
        self.expat.EndElementHandler = self._end
        self.expat.CharacterDataHandler = self._text
        self.expat.StartDoctypeDeclHandler = self._refuse

    def _start(self, tag: str, attributes: dict[str, str]) -> None:
        if not self._open and tag != "annotations":
            raise UsageError(f"{self.path} is no CVAT file: its root is <{tag}>", "export as `CVAT for images 1.1`")
        node = Node(tag, attributes, self.expat.CurrentLineNumber)
        if len(self._open) > 1:
            self._open[-1].children.append(node)
        self._open.append(node)

    def _end(self, tag: str) -> None:
        node = self._open.pop()
        if len(self._open) == 1:
            self.done.append(node)

    def _text(self, text: str) -> None:
        if len(self._open) > 1:
            self._open[-1].parts.append(text)

    def _refuse(self, *_: Any) -> None:
        # Entities could make a small file fill the memory, or name files of this machine.
        line = self.expat.CurrentLineNumber
        raise UsageError(f"{self.path}:{line}: a document type, which CVAT never writes", "delete <!DOCTYPE ...>")


def nodes(path: Path) -> Iterator[Node]:
    """The elements right below `<annotations>`, one at a time: nothing else of the file is in memory.

    Raises:
        UsageError: the file cannot be read, is no XML or none of CVAT, or has a document type.
    """
    parser = _Parser(path)
    try:
        with path.open("rb") as file:
            while chunk := file.read(_CHUNK):
                parser.expat.Parse(chunk, False)
                done, parser.done = parser.done, []
                yield from done
            parser.expat.Parse(b"", True)
    except UsageError:
        raise
    except expat.ExpatError as error:
        value = f"{path}:{error.lineno}: not XML ({expat.errors.messages[error.code]})"
        raise UsageError(value, "export it again") from error
    except (LookupError, ValueError) as error:  # An encoding that nobody knows.
        raise UsageError(f"{path}: {error}", "save it as UTF-8") from error
    except OSError as error:
        raise UsageError(f"{path}: {error.strerror}", "make it a readable file") from error
    yield from parser.done


def shape_row(node: Node, label: str | None = None, track: str | None = None) -> list[Any]:
    """A shape as JSON data: its line, tag, attributes and marks. A box of a track has its label and number there."""
    attributes = {name: text for name, text in node.attributes.items() if name in _OF_SHAPE}
    marks = {mark.attributes.get("name", ""): mark.text for mark in node.all("attribute")}
    if label is not None:
        attributes["label"] = label
    if track is not None:
        marks[_TRACK] = track
    return [node.line, node.tag, attributes, {name: text for name, text in marks.items() if name in _MARKS}]


def is_ignored(marks: Mapping[str, str]) -> bool:
    """Whether a checkbox says that a shape is to be ignored."""
    return any(marks.get(name, "").lower() in _SET for name in _IGNORE)


def is_truncated(marks: Mapping[str, str]) -> bool:
    """Whether a checkbox says that the border cuts the object."""
    return any(marks.get(name, "").lower() in _SET for name in _TRUNCATED)


def track_of(marks: Mapping[str, str]) -> int | None:
    """The track of a shape, where an attribute says one."""
    text = marks.get(_TRACK, "")
    is_number = text.isascii() and text.isdecimal() and len(text) < 20
    return int(text) if is_number and int(text) < 2**63 else None


def shape_outline(tag: str, attributes: Mapping[str, str], size: Size) -> Outline:
    """The box of a shape in an image of `size`, and its polygon or mask where it is one.

    Raises:
        ValueError: it is no shape with a box, or its numbers are none.
    """
    if tag == "box":
        return _box(attributes)
    if tag == "polygon":
        return outline_of(_points(attributes.get("points", "")))
    if tag == "ellipse":
        return _ellipse(attributes)
    if tag == "mask":
        return _mask(attributes, size)
    raise ValueError(f"a <{tag}> has no box")


def _number(attributes: Mapping[str, str], name: str, default: str = "") -> float:
    text = attributes.get(name, default)
    try:
        return float(text)
    except ValueError:
        raise ValueError(f"{name} {text!r} is no number"[:200]) from None


def _box(attributes: Mapping[str, str]) -> Outline:
    x0, y0, x1, y1 = (_number(attributes, name) for name in _CORNERS)
    angle = math.radians(_number(attributes, "rotation", "0"))
    if not angle:
        return Outline((x0, y0, x1, y1))
    if not math.isfinite(angle):
        raise ValueError(f"rotation {attributes['rotation']!r} is no angle")
    # Degrees, clockwise on the screen, around the centre.
    x, y = (x0 + x1) / 2, (y0 + y1) / 2
    cos, sin = math.cos(angle), math.sin(angle)
    corners = [(x0 - x, y0 - y), (x1 - x, y0 - y), (x1 - x, y1 - y), (x0 - x, y1 - y)]
    return outline_of([(x + u * cos - v * sin, y + u * sin + v * cos) for u, v in corners])


def _points(text: str) -> list[tuple[float, float]]:
    """Points written as `x,y;x,y`.

    Raises:
        ValueError: they are not.
    """
    points = []
    for part in text.split(";"):
        x, _, y = part.partition(",")
        try:
            points.append((float(x), float(y)))
        except ValueError:
            raise ValueError(f"the point {part!r} is not x,y"[:200]) from None
    return points


def _ellipse(attributes: Mapping[str, str]) -> Outline:
    x, y, rx, ry = (_number(attributes, name) for name in _AXES)
    angle = math.radians(_number(attributes, "rotation", "0"))
    if not math.isfinite(angle):
        raise ValueError(f"rotation {attributes['rotation']!r} is no angle")
    # How far an ellipse reaches along x and y when it is turned.
    half_width = math.hypot(rx * math.cos(angle), ry * math.sin(angle))
    half_height = math.hypot(rx * math.sin(angle), ry * math.cos(angle))
    area = math.pi * abs(rx * ry)
    box = (x - half_width, y - half_height, x + half_width, y + half_height)
    return Outline(box, area=area if math.isfinite(area) else None)


def _mask(attributes: Mapping[str, str], size: Size) -> Outline:
    """A mask: run lengths along the rows of its box, background first."""
    fields = [_number(attributes, name) for name in _PLACE]
    if not all(field.is_integer() for field in fields):
        raise ValueError(f"a mask at {fields}, which are no whole pixels")
    left, top, width, height = map(int, fields)
    box = (float(left), float(top), float(left + width), float(top + height))
    if left < 0 or top < 0 or width < 1 or height < 1 or left + width > size[1] or top + height > size[0]:
        return Outline(box)  # It leaves the image, which is found to be so.
    try:
        runs = [int(run) for run in attributes.get("rle", "").split(",")]
    except ValueError:
        raise ValueError("an rle that is no list of whole numbers") from None
    if min(runs) < 0 or sum(runs) != width * height:
        raise ValueError(f"an rle of {sum(runs)} px in a box of {width * height} px"[:200])
    pixels = np.zeros(size, np.bool_)
    inside = np.repeat(np.arange(len(runs)) % 2, runs) == 1
    pixels[top : top + height, left : left + width] = inside.reshape(height, width)
    return Outline(box, pixels_to_segmentation(pixels), float(inside.sum()))
