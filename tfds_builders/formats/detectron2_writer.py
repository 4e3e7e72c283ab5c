"""Records to what Detectron2's `register_coco_instances` reads: COCO instances with classes numbered as ours are.

Detectron2 sorts classes by their number and takes their places for its own ids. Numbered from 1 in our order, these are
our ids; the source's numbers would put them in another order. It passes over an object of which no polygon has three
points, box and all, so that such an object is written without its polygons.
"""

import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from dataflow.records import Categories, ImageRecord
from tfds_builders.formats.coco_writer import CocoWriter
from tfds_builders.losses import Loss

_LEAST_NUMBERS = 6
"""x and y of three points."""


def valid_segmentation(text: str) -> Any:
    """A segmentation (COCO's, as JSON) as Detectron2 takes it: run lengths, or the polygons of three or more points.

    None where there is nothing of that kind.
    """
    if not text:
        return None
    found = json.loads(text)
    if isinstance(found, dict):
        return found
    polygons: Sequence[Any] = [p for p in found if len(p) % 2 == 0 and len(p) >= _LEAST_NUMBERS]
    return polygons or None


class Detectron2Writer:
    """Writes `annotations/instances_SPLIT.json` and `images/SPLIT/`; see `CocoWriter`."""

    def __init__(self, out: Path, categories: Categories, splits: tuple[str, ...]) -> None:
        numbered = Categories(categories.names, tuple(range(1, len(categories) + 1)))
        self._coco = CocoWriter(out, numbered, splits)
        self.losses: Counter[str] = self._coco.losses
        self._renumbered = sum(a != b for a, b in zip(categories.source_ids, numbered.source_ids, strict=True))
        self._without_mask = 0

    def add(self, record: ImageRecord, split: str) -> None:
        """Write one image and its objects."""
        kept = [valid_segmentation(text) for text in record.objects.segmentations]
        texts = tuple("" if each is None else json.dumps(each) for each in kept)
        self._without_mask += sum(bool(a) and not b for a, b in zip(record.objects.segmentations, texts, strict=True))
        self._coco.add(replace(record, objects=replace(record.objects, segmentations=texts)), split)

    def close(self) -> None:
        """Complete the JSON files."""
        self._coco.close()
        for loss, count in ((Loss.CLASS_IDS, self._renumbered), (Loss.MASKS, self._without_mask)):
            if count:
                self.losses[loss] += count
