"""What changed between two prepared datasets: images, boxes, classes, splits."""

import json
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import xxhash

from dataflow.boxes import pairwise_iou
from dataflow.errors import UsageError
from dataflow.images import content_hash
from dataflow.prepared import PreparedDataset, Shard
from dataflow.records import ImageRecord, Objects

# What float32 makes of a box on its way through relative coordinates.
SAME_BOX_PX = 1e-2
# Below this overlap two boxes of one class are one object that went and another that came.
SAME_OBJECT_IOU = 0.5


@dataclass(frozen=True)
class ObjectChanges:
    """Objects of images that are in both datasets."""

    added: int = 0
    removed: int = 0
    moved: int = 0
    """The same class at another place, overlapping by half or more."""
    renamed: int = 0
    """Another class at the same place."""
    marked: int = 0
    """The same class and place, but another track, mask, area or mark (crowd, truncated, change)."""


@dataclass(frozen=True)
class DatasetChanges:
    """What B has that A has not, and the reverse. Ids are sorted."""

    same: bool
    images_added: tuple[str, ...] = ()
    images_removed: tuple[str, ...] = ()
    pixels_changed: tuple[str, ...] = ()
    """The stored bytes, or how they are turned."""
    objects_changed: tuple[str, ...] = ()
    objects: ObjectChanges = ObjectChanges()
    splits_changed: Mapping[str, tuple[str, str]] | None = None
    """(split in A, split in B) by image id."""
    classes_added: tuple[str, ...] = ()
    classes_removed: tuple[str, ...] = ()
    classes_reordered: bool = False

    def to_json(self) -> dict[str, Any]:
        """As plain data."""
        return {**asdict(self), "splits_changed": dict(self.splits_changed or {})}


@dataclass(frozen=True)
class _Glance:
    """An image as far as it takes to see that it changed."""

    split: str
    shard: str
    pixels: int
    objects: int


def dataset_changes(a: PreparedDataset, b: PreparedDataset) -> DatasetChanges:
    """Compare two datasets by image id. Objects are compared by the names of their classes.

    Raises:
        UsageError: they are of different kinds, or an id occurs twice.
    """
    if a.layout.kind != b.layout.kind:
        raise UsageError(f"{a.path} holds {a.layout.kind}, {b.path} {b.layout.kind}", "compare two of one kind")
    if a.fingerprint == b.fingerprint:
        return DatasetChanges(same=True, splits_changed={})
    # Shards of one name and digest hold the same examples, if the classes they refer to are the same.
    equal = set(a.shard_digests.items()) & set(b.shard_digests.items()) if a.categories == b.categories else set()
    equal_files = {file for file, digest in equal if digest}
    first, second = _glances(a, equal_files), _glances(b, equal_files)
    both = sorted(first.keys() & second.keys())
    changed = [image_id for image_id in both if first[image_id].objects != second[image_id].objects]
    objects, really_changed = _object_changes(a, b, set(changed), first, second)
    names_a, names_b = a.categories.names, b.categories.names
    changes = DatasetChanges(
        same=False,
        images_added=tuple(sorted(second.keys() - first.keys())),
        images_removed=tuple(sorted(first.keys() - second.keys())),
        pixels_changed=tuple(i for i in both if first[i].pixels != second[i].pixels),
        objects_changed=tuple(really_changed),
        objects=objects,
        splits_changed={i: (first[i].split, second[i].split) for i in both if first[i].split != second[i].split},
        classes_added=tuple(name for name in names_b if name not in names_a),
        classes_removed=tuple(name for name in names_a if name not in names_b),
        classes_reordered=[n for n in names_a if n in names_b] != [n for n in names_b if n in names_a],
    )
    nothing = DatasetChanges(same=False, splits_changed={})
    return DatasetChanges(same=True, splits_changed={}) if changes == nothing else changes


def _glances(dataset: PreparedDataset, equal_files: set[str]) -> dict[str, _Glance]:
    """All images by id. Those of shards that both datasets share are left out: they are the same."""
    found: dict[str, _Glance] = {}
    for split in dataset.splits:
        for shard in dataset.shards(split):
            if shard.path.name in equal_files:
                continue
            for image_id, pixels, objects in _contents(dataset, shard):
                if image_id in found:
                    raise UsageError(f"{dataset.path}: two images have the id {image_id!r}", "prepare it again")
                found[image_id] = _Glance(split, shard.path.name, pixels, _hash(objects, dataset))
    return found


def _contents(dataset: PreparedDataset, shard: Shard) -> Iterator[tuple[str, int, Objects]]:
    """(image or pair id, a number that changes with its pixels, its objects) of a shard."""
    if dataset.layout.is_ours and dataset.layout.kind != "images":
        # A record's image is the after frame, or the difference, which may be of another mode.
        for pair, record in zip(dataset.shard_pairs(shard), dataset.shard_records(shard), strict=True):
            pixels = _pixels(pair.before), _pixels(pair.after), _pixels(record), pair.homography.tobytes()
            yield pair.pair_id, hash(pixels), pair.objects
        return
    for record in dataset.shard_records(shard):
        yield record.image_id, _pixels(record), record.objects


def _pixels(record: ImageRecord) -> int:
    return hash((content_hash(record.image), record.orientation))


def _hash(objects: Objects, dataset: PreparedDataset) -> int:
    names = dataset.categories.names
    digest = xxhash.xxh3_64(repr([names[i] for i in objects.category_ids.tolist()]).encode())
    for array in (objects.boxes, objects.areas, objects.is_crowd, objects.is_truncated, objects.in_before):
        digest.update(np.ascontiguousarray(array).tobytes())
    digest.update(repr((objects.track_ids, objects.changes, objects.segmentations)).encode())
    return digest.intdigest()


def _object_changes(
    a: PreparedDataset,
    b: PreparedDataset,
    wanted: set[str],
    first: Mapping[str, _Glance],
    second: Mapping[str, _Glance],
) -> tuple[ObjectChanges, list[str]]:
    """What became of the objects of the images `wanted`, and which of these differ beyond rounding."""
    old = dict(_objects(a, wanted, first))
    counts: Counter[str] = Counter()
    changed = []
    for image_id, objects in _objects(b, wanted, second):
        found = _compare(old[image_id], a.categories.names, objects, b.categories.names)
        if found is not None:
            changed.append(image_id)
            counts.update(found)
    return ObjectChanges(**counts), sorted(changed)


def _objects(
    dataset: PreparedDataset, wanted: set[str], glances: Mapping[str, _Glance]
) -> Iterator[tuple[str, Objects]]:
    files = {glances[image_id].shard for image_id in wanted}
    for split in dataset.splits:
        for shard in dataset.shards(split):
            if shard.path.name in files:
                for record in dataset.shard_records(shard):
                    if record.image_id in wanted:
                        yield record.image_id, record.objects


def _differs(old: Objects, i: int, new: Objects, j: int) -> bool:
    """Whether object i of one image differs from object j of the other in what is neither class nor box."""
    return not (
        old.is_crowd[i] == new.is_crowd[j]
        and old.is_truncated[i] == new.is_truncated[j]
        and old.in_before[i] == new.in_before[j]
        and _at(old.track_ids, i) == _at(new.track_ids, j)
        and _at(old.changes, i) == _at(new.changes, j)
        and _is_same_mask(old.segmentations[i], new.segmentations[j])
        and np.isclose(old.areas[i], new.areas[j], rtol=1e-3, atol=SAME_BOX_PX)
    )


def _at(column: npt.NDArray[np.int64] | None, index: int) -> int | None:
    return None if column is None else int(column[index])


def _is_same_mask(old: str, new: str) -> bool:
    """Whether two masks (COCO's `segmentation` as JSON, or "") are the same: formats write 3 as 3.0, and round."""
    if old == new or not (old and new):
        return old == new
    a, b = json.loads(old), json.loads(new)
    if not (isinstance(a, list) and isinstance(b, list) and list(map(len, a)) == list(map(len, b))):
        return bool(a == b)
    return all(np.allclose(p, q, rtol=0, atol=SAME_BOX_PX) for p, q in zip(a, b, strict=True))


def _compare(old: Objects, old_names: tuple[str, ...], new: Objects, new_names: tuple[str, ...]) -> Counter[str] | None:
    """Counts by field of `ObjectChanges`, or None where nothing differs beyond rounding; each object is paired once."""
    old_classes = [old_names[i] for i in old.category_ids.tolist()]
    new_classes = [new_names[i] for i in new.category_ids.tolist()]
    n = len(old)
    if n == len(new) and old_classes == new_classes and np.allclose(old.boxes, new.boxes, rtol=0, atol=SAME_BOX_PX):
        marked = sum(_differs(old, i, new, i) for i in range(n))
        return Counter(marked=marked) if marked else None
    counts: Counter[str] = Counter()
    overlap = pairwise_iou(old.boxes, new.boxes)
    same_class = np.array([[x == y for y in new_classes] for x in old_classes], bool).reshape(overlap.shape)
    # Of one class before of two, and then by overlap.
    rank = np.where(overlap >= SAME_OBJECT_IOU, overlap + 1.0 * same_class, 0.0)
    pairs = 0
    while rank.size and rank.max() > 0:
        i, j = np.unravel_index(int(rank.argmax()), rank.shape)
        if not same_class[i, j]:
            counts["renamed"] += 1
        elif np.abs(old.boxes[i] - new.boxes[j]).max() > SAME_BOX_PX:
            counts["moved"] += 1
        elif _differs(old, int(i), new, int(j)):
            counts["marked"] += 1
        rank[i, :] = rank[:, j] = 0
        pairs += 1
    counts["removed"] = len(old) - pairs
    counts["added"] = len(new) - pairs
    return counts
