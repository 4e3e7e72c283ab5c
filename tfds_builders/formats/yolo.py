"""YOLO text: one `.txt` beside each image, a line an object: `class cx cy w h`, relative to the upright image.

A source is a directory with `data.yaml` (or that file), or one with `images/`, `labels/` and `classes.txt`. A line of
a class and three or more points is a segment: its box is the polygon's bounding box, its area the polygon's. Oriented
boxes (four points) look the same and are taken for polygons. An image without a label file is not background: it is a
finding. An empty label file is background.
"""

import codecs
import json
import os
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from dataflow.boxes import Size, cxcywh_to_xyxy, tfds_to_xyxy
from dataflow.errors import UsageError
from dataflow.findings import Code, Finding
from dataflow.records import Categories
from dataflow.schema import Kind
from dataflow.shards import Outcome
from dataflow.stores.paths import location, walk
from tfds_builders.formats.yolo_layout import (
    DESCRIPTIONS,
    SPLIT_KEYS,
    Listed,
    ListReader,
    Place,
    classes_of_lines,
    label_file,
    label_path,
    read_description,
    stem,
)
from tfds_builders.sources.classes import Classes, named_classes
from tfds_builders.sources.inspection import Inspection, RawObject
from tfds_builders.sources.masks import enclosed_area
from tfds_builders.sources.photo import IMAGE_SUFFIXES, file_size, inside_root
from tfds_builders.sources.source import Checks, Listing, Reference, file_stamp

# Class names: annotation tools leave the file beside the labels.
_CLASSES = "classes.txt"
_TEXT = frozenset({".txt"})
# Shares of an image this large, in x and in y, are pixels.
_CLEARLY_PIXELS = 1.5
# Class numbers beyond are garbage, whatever they were meant to be.
_LARGEST_CLASS = 2**31


@dataclass(frozen=True)
class YoloSource:
    """A YOLO dataset: where `open_yolo` found its images below `root`."""

    root: Path
    classes: Classes
    places: tuple[Place, ...] = field(repr=False)
    base: Path = field(repr=False)
    """The folder that relative paths of lists may start from, too."""
    findings: tuple[Finding, ...] = field(default=(), repr=False)
    kind: Kind = "images"

    @property
    def categories(self) -> Categories:
        """The classes."""
        return self.classes.categories

    def scan(self) -> Listing:
        """Every image in the places; labels that belong to none, and lines that list none, are findings."""
        reader = ListReader(self.root, self.base)
        listed = reader.read(self.places)
        keys = {place.path: place.key for place in self.places}
        found = [(item.file, _short_name(item, keys[item.list_file]), item.split, item.problem) for item in listed]
        # A list says more than the folder that an image is in, and a folder more than one around it.
        known = {item.file for item in listed}
        links: list[str] = []
        for place in self.places:
            if not place.is_list:
                start = 0 if place.path == "." else len(place.path) + 1
                files = sorted(_files(self.root, place.path, IMAGE_SUFFIXES, self._folders(), links))
                found += [(file, stem(file[start:]), place.split, None) for file in files if file not in known]
        lines = {item.file: item for item in listed}
        # The short id is what other formats call the image too; where folders share names it cannot serve.
        unique = len({name for _, name, _, _ in found}) == len(found)
        references = [
            self._reference(file, name if unique else stem(file), split, lines[file] if problem else None)
            for file, name, split, problem in sorted(found, key=lambda image: image[0])
        ]
        linked = [_linked(link) for link in sorted(links)]
        orphans = self._orphans([file for file, _, _, problem in found if problem is None], listed)
        return Listing(tuple(references), (*self.classes.findings, *self.findings, *reader.findings, *linked, *orphans))

    def _folders(self) -> frozenset[str]:
        return frozenset(place.path for place in self.places if not place.is_list)

    def _reference(self, file: str, image_id: str, split: str | None, lost: Listed | None) -> Reference:
        path = self.root / file
        payload = file if lost is None else [lost.problem, lost.list_file, lost.line, file]
        stamp = file_stamp(path, self.root / label_file(file))
        return Reference(image_id, image_id, file_size(path), payload, file, split, stamp)

    def _orphans(self, images: Sequence[str], listed: Sequence[Listed]) -> Iterator[Finding]:
        """Label files that belong to no image. That of an image which a list leaves out belongs to it."""
        expected = {label_file(image) for image in images} | {place.path for place in self.places if place.is_list}
        labels: set[str] = set()
        for place in self.places:
            if not place.is_list:
                labels.update(_files(self.root, label_path(place.path), _TEXT))
        for folder in {item.file.rpartition("/")[0] for item in listed if item.problem is None}:
            expected |= {label_file(image) for image in _files_in(self.root, folder, IMAGE_SUFFIXES)}
            labels.update(_files_in(self.root, label_path(folder), _TEXT))
        for file in sorted(labels - expected):
            if file.rpartition("/")[2] != _CLASSES:
                remedy = "add the photograph or delete the label file"
                yield Finding(Code.LABEL_WITHOUT_IMAGE, "error", file, "there is no image for it", remedy)

    def image_path(self, reference: Reference) -> Path:
        """The image file."""
        payload = reference.payload
        return self.root / (payload if isinstance(payload, str) else payload[-1])

    def load(self, reference: Reference, checks: Checks) -> Outcome:
        """Read one image and its label file."""
        look = Inspection(reference.image_id, checks)
        if not isinstance(reference.payload, str):
            code, list_file, line, file = reference.payload
            value = f"{file} is listed, but there is no such image below the source"
            look.find(Code(code), list_file, value, "restore the file or delete the line", line)
            return look.made(reference, None)
        photo = look.read_image(self.root, reference.payload)
        if photo is None:
            return look.made(reference, None)
        file = label_file(reference.payload)
        missing = "add one (empty if the image shows no object), or repair to take it for background"
        data = look.read_annotation(self.root, file, missing)
        raw: Sequence[RawObject] = ()
        if data is not None:
            raw = in_pixels(look, file, self.parse(look, file, data), photo.size)
            if not raw and not data.removeprefix(codecs.BOM_UTF8).strip():
                look.note_empty(file)
        objects = look.objects(raw, photo, file, relative=True)
        return look.outcome(reference, photo, objects, provenance=f"{file}:1")

    def parse(self, look: Inspection, file: str, data: bytes) -> "list[Line]":
        """The lines of a label file that can be read; what is wrong with the others becomes findings."""
        ids, twice = self.classes.by_number, self.classes.twice
        parsed = []
        for number, line in enumerate(data.removeprefix(codecs.BOM_UTF8).splitlines(), 1):
            fields = line.split()
            if not fields:
                continue
            try:
                values = [float(text) for text in fields]
            except ValueError:
                values = []
            if len(values) != 5 and (len(values) < 7 or len(values) % 2 == 0):
                shown = b" ".join(fields).decode(errors="replace")
                remedy = "write `class cx cy w h`, or `class x1 y1 x2 y2 x3 y3 ...`"
                look.find(Code.LABEL_MALFORMED, file, f"the line {shown!r}", remedy, number, repaired=look.repair)
                continue
            category = ids.get(values[0])  # type: ignore[call-overload]
            if category is None or twice:
                given = int(values[0]) if values[0].is_integer() and abs(values[0]) < _LARGEST_CLASS else None
                category = look.class_id(self.classes, given, fields[0].decode(errors="replace"), file, number)
            if category is not None:
                parsed.append((number, category, values[1:]))
        return parsed


Line = tuple[int, int, list[float]]
"""(line number, contiguous class id, the numbers behind the class)."""


def in_pixels(look: Inspection, file: str, lines: Sequence[Line], size: Size) -> list[RawObject]:
    """The objects of a label file in pixels of an image of `size`; none and a finding where they are already."""
    for number, _, values in lines:
        if max(values) > _CLEARLY_PIXELS and _are_pixels(values, size):
            shown = " ".join(f"{value:g}" for value in values[:4])
            value = f"{shown} look like pixels, where shares of the width and height are expected"
            look.find(Code.BOX_UNITS, file, value, "divide x and w by the width, y and h by the height", number)
            return []
    rectangles = [values for _, _, values in lines if len(values) == 4]
    corners = iter(cxcywh_to_xyxy(rectangles, size).tolist() if rectangles else ())
    return [
        RawObject(tuple(next(corners)), category, number)
        if len(values) == 4
        else _segment(values, category, number, size)
        for number, category, values in lines
    ]


def _are_pixels(values: Sequence[float], size: Size) -> bool:
    """Whether some x and y are clearly above 1, and none would lie outside an image of `size` if they were pixels."""
    height, width = size
    xs, ys = values[::2], values[1::2]
    fit = all(0 <= x <= width + 1 for x in xs) and all(0 <= y <= height + 1 for y in ys)
    return fit and any(x > _CLEARLY_PIXELS and y > _CLEARLY_PIXELS for x, y in zip(xs, ys, strict=True))


def _segment(values: Sequence[float], category: int, number: int, size: Size) -> RawObject:
    """A polygon x1 y1 x2 y2 ... in shares of the image as an object in pixels."""
    yx = np.asarray(values, np.float64).reshape(-1, 2)[:, ::-1]
    points = tfds_to_xyxy(np.hstack([yx, yx]), size)[:, :2].astype(np.float64)
    (x0, y0), (x1, y1) = points.min(axis=0).tolist(), points.max(axis=0).tolist()
    box = (x0, y0, x1, y1)
    if not np.isfinite(points).all():
        return RawObject(box, category, number)
    polygon = points.reshape(-1).tolist()
    shape = json.dumps([[round(number, 3) for number in polygon]], separators=(",", ":"))
    return RawObject(box, category, number, enclosed_area(polygon) or None, segmentation=shape)


def _short_name(item: Listed, key: str) -> str:
    """The id of a listed image: its path below `images`, and below a folder there that is named as the split."""
    parts = stem(item.file).split("/")
    if "images" in parts[:-1]:
        parts = parts[len(parts) - parts[::-1].index("images") :]
        list_name = stem(item.list_file).rpartition("/")[2]
        if len(parts) > 1 and parts[0] in (key, SPLIT_KEYS.get(key), list_name):
            parts = parts[1:]
    return "/".join(parts)


def _files(
    root: Path, folder: str, suffixes: frozenset[str], apart: Iterable[str] = (), links: list[str] | None = None
) -> Iterator[str]:
    """Files below a folder with one of these suffixes, hidden ones aside, relative to the root.

    Folders `apart` are left out. Links to folders are not followed, since they might lead out of the source or round
    in circles: they are added to `links`.
    """
    for base, folders, names in walk(root / folder):
        relative = os.path.relpath(base, root)
        prefix = "" if relative == "." else f"{relative}/"
        folders[:] = [name for name in folders if f"{prefix}{name}" not in apart]
        if links is not None:
            links += [f"{prefix}{name}" for name in folders if (location(base) / name).is_symlink()]
        for name in names:
            if _is_one(name, suffixes):
                yield f"{prefix}{name}"


def _files_in(root: Path, folder: str, suffixes: frozenset[str]) -> Iterator[str]:
    """Files of a folder with one of these suffixes, but not those of folders in it, relative to the root."""
    if inside_root(root, root / folder) and (root / folder).is_dir():
        for path in (root / folder).iterdir():
            if _is_one(path.name, suffixes) and not path.is_dir():
                yield f"{folder}/{path.name}" if folder else path.name


def _is_one(name: str, suffixes: frozenset[str]) -> bool:
    return name[len(stem(name)) :].lower() in suffixes and not name.startswith(".")


def _linked(file: str) -> Finding:
    remedy = "copy the folder, or list it in data.yaml"
    return Finding(Code.IMAGE_OUTSIDE_ROOT, "error", file, "a link to a folder", remedy)


def open_yolo(source: Path, names: Sequence[str] = ()) -> YoloSource:
    """A YOLO source from a directory or its `data.yaml`.

    Raises:
        UsageError: there are no images, or no class names.
    """
    if source.is_file() and source.suffix not in (".yaml", ".yml"):
        raise UsageError(f"{source} is no data.yaml", "give data.yaml, or the directory of the dataset")
    described = source if source.is_file() else next((p for n in DESCRIPTIONS if (p := source / n).is_file()), None)
    if described is not None:
        layout = read_description(described, names, may_leave=source.is_file())
        return _with_images(YoloSource(layout.root, layout.classes, layout.places, layout.base, layout.findings))
    if not (source / "images").is_dir():
        raise UsageError(
            f"{source} holds neither data.yaml nor a folder images",
            "give a directory with data.yaml, or with images/ and labels/",
        )
    if not names and not (source / _CLASSES).is_file():
        raise UsageError(
            f"{source} names no classes", "add data.yaml or classes.txt (one name a line), or pass --names a,b,c"
        )
    classes = named_classes(names) if names else classes_of_lines(source / _CLASSES)
    return _with_images(YoloSource(source, classes, (Place("images", None),), source))


def _with_images(source: YoloSource) -> YoloSource:
    for place in source.places:
        if place.is_list or next(_files(source.root, place.path, IMAGE_SUFFIXES), None) is not None:
            return source
    where = ", ".join(place.path for place in source.places)
    raise UsageError(f"{source.root} holds no image in {where}", "add images, such as .jpg or .png")
