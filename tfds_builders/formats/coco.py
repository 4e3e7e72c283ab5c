"""COCO instances JSON: images, categories with numbers of their own, annotations with boxes (left, top, w, h) px.

A source is the JSON file, or a directory with it in `annotations/`. An image without annotations is background.
"""

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from dataflow.boxes import coco_to_xyxy
from dataflow.errors import UsageError
from dataflow.findings import Code, Finding
from dataflow.records import Categories, ImageRecord
from dataflow.schema import Kind, record_to_example
from dataflow.shards import Outcome
from tfds_builders.inspection import Inspection, RawObject
from tfds_builders.source import Listing, Reference

_SPLIT = re.compile(r"(train|val|test)")
_SPLIT_NAMES = {"train": "train", "val": "validation", "test": "test"}


@dataclass(frozen=True)
class CocoFile:
    """One JSON file, the folder its image names are relative to, and its split (None: split by scene)."""

    path: Path
    images: Path
    split: str | None


@dataclass(frozen=True)
class _Image:
    """An image entry with its annotations: (index in the file, category id, box, area, iscrowd) each."""

    images: Path
    file: str
    source_id: str
    height: int
    width: int
    json_name: str
    pointer: str
    annotations: tuple[tuple[int, Any, tuple[float, ...], float | None, bool], ...]


@dataclass(frozen=True)
class CocoSource:
    """COCO instances, as `open_coco` found them."""

    files: tuple[CocoFile, ...]
    categories: Categories
    kind: Kind = "images"

    def scan(self) -> Listing:
        """Every image entry with its annotations; annotations of no image are findings."""
        entries: list[tuple[_Image, str | None]] = []
        findings: list[Finding] = []
        for file in self.files:
            content = _read_json(file.path)
            by_image: dict[Any, list[tuple[int, Mapping[str, Any]]]] = {}
            for index, annotation in enumerate(content.get("annotations", [])):
                by_image.setdefault(annotation.get("image_id"), []).append((index, annotation))
            for index, image in enumerate(content["images"]):
                mine = by_image.pop(image.get("id"), [])
                entries.append((_entry(file, index, image, mine), file.split))
            for orphans in by_image.values():
                findings += [_orphan(file.path.name, index, annotation) for index, annotation in orphans]
        names = [PurePosixPath(entry.file).with_suffix("").as_posix() for entry, _ in entries]
        references = tuple(
            Reference(name, name, _file_size(entry.images / entry.file), entry, entry.file, split)
            for name, (entry, split) in zip(names, entries, strict=True)
        )
        return Listing(tuple(sorted(references, key=lambda reference: reference.image_id)), tuple(findings))

    def load(self, reference: Reference, repair: bool) -> Outcome:
        """Read one image and check its annotations."""
        look = Inspection(reference.image_id, repair)
        entry: _Image = reference.payload
        read = look.read_image(entry.images, entry.file)
        if read is None:
            return Outcome(reference.image_id, None, tuple(look.findings))
        data, header = read
        height, width = header.size
        if (entry.height, entry.width) != header.size:
            value = f"the JSON says {entry.width}x{entry.height} px, the image is {width}x{height} px"
            remedy = "export the annotations again for this image"
            look.find(Code.SIZE_MISMATCH, entry.json_name, value, remedy, entry.pointer)
        objects = look.objects(list(self._raw(look, entry)), header.size, entry.json_name)
        if look.refused:
            return Outcome(reference.image_id, None, tuple(look.findings))
        record = ImageRecord(
            image_id=reference.image_id,
            image=data,
            height=height,
            width=width,
            objects=objects,
            group_id=reference.group_id,
            provenance=f"{entry.json_name}#{entry.pointer}",
            filename=entry.file,
            source_id=entry.source_id,
        )
        return Outcome(reference.image_id, record_to_example(record), tuple(look.findings))

    def _raw(self, look: Inspection, entry: _Image) -> Iterator[RawObject]:
        ids = {source: index for index, source in enumerate(self.categories.source_ids)}
        for index, category, box, area, crowd in entry.annotations:
            pointer = f"/annotations/{index}"
            if category not in ids:
                value = f"category {category!r} is not among the {len(ids)} categories of the file"
                remedy = "add the category or fix the annotation"
                place = f"{pointer}/category_id"
                look.find(Code.CLASS_UNKNOWN, entry.json_name, value, remedy, place, repaired=look.repair)
                continue
            if len(box) != 4:
                value, remedy = f"bbox {list(box)!r}", "write [left, top, width, height] px"
                place = f"{pointer}/bbox"
                look.find(Code.LABEL_MALFORMED, entry.json_name, value, remedy, place, repaired=look.repair)
                continue
            x0, y0, x1, y1 = coco_to_xyxy([box])[0].tolist()
            yield RawObject((x0, y0, x1, y1), ids[category], f"{pointer}/bbox", area, crowd)


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
    contents = [_read_json(path) for path in paths]
    categories = [_categories(content, path) for content, path in zip(contents, paths, strict=True)]
    for other, path in zip(categories, paths, strict=True):
        if other != categories[0]:
            raise UsageError(f"{path} and {paths[0]} list different categories", "ingest them one by one")
    splits = [_split_of(path) if len(paths) > 1 else None for path in paths]
    files = tuple(
        CocoFile(path, images or _find_images(source, path, content), split)
        for path, content, split in zip(paths, contents, splits, strict=True)
    )
    return CocoSource(files, categories[0])


def _json_files(source: Path) -> list[Path]:
    folder = source / "annotations" if (source / "annotations").is_dir() else source
    found = sorted(folder.glob("instances*.json"))
    return found or sorted(folder.glob("*.json"))


def _split_of(path: Path) -> str | None:
    match = _SPLIT.search(path.stem)
    return _SPLIT_NAMES[match[1]] if match else None


def _read_json(path: Path) -> Mapping[str, Any]:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except json.JSONDecodeError as error:
        raise UsageError(f"{path}:{error.lineno}: not JSON ({error.msg})", "export the file again") from error
    except UnicodeDecodeError as error:
        raise UsageError(f"{path}: not UTF-8 at byte {error.start}", "export the file again") from error
    lists = isinstance(content, Mapping) and all(
        isinstance(content.get(key), list) and all(isinstance(entry, Mapping) for entry in content[key])
        for key in ("images", "categories")
    )
    if not lists:
        raise UsageError(f"{path} has no lists `images` and `categories`", "give a COCO instances JSON")
    if not content["images"]:
        raise UsageError(f"{path} lists no images", "give a COCO instances JSON with images")
    return content  # type: ignore[no-any-return]


def _categories(content: Mapping[str, Any], path: Path) -> Categories:
    entries = content["categories"]
    for index, entry in enumerate(entries):
        if not isinstance(entry.get("id"), int) or not entry.get("name"):
            raise UsageError(f"{path}#/categories/{index}: {dict(entry)!r}", "give every category an id and a name")
    entries = sorted(entries, key=lambda entry: entry["id"])
    return Categories(tuple(str(entry["name"]) for entry in entries), tuple(int(entry["id"]) for entry in entries))


def _find_images(source: Path, path: Path, content: Mapping[str, Any]) -> Path:
    """The folder that the file names in the JSON are relative to: the first likely one that has any of them."""
    base = path.parent.parent if path.parent.name == "annotations" else path.parent
    tail = path.stem.removeprefix("instances_")
    candidates = [base / "images" / tail, base / tail, base / "images", path.parent, base]
    names = [str(image.get("file_name")) for image in content["images"]]
    for candidate in candidates:
        if any((candidate / name).is_file() for name in names):
            return candidate
    looked = ", ".join(str(candidate.relative_to(base)) for candidate in candidates[:-2])
    raise UsageError(f"{path}: {names[0]!r} and the others are in none of {looked} below {base}", "pass --images DIR")


def _entry(
    file: CocoFile, index: int, image: Mapping[str, Any], mine: Sequence[tuple[int, Mapping[str, Any]]]
) -> _Image:
    pointer = f"/images/{index}"
    try:
        name, height, width = str(image["file_name"]), int(image["height"]), int(image["width"])
    except (KeyError, TypeError, ValueError) as error:
        raise UsageError(
            f"{file.path}#{pointer}: {dict(image)!r}", "give every image an id, file_name, height and width"
        ) from error
    annotations = tuple((number, *_annotation(annotation)) for number, annotation in mine)
    return _Image(file.images, name, str(image.get("id", "")), height, width, file.path.name, pointer, annotations)


def _annotation(annotation: Mapping[str, Any]) -> tuple[Any, tuple[float, ...], float | None, bool]:
    """(category id, box, area, iscrowd); a box that is not four numbers comes back empty."""
    try:
        box = tuple(float(number) for number in annotation["bbox"])
    except (KeyError, TypeError, ValueError):
        box = ()
    area = annotation.get("area")
    return (
        annotation.get("category_id"),
        box,
        float(area) if isinstance(area, int | float) else None,
        bool(annotation.get("iscrowd", 0)),
    )


def _orphan(name: str, index: int, annotation: Mapping[str, Any]) -> Finding:
    return Finding(
        Code.LABEL_WITHOUT_IMAGE,
        "error",
        name,
        f"image {annotation.get('image_id')!r} is not in the file",
        "add the image or delete the annotation",
        f"/annotations/{index}/image_id",
    )


def _file_size(path: Path) -> int:
    return path.stat().st_size if path.is_file() else 0
