"""LabelMe: one JSON per image, `photo.json` for `photo.jpg`, with `shapes` in pixels of the upright image.

A source is a directory with images and JSON files, beside each other or in folders of their own: `imagePath` says
which image a JSON belongs to. Rectangles, circles and masks become boxes; polygons become boxes and are kept. An image
without JSON is not background: it is a finding. A JSON without shapes is background. LabelMe shows images upright, as
EXIF says, and draws on what it shows.
"""

import json
import posixpath
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from dataflow.errors import UsageError
from dataflow.findings import Code, Finding, Severity
from dataflow.records import Categories, ImageRecord, Objects, RecordError
from dataflow.schema import Kind
from dataflow.shards import Outcome
from dataflow.stores.paths import read_each
from tfds_builders.formats.labelme_shapes import declared_size, has_flag, name_of, outline_of_shape
from tfds_builders.losses import Loss, LossCount, as_read
from tfds_builders.sources.classes import Classes, named_classes
from tfds_builders.sources.inspection import Inspection, RawObject
from tfds_builders.sources.outlines import own_areas, single_polygon
from tfds_builders.sources.photo import IMAGE_SUFFIXES, file_size, files_below, inside_root
from tfds_builders.sources.source import Checks, Listing, Reference, file_stamp
from tfds_builders.writing import ImageNames, write_image

_IMAGES = "images"
_JSON = frozenset({".json"})
_VERSION = "5.5.0"
"""The version of LabelMe whose files those that are written look like."""
_IGNORE = ("iscrowd", "is_crowd", "crowd", "difficult", "ignore")
_TRUNCATED = ("truncated", "is_truncated")
_LAYOUT = "give a directory of images and of JSON files that LabelMe saved"
# Looking at so many JSON files tells what a directory holds.
_LOOKED_AT = 20


@dataclass(frozen=True)
class LabelmeSource:
    """A directory that LabelMe annotated, as `open_labelme` found it."""

    root: Path
    classes: Classes
    kind: Kind = "images"

    @property
    def categories(self) -> Categories:
        """The classes."""
        return self.classes.categories

    def scan(self) -> Listing:
        """Every image; JSON files that belong to none are findings."""
        paths = sorted(files_below(self.root, IMAGE_SUFFIXES))
        files = [path.relative_to(self.root).as_posix() for path in paths]
        labels, findings = _labels_by_image(self.root, files)
        prefix = f"{_IMAGES}/" if all(file.startswith(f"{_IMAGES}/") for file in files) else ""
        references = []
        for path, file in zip(paths, files, strict=True):
            image_id = _stem(file).removeprefix(prefix)
            own = labels.get(file, [])
            stamp = file_stamp(path, *(self.root / label for label in own))
            payload = {"image": file, "labels": own}
            references.append(Reference(image_id, image_id, file_size(path), payload, file, None, stamp))
        return Listing(tuple(references), (*self.classes.findings, *findings))

    def image_path(self, reference: Reference) -> Path:
        """The image file."""
        return self.root / str(reference.payload["image"])

    def load(self, reference: Reference, checks: Checks) -> Outcome:
        """Read one image and its JSON file."""
        look = Inspection(reference.image_id, checks)
        image, labels = reference.payload["image"], reference.payload["labels"]
        photo = look.read_image(self.root, image)
        if photo is None:
            return look.made(reference, None)
        content = self._content(look, image, labels)
        label = labels[0] if labels else image
        raw = list(self._raw(look, content, label))
        objects = look.objects(raw, photo, label, declared_size(content))
        if content is not None and content.get("shapes") == []:
            look.note_empty(label)
        return look.outcome(reference, photo, objects, provenance=f"{label}#/shapes" if labels else image)

    def _content(self, look: Inspection, image: str, labels: Sequence[str]) -> Mapping[str, Any] | None:
        """The JSON object about an image, or None and a finding."""
        missing = "annotate it (or save it without shapes if it shows no object), or repair to take it for background"
        if not labels:
            look.find(Code.LABEL_MISSING, image, "no JSON file is about this image", missing, repaired=look.repair)
            return None
        for other in labels[1:]:
            value = f"{labels[0]} is about the image {image}, too"
            look.find(Code.LISTED_TWICE, other, value, "delete one of them, or mend its imagePath", "/imagePath")
        data = look.read_annotation(self.root, labels[0], missing)
        if data is None:
            return None
        try:
            content = _parse(data)
        except ValueError as error:
            look.find(Code.LABEL_MALFORMED, labels[0], f"not JSON: {error}", "save it again", _line(error))
            return None
        if not isinstance(content, dict) or not isinstance(content.get("shapes"), list):
            value, remedy = "no list `shapes`", "annotate the image again with LabelMe"
            look.find(Code.LABEL_MALFORMED, labels[0], value, remedy, "/shapes")
            return None
        return content

    def _raw(self, look: Inspection, content: Mapping[str, Any] | None, file: str) -> Iterator[RawObject]:
        numbers = {name: number for number, name in enumerate(self.categories.names)}
        for index, shape in enumerate(content["shapes"] if content else ()):
            pointer = f"/shapes/{index}"
            try:
                name = name_of(shape)
                outline = outline_of_shape(shape)
            except ValueError as error:
                remedy = "draw it again as a rectangle or polygon, or delete it"
                look.find(Code.LABEL_MALFORMED, file, str(error), remedy, pointer, repaired=look.repair)
                continue
            class_id = look.class_id(self.classes, numbers.get(name), repr(name), file, f"{pointer}/label")
            if class_id is None:
                continue
            if shape.get("shape_type") == "mask":
                value = "a mask, of which the box is read"
                remedy = "nothing to do, or draw it as a polygon to keep the outline"
                look.find(Code.LABEL_MALFORMED, file, value, remedy, pointer, severity="info", box=outline.box)
            yield RawObject(
                outline.box,
                class_id,
                pointer,
                area=outline.area,
                is_crowd=has_flag(shape, _IGNORE),
                is_truncated=has_flag(shape, _TRUNCATED),
                segmentation=outline.segmentation,
            )


def open_labelme(source: Path, names: Sequence[str] = ()) -> LabelmeSource:
    """A LabelMe source from its directory. Without `names` the classes are the labels that occur, in sorted order.

    Raises:
        UsageError: it is no directory, or holds no images, no JSON of LabelMe, or no class.
    """
    if not source.is_dir():
        raise UsageError(f"{source} is no directory", _LAYOUT)
    if next(files_below(source, IMAGE_SUFFIXES), None) is None:
        raise UsageError(f"{source} holds no image", "put the images beside the JSON files")
    if names:
        if not holds_labelme(source, limit=None):
            raise UsageError(f"{source} holds no JSON file of LabelMe", _LAYOUT)
        return LabelmeSource(source, named_classes(names))
    found: set[str] = set()
    count = 0
    for _, content in _contents(source):
        if _is_labelme(content):
            count += 1
            found |= _names_in(content)
    if not count:
        raise UsageError(f"{source} holds no JSON file of LabelMe", _LAYOUT)
    if not found:
        raise UsageError(f"the JSON files of {source} name no class", "annotate an object, or pass --names a,b,c")
    return LabelmeSource(source, named_classes(sorted(found)))


def holds_labelme(source: Path, limit: int | None = _LOOKED_AT) -> bool:
    """Whether one of the first `limit` JSON files (None: of all) below a directory is LabelMe's, by its keys."""
    for index, path in enumerate(sorted(files_below(source, _JSON))):
        if limit is not None and index >= limit:
            break
        try:
            data = path.read_bytes() if inside_root(source, path) else b""
        except OSError:
            continue
        if b'"shapes"' in data and b'"imagePath"' in data:
            return True
    return False


def _contents(root: Path) -> Iterator[tuple[str, Any]]:
    """Every JSON file below `root`, and what it holds: a ValueError or OSError where that cannot be told."""
    paths = sorted(files_below(root, _JSON))
    inside = [inside_root(root, path) for path in paths]
    read = read_each([path for path, within in zip(paths, inside, strict=True) if within])
    for path, within in zip(paths, inside, strict=True):
        content: Any = next(read) if within else PermissionError("the path leaves the source")
        try:
            content = _parse(content) if isinstance(content, bytes) else content
        except ValueError as error:
            content = error
        yield path.relative_to(root).as_posix(), content


def _parse(data: bytes) -> Any:
    """JSON of any kind.

    Raises:
        ValueError: it is none, or lists in lists without end.
    """
    try:
        return json.loads(data)
    except RecursionError as error:
        raise ValueError("nested too deep") from error


def _line(error: ValueError) -> int | None:
    return error.lineno if isinstance(error, json.JSONDecodeError) else None


def _is_labelme(content: Any) -> bool:
    return isinstance(content, dict) and ("shapes" in content or "imagePath" in content)


def _names_in(content: Mapping[str, Any]) -> set[str]:
    """The labels of a JSON that can be names of classes; the others become findings when they are loaded."""
    names: set[str] = set()
    shapes = content.get("shapes")
    for shape in shapes if isinstance(shapes, list) else ():
        try:
            names.update(Categories((name_of(shape),)).names)
        except (ValueError, RecordError):
            continue
    return names


def _labels_by_image(root: Path, files: Sequence[str]) -> tuple[dict[str, list[str]], list[Finding]]:
    """The JSON files about each image file, and findings about those that are about none."""
    known, labels, findings = frozenset(files), dict[str, list[str]](), list[Finding]()
    by_stem: dict[str, str] = {}
    for file in files:
        by_stem.setdefault(_stem(file), file)
    for label, content in _contents(root):
        beside = by_stem.get(_stem(label))
        if not _is_labelme(content):
            if beside is not None:  # What is wrong with it is found when the image is loaded.
                labels.setdefault(beside, []).append(label)
            elif isinstance(content, PermissionError):
                findings.append(_about(Code.IMAGE_OUTSIDE_ROOT, label, str(content), "keep annotations below it"))
            elif isinstance(content, Exception):
                value, line = f"not JSON: {content}", _line(content) if isinstance(content, ValueError) else None
                findings.append(_about(Code.LABEL_MALFORMED, label, value, "save it again, or delete it", line))
            continue
        image, found = _image_of(label, content, known, beside)
        findings += found
        if image is not None:
            labels.setdefault(image, []).append(label)
    return labels, findings


def _image_of(
    label: str, content: Mapping[str, Any], known: frozenset[str], beside: str | None
) -> tuple[str | None, list[Finding]]:
    """The image that a JSON is about: where imagePath says, beside it under that name, or beside it under its own."""
    shown = content.get("imagePath")
    named = shown.replace("\\", "/") if isinstance(shown, str) else ""
    folder = posixpath.dirname(label)
    place = posixpath.normpath(posixpath.join(folder, named))
    for candidate in (place, posixpath.join(folder, posixpath.basename(named))):
        if named and candidate in known:
            return candidate, []
    if beside is not None:
        value = f"imagePath {shown!r}, which is not there: {beside} is taken"
        return beside, [_about(Code.IMAGE_MISSING, label, value, "mend imagePath", "/imagePath", severity="warning")]
    if place.startswith(("/", "../")):
        value = f"imagePath {shown!r} leaves the source"
        return None, [_about(Code.IMAGE_OUTSIDE_ROOT, label, value, "keep images below the source", "/imagePath")]
    if isinstance(content.get("imageData"), str):
        value = f"the image {shown!r} is only there as imageData"
        remedy = "write it to a file: labelme_export_json does"
        return None, [_about(Code.IMAGE_MISSING, label, value, remedy, "/imageData")]
    value, remedy = f"there is no image {shown!r}", "add the photograph or delete the annotation"
    return None, [_about(Code.LABEL_WITHOUT_IMAGE, label, value, remedy, "/imagePath")]


def _about(
    code: Code, file: str, value: str, remedy: str, line: int | str | None = None, *, severity: Severity = "error"
) -> Finding:
    return Finding(code, severity, file, value, remedy, line)


def _stem(file: str) -> str:
    return PurePosixPath(file).with_suffix("").as_posix()


class LabelmeWriter:
    """Writes `images/scene/000001.jpg` with `images/scene/000001.json` beside it.

    Boxes are rectangles, masks of one part polygons; regions to ignore and truncated objects are flags, `iscrowd` and
    `truncated`, of their shapes. LabelMe knows no list of classes, no splits and no tracks.
    """

    def __init__(self, out: Path, categories: Categories, splits: tuple[str, ...]) -> None:
        self.losses: Counter[str] = Counter()
        del splits
        self._folder, self._classes = out / _IMAGES, categories.names
        self._names = ImageNames()
        self._used: set[str] = set()
        self._count = LossCount(self.losses, categories)

    def add(self, record: ImageRecord, split: str) -> None:
        """Write one image and its JSON file."""
        name = self._names.name(record.image_id, record)
        write_image(self._folder, name, record)
        objects = record.objects
        pairs = zip(objects.segmentations, objects.boxes.tolist(), strict=True)
        masks = tuple(mask if single_polygon(mask, box) else "" for mask, box in pairs)
        held = Objects(
            boxes=objects.boxes,
            category_ids=objects.category_ids,
            areas=own_areas(objects.boxes, masks, record.size),
            is_crowd=objects.is_crowd,
            is_truncated=objects.is_truncated,
            segmentations=masks,
        )
        self._count.add(record, as_read(record, name, held), split, None)
        content: dict[str, Any] = {
            "version": _VERSION,
            "flags": {},
            "shapes": [self._shape(held, index) for index in range(len(held))],
            "imagePath": PurePosixPath(name).name,
            "imageData": None,
            "imageHeight": record.height,
            "imageWidth": record.width,
        }
        path = (self._folder / name).with_suffix(".json")
        path.write_text(json.dumps(content, ensure_ascii=False, indent=1), encoding="utf-8")

    def close(self) -> None:
        """Count what became of the classes: those that occur are read, in sorted order."""
        if self._used:
            self._count.close(Categories(tuple(sorted(self._used))))
        else:
            self.losses[Loss.CLASSES_UNUSED] = len(self._classes)

    def _shape(self, objects: Objects, index: int) -> dict[str, Any]:
        box = objects.boxes[index].tolist()
        polygon = single_polygon(objects.segmentations[index], box)
        label = self._classes[int(objects.category_ids[index])]
        self._used.add(label)
        flags = {"iscrowd": bool(objects.is_crowd[index]), "truncated": bool(objects.is_truncated[index])}
        return {
            "label": label,
            "points": polygon or [box[:2], box[2:]],
            "group_id": None,
            "description": "",
            "shape_type": "polygon" if polygon else "rectangle",
            "flags": {name: True for name, is_set in flags.items() if is_set},
        }
