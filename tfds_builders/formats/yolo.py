"""YOLO text: one `.txt` beside each image, a line an object: `class cx cy w h`, relative to the upright image.

A source is a directory with `data.yaml` (or that file), or one with `images/`, `labels/` and `classes.txt`. A line of
a class and three or more points is a segment; its box is the polygon's bounding box. An image without a label file is
not background: it is a finding. An empty label file is background.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
import yaml

from dataflow.boxes import Size, cxcywh_to_xyxy
from dataflow.errors import UsageError
from dataflow.findings import Code, Finding
from dataflow.records import Categories, ImageRecord
from dataflow.schema import Kind, record_to_example
from dataflow.shards import Outcome
from tfds_builders.inspection import IMAGE_SUFFIXES, Inspection, RawObject, inside_root
from tfds_builders.source import Listing, Reference

_SPLIT_KEYS = {"train": "train", "val": "validation", "test": "test"}


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
        findings = list(self.findings)
        for split, folder in self.folders:
            images = sorted(_files(self.root / folder, IMAGE_SUFFIXES))
            found += [(split, folder, path) for path in images]
            findings += self._orphans(folder, images)
        short = [_stem(path.relative_to(self.root / folder)) for _, folder, path in found]
        # The short id is what other formats call the image too; where folders share names it cannot serve.
        unique = len(set(short)) == len(short)
        references = []
        for (split, _, path), name in zip(found, short, strict=True):
            file = path.relative_to(self.root).as_posix()
            image_id = name if unique else _stem(Path(file))
            references.append(Reference(image_id, image_id, path.stat().st_size, file, file, split))
        return Listing(tuple(references), tuple(findings))

    def _orphans(self, folder: str, images: Sequence[Path]) -> Iterator[Finding]:
        base = self.root / folder
        labels = self.root / label_path(folder)
        if labels == base:
            return
        with_image = {path.relative_to(base).with_suffix("") for path in images}
        for path in sorted(_files(labels, frozenset({".txt"}))):
            if path.relative_to(labels).with_suffix("") not in with_image:
                yield Finding(
                    Code.LABEL_WITHOUT_IMAGE,
                    "error",
                    path.relative_to(self.root).as_posix(),
                    f"there is no image for it in {folder}",
                    "add the photograph or delete the label file",
                )

    def load(self, reference: Reference, repair: bool) -> Outcome:
        """Read one image and its label file."""
        look = Inspection(reference.image_id, repair)
        file = str(reference.payload)
        label_file = PurePosixPath(label_path(file)).with_suffix(".txt").as_posix()
        read = look.read_image(self.root, file)
        if read is None:
            return Outcome(reference.image_id, None, tuple(look.findings))
        data, header = read
        raw = list(self._parse(look, label_file, header.size))
        objects = look.objects(raw, header.size, label_file)
        if look.refused:
            return Outcome(reference.image_id, None, tuple(look.findings))
        height, width = header.size
        record = ImageRecord(
            reference.image_id, data, height, width, objects, reference.group_id, f"{label_file}:1", file
        )
        return Outcome(reference.image_id, record_to_example(record), tuple(look.findings))

    def _parse(self, look: Inspection, label_file: str, size: Size) -> Iterator[RawObject]:
        path = self.root / label_file
        if not inside_root(self.root, path):
            look.find(Code.IMAGE_OUTSIDE_ROOT, label_file, "the path leaves the source", "keep labels below it")
            return
        try:
            lines = path.read_text(encoding="utf-8", errors="replace").splitlines()
        except OSError:
            look.find(
                Code.LABEL_MISSING,
                label_file,
                "the image has no label file",
                "add one (empty if the image shows no object), or repair to take it for background",
                repaired=look.repair,
            )
            return
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


def open_yolo(source: Path, names: Sequence[str] = ()) -> YoloSource:
    """A YOLO source from a directory or its `data.yaml`.

    Raises:
        UsageError: there are no images, or no class names.
    """
    described = source if source.is_file() else next((p for p in _yaml_files(source) if p.is_file()), None)
    if described is not None:
        return _open_described(described, names)
    if not (source / "images").is_dir():
        raise UsageError(
            f"{source} holds neither data.yaml nor a folder images",
            "give a directory with data.yaml, or with images/ and labels/",
        )
    listed = source / "classes.txt"
    if not names and listed.is_file():
        names = [line.strip() for line in listed.read_text(encoding="utf-8").splitlines() if line.strip()]
    if not names:
        raise UsageError(
            f"{source} names no classes", "add data.yaml or classes.txt (one name a line), or pass --names a,b,c"
        )
    return _with_images(YoloSource(source, Categories(tuple(names)), ((None, "images"),)))


def _yaml_files(source: Path) -> list[Path]:
    return [source / "data.yaml", source / "data.yml", source / "dataset.yaml"]


def _open_described(path: Path, names: Sequence[str]) -> YoloSource:
    try:
        described = yaml.safe_load(path.read_text(encoding="utf-8"))
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        place = f"{path}:{mark.line + 1}" if mark else str(path)
        raise UsageError(f"{place}: not YAML ({getattr(error, 'problem', error)})", "mend the file") from error
    if not isinstance(described, Mapping):
        raise UsageError(f"{path} holds no keys", "write train, val and names into it")
    categories = Categories(tuple(names)) if names else _names(described, path)
    base = path.parent
    if described.get("path") and (base / str(described["path"])).is_dir():
        base = base / str(described["path"])
    root = path.parent if inside_root(path.parent, base) else base
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
            return candidate.resolve().relative_to(root.resolve()).as_posix()
    return None


def _names(described: Mapping[str, Any], path: Path) -> Categories:
    names = described.get("names")
    count = described.get("nc")
    if isinstance(names, Mapping):
        missing = sorted(set(range(len(names))) - {int(key) for key in names})
        if missing:
            raise UsageError(f"{path}: class {missing[0]} has no name", "give every class from 0 on a name")
        names = [names[key] for key in sorted(names, key=int)]
    if not isinstance(names, list) or not names:
        raise UsageError(f"{path} names no classes", "add `names:`, or pass --names a,b,c")
    if isinstance(count, int) and count != len(names):
        raise UsageError(f"{path}: nc is {count} but there are {len(names)} names", "make them agree")
    return Categories(tuple(str(name) for name in names))


def _with_images(source: YoloSource) -> YoloSource:
    if not any(next(_files(source.root / folder, IMAGE_SUFFIXES), None) for _, folder in source.folders):
        where = ", ".join(folder for _, folder in source.folders)
        suffixes = " ".join(sorted(IMAGE_SUFFIXES))
        raise UsageError(f"{source.root} holds no image in {where}", f"add images ({suffixes})")
    return source


def _files(folder: Path, suffixes: frozenset[str]) -> Iterator[Path]:
    """Files below a folder with one of these suffixes, hidden ones aside."""
    for path in folder.rglob("*"):
        if path.suffix.lower() in suffixes and not path.name.startswith(".") and path.is_file():
            yield path


def _stem(path: Path) -> str:
    return path.with_suffix("").as_posix()
