"""The label file of one image, or objects written into a list of pairs: YOLO text, Pascal VOC XML, LabelMe or our JSON.

| file    | an object is                                                                            | track id    |
|---------|-----------------------------------------------------------------------------------------|-------------|
| `.txt`  | a line `class cx cy w h [track]`, or `class x1 y1 x2 y2 x3 y3 ...`; relative to the size | sixth field |
| `.xml`  | `<object>` with `name`, `bndbox` (1-based inclusive px), `difficult`, `truncated`       | `trackid`   |
| `.json` | LabelMe: one of `shapes`, px; `ignore` (or `difficult`) and `truncated` are `flags`      | none        |
| `.json` | a list of `{"box": [x0, y0, x1, y1] px, "class": name}`, optionally `change` (moved,    | `track`     |
|         | appeared, vanished), `ignore`, `truncated` (true or false), `area` (px2) and COCO's     |             |
|         | `segmentation`                                                                          |             |

The last one is also what stands within a line of a JSON-lines list. LabelMe's `group_id` joins the shapes of one image
and is no track id.
"""

import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any
from xml.etree import ElementTree

import numpy as np

from dataflow.boxes import Size, cxcywh_to_xyxy, tfds_to_xyxy, voc_to_xyxy
from dataflow.findings import Code
from dataflow.records import Change
from tfds_builders.formats.labelme_shapes import declared_size, has_flag, name_of, outline_of_shape
from tfds_builders.sources.inspection import Corners, Declared, Inspection, RawObject
from tfds_builders.sources.masks import segmentation_area
from tfds_builders.sources.outlines import outline_of
from tfds_builders.sources.photo import inside_root

Place = int | str
ClassOf = Callable[[int | str, str, Place], int | None]
"""A class number or name, the file and the place in it, to the contiguous id; or None and a finding."""

CHANGES = {change.name.lower(): change for change in Change if change is not Change.NONE}
_MISSING = "add one (without objects if the image shows none), or repair to take it for background"
_IGNORE = ("difficult", "ignore", "crowd", "is_crowd", "iscrowd")
_LARGEST_TRACK = 2**63 - 1
_CORNERS = ("xmin", "ymin", "xmax", "ymax")
_TRACK = "use whole numbers from 0, each once in an image"


@dataclass(frozen=True)
class FrameLabels:
    """What a label file says of its image: objects in px, the size it claims, and whether numbers were relative."""

    raw: tuple[RawObject, ...] = ()
    declared: Declared | None = None
    relative: bool = False


@dataclass(frozen=True)
class _Reader:
    """What every parser needs: where findings go, which file it is, and what the classes are."""

    look: Inspection
    file: str
    size: Size
    class_of: ClassOf

    def malformed(self, value: str, remedy: str, place: Place | None) -> None:
        self.look.find(Code.LABEL_MALFORMED, self.file, value, remedy, place, repaired=self.look.repair)


def read_label_file(look: Inspection, root: Path, file: str, size: Size, class_of: ClassOf) -> FrameLabels:
    """The objects of a label file of an image of `size` (height, width); what is wrong with it becomes findings."""
    data = look.read_annotation(root, file, _MISSING)
    if data is None:
        return FrameLabels()
    found = len(look.findings)
    reader = _Reader(look, file, size, class_of)
    labels = _PARSERS[PurePosixPath(file).suffix.lower()](reader, data)
    if not labels.raw and len(look.findings) == found:
        look.note_empty(file)
    return labels


def has_class_numbers(cell: str | list[Any]) -> bool:
    """Whether a label file (or list of objects) numbers its classes instead of naming them."""
    return isinstance(cell, str) and PurePosixPath(cell).suffix.lower() == ".txt"


def class_names(root: Path, cell: str | list[Any] | None) -> set[str]:
    """The class names that a label file (or list of objects) uses; none where it cannot be read: loading says why."""
    listed: list[Any] = []
    if isinstance(cell, list):
        listed = [item.get("class") for item in cell if isinstance(item, Mapping)]
    elif cell is None or not inside_root(root, root / cell):
        listed = []
    else:
        try:
            listed = _names_in((root / cell).read_bytes(), PurePosixPath(cell).suffix.lower())
        except (OSError, ElementTree.ParseError, ValueError, LookupError, RecursionError):
            listed = []
    return {name.strip() for name in listed if isinstance(name, str)}


def _names_in(data: bytes, suffix: str) -> list[Any]:
    if suffix == ".xml":
        return [item.findtext("name") for item in ElementTree.fromstring(data).iter("object")]
    content = json.loads(data.decode("utf-8-sig"))
    if isinstance(content, list):
        return [item.get("class") for item in content if isinstance(item, Mapping)]
    shapes = content.get("shapes") if isinstance(content, Mapping) else None
    return [shape.get("label") for shape in (shapes if isinstance(shapes, list) else []) if isinstance(shape, Mapping)]


def is_label_file(file: str) -> bool:
    """Whether its suffix is one of those that `read_label_file` reads."""
    return PurePosixPath(file).suffix.lower() in _PARSERS


def parse_listed(
    look: Inspection, value: Sequence[Any], file: str, size: Size, class_of: ClassOf, *, pointer: str
) -> FrameLabels:
    """The objects in a JSON list; `pointer` is where the list itself is in `file`."""
    reader = _Reader(look, file, size, class_of)
    items = (_listed(reader, item, f"{pointer}/{number}") for number, item in enumerate(value))
    return FrameLabels(tuple(item for item in items if item is not None))


def _parse_yolo(reader: _Reader, data: bytes) -> FrameLabels:
    items = []
    for number, text in enumerate(data.decode("utf-8-sig", errors="replace").splitlines(), 1):
        fields = text.split()
        item = _yolo_line(reader, fields, number) if fields else None
        if item is not None:
            items.append(item)
    return FrameLabels(tuple(items), relative=True)


def _yolo_line(reader: _Reader, fields: Sequence[str], line: int) -> RawObject | None:
    track = _track(fields[5]) if len(fields) == 6 else None
    try:
        values = [float(text) for text in (fields if track is None else fields[:5])]
    except ValueError:
        values = []
    if not values or not (len(values) == 5 or (len(values) >= 7 and len(values) % 2)) or not values[0].is_integer():
        remedy = "write `class cx cy w h`, a track id behind it, or `class x1 y1 x2 y2 x3 y3 ...`"
        reader.malformed(f"the line {' '.join(fields)!r}"[:200], remedy, line)
        return None
    category = reader.class_of(int(values[0]), reader.file, line)
    if category is None:
        return None
    if len(values) > 5:
        yx = np.reshape(values[1:], (-1, 2))[:, ::-1]
        outline = outline_of(tfds_to_xyxy(np.hstack([yx, yx]), reader.size)[:, :2].tolist())
        return RawObject(outline.box, category, line, outline.area, segmentation=outline.segmentation)
    return RawObject(_corners(cxcywh_to_xyxy([values[1:]], reader.size)), category, line, track_id=track)


def _track(text: str) -> int | None:
    """A track id; None for a text that is none."""
    return int(text) if text.isdecimal() and len(text) < 20 and int(text) <= _LARGEST_TRACK else None


def _parse_voc(reader: _Reader, data: bytes) -> FrameLabels:
    try:
        tree = ElementTree.fromstring(data)
    except (ElementTree.ParseError, ValueError, LookupError) as error:  # The latter two: encodings it does not know.
        line = error.position[0] if isinstance(error, ElementTree.ParseError) else 1
        reader.look.find(Code.LABEL_MALFORMED, reader.file, f"not XML: {error}", "export it again", line)
        return FrameLabels()
    items = [_voc_object(reader, item, number) for number, item in enumerate(tree.iter("object"), 1)]
    declared = _declared(tree)
    return FrameLabels(tuple(item for item in items if item is not None), declared)


def _voc_object(reader: _Reader, item: ElementTree.Element, number: int) -> RawObject | None:
    pointer = f"/annotation/object[{number}]"
    category = reader.class_of((item.findtext("name") or "").strip(), reader.file, f"{pointer}/name")
    if category is None:
        return None
    corners = [(item.findtext(f"bndbox/{corner}") or "").strip() for corner in _CORNERS]
    try:
        box = _corners(voc_to_xyxy([[float(corner) for corner in corners]]))
    except ValueError:
        reader.malformed(f"bndbox {corners}", "write xmin, ymin, xmax and ymax in pixels", f"{pointer}/bndbox")
        return None
    track = (item.findtext("trackid") or item.findtext("track_id") or "").strip()
    if track and _track(track) is None:
        reader.malformed(f"track id {track!r}", _TRACK, f"{pointer}/trackid")
        return None
    ignored, truncated = ((item.findtext(mark) or "").strip() == "1" for mark in ("difficult", "truncated"))
    return RawObject(
        box,
        category,
        f"{pointer}/bndbox",
        is_crowd=ignored,
        is_truncated=truncated,
        track_id=_track(track),
    )


def _parse_json(reader: _Reader, data: bytes) -> FrameLabels:
    try:
        content = json.loads(data.decode("utf-8-sig"))
    except (ValueError, RecursionError) as error:  # ValueError: of JSON, or of its encoding.
        line = error.lineno if isinstance(error, json.JSONDecodeError) else 1
        reader.look.find(Code.LABEL_MALFORMED, reader.file, f"not JSON: {error}", "export it again", line)
        return FrameLabels()
    if isinstance(content, list):
        return parse_listed(reader.look, content, reader.file, reader.size, reader.class_of, pointer="")
    shapes = content.get("shapes") if isinstance(content, Mapping) else None
    if not isinstance(shapes, list):
        remedy = "give LabelMe's JSON, or a list of objects with box and class"
        reader.look.find(Code.LABEL_MALFORMED, reader.file, "neither `shapes` nor a list", remedy, "")
        return FrameLabels()
    items = [_shape(reader, shape, f"/shapes/{number}") for number, shape in enumerate(shapes)]
    return FrameLabels(tuple(item for item in items if item is not None), declared_size(content))


def _shape(reader: _Reader, shape: Any, pointer: str) -> RawObject | None:
    """A shape of LabelMe."""
    try:
        name, outline = name_of(shape), outline_of_shape(shape)
    except ValueError as error:
        reader.malformed(str(error), "draw it again as a rectangle or polygon, or delete it", pointer)
        return None
    category = reader.class_of(name, reader.file, f"{pointer}/label")
    if category is None:
        return None
    return RawObject(
        outline.box,
        category,
        pointer,
        outline.area,
        is_crowd=has_flag(shape, _IGNORE),
        is_truncated=has_flag(shape, ("truncated",)),
        segmentation=outline.segmentation,
    )


def _listed(reader: _Reader, item: Any, pointer: str) -> RawObject | None:
    """An object of a JSON list."""
    if not isinstance(item, Mapping):
        reader.malformed(f"{item!r} is no object"[:200], 'write {"box": [x0, y0, x1, y1], "class": name}', pointer)
        return None
    box = _numbers(item.get("box"), 4)
    problem = _wrong(item, box, reader.size)
    if problem or box is None:
        key, remedy = problem or ("box", "")
        reader.malformed(f"{key} is {item.get(key)!r}"[:200], remedy, f"{pointer}/{key}" if key in item else pointer)
        return None
    category = reader.class_of(item["class"], reader.file, f"{pointer}/class")
    if category is None:
        return None
    mask, area = item.get("segmentation"), item.get("area")
    text = json.dumps(mask, separators=(",", ":")) if mask is not None else ""
    return RawObject(
        (box[0], box[1], box[2], box[3]),
        category,
        f"{pointer}/box",
        area=float(area) if area is not None else segmentation_area(text, reader.size) if text else None,
        is_crowd=item.get("ignore") is True,
        track_id=item.get("track"),
        is_truncated=item.get("truncated") is True,
        segmentation=text,
        change=CHANGES.get(item.get("change") or ""),
        in_before=item.get("in_before") is True,
    )


def _wrong(item: Mapping[str, Any], box: list[float] | None, size: Size) -> tuple[str, str] | None:
    """The first key of a listed object whose value makes no sense, and the remedy. None stands for an absent key."""
    if box is None:
        return "box", "write [x0, y0, x1, y1] in pixels"
    if not isinstance(item.get("class"), str):
        return "class", "write the name of its class"
    change, track, area, mask = (item.get(key) for key in ("change", "track", "area", "segmentation"))
    if change is not None and (not isinstance(change, str) or change not in CHANGES):
        return "change", f"write one of {', '.join(CHANGES)}, or leave it out"
    if track is not None and (type(track) is not int or not 0 <= track <= _LARGEST_TRACK):
        return "track", "write a whole number from 0, or leave it out"
    for key in ("ignore", "truncated", "in_before"):
        if not isinstance(item.get(key), bool | None):
            return key, "write true or false"
    if area is not None and (_numbers([area], 1) is None or not 0 < area < np.finfo(np.float32).max):
        return "area", "write its area in square pixels, or leave it out"
    if mask is not None:
        try:
            segmentation_area(json.dumps(mask), size)
        except ValueError as error:
            return "segmentation", f"{error}; write polygons or run lengths as COCO has them"
    return None


def _numbers(value: Any, count: int) -> list[float] | None:
    """So many numbers of a JSON list as float32 (too large ones become infinite), or None."""
    if not isinstance(value, list) or len(value) != count:
        return None
    if not all(isinstance(number, int | float) and not isinstance(number, bool) for number in value):
        return None
    with np.errstate(over="ignore"):
        try:
            found: list[float] = np.array(value, np.float64).astype(np.float32).tolist()
        except OverflowError:  # A whole number beyond float64.
            return [math.inf] * count
    return found


def _corners(boxes: np.ndarray) -> Corners:
    x0, y0, x1, y1 = boxes[0].tolist()
    return x0, y0, x1, y1


def _declared(tree: ElementTree.Element) -> Declared | None:
    """The size that an XML file claims, or None where it claims none; some tools write 0."""
    try:
        height, width = (int(tree.findtext(f"size/{side}") or 0) for side in ("height", "width"))
    except ValueError:
        return None
    return Declared((height, width), "/annotation/size") if height > 0 and width > 0 else None


_PARSERS: Mapping[str, Callable[[_Reader, bytes], FrameLabels]] = {
    ".txt": _parse_yolo,
    ".xml": _parse_voc,
    ".json": _parse_json,
}
