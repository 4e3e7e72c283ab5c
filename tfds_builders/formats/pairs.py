"""Lists of pairs: a CSV file or JSON lines, a row a before/after pair, with paths relative to the list.

Labels are the targets themselves (`labels`), or what each frame shows (`before_labels` and `after_labels`). Of the
latter follows who moved, appeared and vanished: by track ids where every object of both frames has one, else by
appearance and position (see `tfds_builders.sources.assignment`). A cell is the path of a label file (see
`frame_labels`); in JSON lines it may be the list of objects itself.

Optional are `id`, `before_id`, `scene` and `split`. An `id` that is not given is made of the two paths,
`walk/0001__0011`. A `scene` that is not given is the folder that holds both images; where this is the list's own
(`before/1.png`, `after/1.png`), a pair is a scene of its own. Pairs that share an image are of one scene.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import count
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
import yaml

from dataflow.errors import UsageError
from dataflow.findings import Code
from dataflow.images import ImageError, decode_rgb
from dataflow.records import Categories, FramePair, ImageRecord, Objects, RecordError, no_objects
from dataflow.schema import Kind, pair_to_example
from dataflow.shards import Outcome
from tfds_builders.formats.frame_labels import (
    ClassOf,
    FrameLabels,
    Place,
    class_names,
    has_class_numbers,
    parse_listed,
    read_label_file,
)
from tfds_builders.formats.pair_entries import Entry, cell_objects, label_keys, read_entries
from tfds_builders.formats.pair_list import Way, find_list, read_rows, way_of
from tfds_builders.sources.assignment import assign_tracks
from tfds_builders.sources.classes import Classes, named_classes, numbered_classes
from tfds_builders.sources.inspection import Inspection, RawObject
from tfds_builders.sources.moved import TARGETS, Targets, moved_objects, target_categories
from tfds_builders.sources.photo import Photo, file_size, inside_root, read_photo
from tfds_builders.sources.source import Checks, Listing, Reference, file_stamp

DEFAULT_MOVED_IOU = 0.5
_NAMES_NEEDED = "add classes.txt (one name a line) or data.yaml beside the list, or pass --names a,b,c"
_NAME_FILES = ("classes.txt", "data.yaml", "data.yml")


@dataclass(frozen=True)
class PairsSource:
    """A list of pairs, `root/file`, as `open_pairs` found it."""

    root: Path
    file: str
    way: Way
    classes: Classes | None
    """Those of the labels; None where every name that frames use is a class."""
    targets: Targets = "both"
    moved_iou: float = DEFAULT_MOVED_IOU
    kind: Kind = "pairs"

    @property
    def categories(self) -> Categories:
        """The classes of the list's own targets, or the classes of moved objects."""
        if self.way == "frames":
            return target_categories(self.targets)
        assert self.classes is not None
        return self.classes.categories

    def scan(self) -> Listing:
        """Every row, in order."""
        entries, findings = read_entries(self.root / self.file, self.way)
        listed = self.classes.findings if self.classes else ()
        return Listing(tuple(self._reference(entry) for entry in entries), (*listed, *findings))

    def _reference(self, entry: Entry) -> Reference:
        size = sum(file_size(self.root / file) for file in (entry.before, entry.after) if file)
        stamp = file_stamp(*(self.root / file for file in entry.files))
        return Reference(
            entry.pair_id, entry.scene, size, entry.payload(), entry.after or self.file, entry.split, stamp
        )

    def image_path(self, reference: Reference) -> Path:
        """Its image file; of a pair, the after frame."""
        return self.root / reference.file

    def load(self, reference: Reference, checks: Checks) -> Outcome:
        """Read and check the two images of a pair and their labels."""
        look = Inspection(reference.image_id, checks)
        line: int = reference.payload["line"]
        for code, value, remedy, repairable in reference.payload["problems"]:
            look.find(Code(code), self.file, value, remedy, line, repaired=look.repair and repairable)
        if look.refused:
            return look.made(reference, None)
        before, after = (self._photo(look, reference.payload[frame], line) for frame in ("before", "after"))
        if before is None or after is None:
            return look.made(reference, None)
        self._compare(look, reference, before, after)
        if look.refused:
            return look.made(reference, None)
        targets = self._targets(look, reference, before, after)
        if targets is None or look.refused:
            return look.made(reference, None)
        return look.made(reference, pair_to_example(self._pair(look, reference, (before, after), targets)))

    def _photo(self, look: Inspection, file: str, line: int) -> Photo | None:
        """One image of a pair. What its path is to blame for is found at the row."""
        photo, problems = read_photo(self.root, file, look.checks)
        for problem in problems:
            if problem.code in (Code.IMAGE_MISSING, Code.IMAGE_OUTSIDE_ROOT):
                look.find(problem.code, self.file, f"{file}: {problem.value}", problem.remedy, line)
            else:
                look.find(problem.code, file, problem.value, problem.remedy, severity=problem.severity)
        return photo

    def _compare(self, look: Inspection, reference: Reference, before: Photo, after: Photo) -> None:
        line = reference.payload["line"]
        (h0, w0), (h1, w1) = before.size, after.size
        if before.size != after.size:
            value = f"the before frame is {w0}x{h0} px, the after frame {w1}x{h1} px"
            look.find(Code.SIZE_MISMATCH, self.file, value, "pair frames of one size", line)
        elif before.data == after.data:
            value, remedy = "both images are the same, byte for byte", "check that these are the frames you meant"
            look.find(Code.DUPLICATE_CONTENT, self.file, value, remedy, line, severity="warning")

    def _targets(self, look: Inspection, reference: Reference, before: Photo, after: Photo) -> Objects | None:
        """What changed, or None where that cannot be told."""
        class_of = self._class_of(look)
        if self.way == "targets":
            return self._objects(look, reference, 0, after, class_of)
        frames = [self._objects(look, reference, i, p, class_of, distinct=True) for i, p in enumerate((before, after))]
        if look.refused:
            return None
        first, second = _ready_tracks(look, frames[0], frames[1], self.file, reference.payload["line"])
        if first.track_ids is None or second.track_ids is None:
            try:
                pixels = [decode_rgb(photo.data, photo.orientation) for photo in (before, after)]
            except ImageError as error:
                look.find(Code.IMAGE_UNREADABLE, reference.file, error.message, error.remedy)
                return None
            first, second = assign_tracks(first, second, pixels[0], pixels[1])
        return moved_objects(first, second, self.targets, self.moved_iou)

    def _objects(
        self,
        look: Inspection,
        reference: Reference,
        index: int,
        photo: Photo,
        class_of: ClassOf,
        *,
        distinct: bool = False,
    ) -> Objects:
        """The checked objects of one of the label cells; `distinct`: a track may be there once."""
        cell = cell_objects(reference.payload["labels"][index])
        if isinstance(cell, str):
            file, labels = cell, read_label_file(look, self.root, cell, photo.size, class_of)
        elif cell is None:
            file, labels = self.file, FrameLabels()
        else:
            file, pointer = self.file, f"{reference.payload['line']}#/{label_keys(self.way)[index]}"
            labels = parse_listed(look, cell, file, photo.size, class_of, pointer=pointer)
        raw = list(_once(look, labels.raw, file) if distinct else labels.raw)
        return look.objects(raw, photo, file, labels.declared, labels.relative)

    def _class_of(self, look: Inspection) -> ClassOf:
        """What finds the id of a class by its number or name. Without a list of classes, every name gets an id."""
        classes, ids = (
            self.classes,
            {name: i for i, name in enumerate(self.classes.categories.names if self.classes else ())},
        )
        numbers = {contiguous: number for number, contiguous in reversed(classes.ids)} if classes else {}

        def class_of(named: int | str, file: str, place: Place) -> int | None:
            name = named.strip() if isinstance(named, str) else str(named)
            if classes is None and name:
                return ids.setdefault(name, len(ids))
            if classes is None:
                remedy = "give the object a class"
                look.find(Code.CLASS_UNKNOWN, file, "a class without a name", remedy, place, repaired=look.repair)
                return None
            number = named if isinstance(named, int) else numbers.get(ids.get(name, -1))
            return look.class_id(classes, number, name if isinstance(named, int) else repr(name), file, place)

        return class_of

    def _pair(self, look: Inspection, reference: Reference, photos: tuple[Photo, Photo], targets: Objects) -> FramePair:
        """The pair, its targets in the frame that both images share."""
        records: list[ImageRecord] = []
        for photo, frame in zip(photos, ("before", "after"), strict=True):
            file: str = reference.payload[frame]
            own = reference.payload["before_id"] if frame == "before" else ""
            image = replace(reference, image_id=own or PurePosixPath(file).with_suffix("").as_posix(), file=file)
            provenance = f"{self.file}:{reference.payload['line']}"
            records.append(look.record(image, photo, no_objects(), provenance=provenance))
        return FramePair(reference.image_id, records[0], records[1], targets)


def _once(look: Inspection, raw: Iterable[RawObject], file: str) -> Iterator[RawObject]:
    """The objects of a frame, without those of a track that it has already: a thing is in one place at a time."""
    places: dict[int, Place] = {}
    for item in raw:
        if item.track_id is not None and places.setdefault(item.track_id, item.line) != item.line:
            value = f"track {item.track_id} is in this frame already, at {places[item.track_id]}"
            remedy = "give each thing its own track id"
            look.find(Code.LABEL_MALFORMED, file, value, remedy, item.line, repaired=look.repair, box=item.box)
        else:
            yield item


def _ready_tracks(look: Inspection, before: Objects, after: Objects, file: str, line: int) -> tuple[Objects, Objects]:
    """Both frames with track ids where all their objects have one; else both without.

    A region to ignore needs none: it gets one of its own, and so is in both frames what it is in one.
    """
    frames = [before, after]
    ids = [np.full(len(o), -1) if o.track_ids is None else o.track_ids for o in frames]
    known = np.concatenate([i[~o.is_crowd] >= 0 for i, o in zip(ids, frames, strict=True)])
    if known.any() and not known.all():
        value = f"{known.sum()} of {len(known)} objects have a track id"
        remedy = "give one to every object of both frames; without, appearance decides"
        look.find(Code.LABEL_MALFORMED, file, value, remedy, line, severity="warning")
    if not known.all():
        return replace(before, track_ids=None), replace(after, track_ids=None)
    taken = set(np.concatenate(ids).tolist())
    free = (number for number in count() if number not in taken)
    first, second = ([int(t) if t >= 0 else next(free) for t in of_frame] for of_frame in ids)
    return (
        replace(before, track_ids=np.array(first, np.int64)),
        replace(after, track_ids=np.array(second, np.int64)),
    )


def open_pairs(
    source: Path,
    names: Sequence[str] = (),
    targets: Targets = "both",
    moved_iou: float = DEFAULT_MOVED_IOU,
) -> PairsSource:
    """A list of pairs from its file, or from the folder that holds it: `pairs.jsonl`, `pairs.csv`, or the only one.

    `names` are the classes of the labels; else those of a classes.txt or data.yaml beside the list; else those that
    occur, in alphabetical order. `targets` and `moved_iou` say what becomes of the labels of frames (see `moved`).

    Raises:
        UsageError: there is no list, it lacks columns, or options that make no sense.
    """
    if targets not in TARGETS:
        raise UsageError(f"--targets {targets}", f"use one of {', '.join(TARGETS)}")
    if not 0 < moved_iou <= 1:
        raise UsageError(f"--moved-iou {moved_iou}", "use a number above 0 and up to 1")
    path = find_list(source)
    if path is None:
        remedy = "give a CSV file with the columns before, after and labels, or JSON lines with these keys"
        raise UsageError(f"{source} is no list of pairs and does not hold exactly one", remedy)
    way = _way(path)
    classes = _listed_classes(path.parent, names)
    if way == "frames":
        if classes is None:
            _check_numbers(path)
    else:
        if (targets, moved_iou) != ("both", DEFAULT_MOVED_IOU):
            raise UsageError(f"--targets and --moved-iou for {path}", "leave them out: its labels are the targets")
        classes = classes or _classes_that_occur(path)
    return PairsSource(path.parent, path.name, way, classes, targets, moved_iou)


def _way(path: Path) -> Way:
    keys: set[str] = set()
    problem = "it lists no pair"
    for row in read_rows(path):
        keys |= row.values.keys()
        problem = row.problem and f"line {row.line} is {row.problem}"
    if not keys:
        raise UsageError(f"{path}: {problem}", "write a row for each pair, with before, after and labels")
    return way_of(keys, path)


def _check_numbers(path: Path) -> None:
    """Class numbers and class names in one list are the same classes only where a list of names says so."""
    cells = [cell for entry in read_entries(path, "frames")[0] for cell in entry.labels if cell is not None]
    if len({has_class_numbers(cell) for cell in cells}) > 1:
        raise UsageError(f"{path} has YOLO labels, and others", _NAMES_NEEDED)


def _classes_that_occur(path: Path) -> Classes:
    found: set[str] = set()
    for entry in read_entries(path, "targets")[0]:
        for cell in entry.labels:
            if cell is not None and has_class_numbers(cell):
                raise UsageError(f"{path}:{entry.line}: {cell} numbers its classes", _NAMES_NEEDED)
            found |= class_names(path.parent, cell_objects(cell))
    fitting = sorted(name for name in found if _fits(name))
    if not fitting:
        raise UsageError(f"{path} names no class", "label an object, or pass --names a,b,c")
    return named_classes(fitting)


def _fits(name: str) -> bool:
    """Whether a dataset can have a class of this name."""
    try:
        Categories((name,))
    except RecordError:
        return False
    return bool(name)


def _listed_classes(root: Path, names: Sequence[str]) -> Classes | None:
    """The classes by `names`, or by a file beside the list; None where there is neither."""
    if names:
        return named_classes(names)
    for path in (root / file for file in _NAME_FILES if (root / file).is_file()):
        if not inside_root(root, path):
            raise UsageError(f"{path} is a link out of {root}", "copy the file to the list")
        try:
            text = path.read_text(encoding="utf-8-sig")
            listed = text.splitlines() if path.suffix == ".txt" else _yaml_names(text, path)
            found = [name.strip() for name in listed if name.strip()]
            return numbered_classes(list(enumerate(found)), path.name) if found else None
        except UnicodeDecodeError as error:
            raise UsageError(f"{path}: not UTF-8 at byte {error.start}", "save the file as UTF-8") from error
        except RecordError as error:
            raise UsageError(f"{path}: {error.message}", error.remedy) from error
    return None


def _yaml_names(text: str, path: Path) -> list[str]:
    """`names` of a data.yaml: a list, or names by number."""
    try:
        content = yaml.safe_load(text)
    except (yaml.YAMLError, ValueError) as error:
        raise UsageError(f"{path}: not YAML ({getattr(error, 'problem', error)})", "mend the file") from error
    names: Any = content.get("names", []) if isinstance(content, Mapping) else []
    if isinstance(names, Mapping):
        if set(names) != set(range(len(names))):
            raise UsageError(f"{path}: classes are not numbered from 0 on", "give every class from 0 on a name")
        names = [names[number] for number in sorted(names)]
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        # YAML takes an unquoted `no`, `on` or `~` for False, True and nothing.
        raise UsageError(f"{path}: names {names!r}", "write a list of names, those that are no plain words in quotes")
    return names
