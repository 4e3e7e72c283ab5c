"""What is counted of the images and objects of a dataset: sums of shards, which add up to those of splits.

All counts are whole numbers, so that they add up alike in any order. Sizes, ratios and distances are counted in bins a
quarter of an octave wide (bin k holds 2^(k/4) to 2^((k+1)/4)); the COCO size of an object is that of its `area`, small
below 32 x 32 px and large from 96 x 96 px on. Regions to ignore are counted as such and as nothing else.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from itertools import combinations
from typing import Any

import numpy as np
import numpy.typing as npt
import xxhash

from dataflow.records import Change, FramePair, ImageRecord, Objects

GRID = 24
"""Cells across and down an image, in which it is counted where objects are."""
SCORE_BINS = 20
SIZES = ("small", "medium", "large")
_SIZE_BOUNDS = (32**2, 96**2)
Heat = npt.NDArray[np.int64]


def quarter_octaves(values: npt.ArrayLike) -> list[int]:
    """The bins of positive values."""
    return [int(k) for k in np.floor(4 * np.log2(np.asarray(values, np.float64)))]


def _no_heat() -> Heat:
    return np.zeros((GRID, GRID), np.int64)


@dataclass
class Tally:
    """What is counted of some images. Keys of counters are texts, as JSON has them; classes are contiguous ids."""

    images: int = 0
    empty: int = 0
    """Images without an object."""
    objects: int = 0
    ignored: int = 0
    """Regions to ignore (crowds, difficult objects)."""
    truncated: int = 0
    without_area: int = 0
    """Boxes without area, which are left out of all else."""
    class_objects: Counter[str] = field(default_factory=Counter)
    class_images: Counter[str] = field(default_factory=Counter)
    class_sizes: Counter[str] = field(default_factory=Counter)
    """Objects by `class size`."""
    class_pairs: Counter[str] = field(default_factory=Counter)
    """Images that show two classes together, by `class class`, the lower first."""
    objects_in_image: Counter[str] = field(default_factory=Counter)
    """Images by their number of objects."""
    image_sizes: Counter[str] = field(default_factory=Counter)
    """Images by `width x height`."""
    widths: Counter[str] = field(default_factory=Counter)
    heights: Counter[str] = field(default_factory=Counter)
    sides: Counter[str] = field(default_factory=Counter)
    """Objects by the root of their box's area; `widths` and `heights` by these. Bins of px."""
    aspects: Counter[str] = field(default_factory=Counter)
    """Objects by bins of width / height."""
    changes: Counter[str] = field(default_factory=Counter)
    """Objects of pairs by `change`, those that say where an object was by `change, before`."""
    displacements: Counter[str] = field(default_factory=Counter)
    """Moved objects of which both places are known, by bins of the px between the middles of their boxes, or `none`."""
    displaced_mpx: int = 0
    """Sum of these distances in thousandths of a pixel."""
    scores: Counter[str] = field(default_factory=Counter)
    """Pairs by their alignment score, in bins of 0.05."""
    models: Counter[str] = field(default_factory=Counter)
    """Differences by how the camera moved."""
    scenes: Counter[str] = field(default_factory=Counter)
    """Images by the hash of their scene."""
    tracks: Counter[str] = field(default_factory=Counter)
    """Images by the hash of a scene and a track in it."""
    heat: Heat = field(default_factory=_no_heat)
    """(rows, columns) objects that touch each cell of a grid over their image."""

    def add(self, records: Sequence[ImageRecord | FramePair]) -> None:
        """Count images or pairs, some hundreds at a time."""
        for record in records:
            self._add_image(record)
        every = [record.objects for record in records]
        sizes = np.array([_frame(record).size for record in records]).repeat([len(one) for one in every], axis=0)
        keep = np.concatenate([np.zeros(0, np.bool_), *(~one.is_crowd for one in every)])
        if not keep.any():
            return
        boxes, labels, areas = (
            np.concatenate([getattr(one, name) for one in every])[keep] for name in ("boxes", "category_ids", "areas")
        )
        extents = boxes[:, 2:].astype(np.float64) - boxes[:, :2]
        for counter, values in (
            (self.widths, extents[:, 0]),
            (self.heights, extents[:, 1]),
            (self.sides, np.sqrt(extents.prod(axis=1))),
            (self.aspects, extents[:, 0] / extents[:, 1]),
        ):
            counter.update(map(str, quarter_octaves(values)))
        self.class_objects.update(map(str, labels.tolist()))
        named = [SIZES[index] for index in np.searchsorted(_SIZE_BOUNDS, areas, side="right")]
        self.class_sizes.update(f"{label} {size}" for label, size in zip(labels.tolist(), named, strict=True))
        self.heat += _touched(boxes, sizes[keep])

    def _add_image(self, record: ImageRecord | FramePair) -> None:
        frame, objects = _frame(record), record.objects
        real = ~objects.is_crowd
        n = int(real.sum())
        self.images += 1
        self.empty += n == 0
        self.objects += n
        self.ignored += len(objects) - n
        self.truncated += int(objects.is_truncated[real].sum())
        self.objects_in_image[str(n)] += 1
        self.image_sizes[f"{frame.width} x {frame.height}"] += 1
        self.scenes[_hash(frame.group_id)] += 1
        shown = sorted(set(objects.category_ids[real].tolist()))
        self.class_images.update(map(str, shown))
        self.class_pairs.update(f"{a} {b}" for a, b in combinations(shown, 2))
        if objects.track_ids is not None:
            self.tracks.update(_hash(f"{frame.group_id}\0{track}") for track in set(objects.track_ids[real].tolist()))
        if isinstance(record, FramePair):
            self._add_pair(record, objects)

    def _add_pair(self, pair: FramePair, objects: Objects) -> None:
        self.scores[str(min(int(pair.alignment_score * SCORE_BINS), SCORE_BINS - 1))] += 1
        self.models[pair.alignment_model] += 1
        if objects.changes is None:
            return
        for change, before, crowd in zip(objects.changes, objects.in_before, objects.is_crowd, strict=True):
            if not crowd:
                self.changes[Change(change).name.lower() + (", before" if before else "")] += 1
        for distance in _distances(objects):
            self.displacements[str(quarter_octaves([distance])[0]) if distance > 0 else "none"] += 1
            self.displaced_mpx += round(1000 * distance)

    def merge(self, other: "Tally") -> None:
        """Add what was counted of other images."""
        for one in fields(self):
            mine, more = getattr(self, one.name), getattr(other, one.name)
            if isinstance(mine, Counter):
                mine.update(more)
            else:
                setattr(self, one.name, mine + more)

    def to_json(self) -> dict[str, Any]:
        """All of it in JSON's types."""
        values = {one.name: getattr(self, one.name) for one in fields(self)}
        return {name: value.tolist() if name == "heat" else value for name, value in values.items()}


def parse_tally(content: Mapping[str, Any]) -> Tally:
    """What `Tally.to_json` wrote."""
    empty = Tally()
    kinds = {one.name: type(getattr(empty, one.name)) for one in fields(empty)}
    made: dict[str, Any] = {
        name: Counter(value) if kinds[name] is Counter else value for name, value in content.items()
    }
    return Tally(**(made | {"heat": np.array(content["heat"], np.int64)}))


def _frame(record: ImageRecord | FramePair) -> ImageRecord:
    """The image that boxes are in."""
    return record.after if isinstance(record, FramePair) else record


def _hash(text: str) -> str:
    return xxhash.xxh3_64_hexdigest(text.encode())


def _distances(objects: Objects) -> list[float]:
    """How far objects moved, px, by the middles of the two boxes of a track."""
    if objects.track_ids is None or objects.changes is None:
        return []
    moved = (objects.changes == Change.MOVED) & ~objects.is_crowd & (objects.track_ids >= 0)
    middles = (objects.boxes[:, :2].astype(np.float64) + objects.boxes[:, 2:]) / 2
    places: tuple[dict[int, Any], dict[int, Any]] = ({}, {})
    for index in np.flatnonzero(moved):
        places[int(objects.in_before[index])][int(objects.track_ids[index])] = middles[index]
    after, before = places
    return [float(np.hypot(*(after[track] - before[track]))) for track in sorted(after.keys() & before.keys())]


def _touched(boxes: npt.NDArray[np.float32], sizes: npt.NDArray[np.int64]) -> Heat:
    """(GRID, GRID) how many boxes (N, 4) touch each cell of images of `sizes` (N, 2) (height, width) px."""
    scale = GRID / sizes[:, [1, 0, 1, 0]]
    low = np.clip(np.floor(boxes[:, :2] * scale[:, :2]).astype(int), 0, GRID - 1)
    high = np.clip(np.ceil(boxes[:, 2:] * scale[:, 2:]).astype(int), low + 1, GRID)
    corners = np.zeros((GRID + 1, GRID + 1), np.int64)
    for sign, x, y in ((1, low, low), (-1, high, low), (-1, low, high), (1, high, high)):
        np.add.at(corners, (y[:, 1], x[:, 0]), sign)
    return np.asarray(corners.cumsum(axis=0).cumsum(axis=1)[:GRID, :GRID])
