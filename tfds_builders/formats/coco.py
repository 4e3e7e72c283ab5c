"""COCO instances JSON: images, categories with numbers of their own, annotations with boxes (left, top, w, h) px.

A source is the JSON file, or a directory with it in `annotations/`. An image without annotations is background.
"""

import json
import os
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any

from dataflow.boxes import Size, coco_to_xyxy
from dataflow.errors import UsageError
from dataflow.findings import Code, Finding
from dataflow.records import Categories
from dataflow.schema import Kind
from dataflow.shards import Outcome
from tfds_builders.formats.coco_json import CocoContent, id_text, open_content, read_classes, take_content, whole_number
from tfds_builders.sources.classes import Classes
from tfds_builders.sources.inspection import Corners, Declared, Inspection, RawObject
from tfds_builders.sources.masks import LARGEST_AREA, segmentation_area
from tfds_builders.sources.photo import file_size, inside_root
from tfds_builders.sources.source import Checks, Listing, Reference, file_stamp

_SPLIT = re.compile(r"(?<![a-z])(train|val|test)")
_SPLIT_NAMES = {"train": "train", "val": "validation", "test": "test"}
_FLAGS: dict[Any, bool] = {None: False, 0: False, 1: True, "0": False, "1": True}

Bad = tuple[Code, str, str, str]
"""A finding about an image entry: code, JSON pointer, value, remedy."""


@dataclass(frozen=True)
class CocoFile:
    """One JSON file, the folder its image names are relative to, and its split (None: split by scene)."""

    path: Path
    images: Path
    split: str | None


@dataclass(frozen=True, slots=True)
class _Image:
    """An image entry and its annotations, as they become a reference.

    `number` is its place in the list of images; `rows` are (place in the list of annotations, row of `Annotation`).
    """

    source: int
    number: int
    file: str
    source_id: str
    size: Size | None
    """(height, width) px that the file states, None where it does not."""
    rows: Sequence[tuple[int, str]]
    bad: list[Bad]

    @property
    def pointer(self) -> str:
        return f"/images/{self.number}"

    @property
    def name(self) -> str:
        """The file name without its suffix; the JSON pointer where there is no file name."""
        path = PurePosixPath(self.file)
        return (path.with_suffix("") if path.name else path).as_posix() if self.file else self.pointer

    def payload(self) -> dict[str, Any]:
        """What `CocoSource.load` needs besides the files; the rows stay the texts that they are."""
        rows = ",".join(f"[{number},{row}]" for number, row in self.rows)
        payload = {"number": self.number, "file": self.file, "id": self.source_id}
        return payload | {"size": self.size, "bad": self.bad, "rows": f"[{rows}]"}


@dataclass(frozen=True)
class CocoSource:
    """COCO instances, as `open_coco` found them, with their images in the folder `root`."""

    root: Path
    classes: Classes
    files: tuple[CocoFile, ...] = field(repr=False)
    kind: Kind = "images"

    @property
    def categories(self) -> Categories:
        """The classes, ordered by their numbers in the file."""
        return self.classes.categories

    def scan(self) -> Listing:
        """Every image entry with its annotations; annotations of no image are findings."""
        entries: list[_Image] = []
        findings = list(self.classes.findings)
        for source, file in enumerate(self.files):
            found, orphans = _entries(source, take_content(file.path), file.path.name)
            entries += found
            findings += orphans
        names = _names(entries, self.files)
        twice = _note_listed_twice(entries, self.files)
        # The listings are emptied as they become references: both would be a lot for a million images.
        references = []
        for place in range(len(entries) - 1, -1, -1):
            references.append(self._reference(entries.pop(), names[place], place in twice))
        references.reverse()
        return Listing(tuple(sorted(references, key=lambda reference: reference.image_id)), tuple(findings))

    def _reference(self, entry: _Image, name: str, is_twice: bool) -> Reference:
        """`is_twice`: an earlier entry has this file, and its id; this one is called after its place."""
        file = self.files[entry.source]
        path = file.images / entry.file
        return Reference(
            image_id=f"{file.path.name}#{entry.pointer}" if is_twice else name,
            group_id=name,
            num_bytes=file_size(path) if entry.file else 0,
            payload=entry.payload() | {"json": file.path.name, "folder": file.images.relative_to(self.root).as_posix()},
            file=entry.file,
            split=file.split,
            stamp=file_stamp(path),
        )

    def image_path(self, reference: Reference) -> Path:
        """Its image file."""
        # The file of the payload is as it is, that of the reference is made printable.
        return self.root / str(reference.payload["folder"]) / str(reference.payload["file"])

    def load(self, reference: Reference, checks: Checks) -> Outcome:
        """Read one image and check its annotations."""
        look = Inspection(reference.image_id, checks)
        payload = reference.payload
        name, pointer = payload["json"], f"/images/{payload['number']}"
        for code, place, value, remedy in payload["bad"]:
            look.find(Code(code), name, value, remedy, place)
        photo = None if look.refused else look.read_image(self.root / payload["folder"], payload["file"])
        if photo is None:
            return look.made(reference, None)
        if payload["size"] is None:
            remedy = "write its height and width px"
            look.find(Code.LABEL_MALFORMED, name, "it has no size", remedy, pointer, repaired=look.repair)
        declared = Declared(tuple(payload["size"]), pointer) if payload["size"] else None
        raw = self._raw(look, json.loads(payload["rows"]), name, declared.size if declared else photo.size)
        objects = look.objects(raw, photo, name, declared)
        return look.outcome(reference, photo, objects, provenance=f"{name}#{pointer}", source_id=payload["id"])

    def _raw(self, look: Inspection, rows: Sequence[Sequence[Any]], name: str, size: Size) -> list[RawObject]:
        """The objects of the annotations that can be read; findings about the others."""
        read = [found for row in rows if (found := self._read(look, row, name, size)) is not None]
        corners = coco_to_xyxy([box for box, _ in read]).tolist()
        return [RawObject((x0, y0, x1, y1), *rest) for (x0, y0, x1, y1), (_, rest) in zip(corners, read, strict=True)]

    def _read(
        self, look: Inspection, row: Sequence[Any], name: str, size: Size
    ) -> tuple[Sequence[float], tuple[Any, ...]] | None:
        """The box (left, top, w, h) px of an annotation and the other fields of `RawObject`; or None and a finding."""
        place, category_id, bbox, area, iscrowd, track_id, segmentation = row
        pointer = f"/annotations/{place}"
        box = _four_numbers(bbox)

        def malformed(key: str, value: str, remedy: str) -> None:
            corners: Corners | None = tuple(coco_to_xyxy([box])[0].tolist()) if box else None  # type: ignore[assignment]
            code, line = Code.LABEL_MALFORMED, f"{pointer}/{key}"
            look.find(code, name, f"{key} {value}"[:200], remedy, line, repaired=look.repair, box=corners)

        category = self._category(look, category_id, name, f"{pointer}/category_id")
        if category is None:
            return None
        if box is None:
            malformed("bbox", repr(bbox), "write [left, top, width, height] px")
            return None
        crowd = _flag(iscrowd)
        if crowd is None:
            malformed("iscrowd", repr(iscrowd), "write 0 or 1")
            return None
        if area is not None and not (isinstance(area, int | float) and 0 <= area < LARGEST_AREA):
            malformed("area", repr(area), "write square pixels, or leave it out for the area of the mask or box")
            area = None
        if segmentation:
            try:
                of_mask = segmentation_area(segmentation, size)
                area = of_mask if area is None else area
            except ValueError as error:
                malformed("segmentation", str(error), "write polygons in px or run lengths, or leave it out")
                segmentation = ""
        track = whole_number(track_id)
        known = track is not None and 0 <= track < 2**63
        return box, (category, f"{pointer}/bbox", area, crowd, track if known else None, False, segmentation)

    def _category(self, look: Inspection, category_id: Any, name: str, pointer: str) -> int | None:
        """The contiguous id of a category, or None and a finding."""
        number = whole_number(category_id)
        category = None if number is None else self.classes.by_number.get(number)
        if category is not None and number not in self.classes.twice:
            return category
        return look.class_id(self.classes, number, repr(category_id)[:200], name, pointer)


def open_coco(source: Path, images: Path | None = None) -> CocoSource:
    """A COCO source from its JSON file, or from a directory with one or more in `annotations/`.

    Raises:
        UsageError: no JSON file, not JSON, not COCO, or the images are nowhere to be found.
    """
    paths = [source] if source.is_file() else _json_files(source)
    if not paths:
        raise UsageError(
            f"{source} holds no COCO instances JSON", "give the JSON file, or a directory with annotations/*.json"
        )
    first: Classes | None = None
    files = []
    for path in paths:
        content = open_content(path)
        classes = read_classes(content, path)
        first = first or classes
        if (classes.ids, classes.categories) != (first.ids, first.categories):
            raise UsageError(f"{path} and {paths[0]} list different categories", "ingest them one by one")
        split = split_of_name(path.stem) if len(paths) > 1 else None
        files.append(CocoFile(path, images or _find_images(path, content), split))
    assert first is not None
    base = _base(paths[0])
    # Workers read images alone.
    root = base if images is None or images.is_relative_to(base) else images
    return CocoSource(root, first, tuple(files))


def _json_files(source: Path) -> list[Path]:
    folder = source / "annotations" if (source / "annotations").is_dir() else source
    found = sorted(folder.glob("instances*.json"))
    return found or sorted(folder.glob("*.json"))


def split_of_name(stem: str) -> str | None:
    """The split that the name of a JSON file says, such as "validation" for instances_val2017; None where none."""
    match = _SPLIT.search(stem.lower())
    return _SPLIT_NAMES[match[1]] if match else None


def _base(path: Path) -> Path:
    """The folder that a JSON file and its images are in."""
    return path.parent.parent if path.parent.name == "annotations" else path.parent


def _find_images(path: Path, content: CocoContent) -> Path:
    """The folder that the file names in the JSON are relative to: the first likely one that has any of them."""
    base, tail = _base(path), path.stem.removeprefix("instances_")
    candidates = [base / "images" / tail, base / tail, base / "images", path.parent, base]
    names = [name for image in content.images if isinstance(name := image.get("file_name"), str)]
    for candidate in candidates:
        found = (inside_root(candidate, candidate / name) for name in names if file_size(candidate / name))
        if inside_root(base, candidate) and any(found):
            return candidate
    looked = ", ".join(str(candidate.relative_to(base)) for candidate in candidates[:-2])
    first = f"{names[0]!r} and the others are" if names else "no image has a file_name: they are"
    raise UsageError(f"{path}: {first} in none of {looked} below {base}", "pass --images DIR")


def _entries(source: int, content: CocoContent, json_name: str) -> tuple[list[_Image], list[Finding]]:
    """The images of one JSON file, and findings about annotations that belong to none."""
    by_image: dict[str, list[tuple[int, str]]] = {}
    orphans = []
    ids = [id_text(image.get("id")) for image in content.images]
    keys = Counter(ids)
    for number, annotation in enumerate(content.annotations):
        key = id_text(annotation.image_id)
        if key and key in keys:
            by_image.setdefault(key, []).append((number, annotation.row))
        else:
            value = f"image {annotation.image_id!r} is not in the file"
            remedy, place = "add it or delete the annotation", f"/annotations/{number}/image_id"
            orphans.append(Finding(Code.LABEL_WITHOUT_IMAGE, "error", json_name, value, remedy, place))
    entries = []
    for number, (key, image) in enumerate(zip(ids, content.images, strict=True)):
        name, pointer = image.get("file_name"), f"/images/{number}"
        bad: list[Bad] = []
        if not key:
            bad.append((Code.LABEL_MALFORMED, f"{pointer}/id", f"the id {image.get('id')!r}", "give it an id"))
        elif keys[key] > 1:
            value, remedy = f"{keys[key]} images have the id {key}", "give every image an id of its own"
            bad.append((Code.DUPLICATE_ID, f"{pointer}/id", value, remedy))
        if not isinstance(name, str) or not name:
            bad.append((Code.LABEL_MALFORMED, f"{pointer}/file_name", f"the file_name {name!r}", "name its file"))
            name = ""
        entries.append(_Image(source, number, name, key, _size(image), by_image.get(key, ()), bad))
    return entries, orphans


def _names(entries: Sequence[_Image], files: Sequence[CocoFile]) -> list[str]:
    """Ids of the images: their names; where images in different folders share some, after the JSON file as well."""
    names = [entry.name for entry in entries]
    folders: dict[str, Path] = {}
    owners: dict[tuple[Path, str], str] = {}
    is_shared = False
    for entry, name in zip(entries, names, strict=True):
        file = files[entry.source]
        is_shared |= folders.setdefault(name, file.images) != file.images
        if len(files) > 1:
            owners.setdefault((file.images, name), file.path.stem.removeprefix("instances_"))
    if not is_shared:
        return names
    return [f"{owners[files[e.source].images, name]}/{name}" for e, name in zip(entries, names, strict=True)]


def _note_listed_twice(entries: Sequence[_Image], files: Sequence[CocoFile]) -> set[int]:
    """Places of entries whose file an earlier one has; what is wrong with them is noted in them."""
    first: dict[str, _Image] = {}
    twice = set()
    for place, entry in enumerate(entries):
        if not entry.file:
            continue
        earlier = first.setdefault(os.path.normpath(files[entry.source].images / entry.file), entry)
        if earlier is not entry:
            value = f"{entry.file} is listed at {files[earlier.source].path.name}#{earlier.pointer} already"
            remedy = "delete one of the entries, and give its annotations the image_id of the other"
            entry.bad.append((Code.LISTED_TWICE, f"{entry.pointer}/file_name", value, remedy))
            twice.add(place)
    return twice


def _size(image: Mapping[str, Any]) -> Size | None:
    try:
        return int(image["height"]), int(image["width"])
    except (KeyError, TypeError, ValueError, OverflowError):
        return None


def _flag(value: Any) -> bool | None:
    """`iscrowd` as a truth value, absent being false; None for what is neither 0 nor 1."""
    return None if isinstance(value, list | dict) else _FLAGS.get(value)


def _four_numbers(value: Any) -> Sequence[float] | None:
    """Left, top, width, height px, or None for what is not four numbers."""
    if not isinstance(value, list) or len(value) != 4:
        return None
    try:
        return [float(number) for number in value]
    except (TypeError, ValueError, OverflowError):
        return None
