"""Looking at the annotations of one image: what is wrong becomes findings, what is right becomes a record."""

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from dataflow import boxes
from dataflow.beam.step_times import reading
from dataflow.boxes import LEAST_SIDE_PX
from dataflow.errors import UsageError
from dataflow.findings import Code, Finding, Severity, printable
from dataflow.records import Change, ImageRecord, Objects
from dataflow.schema import record_to_example
from dataflow.shards import Outcome
from tfds_builders.sources.classes import Classes
from tfds_builders.sources.photo import Photo, inside_root, read_photo
from tfds_builders.sources.source import Checks, Reference

# A box may leave the image by this much and be cut without ado: annotation tools round to whole pixels.
EDGE_TOLERANCE_PX = 1.0
# What float32 makes of a box at the border of a large image: not worth a finding.
ROUNDING_PX = 1e-2
# Below and above these an object is likelier a slip of the mouse than an object.
LEAST_AREA_PX2 = 4.0
LARGEST_ASPECT = 50.0

Corners = tuple[float, float, float, float]


@dataclass(frozen=True)
class RawObject:
    """One annotation as a source has it, its box already in pixels (xyxy) but not yet checked."""

    box: Corners
    category_id: int
    line: int | str
    area: float | None = None
    """Area in px2 where the source knows better than the box; None for the box's own."""
    is_crowd: bool = False
    track_id: int | None = None
    is_truncated: bool = False
    segmentation: str = ""
    """COCO's `segmentation` as JSON, in pixels."""
    change: Change | None = None
    """What happened to it, where the source says so (lists of pairs do)."""
    in_before: bool = False
    """Of a pair: whether this is where it was before, not where it is after."""


@dataclass(frozen=True)
class Declared:
    """The (height, width) that annotations say their image has, and where they say so."""

    size: boxes.Size
    line: int | str | None = None


@dataclass
class Inspection:
    """The findings of one image (or pair) while it is looked at."""

    image_id: str
    checks: Checks
    outside_by_design: bool = False
    """Whether boxes of this format routinely leave the image (tracks do): they are cut, not refused."""
    findings: list[Finding] = field(default_factory=list)
    unknown_classes: list[int] = field(default_factory=list)
    _class_numbers: tuple[int, ...] = field(default=(), init=False)
    """The source's number of each class."""
    _classes_met: set[int] = field(default_factory=set, init=False)

    @property
    def repair(self) -> bool:
        """Whether what can be repaired is."""
        return self.checks.repair

    def find(
        self,
        code: Code,
        file: str,
        value: str,
        remedy: str,
        line: int | str | None = None,
        *,
        severity: Severity = "error",
        repaired: bool = False,
        box: Corners | None = None,
    ) -> None:
        """Note a finding about this image."""
        shown = tuple(float(number) for number in box) if box and all(map(math.isfinite, box)) else None
        self.findings.append(Finding(code, severity, file, value, remedy, line, self.image_id, repaired, shown))  # type: ignore[arg-type]

    @property
    def refused(self) -> bool:
        """Whether something was found that keeps the image out."""
        return any(finding.severity == "error" and not finding.repaired for finding in self.findings)

    def read_image(self, root: Path, file: str) -> Photo | None:
        """An image file below `root`, or None and a finding."""
        photo, problems = read_photo(root, file, self.checks)
        for problem in problems:
            self.find(problem.code, file, problem.value, problem.remedy, severity=problem.severity)
        return photo

    def read_annotation(self, root: Path, file: str, missing: str) -> bytes | None:
        """The bytes of one image's own annotation file, or None and a finding; `missing` is the remedy without one."""
        path = root / file
        try:
            if not inside_root(root, path):
                self.find(Code.IMAGE_OUTSIDE_ROOT, file, "the path leaves the source", "keep annotations below it")
                return None
            with reading():
                return path.read_bytes()
        except FileNotFoundError:
            value = "the image has no label file"
            self.find(Code.LABEL_MISSING, file, value, missing, repaired=self.repair)
        except UsageError:  # Of a store that cannot be used.
            raise
        except (OSError, ValueError) as error:  # ValueError: a name that no file can have.
            value = getattr(error, "strerror", None) or str(error)
            self.find(Code.LABEL_MALFORMED, file, value, "make it a readable file")
        return None

    def note_empty(self, file: str) -> None:
        """An annotation file without objects says background; that is worth knowing where it was not meant."""
        remedy = "nothing to do if the image shows no object; else annotate it"
        self.find(Code.LABEL_EMPTY, file, "it names no object", remedy, severity="info")

    def class_id(self, classes: Classes, number: int | None, shown: str, file: str, line: int | str) -> int | None:
        """The contiguous id of a class number as the source has it (`shown` is how), or None and a finding."""
        found = classes.by_number.get(number) if number is not None else None
        if found is None:
            if number is not None:
                self.unknown_classes.append(number)
                self._class_numbers = classes.categories.source_ids
            value, remedy = f"class {shown} of {len(classes.ids)} classes", "add the class name or fix the id"
            self.find(Code.CLASS_UNKNOWN, file, value, remedy, line, repaired=self.repair)
        elif number in classes.twice:
            value = f"class {shown} has the name of another, {classes.categories.names[found]!r}"
            remedy = "give every class its own name, or repair to make them one class"
            self.find(Code.CLASS_NAMED_TWICE, file, value, remedy, line, repaired=self.repair)
        return found

    def objects(
        self,
        raw: Sequence[RawObject],
        photo: Photo,
        file: str,
        declared: Declared | None = None,
        relative: bool = False,
    ) -> Objects:
        """Checked objects: those that are right, and those that could be cut or left out when repairing.

        `relative`: the source has them relative to the image, so that neither its size nor its units can be mistaken.
        """
        self._classes_met.update(item.category_id for item in raw)
        if declared and declared.size not in (photo.size, photo.stored_size):
            (h0, w0), (h1, w1) = declared.size, photo.size
            value = f"the annotations are of {w0}x{h0} px, the image is {w1}x{h1} px"
            self.find(Code.SIZE_MISMATCH, file, value, "annotate this image again", declared.line)
        if not relative and _looks_relative(raw):
            value = "all boxes lie between 0 and 1, where pixels are expected"
            remedy = "multiply them by the width and height of the image"
            self.find(Code.BOX_UNITS, file, value, remedy, raw[0].line)
            return _objects([])
        if not relative and photo.is_turned and _fits_stored(raw, photo, declared):
            raw = self._turned(raw, photo, file, declared)
        kept = [(item, box) for item in raw if (box := self._checked_box(item, photo.size, file)) is not None]
        return _objects(self._distinct(kept, file))

    def outcome(self, reference: Reference, photo: Photo, objects: Objects, **origin: str) -> Outcome:
        """What becomes of a single image: its example, or none when it was refused, and the findings.

        `origin` are `provenance` and, where there is one, `source_id`.
        """
        example = None if self.refused else record_to_example(self.record(reference, photo, objects, **origin))
        return self.made(reference, example, photo)

    def made(self, reference: Reference, example: dict[str, Any] | None, photo: Photo | None = None) -> Outcome:
        """What became of a reference: this example (or none), and all that was found."""
        sight = photo.sight if photo else None
        unknown = self.unknown_classes
        if unknown and example is None:
            # Whether numbers are shifted by one is told by all that occur, in images that are kept out, too.
            unknown = [*unknown, *sorted(self._class_numbers[index] for index in self._classes_met)]
        return Outcome(reference.image_id, example, tuple(self.findings), sight, tuple(unknown))

    def record(self, reference: Reference, photo: Photo, objects: Objects, **origin: str) -> ImageRecord:
        """The record of a single image; see `outcome`."""
        return ImageRecord(
            image_id=reference.image_id,
            image=photo.data,
            height=photo.size[0],
            width=photo.size[1],
            objects=objects,
            group_id=reference.group_id,
            provenance=printable(origin["provenance"]),
            filename=reference.file,
            source_id=printable(origin.get("source_id", "")),
            orientation=photo.orientation,
        )

    def _turned(
        self, raw: Sequence[RawObject], photo: Photo, file: str, declared: Declared | None
    ) -> Sequence[RawObject]:
        """Objects that were drawn on the pixels as stored, on the upright image where that is repaired."""
        (h0, w0), (h1, w1) = photo.stored_size, photo.size
        value = f"boxes on {w0}x{h0} px as stored, the image upright (EXIF {photo.orientation}) is {w1}x{h1} px"
        line = declared.line if declared else raw[0].line
        remedy = "repair turns them with the image; --exif ignore takes all images as stored"
        self.find(Code.BOX_TURNED, file, value, remedy, line, repaired=self.repair)
        return [
            replace(
                item,
                box=tuple(boxes.stored_to_upright([item.box], photo.stored_size, photo.orientation)[0].tolist()),
                segmentation=_turned_polygons(item.segmentation, photo),
            )
            for item in raw
        ]

    def _checked_box(self, item: RawObject, size: boxes.Size, file: str) -> Corners | None:
        """The box within the image, or None and a finding."""
        if _is_sound(item.box, size):
            return item.box
        text = "box " + ", ".join(f"{number:g}" for number in item.box) + " (x0, y0, x1, y1 px)"
        if not all(math.isfinite(number) for number in item.box):
            self.find(Code.BOX_NOT_FINITE, file, text, "use finite numbers", item.line, repaired=self.repair)
            return None
        x0, y0, x1, y1 = item.box
        if x1 - x0 < LEAST_SIDE_PX or y1 - y0 < LEAST_SIDE_PX:
            remedy = "draw it again or drop it"
            self.find(Code.BOX_EMPTY, file, text, remedy, item.line, repaired=self.repair, box=item.box)
            return None
        clipped = self._clipped(item, text, size, file)
        if clipped is not None:
            self._check_shape(clipped, item, text, file)
        return clipped

    def _clipped(self, item: RawObject, text: str, size: boxes.Size, file: str) -> Corners | None:
        """The box cut at the borders, or None where nothing is left of it."""
        (height, width), (x0, y0, x1, y1) = size, item.box
        beyond = max(-x0, -y0, x1 - width, y1 - height)
        if beyond <= 0:
            return item.box
        clipped: list[float] = boxes.clip_boxes([item.box], size)[0].tolist()
        is_left = clipped[2] - clipped[0] >= LEAST_SIDE_PX and clipped[3] - clipped[1] >= LEAST_SIDE_PX
        where = f"{text} leaves the image of {width}x{height} px by {beyond:.2f} px"
        if beyond > EDGE_TOLERANCE_PX or not is_left:
            severity: Severity = "info" if self.outside_by_design else "error"
            code = Code.BOX_CLIPPED if self.outside_by_design and is_left else Code.BOX_OUTSIDE
            remedy = "nothing to do: cut at the border" if self.outside_by_design else "clip it, or repair"
            repaired = self.repair and severity == "error"
            self.find(code, file, where, remedy, item.line, severity=severity, repaired=repaired, box=item.box)
        elif beyond > ROUNDING_PX:
            remedy = "nothing to do: cut at the border"
            self.find(Code.BOX_CLIPPED, file, where, remedy, item.line, severity="info", box=item.box)
        return (clipped[0], clipped[1], clipped[2], clipped[3]) if is_left else None

    def _check_shape(self, box: Corners, item: RawObject, text: str, file: str) -> None:
        width, height = box[2] - box[0], box[3] - box[1]
        remedy = "draw it again or drop it, if it is no object"
        if width * height < LEAST_AREA_PX2:
            value = f"{text} has {width * height:.2g} px2"
        elif max(width, height) > LARGEST_ASPECT * min(width, height):
            value = f"{text} is {max(width, height) / min(width, height):.0f} times as long as wide"
        else:
            return
        self.find(Code.BOX_ABSURD, file, value, remedy, item.line, severity="warning", box=box)

    def _distinct(self, kept: Sequence[tuple[RawObject, Corners]], file: str) -> list[tuple[RawObject, Corners]]:
        """The objects, those that repeat another one's class, box and track left out when repairing."""
        seen: dict[object, RawObject] = {}
        once = []
        for item, box in kept:
            key = (
                item.category_id,
                item.box,
                item.segmentation,
                item.track_id,
                item.is_crowd,
                item.change,
                item.in_before,
            )
            first = seen.setdefault(key, item)
            if first is not item and not item.is_crowd:  # To ignore a region twice does no harm.
                value, remedy = f"the same box and class as at {first.line}", "drop it, or repair"
                self.find(
                    Code.OBJECT_TWICE,
                    file,
                    value,
                    remedy,
                    item.line,
                    severity="warning",
                    repaired=self.repair,
                    box=box,
                )
            if first is item or item.is_crowd or not self.repair:
                once.append((item, box))
        return once


def _is_sound(box: Corners, size: boxes.Size) -> bool:
    """Whether there is nothing to say about a box, as about most; not so for what is no number."""
    (height, width), (x0, y0, x1, y1) = size, box
    across, down = x1 - x0, y1 - y0
    inside = x0 >= 0 and y0 >= 0 and x1 <= width and y1 <= height
    short, long = (across, down) if across < down else (down, across)
    return inside and short >= LEAST_SIDE_PX and across * down >= LEAST_AREA_PX2 and long <= LARGEST_ASPECT * short


def _objects(kept: Sequence[tuple[RawObject, Corners]]) -> Objects:
    """Columns of checked objects; those that say nothing are left to `Objects`."""
    items = [item for item, _ in kept]
    xyxy = np.array([box for _, box in kept], np.float32).reshape(-1, 4)
    columns: dict[str, Any] = {}
    if any(item.area is not None for item in items):
        own = boxes.box_areas(xyxy).tolist()
        columns["areas"] = [area if item.area is None else item.area for item, area in zip(items, own, strict=True)]
    for name in ("is_crowd", "is_truncated", "in_before", "segmentation"):
        values = [getattr(item, name) for item in items]
        if any(values):
            columns["segmentations" if name == "segmentation" else name] = values
    if any(item.track_id is not None for item in items):
        columns["track_ids"] = [-1 if item.track_id is None else item.track_id for item in items]
    if any(item.change is not None for item in items):
        columns["changes"] = [item.change or Change.NONE for item in items]
    return Objects(xyxy, np.array([item.category_id for item in items], np.int64), **columns)


def _looks_relative(raw: Sequence[RawObject]) -> bool:
    """Whether boxes that should be pixels are all shares of the image; corners of one pixel are whole numbers."""
    numbers = [number for item in raw for number in item.box]
    return all(0 <= n <= 1 for n in numbers) and any(abs(n - round(n)) > ROUNDING_PX for n in numbers)


def _fits_stored(raw: Sequence[RawObject], photo: Photo, declared: Declared | None) -> bool:
    """Whether boxes on a turned image were drawn on its stored pixels: so declared, or they fit nothing else."""
    if not raw:
        return False
    if declared and photo.size != photo.stored_size:
        return declared.size == photo.stored_size
    corners = np.array([item.box for item in raw], np.float64)
    if not np.isfinite(corners).all() or corners.min() < -EDGE_TOLERANCE_PX:
        return False

    def fits(size: boxes.Size) -> bool:
        height, width = size
        return bool(
            (corners[:, 2] <= width + EDGE_TOLERANCE_PX).all() and (corners[:, 3] <= height + EDGE_TOLERANCE_PX).all()
        )

    return fits(photo.stored_size) and not fits(photo.size)


def _turned_polygons(segmentation: str, photo: Photo) -> str:
    """Polygons on the pixels as stored, as JSON, on the upright image; a mask of run lengths is dropped."""
    shape = json.loads(segmentation) if segmentation else None
    if not isinstance(shape, list):
        return ""
    turned = []
    for polygon in shape:
        points = np.asarray(polygon, np.float64).reshape(-1, 2)
        upright = boxes.stored_to_upright(np.hstack([points, points]), photo.stored_size, photo.orientation)
        turned.append([float(number) for number in upright[:, :2].reshape(-1)])
    return json.dumps(turned)
