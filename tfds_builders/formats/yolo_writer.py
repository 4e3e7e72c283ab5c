"""Writing YOLO text: the layout that YOLO trainers read."""

from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import yaml

from dataflow.boxes import Size, xyxy_to_cxcywh, xyxy_to_tfds
from dataflow.errors import UsageError
from dataflow.records import Categories, ImageRecord, Objects
from tfds_builders.formats.yolo_layout import DESCRIPTIONS, OTHER_KEYS, SPLIT_KEYS, label_file
from tfds_builders.losses import LossCount, as_read, without_regions
from tfds_builders.sources.outlines import own_areas, single_polygon
from tfds_builders.writing import ImageNames, write_image

_SPLIT_NAMES = {"train": "train", "validation": "val", "test": "test"}


class YoloWriter:
    """Writes what YOLO trainers read: `data.yaml`, `images/SPLIT/ID.jpg` and `labels/SPLIT/ID.txt`.

    A label file holds segments when every object of its image has a polygon of one part with the object's box around
    it, else boxes: trainers refuse a file of both. Regions to ignore are left out, because a trainer would learn them
    as objects. `data.yaml` has no `path`, which trainers would take as relative to where they run.
    """

    def __init__(self, out: Path, categories: Categories, splits: tuple[str, ...]) -> None:
        self.losses: Counter[str] = Counter()
        self._out, self._categories = out, categories
        self._folders = {split: _SPLIT_NAMES.get(split, split) for split in splits}
        for split in OTHER_KEYS.intersection(splits):
            raise UsageError(f"data.yaml cannot name a split {split!r}", "export it under another name")
        for folder in self._folders.values():
            (out / "images" / folder).mkdir(parents=True, exist_ok=True)
            (out / "labels" / folder).mkdir(parents=True, exist_ok=True)
        self._names = ImageNames()
        self._count = LossCount(self.losses, categories)

    def add(self, record: ImageRecord, split: str) -> None:
        """Write one image and its label file."""
        folder = self._folders[split]
        name = self._names.name(record.image_id, record)
        image = f"images/{folder}/{name}"
        write_image(self._out, image, record)
        path = self._out / label_file(image)
        path.parent.mkdir(parents=True, exist_ok=True)
        objects = without_regions(record.objects)
        polygons = _polygons(objects)
        lines = _segments(objects, polygons, record.size) if polygons else _boxes(objects, record.size)
        path.write_text("".join(f"{line}\n" for line in lines), encoding="ascii")
        masks = objects.segmentations if polygons else ()
        areas = own_areas(objects.boxes, masks, record.size)
        held = Objects(objects.boxes, objects.category_ids, areas, segmentations=masks)
        self._count.add(record, as_read(record, name, held), split, SPLIT_KEYS.get(folder, folder))

    def close(self) -> None:
        """Write data.yaml."""
        described = {folder: f"images/{folder}" for folder in self._folders.values()}
        names = dict(enumerate(self._categories.names))
        text = yaml.safe_dump({**described, "nc": len(names), "names": names}, allow_unicode=True, sort_keys=False)
        (self._out / DESCRIPTIONS[0]).write_text(text, encoding="utf-8")
        self._count.close(Categories(self._categories.names))


def _polygons(objects: Objects) -> list[list[tuple[float, float]]]:
    """The outline in px of every object; none at all where some object has none of one part that its box is around."""
    found = []
    for mask, box in zip(objects.segmentations, objects.boxes.tolist(), strict=True):
        points = single_polygon(mask, box)
        if points is None:
            return []
        found.append(points)
    return found


def _segments(objects: Objects, polygons: Sequence[Sequence[tuple[float, float]]], size: Size) -> Iterator[str]:
    for category, points in zip(objects.category_ids, polygons, strict=True):
        yx = xyxy_to_tfds(np.hstack([points, points]), size)[:, :2]
        yield _line(category, np.clip(yx[:, ::-1], 0, 1).reshape(-1).tolist())


def _boxes(objects: Objects, size: Size) -> Iterator[str]:
    for category, box in zip(objects.category_ids, xyxy_to_cxcywh(objects.boxes, size).tolist(), strict=True):
        yield _line(category, box)


def _line(category: int, numbers: Sequence[float]) -> str:
    return f"{category} " + " ".join(f"{number:.8f}" for number in numbers)
