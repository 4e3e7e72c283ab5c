"""YOLO text: one `.txt` beside each image, a line an object: `class cx cy w h`, relative to the upright image.

A source is a directory with `data.yaml` (or that file), or one with `images/`, `labels/` and `classes.txt`. A line of
a class and three or more points is a segment; its box is the polygon's bounding box. An image without a label file is
not background: it is a finding. An empty label file is background.
"""

import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
import yaml

from dataflow.boxes import Size, cxcywh_to_xyxy
from dataflow.errors import UsageError
from dataflow.findings import Code, Finding
from dataflow.records import Categories, RecordError
from dataflow.schema import Kind
from dataflow.shards import Outcome
from tfds_builders.inspection import IMAGE_SUFFIXES, Inspection, RawObject, file_size, files_below, inside_root
from tfds_builders.source import Listing, Reference

_SPLIT_KEYS = {"train": "train", "val": "validation", "test": "test"}
# Class names: annotation tools leave the file beside the labels.
_CLASSES = "classes.txt"
_TEXT = frozenset({".txt"})


@dataclass(frozen=True)
class YoloSource:
    """A YOLO dataset: `folders` are (split or None, image folder relative to `root`), as `open_yolo` found them."""

    root: Path
    categories: Categories
    folders: tuple[tuple[str | None, str], ...]
    findings: tuple[Finding, ...] = ()
    kind: Kind = "images"

    def scan(self) -> Listing:
        """Every image below the folders; labels that belong to no image are findings."""
        found: list[tuple[str | None, str, Path]] = []
        for split, folder in self.folders:
            found += [(split, folder, path) for path in sorted(self._images(folder))]
        short = [_stem(path.relative_to(self.root / folder)) for _, folder, path in found]
        # The short id is what other formats call the image too; where folders share names it cannot serve.
        unique = len(set(short)) == len(short)
        references = []
        for (split, _, path), name in zip(found, short, strict=True):
            file = path.relative_to(self.root).as_posix()
            image_id = name if unique else _stem(Path(file))
            references.append(Reference(image_id, image_id, file_size(path), file, file, split))
        orphans = self._orphans(str(reference.payload) for reference in references)
        return Listing(tuple(references), (*self.findings, *self._linked_folders(), *orphans))

    def _images(self, folder: str) -> Iterator[Path]:
        """The images below a folder, but for those of another listed folder inside it."""
        inner = [self.root / other for _, other in self.folders if Path(folder) in Path(other).parents]
        for path in files_below(self.root / folder, IMAGE_SUFFIXES):
            if not any(path.is_relative_to(other) for other in inner):
                yield path

    def _linked_folders(self) -> Iterator[Finding]:
        """Links to folders are not followed: they might lead out of the source, or round in circles."""
        for _, folder in self.folders:
            for base, names, _ in os.walk(self.root / folder):
                for path in (Path(base, name) for name in names):
                    if path.is_symlink():
                        file, remedy = (
                            path.relative_to(self.root).as_posix(),
                            "copy the folder, or list it in data.yaml",
                        )
                        yield Finding(Code.IMAGE_OUTSIDE_ROOT, "error", file, "a link to a folder", remedy)

    def _orphans(self, images: Iterable[str]) -> Iterator[Finding]:
        """Label files that belong to none of `images`."""
        expected = {_label_file(image) for image in images}
        labels = {path for _, folder in self.folders for path in files_below(self.root / label_path(folder), _TEXT)}
        for path in sorted(labels):
            file = path.relative_to(self.root).as_posix()
            if file not in expected and path.name != _CLASSES:
                remedy = "add the photograph or delete the label file"
                yield Finding(Code.LABEL_WITHOUT_IMAGE, "error", file, "there is no image for it", remedy)

    def load(self, reference: Reference, repair: bool) -> Outcome:
        """Read one image and its label file."""
        look = Inspection(reference.image_id, repair)
        file = str(reference.payload)
        label_file = _label_file(file)
        read = look.read_image(self.root, file)
        if read is None:
            return Outcome(reference.image_id, None, tuple(look.findings))
        data, header = read
        raw = list(self._parse(look, label_file, header.size))
        objects = look.objects(raw, header.size, label_file)
        return look.outcome(reference, data, header.size, objects, provenance=f"{label_file}:1")

    def _parse(self, look: Inspection, label_file: str, size: Size) -> Iterator[RawObject]:
        missing = "add one (empty if the image shows no object), or repair to take it for background"
        data = look.read_annotation(self.root, label_file, missing)
        lines = (data or b"").decode("utf-8-sig", errors="replace").splitlines()
        for number, line in enumerate(lines, 1):
            fields = line.split()
            if fields:
                item = self._parse_line(look, label_file, number, fields, size)
                if item is not None:
                    yield item

    def _parse_line(
        self, look: Inspection, file: str, number: int, fields: Sequence[str], size: Size
    ) -> RawObject | None:
        text = " ".join(fields)
        try:
            values = [float(field) for field in fields]
        except ValueError:
            values = []
        if len(values) != 5 and not (len(values) >= 7 and len(values) % 2 == 1):
            remedy = "write `class cx cy w h`, or `class x1 y1 x2 y2 x3 y3 ...`"
            look.find(Code.LABEL_MALFORMED, file, f"the line {text!r}", remedy, number, repaired=look.repair)
            return None
        category = values[0]
        if category not in range(len(self.categories)):
            value, remedy = f"class {fields[0]} of {len(self.categories)} classes", "add the class name or fix the id"
            look.find(Code.CLASS_UNKNOWN, file, value, remedy, number, repaired=look.repair)
            return None
        relative = values[1:] if len(values) == 5 else _polygon_to_cxcywh(values[1:])
        return RawObject(_to_pixels(relative, size), int(category), number)


def _to_pixels(relative: Sequence[float], size: Size) -> tuple[float, float, float, float]:
    x0, y0, x1, y1 = cxcywh_to_xyxy([relative], size)[0].tolist()
    return x0, y0, x1, y1


def _polygon_to_cxcywh(points: Sequence[float]) -> tuple[float, float, float, float]:
    """Bounding box, relative cxcywh, of a polygon x1 y1 x2 y2 ... in relative coordinates."""
    xy = np.asarray(points).reshape(-1, 2)
    low, high = xy.min(axis=0), xy.max(axis=0)
    (cx, cy), (w, h) = (low + high) / 2, high - low
    return float(cx), float(cy), float(w), float(h)


def label_path(image_path: str) -> str:
    """The label counterpart of an image path: its last `images` folder becomes `labels`; else the path itself."""
    parts = list(PurePosixPath(image_path).parts)
    for index in range(len(parts) - 1, -1, -1):
        if parts[index] == "images":
            parts[index] = "labels"
            break
    return PurePosixPath(*parts).as_posix()


def _label_file(image: str) -> str:
    return PurePosixPath(label_path(image)).with_suffix(".txt").as_posix()


def open_yolo(source: Path, names: Sequence[str] = ()) -> YoloSource:
    """A YOLO source from a directory or its `data.yaml`.

    Raises:
        UsageError: there are no images, or no class names.
    """
    if source.is_file() and source.suffix not in (".yaml", ".yml"):
        raise UsageError(f"{source} is no data.yaml", "give data.yaml, or the directory of the dataset")
    described = source if source.is_file() else next((p for p in _yaml_files(source) if p.is_file()), None)
    if described is not None:
        return _open_described(described, names, may_leave=source.is_file())
    if not (source / "images").is_dir():
        raise UsageError(
            f"{source} holds neither data.yaml nor a folder images",
            "give a directory with data.yaml, or with images/ and labels/",
        )
    listed = source / _CLASSES
    if not names and listed.is_file():
        names = [line.strip() for line in _read_text(listed).splitlines() if line.strip()]
    if not names:
        raise UsageError(
            f"{source} names no classes", "add data.yaml or classes.txt (one name a line), or pass --names a,b,c"
        )
    return _with_images(YoloSource(source, Categories(tuple(names)), ((None, "images"),)))


def _yaml_files(source: Path) -> list[Path]:
    return [source / "data.yaml", source / "data.yml", source / "dataset.yaml"]


def _read_text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise UsageError(f"{path}: not UTF-8 at byte {error.start}", "save the file as UTF-8") from error


def _read_yaml(path: Path) -> Mapping[str, Any]:
    text = _read_text(path)
    try:
        described = yaml.safe_load(text)
    except (yaml.YAMLError, ValueError) as error:  # ValueError: a date such as 2024-99-99.
        mark = getattr(error, "problem_mark", None)
        place = f"{path}:{mark.line + 1}" if mark else str(path)
        raise UsageError(f"{place}: not YAML ({getattr(error, 'problem', error)})", "mend the file") from error
    if not isinstance(described, Mapping):
        raise UsageError(f"{path} holds no keys", "write train, val and names into it")
    if "kpt_shape" in described:
        # A line of five numbers and points would be taken for a polygon.
        raise UsageError(f"{path}: kpt_shape says that the labels hold keypoints", "export boxes or segments instead")
    return described


def _open_described(path: Path, names: Sequence[str], may_leave: bool) -> YoloSource:
    """The source that a data.yaml describes; its `path` may lead out of its own folder when `may_leave`."""
    described = _read_yaml(path)
    categories = Categories(tuple(names)) if names else _names(described, path)
    base = path.parent
    if described.get("path") and (base / str(described["path"])).is_dir():
        base = base / str(described["path"])
    outside = not inside_root(path.parent, base)
    if outside and not may_leave:
        raise UsageError(
            f"{path}: `path: {described['path']}` leads out of {path.parent}", f"give {path.name} itself as the source"
        )
    root = base if outside else path.parent
    folders: list[tuple[str | None, str]] = []
    findings = []
    for key, split in _SPLIT_KEYS.items():
        value = described.get(key)
        for entry in value if isinstance(value, list) else [value] if value else []:
            folder = _folder(root, base, str(entry))
            if folder is None:
                remedy = f"add the folder or delete `{key}` from {path.name}"
                value_text = f"`{key}: {entry}` is no folder of images below {root.name or root}"
                findings.append(Finding(Code.SPLIT_MISSING, "warning", path.name, value_text, remedy))
            else:
                folders.append((split, folder))
    folders = _distinct(folders)
    if not folders:
        raise UsageError(f"{path} leads to no folder of images", "write `train: images/train` relative to the file")
    return _with_images(YoloSource(root, categories, tuple(folders), tuple(findings)))


def _distinct(folders: Iterable[tuple[str | None, str]]) -> list[tuple[str | None, str]]:
    """Folders once each; one that several splits name belongs to none of them (it is split by scene instead)."""
    splits: dict[str, list[str | None]] = {}
    for split, folder in folders:
        splits.setdefault(folder, []).append(split)
    return [(named[0] if len(set(named)) == 1 else None, folder) for folder, named in splits.items()]


def _folder(root: Path, base: Path, entry: str) -> str | None:
    """An entry of data.yaml as a folder relative to the root. Some exporters write `../train/images` for
    `train/images`."""
    without_up = entry
    while without_up.startswith("../"):
        without_up = without_up[3:]
    for candidate in (base / entry, base / without_up):
        if candidate.is_dir() and inside_root(root, candidate):
            # Links inside the source keep their own names: labels are looked for beside those.
            folder = Path(os.path.relpath(candidate, root))
            return (candidate.resolve().relative_to(root.resolve()) if ".." in folder.parts else folder).as_posix()
    return None


def _names(described: Mapping[str, Any], path: Path) -> Categories:
    names = described.get("names")
    count = described.get("nc")
    if isinstance(names, Mapping):
        by_id = {int(key): name for key, name in names.items() if str(key).isdecimal()}
        missing = sorted(set(range(len(names))) - by_id.keys())
        if missing:
            raise UsageError(f"{path}: class {missing[0]} has no name", "give every class from 0 on a name")
        names = [by_id[key] for key in sorted(by_id)]
    if not isinstance(names, list) or not names:
        raise UsageError(f"{path} names no classes", "add `names:`, or pass --names a,b,c")
    for index, name in enumerate(names):
        if not isinstance(name, str | int | float) or isinstance(name, bool):
            # YAML takes an unquoted `no`, `on` or `~` for False, True and nothing.
            raise UsageError(f"{path}: the name of class {index} reads as {name!r}", "write it in quotes")
    if isinstance(count, int) and count != len(names):
        raise UsageError(f"{path}: nc is {count} but there are {len(names)} names", "make them agree")
    try:
        return Categories(tuple(str(name).strip() for name in names))
    except RecordError as error:
        raise UsageError(f"{path}: {error.message}", error.remedy) from error


def _with_images(source: YoloSource) -> YoloSource:
    if not any(next(files_below(source.root / folder, IMAGE_SUFFIXES), None) for _, folder in source.folders):
        where = ", ".join(folder for _, folder in source.folders)
        raise UsageError(f"{source.root} holds no image in {where}", "add images, such as .jpg or .png")
    return source


def _stem(path: Path) -> str:
    return path.with_suffix("").as_posix()
