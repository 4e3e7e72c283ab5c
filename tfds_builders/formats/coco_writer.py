"""Records to COCO instances: `annotations/instances_SPLIT.json` and `images/SPLIT/`, as `open_coco` reads them."""

import json
import shutil
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import IO, Any

import numpy as np

from dataflow.boxes import xyxy_to_coco
from dataflow.records import Categories, ImageRecord
from dataflow.schema import NO_TRACK
from tfds_builders.formats.coco import split_of_name
from tfds_builders.losses import Loss, LossCount, as_read, track_ids
from tfds_builders.writing import ImageNames, ImageNumbers, write_image

_LARGEST_ID = 2**63
_encode = json.JSONEncoder(separators=(",", ":"), ensure_ascii=False, check_circular=False).encode


class CocoWriter:
    """Writes one JSON file per split. Images keep the number they had in their source where they have one.

    Annotations are numbered from 1, because pycocotools matches none with id 0. A region to ignore that has no mask is
    written without one: its box is what evaluation of boxes looks at. Nothing but the ids is kept in memory.
    """

    def __init__(self, out: Path, categories: Categories, splits: tuple[str, ...]) -> None:
        self.losses: Counter[str] = Counter()
        self._out = out
        self._categories = categories
        self._names = ImageNames()
        self._count = LossCount(self.losses, categories)
        self._files: dict[str, _SplitFile] = {}

    def add(self, record: ImageRecord, split: str) -> None:
        """Write one image and its objects."""
        name = self._names.name(record.image_id, record)
        write_image(self._out / "images" / split, name, record)
        if split not in self._files:
            path = self._out / "annotations" / f"{_file_stem(split)}.json"
            self._files[split] = _SplitFile(path, _categories(self._categories))
        number = self._files[split].add(record, name, self._categories)
        tracks = track_ids(record.objects)
        held = replace(
            record.objects,
            is_truncated=np.zeros(0, np.bool_),
            track_ids=np.where(tracks < 0, NO_TRACK, tracks),
            changes=None,
        )
        read = as_read(record, name, held, source_id=str(number))
        self._count.add(record, read, split, split_of_name(_file_stem(split)))

    def close(self) -> None:
        """Complete the JSON files."""
        for file in self._files.values():
            file.close()
        self._count.close(self._categories)
        if len(self._files) == 1:  # Readers divide what one file holds, whatever its name is.
            self.losses[Loss.SPLITS] = len(next(iter(self._files.values())).numbers)


class _SplitFile:
    """One JSON file in the making: images go into it as they come, annotations into a second file until the end."""

    def __init__(self, path: Path, categories: str) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        self._path = path
        self._images = _open(path.with_name(f".{path.name}.images"))
        self._annotations = _open(path.with_name(f".{path.name}.annotations"))
        # pycocotools and FiftyOne look for info and licenses.
        self._images.write(f'{{"info":{{"description":"Written by Shardbox"}},"licenses":[],"categories":{categories}')
        self._images.write(',"images":[')
        self.numbers = ImageNumbers(first=1, limit=_LARGEST_ID)
        self._count = 0

    def add(self, record: ImageRecord, name: str, categories: Categories) -> int:
        """An image, which is at `name`, and its objects. Returns the image's number."""
        number = self.numbers.number(record.source_id)
        image = {"id": number, "file_name": name, "height": record.height, "width": record.width}
        self._images.write(("," if len(self.numbers) > 1 else "") + "\n" + _encode(image))
        for row in _rows(record, categories):
            self._count += 1
            annotation = {"id": self._count, "image_id": number} | row
            self._annotations.write(("," if self._count > 1 else "") + "\n" + _encode(annotation))
        return number

    def close(self) -> None:
        """Join the two files under the name that is read."""
        self._images.write('\n],"annotations":[')
        self._annotations.close()
        with Path(self._annotations.name).open(encoding="utf-8") as rest:
            shutil.copyfileobj(rest, self._images)
        self._images.write("\n]}\n")
        self._images.close()
        Path(self._annotations.name).unlink()
        Path(self._images.name).replace(self._path)


def _file_stem(split: str) -> str:
    return f"instances_{split}"


def _open(path: Path) -> IO[str]:
    return path.open("w", encoding="utf-8", newline="\n")


def _categories(categories: Categories) -> str:
    pairs = zip(categories.source_ids, categories.names, strict=True)
    return _encode([{"id": number, "name": name} for number, name in pairs])


def _rows(record: ImageRecord, categories: Categories) -> list[dict[str, Any]]:
    """The annotations of an image, without their ids."""
    objects = record.objects
    rows = []
    for i, box in enumerate(xyxy_to_coco(objects.boxes).tolist()):
        row: dict[str, Any] = {
            "category_id": categories.source_ids[int(objects.category_ids[i])],
            "bbox": [_short(number) for number in box],
            "area": _short(float(objects.areas[i])),
            "iscrowd": int(objects.is_crowd[i]),
        }
        if objects.segmentations[i]:
            row["segmentation"] = json.loads(objects.segmentations[i])
        if objects.track_ids is not None and objects.track_ids[i] >= 0:
            row["track_id"] = int(objects.track_ids[i])
        rows.append(row)
    return rows


def _short(number: float) -> float:
    """A float32 in the digits that it has: 24.1, not 24.100000381469727."""
    return float(f"{number:.7g}")
