"""What a record holds that an annotation format may not: counted, so that nothing is lost in silence.

A writer says, for each image that it writes, what a reader will make of it. What differs is counted here, in one place
and under one set of phrases, whatever the format.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from enum import StrEnum
from pathlib import PurePosixPath
from typing import Literal

import numpy as np
import numpy.typing as npt

from dataflow.images import read_header
from dataflow.records import Categories, Change, ImageRecord, Objects
from dataflow.schema import NO_TRACK

Unit = Literal["images", "objects", "classes", "pairs"]

# What areas of one shape may differ by: they are stored as float32, and corners are rounded to hundredths of a pixel.
_SAME_AREA = 1e-3
_SAME_AREA_PX2 = 2e-2


class Loss(StrEnum):
    """What a format could not hold."""

    IMAGE_IDS = "image ids"
    SOURCE_IDS = "ids of the source"
    SCENES = "scenes"
    SPLITS = "splits"
    EXIF_IGNORED = "EXIF orientations that were ignored"
    REGIONS = "regions to ignore"
    CLASSES = "classes of objects"
    CLASS_NAME = "the name of the one class"
    TRUNCATED = "truncated marks"
    TRACKS = "track ids"
    CHANGES = "changes"
    MASKS = "masks"
    AREAS = "areas other than the shape's"
    """The shape is the mask, or the box where a format holds no mask."""
    CLASSES_UNUSED = "classes without objects"
    CLASS_IDS = "class ids of the source"
    ALIGNMENTS = "alignments of the two frames"
    FRAME_OBJECTS = "objects of the frames themselves"
    DIFFERENCES = "difference images"

    @property
    def unit(self) -> Unit:
        """What is counted."""
        if self in (Loss.CLASSES_UNUSED, Loss.CLASS_IDS):
            return "classes"
        if self in (Loss.ALIGNMENTS, Loss.DIFFERENCES):
            return "pairs"
        of_images = (Loss.IMAGE_IDS, Loss.SOURCE_IDS, Loss.SCENES, Loss.SPLITS, Loss.EXIF_IGNORED)
        return "images" if self in of_images else "objects"

    @property
    def advice(self) -> str:
        """What becomes of it, or brings it back; "" where there is nothing to say."""
        return _ADVICE.get(self, "")

    def told(self, count: int) -> str:
        """As a user reads it: "scenes: 200 images (say them with --scenes when it is ingested)"."""
        unit = {"images": "image", "objects": "object", "classes": "class", "pairs": "pair"}[self.unit]
        return f"{self}: {count} {unit if count == 1 else self.unit}" + (f" ({self.advice})" if self.advice else "")


_ADVICE = {
    Loss.SCENES: "say them with --scenes when it is ingested",
    Loss.SPLITS: "say them with --splits when it is ingested",
    Loss.EXIF_IGNORED: "ingest it with --exif ignore",
    Loss.REGIONS: "left out",
    Loss.CLASS_NAME: "ingest it with --names",
    Loss.DIFFERENCES: "make them again with shardbox diff",
}


def add_losses(losses: Counter[str], found: Mapping[Loss, int]) -> None:
    """Add the counts that are not 0."""
    losses.update({loss: int(count) for loss, count in found.items() if count})


def as_read(record: ImageRecord, file: str, objects: Objects, source_id: str = "") -> ImageRecord:
    """A record as most formats give it back: called after its file (below the folder of images), its own scene."""
    image_id = PurePosixPath(file).with_suffix("").as_posix()
    return ImageRecord(
        image_id=image_id,
        image=record.image,
        height=record.height,
        width=record.width,
        objects=objects,
        group_id=image_id,
        provenance=record.provenance,
        source_id=source_id,
        orientation=record.orientation,
    )


class LossCount:
    """Counts into `losses` what readers will find otherwise than the records of `categories` have it.

    `names`: the class names by the contiguous ids that a reader gives, where they are not the same. `class_loss`: what
    to call an object of another class.
    """

    def __init__(
        self,
        losses: Counter[str],
        categories: Categories,
        names: Sequence[str] | None = None,
        class_loss: Loss = Loss.CLASSES,
    ) -> None:
        self._losses, self._categories, self._class_loss = losses, categories, class_loss
        self._names = categories.names if names is None else tuple(names)
        self._used: set[str] = set()

    def add(self, record: ImageRecord, read: ImageRecord, split: str, read_split: str | None) -> None:
        """Count one image: `read` is what a reader will make of it. Objects that it has not are regions to ignore."""
        is_scene = record.group_id == record.image_id and read.group_id == read.image_id
        found = {
            Loss.IMAGE_IDS: record.image_id != read.image_id,
            Loss.SOURCE_IDS: bool(record.source_id) and record.source_id != read.source_id,
            Loss.SCENES: record.group_id != read.group_id and not is_scene,
            Loss.SPLITS: split != read_split,
            Loss.EXIF_IGNORED: is_exif_ignored(record),
        }
        add_losses(self._losses, found)
        objects = record.objects
        if len(read.objects) < len(objects):
            objects = without_regions(objects)
            add_losses(self._losses, {Loss.REGIONS: len(record.objects) - len(objects)})
        names = [self._categories.names[i] for i in objects.category_ids.tolist()]
        read_names = [self._names[i] for i in read.objects.category_ids.tolist()]
        self._used.update(names)
        changed = sum(name != other for name, other in zip(names, read_names, strict=True))
        add_losses(self._losses, {self._class_loss: changed, **_object_losses(objects, read.objects)})

    def close(self, read: Categories) -> None:
        """Count classes: `read` are those that a reader will give."""
        ids = dict(zip(read.names, read.source_ids, strict=True))
        ours = dict(zip(self._categories.names, self._categories.source_ids, strict=True))
        found = {
            Loss.CLASS_IDS: sum(name in ids and ids[name] != number for name, number in ours.items()),
            Loss.CLASSES_UNUSED: len(ours.keys() - ids.keys() - self._used),
        }
        add_losses(self._losses, found)


def _object_losses(ours: Objects, read: Objects) -> dict[Loss, int]:
    """The same objects in the same order: how many lost what."""
    tracks, changes = track_ids(ours), _changes(ours)
    off = np.abs(ours.areas - read.areas) > np.maximum(_SAME_AREA_PX2, _SAME_AREA * read.areas)
    found = {
        Loss.REGIONS: ours.is_crowd & ~read.is_crowd,
        Loss.TRUNCATED: ours.is_truncated & ~read.is_truncated,
        Loss.TRACKS: (tracks != NO_TRACK) & (tracks != track_ids(read)),
        Loss.CHANGES: (changes != Change.NONE) & (changes != _changes(read)),
        Loss.AREAS: off,
    }
    masks = zip(ours.segmentations, read.segmentations, strict=True)
    counts = {loss: int(which.sum()) for loss, which in found.items()}
    return counts | {Loss.MASKS: sum(bool(mask) and not other for mask, other in masks)}


def track_ids(objects: Objects) -> npt.NDArray[np.int64]:
    """(N,) int64, `NO_TRACK` where an object has none."""
    return np.full(len(objects), NO_TRACK) if objects.track_ids is None else objects.track_ids


def unique_tracks(objects: Objects, largest: int) -> npt.NDArray[np.int64]:
    """(N,) int64: the tracks, `NO_TRACK` for one above `largest` or one that an earlier object of the image has."""
    tracks = np.maximum(track_ids(objects), NO_TRACK)
    is_first = np.zeros(len(tracks), np.bool_)
    is_first[np.unique(tracks, return_index=True)[1]] = True
    return np.where(is_first & (tracks <= largest), tracks, NO_TRACK)


def _changes(objects: Objects) -> npt.NDArray[np.int64]:
    return np.full(len(objects), Change.NONE) if objects.changes is None else objects.changes


def without_regions(objects: Objects) -> Objects:
    """The objects that are no regions to ignore."""
    return objects.only(~objects.is_crowd)


def is_exif_ignored(record: ImageRecord) -> bool:
    """Whether an EXIF orientation was ignored: the file still says so, and readers would turn it again."""
    return record.orientation == 1 and read_header(record.image).orientation != 1
