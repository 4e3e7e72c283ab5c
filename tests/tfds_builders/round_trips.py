"""What differs between records and what became of them on their way through a format, told apart from the writers.

The writers announce what their format cannot hold. `differences` finds it out by looking at both ends, with masks read
by pycocotools, so that the two can be held against each other, number by number.
"""

import json
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from pycocotools import mask as coco_mask

from dataflow.images import read_header
from dataflow.prepared import PreparedDataset
from dataflow.records import Categories, ImageRecord, Objects
from dataflow.schema import build_features, example_to_record, find_layout
from tests.factories import Loaded
from tfds_builders.losses import Loss
from tfds_builders.sources.source import Checks, Loader, Source

TOLERANCE_PX = 1e-2
# Areas are stored as float32, and follow from corners that are written with two or three decimals.
AREA_RATIO, AREA_PX2 = 1e-3, 2e-2


@dataclass(frozen=True)
class Image:
    """A record and its split, None where nothing says one."""

    record: ImageRecord
    split: str | None


@dataclass(frozen=True)
class Side:
    """A dataset at one end of the way: its images by their bytes, which no two share, and its classes."""

    categories: Categories
    images: dict[bytes, Image]


def side(categories: Categories, images: Sequence[Image]) -> Side:
    """A side of these images."""
    by_bytes = {image.record.image: image for image in images}
    assert len(by_bytes) == len(images), "two images are the same"
    return Side(categories, by_bytes)


def prepared_side(dataset: PreparedDataset) -> Side:
    """What a prepared dataset holds."""
    images = [Image(record, split) for split in dataset.splits for record in dataset.records(split)]
    return side(dataset.categories, images)


def said_splits(source: Source) -> dict[str, str | None]:
    """The splits that a source itself says, by image id."""
    return {reference.image_id: reference.split for reference in source.scan().references}


def read_side(source: Source) -> Side:
    """What a source gives, without preparing it. Everything in it must be right."""
    layout = find_layout(build_features(source.categories, source.kind), "test")
    listing = source.scan()
    assert not listing.findings, listing.findings
    images = []
    lines = [reference.to_line() for reference in listing.references]
    for reference, outcome in zip(listing.references, Loader(source, Checks())(lines), strict=True):
        assert outcome.example is not None, outcome.findings
        images.append(Image(example_to_record(outcome.example, layout, ""), reference.split))
    return side(source.categories, images)


@dataclass
class Differences:
    """What was lost: counts by phrase, and ids of the images whose objects are not the same."""

    counts: Counter[str]
    objects_of: set[str]


def differences(before: Side, after: Side) -> Differences:
    """What `after` has not as `before` has it. What it has beside that, or in another place, fails at once."""
    assert before.images.keys() == after.images.keys(), "the same images, byte for byte"
    counts: Counter[str] = Counter()
    objects_of = set()
    used: set[str] = set()
    for data, ours in before.images.items():
        theirs = after.images[data]
        a, b = ours.record, theirs.record
        assert a.size == b.size and orientation(a) == orientation(b)
        counts[Loss.IMAGE_IDS] += a.image_id != b.image_id
        counts[Loss.SOURCE_IDS] += a.source_id not in ("", b.source_id)
        is_own_scene = (a.group_id, b.group_id) == (a.image_id, b.image_id)
        counts[Loss.SCENES] += a.group_id != b.group_id and not is_own_scene
        counts[Loss.SPLITS] += ours.split != theirs.split
        found = object_differences(a.objects, before.categories, b.objects, after.categories)
        counts += found
        if found:
            objects_of.add(a.image_id)
        places = kept_places(a.objects, b.objects)
        used |= {before.categories.names[a.objects.category_ids[i]] for i in places}
    counts += class_differences(before.categories, after.categories, used)
    return Differences(+counts, objects_of)


def orientation(record: ImageRecord) -> int:
    """The EXIF orientation that is applied."""
    return read_header(record.image).orientation if record.orientation is None else record.orientation


def kept_places(a: Objects, b: Objects) -> list[int]:
    """The places in `a` of the objects that are in `b`: all, or all but the regions to ignore."""
    if len(a) == len(b):
        return list(range(len(a)))
    places = np.flatnonzero(~a.is_crowd).tolist()
    assert len(places) == len(b), "objects other than regions to ignore are missing"
    return places


def object_differences(a: Objects, a_classes: Categories, b: Objects, b_classes: Categories) -> Counter[str]:
    """Counts of what `b` has not as `a` has it."""
    places = kept_places(a, b)
    counts = Counter[str]({Loss.REGIONS: len(a) - len(places)})
    np.testing.assert_allclose(b.boxes, a.boxes[places], rtol=0, atol=TOLERANCE_PX)
    for i, place in enumerate(places):
        name, other = a_classes.names[a.category_ids[place]], b_classes.names[b.category_ids[i]]
        counts[Loss.CLASSES] += name != other
        pairs: dict[Loss, tuple[Any, Any, Any]] = {
            Loss.REGIONS: (False, a.is_crowd[place], b.is_crowd[i]),
            Loss.TRUNCATED: (False, a.is_truncated[place], b.is_truncated[i]),
            Loss.TRACKS: (-1, _at(a.track_ids, place, -1), _at(b.track_ids, i, -1)),
            Loss.CHANGES: (0, _at(a.changes, place, 0), _at(b.changes, i, 0)),
        }
        for loss, (nothing, value, now) in pairs.items():
            assert now in (nothing, value), f"{loss}: {now} came of {value}"
            counts[loss] += value != now
        mask, now = a.segmentations[place], b.segmentations[i]
        assert not now or same_mask(mask, now), (mask, now)
        counts[Loss.MASKS] += bool(mask) and not now
        area, now = float(a.areas[place]), float(b.areas[i])
        counts[Loss.AREAS] += abs(area - now) > max(AREA_PX2, AREA_RATIO * now)
    return +counts


def class_differences(a: Categories, b: Categories, used: set[str]) -> Counter[str]:
    """Classes without objects that are gone, and classes with other numbers."""
    ours, theirs = (dict(zip(each.names, each.source_ids, strict=True)) for each in (a, b))
    counts = Counter[str]()
    counts[Loss.CLASSES_UNUSED] = len(ours.keys() - theirs.keys() - used)
    counts[Loss.CLASS_IDS] = sum(ours[name] != theirs[name] for name in ours.keys() & theirs.keys())
    return counts


def _at(column: npt.NDArray[np.int64] | None, index: int, nothing: int) -> int:
    return nothing if column is None else int(column[index])


def same_mask(text: str, other: str) -> bool:
    """Whether two masks are the same: polygons by their points, run lengths by their pixels."""
    a, b = json.loads(text or "null"), json.loads(other or "null")
    if isinstance(a, dict) and isinstance(b, dict):
        return bool((_pixels(a) == _pixels(b)).all())
    if not (isinstance(a, list) and isinstance(b, list)) or list(map(len, a)) != list(map(len, b)):
        return False
    return all(np.allclose(p, q, rtol=0, atol=TOLERANCE_PX) for p, q in zip(a, b, strict=True))


def _pixels(runs: dict[str, Any]) -> npt.NDArray[np.uint8]:
    packed = runs if isinstance(runs["counts"], str) else coco_mask.frPyObjects(runs, *runs["size"])
    pixels: npt.NDArray[np.uint8] = coco_mask.decode(packed)
    return pixels


def announced(losses: Counter[str]) -> dict[str, int]:
    """What a writer announced, as `differences` counts it."""
    counts = Counter(losses)
    counts[Loss.CLASSES] += counts.pop(Loss.CLASS_NAME, 0)
    return dict(+counts)


def items(given: Side) -> Iterator[tuple[ImageRecord, str]]:
    """Records with their splits, as writers take them, in an order that says nothing."""
    for data in sorted(given.images):
        image = given.images[data]
        assert image.split is not None
        yield image.record, image.split


def masks_lost(loaded: Loaded, each: ImageRecord) -> int:
    """Check what a format of outlines gives back of a record; how many of its masks it could not hold.

    A mask of two parts is lost, and the area of its object is the box's.
    """
    objects, name = each.objects, each.image_id
    assert loaded.example(name)["image"] == each.image
    assert (loaded.example(name)["image/height"], loaded.example(name)["image/width"]) == each.size
    assert np.abs(loaded.boxes(name) - objects.boxes).max(initial=0) < 1e-2
    assert loaded.column(name, "label") == objects.category_ids.tolist()
    assert loaded.column(name, "is_crowd") == objects.is_crowd.tolist()
    assert loaded.column(name, "is_truncated") == objects.is_truncated.tolist()
    whole = [text if len(json.loads(text or "[]")) == 1 else "" for text in objects.segmentations]
    masks = [json.loads(text or "[]") for text in loaded.column(name, "segmentation")]
    assert masks == [json.loads(text or "[]") for text in whole]
    assert np.allclose(loaded.column(name, "area"), objects.areas, rtol=1e-3)
    return sum(map(bool, objects.segmentations)) - sum(map(bool, whole))
