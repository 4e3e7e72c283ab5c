"""Pascal VOC XML: `Annotations/000001.xml` for `JPEGImages/000001.jpg`, boxes in 1-based inclusive pixels.

A source is a directory with `Annotations/` and `JPEGImages/` (or `images/`), as `VOCdevkit/VOC2007` is. Where
`ImageSets/Main` has `train.txt`, `val.txt` or `test.txt`, these are its splits; its lists for single classes are not
looked at. `difficult` objects, which VOC's own evaluation counts neither way, become regions to ignore (Everingham et
al. 2010, section 3.3). The classes are those of `labelmap.txt`, which CVAT and Datumaro leave there, or those that
occur. An image without an XML file is not background: it is a finding. An XML file without objects is
background.
"""

import codecs
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from xml.etree import ElementTree

from dataflow.boxes import voc_to_xyxy
from dataflow.errors import UsageError
from dataflow.findings import Code, Finding, printable
from dataflow.records import Categories
from dataflow.schema import Kind
from dataflow.shards import Outcome
from dataflow.stores.paths import read_each
from tfds_builders.sources.classes import Classes, named_classes
from tfds_builders.sources.inspection import Declared, Inspection, RawObject
from tfds_builders.sources.photo import IMAGE_SUFFIXES, file_size, files_below, inside_root
from tfds_builders.sources.source import Checks, Listing, Reference, file_stamp

ANNOTATIONS = "Annotations"
IMAGES = ("JPEGImages", "images")
SETS = "ImageSets/Main"
LABEL_MAP = "labelmap.txt"
SPLITS = {"train": "train", "val": "validation", "test": "test"}
_XML = frozenset({".xml"})
_YES = ("1", "true")
CORNERS = ("xmin", "ymin", "xmax", "ymax")


class XmlError(Exception):
    """What is wrong with an XML file, and at which line."""

    def __init__(self, message: str, line: int) -> None:
        super().__init__(message)
        self.line = line


def parse_xml(data: bytes) -> ElementTree.Element:
    """The root element.

    Entities are refused before anything is expanded: a few of them, nested, would fill the memory.

    Raises:
        XmlError: it is no XML, declares entities, or its root is no `annotation`.
    """
    # Markup is the same bytes in every encoding that the parser knows, but for UTF-16.
    plain = data.replace(b"\0", b"") if b"\0" in data else data
    at = plain.find(b"<!ENTITY")
    if at >= 0:
        raise XmlError("it declares entities", plain.count(b"\n", 0, at) + 1)
    try:
        root = ElementTree.fromstring(data)
    except ElementTree.ParseError as error:
        raise XmlError(f"not XML: {error}", error.position[0]) from error
    except (LookupError, ValueError) as error:  # An encoding that nobody knows, or of several bytes.
        raise XmlError(f"not XML: {error}", 1) from error
    if root.tag != "annotation":
        raise XmlError(f"its root is <{root.tag}>, not <annotation>", 1)
    return root


@dataclass(frozen=True)
class VocSource:
    """A VOC dataset as `open_voc` found it; `images` is its folder of images, relative to `root`."""

    root: Path
    images: str
    classes: Classes
    findings: tuple[Finding, ...] = field(default=(), repr=False)
    kind: Kind = "images"

    @property
    def categories(self) -> Categories:
        """The classes."""
        return self.classes.categories

    def scan(self) -> Listing:
        """Every image; XML files and lines of image sets that belong to none are findings."""
        base = self.root / self.images
        files = sorted(path.relative_to(base).as_posix() for path in files_below(base, IMAGE_SUFFIXES))
        stems = {file: PurePosixPath(file).with_suffix("").as_posix() for file in files}
        known = frozenset(stems.values())
        splits, findings = _image_sets(self.root, known)
        references = [self._reference(file, stems[file], splits.get(stems[file])) for file in files]
        orphans = [
            Finding(
                Code.LABEL_WITHOUT_IMAGE,
                "error",
                path.relative_to(self.root).as_posix(),
                f"there is no image for it in {self.images}",
                "add the photograph or delete the annotation",
            )
            for path in sorted(files_below(self.root / ANNOTATIONS, _XML))
            if path.relative_to(self.root / ANNOTATIONS).with_suffix("").as_posix() not in known
        ]
        return Listing(tuple(references), (*self.classes.findings, *self.findings, *orphans, *findings))

    def _reference(self, file: str, stem: str, split: str | None) -> Reference:
        path = self.root / self.images / file
        shown = f"{self.images}/{file}"
        stamp = file_stamp(path, self.root / xml_file(stem))
        return Reference(stem, stem, file_size(path), [file, stem], shown, split, stamp)

    def image_path(self, reference: Reference) -> Path:
        """The image file."""
        return self.root / self.images / str(reference.payload[0])

    @property
    def _ids(self) -> Mapping[str, int]:
        return {name: index for index, name in enumerate(self.categories.names)}

    def load(self, reference: Reference, checks: Checks) -> Outcome:
        """Read one image and its XML file."""
        look = Inspection(reference.image_id, checks)
        file = xml_file(reference.payload[1])
        photo = look.read_image(self.root, f"{self.images}/{reference.payload[0]}")
        if photo is None:
            return look.made(reference, None)
        tree = self._read_xml(look, file)
        raw: list[RawObject] = []
        declared = None
        if tree is not None:
            raw = self._raw(look, tree, file)
            declared = _declared_size(tree)
            if tree.find(".//object") is None:
                look.note_empty(file)
        objects = look.objects(raw, photo, file, declared)
        return look.outcome(reference, photo, objects, provenance=f"{file}#/annotation")

    def _read_xml(self, look: Inspection, file: str) -> ElementTree.Element | None:
        missing = "add one (without objects if the image shows none), or repair to take it for background"
        data = look.read_annotation(self.root, file, missing)
        if data is None:
            return None
        try:
            return parse_xml(data)
        except XmlError as error:
            look.find(Code.LABEL_MALFORMED, file, str(error), "export it again", error.line)
            return None

    def _raw(self, look: Inspection, tree: ElementTree.Element, file: str) -> list[RawObject]:
        found: list[tuple[Mapping[str, str], int, str]] = []
        corners: list[list[float]] = []
        ids = self._ids
        for number, item in enumerate(tree.iter("object"), 1):
            pointer, texts = f"/annotation/object[{number}]", _texts(item)
            name = _in_one_line(texts.get("name", ""))
            category = ids.get(name)
            if category is None:
                look.class_id(self.classes, None, repr(name), file, f"{pointer}/name")
                continue
            box = _texts(item.find("bndbox"))
            numbers = [box.get(corner, "") for corner in CORNERS]
            try:
                corners.append([float(text) for text in numbers])
            except ValueError:
                value, remedy = f"bndbox {numbers}", "write xmin, ymin, xmax and ymax in pixels"
                look.find(Code.LABEL_MALFORMED, file, value, remedy, f"{pointer}/bndbox", repaired=look.repair)
                continue
            found.append((texts, category, f"{pointer}/bndbox"))
        # Shares of the image are not shifted by a pixel, so that they are seen to be such.
        boxes = corners if _are_shares(corners) else voc_to_xyxy(corners).tolist()
        return [
            RawObject(
                (x0, y0, x1, y1),
                category,
                place,
                is_crowd=texts.get("difficult", "").lower() in _YES,
                is_truncated=texts.get("truncated", "").lower() in _YES,
            )
            for (texts, category, place), (x0, y0, x1, y1) in zip(found, boxes, strict=True)
        ]


def open_voc(source: Path, names: Sequence[str] = ()) -> VocSource:
    """A VOC source from its directory. Without `names` and `labelmap.txt` the classes are those that occur, sorted.

    Raises:
        UsageError: it has no annotations, no images, or no class.
    """
    annotations = source / ANNOTATIONS
    images = next((name for name in IMAGES if (source / name).is_dir()), None)
    if not annotations.is_dir() or images is None:
        inner = sorted(path.parent.name for path in source.glob(f"*/{ANNOTATIONS}")) if source.is_dir() else []
        hint = f", such as {source / inner[0]}" if inner else ""
        raise UsageError(
            f"{source} holds no {ANNOTATIONS} with {' or '.join(IMAGES)}", f"give a directory that does{hint}"
        )
    for folder in (annotations, source / images):
        if not inside_root(source, folder):
            raise UsageError(f"{folder} is a link out of {source}", "copy it into the source")
    if next(files_below(source / images, IMAGE_SUFFIXES), None) is None:
        raise UsageError(f"{source / images} holds no image", "add images, such as .jpg or .png")
    classes = tuple(names) or _names_listed(source) or _names_that_occur(source, annotations)
    if not classes:
        raise UsageError(f"{annotations} names no class", "annotate an object, or pass --names a,b,c")
    return VocSource(source, images, named_classes(classes))


def _names_listed(source: Path) -> tuple[str, ...]:
    """The classes of `labelmap.txt`: lines `name:colour:parts:actions`, "#" before comments."""
    path = source / LABEL_MAP
    if not path.is_file() or not inside_root(source, path):
        return ()
    text = path.read_bytes().decode("utf-8-sig", errors="replace")
    rows = [line.strip().rsplit(":", 3) for line in text.splitlines() if line.strip() and line.strip()[0] != "#"]
    # Segmentation needs a class for what is nothing; no object has it.
    names = [row[0].strip() for row in rows if [row[0], *row[1:2]] != ["background", "0,0,0"]]
    return tuple(dict.fromkeys(name for name in names if name))


def _names_that_occur(root: Path, annotations: Path) -> tuple[str, ...]:
    names: set[str] = set()
    for data in read_each([path for path in files_below(annotations, _XML) if inside_root(root, path)]):
        try:
            names |= _names_in(parse_xml(data)) if isinstance(data, bytes) else set()
        except XmlError:
            continue  # It becomes a finding when its image is loaded.
    return tuple(sorted(name for name in names if name))


def _names_in(tree: ElementTree.Element) -> set[str]:
    return {_in_one_line(_texts(item).get("name", "")) for item in tree.iter("object")}


def _texts(item: ElementTree.Element | None) -> dict[str, str]:
    """The texts of an element's children by their names; of several of one name the first."""
    return {} if item is None else {child.tag: (child.text or "").strip() for child in reversed(item)}


def _in_one_line(name: str) -> str:
    """A class name, in one line where a tool broke it."""
    return name if len(name.splitlines()) < 2 else " ".join(name.split())


def _are_shares(corners: Sequence[Sequence[float]]) -> bool:
    """Whether all numbers are from 0 to 1, but not all of them whole: 1 1 1 1 is the first pixel."""
    numbers = [number for row in corners for number in row]
    return all(0 <= n <= 1 for n in numbers) and not (numbers and all(n == round(n) for n in numbers))


def _image_sets(root: Path, known: frozenset[str]) -> tuple[Mapping[str, str], list[Finding]]:
    """The split of each image that is in one set only; one in several is a finding, and split by scene."""
    splits: dict[str, str | None] = {}
    places: dict[str, str] = {}
    findings = []
    for name, split in SPLITS.items():
        path, file = root / SETS / f"{name}.txt", f"{SETS}/{name}.txt"
        if not path.is_file() or not inside_root(root, path):
            continue
        for number, line in enumerate(path.read_bytes().removeprefix(codecs.BOM_UTF8).splitlines(), 1):
            text = os.fsdecode(line)
            if not text.strip():
                continue
            # Some lists have a number behind the id; and ids may have blanks.
            image_id = next((spelt for spelt in (text, text.strip()) if spelt in known), text.split()[0])
            if image_id not in known:
                value, remedy = (
                    f"{text!r} is listed but there is no such image",
                    "add the photograph or delete the line",
                )
                findings.append(Finding(Code.IMAGE_MISSING, "error", file, value, remedy, number))
            elif image_id in splits:
                value, remedy = f"{image_id!r} is listed at {places[image_id]}, too", "keep one of the lines"
                findings.append(
                    Finding(Code.LISTED_TWICE, "warning", file, value, remedy, number, image_id=printable(image_id))
                )
                splits[image_id] = split if splits[image_id] == split else None
            else:
                splits[image_id], places[image_id] = split, f"{file}:{number}"
    return {image_id: split for image_id, split in splits.items() if split}, findings


def _declared_size(tree: ElementTree.Element) -> Declared | None:
    """(height, width) that the XML gives, or None where it gives none; some tools write 0."""
    try:
        height, width = (int(tree.findtext(f"size/{side}") or 0) for side in ("height", "width"))
    except ValueError:
        return None
    return Declared((height, width), "/annotation/size") if height > 0 and width > 0 else None


def xml_file(stem: str) -> str:
    """The XML file of the image `stem`, a path below the folder of images without its suffix."""
    return f"{ANNOTATIONS}/{stem}.xml"
