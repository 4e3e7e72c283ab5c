"""Pascal VOC XML: `Annotations/000001.xml` for `JPEGImages/000001.jpg`, boxes in 1-based inclusive pixels.

A source is a directory with `Annotations/` and `JPEGImages/` (or `images/`), as `VOCdevkit/VOC2007` is. Where
`ImageSets/Main` has `train.txt`, `val.txt` or `test.txt`, these are its splits. `difficult` objects, which VOC's own
evaluation counts neither way, become regions to ignore (Everingham et al. 2010, section 3.3). An image without an XML
file is not background: it is a finding. An XML file without objects is background.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from xml.etree import ElementTree

from dataflow.boxes import voc_to_xyxy
from dataflow.errors import UsageError
from dataflow.findings import Code, Finding, printable
from dataflow.records import Categories
from dataflow.schema import Kind
from dataflow.shards import Outcome
from tfds_builders.inspection import IMAGE_SUFFIXES, Inspection, RawObject, file_size, files_below, inside_root
from tfds_builders.source import Listing, Reference

_ANNOTATIONS = "Annotations"
_IMAGES = ("JPEGImages", "images")
_SETS = Path("ImageSets", "Main")
_SPLITS = {"train": "train", "val": "validation", "test": "test"}
_XML = frozenset({".xml"})
_CORNERS = ("xmin", "ymin", "xmax", "ymax")


@dataclass(frozen=True)
class VocSource:
    """A VOC dataset as `open_voc` found it; `images` is its folder of images, relative to `root`."""

    root: Path
    images: str
    categories: Categories
    splits: tuple[tuple[str, str], ...] = ()
    """(image id, split) where the source has image sets."""
    findings: tuple[Finding, ...] = ()
    kind: Kind = "images"

    def scan(self) -> Listing:
        """Every image; XML files that belong to none are findings."""
        base = self.root / self.images
        split_of = dict(self.splits)
        references = []
        for path in sorted(files_below(base, IMAGE_SUFFIXES)):
            file = path.relative_to(self.root).as_posix()
            image_id = path.relative_to(base).with_suffix("").as_posix()
            references.append(Reference(image_id, image_id, file_size(path), file, file, split_of.get(image_id)))
        known = {str(reference.image_id) for reference in references}
        orphans = [
            _orphan(path.relative_to(self.root).as_posix(), f"there is no image for it in {self.images}")
            for path in sorted(files_below(self.root / _ANNOTATIONS, _XML))
            if printable(path.relative_to(self.root / _ANNOTATIONS).with_suffix("").as_posix()) not in known
        ]
        listed = [
            _orphan((_SETS / f"{name}.txt").as_posix(), f"{image_id!r} is listed but there is no such image")
            for image_id, split in self.splits
            for name in _SPLITS
            if _SPLITS[name] == split and printable(image_id) not in known
        ]
        return Listing(tuple(references), (*self.findings, *orphans, *listed))

    def load(self, reference: Reference, repair: bool) -> Outcome:
        """Read one image and its XML file."""
        look = Inspection(reference.image_id, repair)
        file = str(reference.payload)
        stem = PurePosixPath(file).relative_to(self.images).with_suffix(".xml")
        xml_file = (PurePosixPath(_ANNOTATIONS) / stem).as_posix()
        read = look.read_image(self.root, file)
        if read is None:
            return Outcome(reference.image_id, None, tuple(look.findings))
        data, header = read
        height, width = header.size
        tree = self._read_xml(look, xml_file)
        raw = [] if tree is None else list(self._raw(look, tree, xml_file))
        declared = _declared_size(tree)
        if declared is not None and declared != header.size:
            value = f"the XML says {declared[1]}x{declared[0]} px, the image is {width}x{height} px"
            look.find(Code.SIZE_MISMATCH, xml_file, value, "annotate this image again", "/annotation/size")
        objects = look.objects(raw, header.size, xml_file)
        return look.outcome(reference, data, header.size, objects, provenance=f"{xml_file}#/annotation")

    def _read_xml(self, look: Inspection, file: str) -> ElementTree.Element | None:
        missing = "add one (without objects if the image shows none), or repair to take it for background"
        data = look.read_annotation(self.root, file, missing)
        if data is None:
            return None
        try:
            return ElementTree.fromstring(data)
        except ElementTree.ParseError as error:
            look.find(Code.LABEL_MALFORMED, file, f"not XML: {error}", "export it again", error.position[0])
            return None

    def _raw(self, look: Inspection, tree: ElementTree.Element, file: str) -> Iterator[RawObject]:
        ids = {name: index for index, name in enumerate(self.categories.names)}
        for number, item in enumerate(tree.iter("object"), 1):
            pointer = f"/annotation/object[{number}]"
            name = (item.findtext("name") or "").strip()
            if name not in ids:
                value, remedy = f"class {name!r} is not among the classes", "add it to --names or fix the annotation"
                look.find(Code.CLASS_UNKNOWN, file, value, remedy, f"{pointer}/name", repaired=look.repair)
                continue
            corners = [(item.findtext(f"bndbox/{corner}") or "").strip() for corner in _CORNERS]
            try:
                x0, y0, x1, y1 = voc_to_xyxy([[float(corner) for corner in corners]])[0].tolist()
            except ValueError:
                value, remedy = f"bndbox {corners}", "write xmin, ymin, xmax and ymax in pixels"
                look.find(Code.LABEL_MALFORMED, file, value, remedy, f"{pointer}/bndbox", repaired=look.repair)
                continue
            difficult = (item.findtext("difficult") or "").strip() == "1"
            yield RawObject((x0, y0, x1, y1), ids[name], f"{pointer}/bndbox", is_crowd=difficult)


def open_voc(source: Path, names: Sequence[str] = ()) -> VocSource:
    """A VOC source from its directory. Without `names` the classes are those that occur, in alphabetical order.

    Raises:
        UsageError: it has no annotations, no images, or no class.
    """
    annotations = source / _ANNOTATIONS
    images = next((name for name in _IMAGES if (source / name).is_dir()), None)
    if not annotations.is_dir() or images is None:
        inner = sorted(path.parent.name for path in source.glob(f"*/{_ANNOTATIONS}")) if source.is_dir() else []
        hint = f", such as {source / inner[0]}" if inner else ""
        raise UsageError(
            f"{source} holds no {_ANNOTATIONS} with {' or '.join(_IMAGES)}", f"give a directory that does{hint}"
        )
    for folder in (annotations, source / images):
        if not inside_root(source, folder):
            raise UsageError(f"{folder} is a link out of {source}", "copy it into the source")
    if next(files_below(source / images, IMAGE_SUFFIXES), None) is None:
        raise UsageError(f"{source / images} holds no image", "add images, such as .jpg or .png")
    classes = tuple(names) or _names_that_occur(annotations)
    if not classes:
        raise UsageError(f"{annotations} names no class", "annotate an object, or pass --names a,b,c")
    splits, findings = _image_sets(source)
    return VocSource(source, images, Categories(classes), tuple(splits.items()), findings)


def _names_that_occur(annotations: Path) -> tuple[str, ...]:
    names = set()
    for path in files_below(annotations, _XML):
        try:
            tree = ElementTree.fromstring(path.read_bytes())
        except (ElementTree.ParseError, OSError):
            continue  # It becomes a finding when its image is loaded.
        names |= {(item.findtext("name") or "").strip() for item in tree.iter("object")}
    return tuple(sorted(name for name in names if name))


def _image_sets(source: Path) -> tuple[Mapping[str, str], tuple[Finding, ...]]:
    """The split of each image that is in one set only; one in several is a finding, and split by scene."""
    splits: dict[str, str] = {}
    twice: dict[str, list[str]] = {}
    for name, split in _SPLITS.items():
        path = source / _SETS / f"{name}.txt"
        if not path.is_file() or not inside_root(source, path):
            continue
        for line in path.read_text(encoding="utf-8-sig", errors="replace").splitlines():
            image_id = line.split()[0] if line.split() else ""
            if image_id and splits.setdefault(image_id, split) != split:
                twice.setdefault(image_id, [splits[image_id]]).append(split)
    findings = []
    for image_id, named in sorted(twice.items()):
        splits.pop(image_id)
        value = f"{image_id!r} is in the sets {', '.join(named)}"
        file, remedy = _SETS.as_posix(), "keep it in one of them"
        findings.append(Finding(Code.SPLIT_MISSING, "warning", file, value, remedy, image_id=image_id))
    return splits, tuple(findings)


def _declared_size(tree: ElementTree.Element | None) -> tuple[int, int] | None:
    """(height, width) that the XML gives, or None where it gives none; some tools write 0."""
    if tree is None:
        return None
    try:
        height, width = (int(tree.findtext(f"size/{side}") or 0) for side in ("height", "width"))
    except ValueError:
        return None
    return (height, width) if height > 0 and width > 0 else None


def _orphan(file: str, value: str) -> Finding:
    remedy = "add the photograph or delete the annotation"
    return Finding(Code.LABEL_WITHOUT_IMAGE, "error", file, value, remedy)
