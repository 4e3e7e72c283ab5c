"""CVAT for images 1.1: `annotations.xml`, which lists `<image>`s with their shapes, and the images beside it.

A source is a directory with `annotations.xml` and `images/` (or the images right in it), or the XML file. The labels
of its `<meta>` are the classes, the `subset` of an image is its split. Boxes, ellipses, polygons and masks are read;
of polygons and masks the outline is kept. The checkbox attributes `is_crowd` or `difficult` make regions to ignore,
`truncated` says that the border cuts an object, and `track_id` is its track.

CVAT for video 1.1 has `<track>`s instead of `<image>`s. They are read where the frames are images whose names end in
the frame number, such as `images/frame_000007.jpg`; the video itself is not read.
"""

import json
import os
import posixpath
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dataflow.boxes import Size
from dataflow.errors import UsageError
from dataflow.findings import Code, Finding
from dataflow.records import Categories, RecordError
from dataflow.schema import Kind
from dataflow.shards import Outcome
from tfds_builders.formats.cvat_xml import Node, is_ignored, is_truncated, nodes, shape_outline, shape_row, track_of
from tfds_builders.sources.classes import Classes, named_classes
from tfds_builders.sources.inspection import Declared, Inspection, RawObject
from tfds_builders.sources.photo import IMAGE_SUFFIXES, file_size, files_below, inside_root
from tfds_builders.sources.source import Checks, Listing, Reference, file_stamp

ANNOTATIONS = "annotations.xml"
IMAGES = "images"
SPLITS = {"training": "train", "val": "validation", "valid": "validation", "testing": "test", "default": None}
_SPLIT = re.compile(r"[a-z][a-z0-9_]*")
_FRAME = re.compile(r"([0-9]{1,15})$")
_LAYOUT = f"give a directory with {ANNOTATIONS} and {IMAGES}/, as CVAT exports it with its images"
_NO_OBJECTS = ("attribute", "tag")


@dataclass(frozen=True)
class CvatSource:
    """A CVAT export as `open_cvat` found it; `file` and the folder `images` are relative to `root`."""

    root: Path
    file: str
    images: str
    """The folder of images, "" for the root itself."""
    classes: Classes
    video_size: Size | None = None
    """(height, width) px of the frames of tracks, where the file says it."""
    has_tracks: bool = False
    kind: Kind = "images"

    @property
    def categories(self) -> Categories:
        """The classes."""
        return self.classes.categories

    def scan(self) -> Listing:
        """Every image that is listed or there; what belongs to none are findings."""
        files = image_files(self.root, self.images)
        known = frozenset(files)
        listed: dict[str, dict[str, Any]] = {}
        references: list[Reference] = []
        findings: list[Finding] = list(self.classes.findings)
        frames: dict[int, list[Any]] = {}
        for node in nodes(self.root / self.file):
            if node.tag == "track":
                findings += _add_track(self.file, node, frames)
            elif node.tag == "image" and not node.attributes.get("name", "").strip("/."):
                value, remedy = f"the name {node.attributes.get('name')!r}", "name the image's file"
                findings.append(Finding(Code.LABEL_MALFORMED, "error", self.file, value, remedy, node.line))
            elif node.tag == "image":
                file = self._file_of(node, known)
                payload = _payload(node, file)
                first = listed.setdefault(os.path.normpath(file), payload)
                if first is not payload:
                    payload["twice"] = first["line"]
                references.append(self._reference(file, payload, split_of_subset(node.attributes.get("subset", ""))))
        rest = [file for file in files if os.path.normpath(file) not in listed]
        if self.has_tracks:
            found, lost = self._frames(rest, frames)
            references += found
            findings += lost
            rest = [file for file in rest if frame_number(file) is None]
        references += [self._reference(file, {"file": file, "line": None}, None) for file in rest]
        return Listing(tuple(sorted(references, key=lambda reference: reference.image_id)), tuple(findings))

    def _file_of(self, node: Node, known: frozenset[str]) -> str:
        """The image file of an element; where there is none, the one that should be there."""
        name, subset = node.attributes["name"], node.attributes.get("subset", "")
        candidates = (posixpath.join(self.images, name), posixpath.join(self.images, subset, name), name)
        return next((file for file in candidates if file in known), candidates[0])

    def _reference(self, file: str, payload: dict[str, Any], split: str | None, scene: str | None = None) -> Reference:
        name = self._image_id(file)
        image_id = f"{self.file}:{payload['line']}" if payload.get("twice") else name
        path = self.root / file
        return Reference(image_id, scene or name, file_size(path), payload, file, split, file_stamp(path))

    def _image_id(self, file: str) -> str:
        below = file.removeprefix(f"{self.images}/") if self.images else file
        return posixpath.splitext(below)[0]

    def _frames(self, files: Sequence[str], frames: dict[int, list[Any]]) -> tuple[list[Reference], list[Finding]]:
        """The frames of a video that are images; one finding for all that are not."""
        references = []
        for file in files:
            number = frame_number(file)
            if number is None:
                continue
            rows = frames.pop(number, [])
            line = rows[0][0] if rows else 0
            size = [*self.video_size, None] if self.video_size else None
            payload = {"file": file, "line": line, "id": "", "size": size, "rows": _encode(rows)}
            scene = posixpath.dirname(self._image_id(file)) or self.root.resolve().name
            references.append(self._reference(file, payload, None, scene))
        if not frames:
            return references, []
        boxes = sum(map(len, frames.values()))
        value = f"{boxes} boxes of {len(frames)} frames without image, from frame {min(frames)} on"
        remedy = "nothing to do if only some frames were taken from the video; else add the others"
        line = min(rows[0][0] for rows in frames.values())
        return references, [Finding(Code.LABEL_WITHOUT_IMAGE, "info", self.file, value, remedy, line)]

    def image_path(self, reference: Reference) -> Path:
        """The image file."""
        return self.root / str(reference.payload["file"])

    def load(self, reference: Reference, checks: Checks) -> Outcome:
        """Read one image and check its shapes."""
        look = Inspection(reference.image_id, checks)
        payload = reference.payload
        line = payload["line"]
        if payload.get("twice"):
            value = f"{payload['file']} is listed at line {payload['twice']} already"
            look.find(Code.LISTED_TWICE, self.file, value, "move its shapes there and delete this <image>", line)
            return look.made(reference, None)
        photo = look.read_image(self.root, payload["file"])
        if photo is None:
            return look.made(reference, None)
        if line is None:
            remedy = "list it (without shapes if it shows no object), or repair to take it for background"
            value = f"no <image> is named {payload['file']}"
            look.find(Code.LABEL_MISSING, self.file, value, remedy, repaired=look.repair)
        size = payload.get("size")
        declared = Declared((size[0], size[1]), size[2]) if size else None
        raw = list(self._raw(look, json.loads(payload.get("rows", "[]")), photo.size))
        objects = look.objects(raw, photo, self.file, declared)
        provenance = f"{self.file}:{line}" if line else self.file
        return look.outcome(reference, photo, objects, provenance=provenance, source_id=payload.get("id", ""))

    def _raw(self, look: Inspection, rows: Sequence[Sequence[Any]], size: Size) -> Iterator[RawObject]:
        names = {name: number for number, name in enumerate(self.categories.names)}
        for row in rows:
            line, tag, attributes, marks = row
            try:
                outline = shape_outline(tag, attributes, size)
            except ValueError as error:
                remedy = "draw it again as a box or polygon, or delete it"
                look.find(Code.LABEL_MALFORMED, self.file, str(error), remedy, line, repaired=look.repair)
                continue
            label = _label(row)
            category = look.class_id(self.classes, names.get(label), repr(label), self.file, line)
            if category is not None:
                yield RawObject(
                    outline.box,
                    category,
                    line,
                    area=outline.area,
                    is_crowd=is_ignored(marks),
                    track_id=track_of(marks),
                    is_truncated=is_truncated(marks),
                    segmentation=outline.segmentation,
                )


_encode = json.JSONEncoder(separators=(",", ":"), check_circular=False).encode


def _label(row: Sequence[Any]) -> str:
    return str(row[2].get("label", "")).strip()


def split_of_subset(subset: str) -> str | None:
    """The split that a subset means; None where it is none, or none that could be named so."""
    name = subset.strip().lower()
    name = SPLITS.get(name, name) or ""
    return name if _SPLIT.fullmatch(name) else None


def frame_number(file: str) -> int | None:
    """The number that the name of an image ends in."""
    match = _FRAME.search(posixpath.splitext(posixpath.basename(file))[0])
    return int(match[1]) if match else None


def _payload(node: Node, file: str) -> dict[str, Any]:
    rows = [shape_row(child) for child in node.children if child.tag not in _NO_OBJECTS]
    sides = [node.attributes.get(side, "") for side in ("height", "width")]
    size = [*map(int, sides), node.line] if all(map(_is_size, sides)) else None
    return {"file": file, "line": node.line, "id": node.attributes.get("id", ""), "size": size, "rows": _encode(rows)}


def _is_size(text: str) -> bool:
    return text.isascii() and text.isdecimal() and 0 < len(text) < 10 and int(text) > 0


def _add_track(file: str, track: Node, frames: dict[int, list[Any]]) -> Iterator[Finding]:
    """The shapes of a track into `frames`, by frame number; those that are outside the picture are none."""
    for shape in track.children:
        if shape.tag in _NO_OBJECTS or shape.attributes.get("outside") == "1":
            continue
        number = shape.attributes.get("frame", "")
        if not (number.isascii() and number.isdecimal() and len(number) < 16):
            value, remedy = f"a <{shape.tag}> of frame {number!r}"[:200], "give it the number of its frame"
            yield Finding(Code.LABEL_MALFORMED, "error", file, value, remedy, shape.line)
            continue
        row = shape_row(shape, track.attributes.get("label", ""), track.attributes.get("id"))
        frames.setdefault(int(number), []).append(row)


def image_files(root: Path, folder: str) -> list[str]:
    """The image files below a folder of the source, sorted, relative to `root`."""
    return sorted(path.relative_to(root).as_posix() for path in files_below(root / folder, IMAGE_SUFFIXES))


def open_cvat(source: Path, names: Sequence[str] = ()) -> CvatSource:
    """A CVAT source from its directory or XML file. Without `names` the classes are the labels of its `<meta>`, in
    their order, or where it has none those that occur, sorted.

    Raises:
        UsageError: no such file, no CVAT file, no images, no class, or a video whose frames are no images.
    """
    path = source if source.is_file() else source / ANNOTATIONS
    root = path.parent
    if not path.is_file():
        raise UsageError(f"{source} holds no {ANNOTATIONS}", _LAYOUT)
    images = IMAGES if (root / IMAGES).is_dir() else ""
    for place in (path, root / images):
        if not inside_root(root, place):
            raise UsageError(f"{place} is a link out of {root}", "copy it into the source")
    summary = _summarise(path)
    files = image_files(root, images)
    if not files:
        raise UsageError(f"{root / images} holds no image", "export from CVAT with `Save images`")
    if summary.frames:
        _check_frames(path, files, summary.frames)
    found = tuple(names) or summary.labels or summary.used
    if not found:
        raise UsageError(f"{path} names no class", "annotate an object, or pass --names a,b,c")
    try:
        classes = named_classes(found)
    except RecordError as error:
        raise UsageError(f"{path}: {error.message}", error.remedy) from error
    return CvatSource(root, path.name, images, classes, summary.video_size, summary.has_tracks)


@dataclass(frozen=True)
class _Summary:
    """What a CVAT file says as a whole."""

    labels: tuple[str, ...]
    """Those of `<meta>`."""
    used: tuple[str, ...]
    """Those of shapes that could be names of classes, sorted."""
    frames: frozenset[int]
    video_size: Size | None
    has_tracks: bool


def _summarise(path: Path) -> _Summary:
    labels: list[str] = []
    used: set[str] = set()
    frames: dict[int, list[Any]] = {}
    size = None
    counts: Counter[str] = Counter()
    for node in nodes(path):
        counts[node.tag] += 1
        if node.tag == "meta":
            labels += _labels(node)
            size = size or _video_size(node)
        elif node.tag == "track":
            used.add(node.attributes.get("label", "").strip())
            for _ in _add_track(path.name, node, frames):  # Its findings are those of the scan.
                pass
            frames = {number: [] for number in frames}
        elif node.tag == "image":
            used.update(_label(shape_row(child)) for child in node.children if child.tag not in _NO_OBJECTS)
    if not counts["image"] and not counts["track"]:
        raise UsageError(f"{path} lists no <image>", "export as `CVAT for images 1.1`")
    fitting = sorted(filter(_is_name, used))
    return _Summary(tuple(dict.fromkeys(labels)), tuple(fitting), frozenset(frames), size, counts["track"] > 0)


def _labels(meta: Node) -> Iterator[str]:
    """The labels of a task, job or project; parts of skeletons have a `<parent>`."""
    for owner in ("task", "job", "project"):
        for label in meta.all(owner, "labels", "label"):
            if not any(parent.text for parent in label.all("parent")):
                yield from (name.text for name in label.all("name") if name.text)


def _video_size(meta: Node) -> Size | None:
    sides = [next((node.text for node in meta.all("task", "original_size", side)), "") for side in ("height", "width")]
    return (int(sides[0]), int(sides[1])) if all(map(_is_size, sides)) else None


def _is_name(text: str) -> bool:
    try:
        Categories((text,))
    except RecordError:
        return False
    return True


def _check_frames(path: Path, files: Sequence[str], frames: frozenset[int]) -> None:
    """The frames of tracks must be found among the images.

    Raises:
        UsageError: none of them is, or an image is not the only one of its number.
    """
    by_number: dict[int, str] = {}
    for file in files:
        number = frame_number(file)
        if number is not None and by_number.setdefault(number, file) != file:
            value = f"{path} has tracks, and both {by_number[number]} and {file} are frame {number}"
            raise UsageError(value, "ingest one video at a time, or export as `CVAT for images 1.1`")
    if not frames & by_number.keys():
        raise UsageError(
            f"{path} has the tracks of a video, and none of its frames is an image",
            "export as `CVAT for images 1.1`, or write the frames to images/frame_000000.jpg and so on",
        )
