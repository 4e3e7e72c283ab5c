"""COCO instances JSON: images, categories with numbers of their own, annotations with boxes (left, top, w, h) px.

A source is the JSON file, or a directory with it in `annotations/`. An image without annotations is background.
"""

import json
import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath
from typing import Any

from dataflow.boxes import Size, coco_to_xyxy
from dataflow.errors import UsageError
from dataflow.findings import Code, Finding
from dataflow.records import Categories, RecordError
from dataflow.schema import Kind
from dataflow.shards import Outcome
from tfds_builders.inspection import Inspection, RawObject, file_size, inside_root
from tfds_builders.source import Listing, Reference

_SPLIT = re.compile(r"(?<![a-z])(train|val|test)")
_SPLIT_NAMES = {"train": "train", "val": "validation", "test": "test"}
_LISTS = ("images", "categories", "annotations")
_LARGEST_AREA = 1e12
_KEPT = ("category_id", "bbox", "area", "iscrowd")


@dataclass(frozen=True)
class CocoFile:
    """One JSON file, the folder its image names are relative to, and its split (None: split by scene)."""

    path: Path
    images: Path
    split: str | None


@dataclass(frozen=True)
class _Image:
    """An image entry with its annotations, as they stand in the file at `/annotations/` and the number given."""

    folder: Path
    file: str
    source_id: str
    size: Size | None
    """(height, width) px that the file states, None where it does not."""
    json_name: str
    pointer: str
    annotations: tuple[tuple[int, Mapping[str, Any]], ...]
    bad: tuple[Finding, ...]

    @property
    def name(self) -> str:
        """The file name without its suffix; the JSON pointer where there is no file name."""
        path = PurePosixPath(self.file)
        return (path.with_suffix("") if path.name else path).as_posix() if self.file else self.pointer


@dataclass(frozen=True)
class CocoSource:
    """COCO instances, as `open_coco` found them."""

    files: tuple[CocoFile, ...]
    categories: Categories
    kind: Kind = "images"

    def scan(self) -> Listing:
        """Every image entry with its annotations; annotations of no image are findings."""
        entries: list[tuple[_Image, CocoFile]] = []
        findings: list[Finding] = []
        for file in self.files:
            found, orphans = _entries(file)
            entries += [(entry, file) for entry in found]
            findings += orphans
        references = (
            Reference(name, name, file_size(entry.folder / entry.file), entry, entry.file, file.split)
            for name, (entry, file) in zip(_names(entries), entries, strict=True)
        )
        return Listing(tuple(sorted(references, key=lambda reference: reference.image_id)), tuple(findings))

    def load(self, reference: Reference, repair: bool) -> Outcome:
        """Read one image and check its annotations."""
        look = Inspection(reference.image_id, repair)
        entry: _Image = reference.payload
        look.findings += [replace(finding, image_id=reference.image_id) for finding in entry.bad]
        read = look.read_image(entry.folder, entry.file) if not look.refused else None
        if read is None:
            return Outcome(reference.image_id, None, tuple(look.findings))
        data, header = read
        _check_size(look, entry, header.size)
        objects = look.objects(list(self._raw(look, entry)), header.size, entry.json_name)
        provenance = f"{entry.json_name}#{entry.pointer}"
        return look.outcome(reference, data, header.size, objects, provenance=provenance, source_id=entry.source_id)

    def _raw(self, look: Inspection, entry: _Image) -> Iterator[RawObject]:
        ids = {str(source): index for index, source in enumerate(self.categories.source_ids)}
        for number, annotation in entry.annotations:
            category = ids.get(_key(annotation.get("category_id")))
            box, crowd = _box(annotation.get("bbox")), _flag(annotation.get("iscrowd"))
            area = annotation.get("area")
            area_is_bad = area is not None and not (isinstance(area, int | float) and 0 <= area < _LARGEST_AREA)
            problem = None
            if category is None:
                problem = Code.CLASS_UNKNOWN, "category_id", "add the category to the file, or fix the annotation"
            elif box is None:
                problem = Code.LABEL_MALFORMED, "bbox", "write [left, top, width, height] px"
            elif crowd is None:
                problem = Code.LABEL_MALFORMED, "iscrowd", "write 0 or 1"
            elif area_is_bad:
                problem = Code.LABEL_MALFORMED, "area", "write square pixels, or leave it out for the area of the box"
            pointer = f"/annotations/{number}"
            if problem:
                code, key, remedy = problem
                given = f"{annotation.get(key)!r}"[:200]
                unknown = f"category {given} is not among the {len(ids)} categories of the file"
                value = unknown if category is None else f"{key} {given}"
                look.find(code, entry.json_name, value, remedy, f"{pointer}/{key}", repaired=look.repair)
            if category is not None and box is not None and crowd is not None:
                yield RawObject(box, category, f"{pointer}/bbox", None if area_is_bad else area, crowd)


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
        CocoFile(path, images or _find_images(path, content), split)
        for path, content, split in zip(paths, contents, splits, strict=True)
    )
    return CocoSource(files, categories[0])


def _json_files(source: Path) -> list[Path]:
    folder = source / "annotations" if (source / "annotations").is_dir() else source
    found = sorted(folder.glob("instances*.json"))
    return found or sorted(folder.glob("*.json"))


def _split_of(path: Path) -> str | None:
    match = _SPLIT.search(path.stem.lower())
    return _SPLIT_NAMES[match[1]] if match else None


def _read_json(path: Path) -> Mapping[str, Any]:
    try:
        content = json.loads(path.read_text(encoding="utf-8-sig"))
    except json.JSONDecodeError as error:
        raise UsageError(f"{path}:{error.lineno}: not JSON ({error.msg})", "export the file again") from error
    except UnicodeDecodeError as error:
        raise UsageError(f"{path}: not UTF-8 at byte {error.start}", "export the file again") from error
    except (ValueError, RecursionError) as error:  # A number of thousands of digits, lists in lists without end.
        raise UsageError(f"{path}: JSON that cannot be read ({error})", "export the file again") from error
    if not isinstance(content, Mapping) or not all(_is_list_of_objects(content.get(key)) for key in _LISTS):
        raise UsageError(f"{path} has no lists `images`, `categories` and `annotations`", "give a COCO instances JSON")
    if not content["images"]:
        raise UsageError(f"{path} lists no images", "give a COCO instances JSON with images")
    return content


def _is_list_of_objects(value: Any) -> bool:
    return isinstance(value, list) and all(isinstance(entry, Mapping) for entry in value)


def _categories(content: Mapping[str, Any], path: Path) -> Categories:
    names: dict[int, str] = {}
    for index, entry in enumerate(content["categories"]):
        key, name = _key(entry.get("id")), entry.get("name")
        if not key.lstrip("-").isdecimal() or not isinstance(name, str):
            raise UsageError(f"{path}#/categories/{index}: {dict(entry)!r}", "give every category a number and a name")
        if int(key) in names:
            value = f"{path}#/categories/{index}: the id {key} is taken by {names[int(key)]!r}"
            raise UsageError(value, "give every category a number of its own")
        names[int(key)] = name.strip()
    try:
        return Categories(tuple(names[number] for number in sorted(names)), tuple(sorted(names)))
    except RecordError as error:
        raise UsageError(f"{path}#/categories: {error.message}", error.remedy) from error


def _find_images(path: Path, content: Mapping[str, Any]) -> Path:
    """The folder that the file names in the JSON are relative to: the first likely one that has any of them."""
    base = path.parent.parent if path.parent.name == "annotations" else path.parent
    tail = path.stem.removeprefix("instances_")
    candidates = [base / "images" / tail, base / tail, base / "images", path.parent, base]
    names = [name for image in content["images"] if isinstance(name := image.get("file_name"), str)]
    for candidate in candidates:
        found = (inside_root(candidate, candidate / name) for name in names if file_size(candidate / name))
        if inside_root(base, candidate) and any(found):
            return candidate
    looked = ", ".join(str(candidate.relative_to(base)) for candidate in candidates[:-2])
    first = f"{names[0]!r} and the others are" if names else "no image has a file_name: they are"
    raise UsageError(f"{path}: {first} in none of {looked} below {base}", "pass --images DIR")


def _key(value: Any) -> str:
    """An id as text, so that 7, 7.0 and "7" are one; "" for what is none."""
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    return str(value) if isinstance(value, str | int) and not isinstance(value, bool) else ""


def _entries(file: CocoFile) -> tuple[list[_Image], list[Finding]]:
    """The images of one JSON file, and findings about annotations that belong to none."""
    content = _read_json(file.path)
    json_name = file.path.name
    by_image: dict[str, list[tuple[int, Mapping[str, Any]]]] = {}
    orphans = []
    keys = Counter(_key(image.get("id")) for image in content["images"])
    for number, annotation in enumerate(content["annotations"]):
        key = _key(annotation.get("image_id"))
        if key and key in keys:
            kept = {name: annotation[name] for name in _KEPT if name in annotation}
            by_image.setdefault(key, []).append((number, kept))
        else:
            value = f"image {annotation.get('image_id')!r} is not in the file"
            remedy, place = "add it or delete the annotation", f"/annotations/{number}/image_id"
            orphans.append(Finding(Code.LABEL_WITHOUT_IMAGE, "error", json_name, value, remedy, place))
    entries = []
    for number, image in enumerate(content["images"]):
        key, name, pointer = _key(image.get("id")), image.get("file_name"), f"/images/{number}"
        bad = []
        if not key:
            value = f"the id {image.get('id')!r}"
            bad.append(Finding(Code.LABEL_MALFORMED, "error", json_name, value, "give it an id", f"{pointer}/id"))
        elif keys[key] > 1:
            value, remedy = f"{keys[key]} images have the id {key}", "give every image an id of its own"
            bad.append(Finding(Code.DUPLICATE_ID, "error", json_name, value, remedy, f"{pointer}/id"))
        if not isinstance(name, str) or not name:
            value, place = f"the file_name {name!r}", f"{pointer}/file_name"
            bad.append(Finding(Code.LABEL_MALFORMED, "error", json_name, value, "name its file", place))
            name = ""
        mine = tuple(by_image.get(key, ()))
        entries.append(_Image(file.images, name, key, _size(image), json_name, pointer, mine, tuple(bad)))
    return entries, orphans


def _names(entries: Sequence[tuple[_Image, CocoFile]]) -> list[str]:
    """Ids of the images: their names; where images in different folders share some, after the JSON file as well."""
    folders: dict[str, set[Path]] = {}
    owners: dict[tuple[Path, str], str] = {}
    for entry, file in entries:
        folders.setdefault(entry.name, set()).add(entry.folder)
        owners.setdefault((entry.folder, entry.name), file.path.stem.removeprefix("instances_"))
    if all(len(found) == 1 for found in folders.values()):
        return [entry.name for entry, _ in entries]
    return [f"{owners[entry.folder, entry.name]}/{entry.name}" for entry, _ in entries]


def _size(image: Mapping[str, Any]) -> Size | None:
    try:
        return int(image["height"]), int(image["width"])
    except (KeyError, TypeError, ValueError, OverflowError):
        return None


def _check_size(look: Inspection, entry: _Image, size: Size) -> None:
    height, width = size
    if entry.size is None:
        remedy = "write its height and width px"
        look.find(Code.LABEL_MALFORMED, entry.json_name, "it has no size", remedy, entry.pointer, repaired=look.repair)
    elif entry.size != size:
        value = f"the JSON says {entry.size[1]}x{entry.size[0]} px, the image is {width}x{height} px"
        remedy = "export the annotations again for this image"
        look.find(Code.SIZE_MISMATCH, entry.json_name, value, remedy, entry.pointer)


def _flag(value: Any) -> bool | None:
    """`iscrowd` as a truth value, absent being false; None for what is neither 0 nor 1."""
    if value is None or isinstance(value, bool):
        return bool(value)
    return {"0": False, "1": True}.get(_key(value))


def _box(value: Any) -> tuple[float, float, float, float] | None:
    """Left, top, width, height px as xyxy px, or None for what is not four numbers."""
    if not isinstance(value, list) or len(value) != 4:
        return None
    try:
        x0, y0, x1, y1 = coco_to_xyxy([[float(number) for number in value]])[0].tolist()
    except (TypeError, ValueError, OverflowError):
        return None
    return x0, y0, x1, y1
