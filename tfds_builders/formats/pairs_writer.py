"""Before/after pairs, written as a list of pairs that `open_pairs` reads back."""

import hashlib
import json
from collections import Counter
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np

from dataflow.boxes import box_areas
from dataflow.records import Categories, Change, FramePair, ImageRecord, Objects
from tfds_builders.formats.pair_entries import split_of_cell
from tfds_builders.losses import Loss, LossCount, add_losses, is_exif_ignored
from tfds_builders.writing import ImageNames, write_image

LIST = "pairs.jsonl"
CLASSES = "classes.txt"


class PairsWriter:
    """Writes pairs as `pairs.jsonl`, `classes.txt`, `images/before/...` and `images/after/...`.

    A line holds the targets themselves (`labels`). An image that several pairs show is one file, in the folder of what
    it was first. One pair is in memory at a time, and 16 bytes and a name of every image written.
    """

    def __init__(self, out: Path, categories: Categories, splits: tuple[str, ...]) -> None:
        self.losses: Counter[str] = Counter()
        self._out, self._categories = out, categories
        self._count = LossCount(self.losses, categories)
        # Their ids stand in the list: no loss where a file cannot be called so.
        self._names = {frame: ImageNames() for frame in ("before", "after")}
        self._written: dict[bytes, str] = {}
        self._pairs: set[tuple[str, str]] = set()
        (out / CLASSES).write_text("".join(f"{name}\n" for name in categories.names), encoding="utf-8")
        self._list = (out / LIST).open("w", encoding="utf-8", newline="\n")

    def add(self, pair: FramePair, split: str) -> None:
        """Write one pair, and those of its images that are not there yet."""
        before = self._image("before", pair.before, pair.before.image_id)
        after = self._image("after", pair.after, _after_name(pair))
        if before == after or (before, after) in self._pairs:
            # Frames of equal content: a list has each pair of files once.
            after = self._new_image("after", pair.after, _after_name(pair))
        self._pairs.add((before, after))
        row = {
            "id": pair.pair_id,
            "before": before,
            "after": after,
            "before_id": pair.before.image_id,
            "scene": pair.after.group_id,
            "split": split_of_cell(split),
            "labels": _listed(pair.objects, self._categories.names),
        }
        self._list.write(json.dumps(row, ensure_ascii=False) + "\n")
        is_identity = np.array_equal(pair.homography, np.eye(3)) and pair.alignment_score == 1.0
        names = {Loss.IMAGE_IDS: (pair.pair_id, pair.before.image_id), Loss.SCENES: (pair.after.group_id,)}
        found = {
            Loss.ALIGNMENTS: not is_identity,
            Loss.SOURCE_IDS: bool(pair.after.source_id),
            Loss.FRAME_OBJECTS: len(pair.before.objects) + len(pair.after.objects),
            Loss.SPLITS: split != split_of_cell(split),
            # Readers leave out blanks around a text.
            **{loss: any(text != text.strip() for text in texts) for loss, texts in names.items()},
        }
        add_losses(self.losses, found)

    def close(self) -> None:
        """Finish the list."""
        self._list.close()
        self._count.close(Categories(self._categories.names))

    def _image(self, frame: str, record: ImageRecord, name: str) -> str:
        """The path of an image from the list, written if it is the first of its content."""
        digest = hashlib.blake2b(record.image, digest_size=16).digest()
        if digest not in self._written:
            self._written[digest] = self._new_image(frame, record, name)
        return self._written[digest]

    def _new_image(self, frame: str, record: ImageRecord, name: str) -> str:
        file = f"images/{frame}/{self._names[frame].name(name, record)}"
        write_image(self._out, file, record)
        add_losses(self.losses, {Loss.EXIF_IGNORED: is_exif_ignored(record)})
        return file


def _after_name(pair: FramePair) -> str:
    """What the after frame is called. In a prepared dataset it has the id of the pair, but its file name is its own."""
    if pair.after.image_id != pair.pair_id or not pair.after.filename:
        return pair.after.image_id
    return PurePosixPath(pair.after.filename).with_suffix("").as_posix()


def _listed(objects: Objects, classes: tuple[str, ...]) -> list[dict[str, Any]]:
    """Objects as a list of pairs has them; what goes without saying is left out."""
    rows = []
    own_areas = box_areas(objects.boxes)
    for i, box in enumerate(objects.boxes):
        # The shortest decimals that are this float32.
        row: dict[str, Any] = {"box": [float(str(number)) for number in box]}
        row["class"] = classes[int(objects.category_ids[i])]
        if objects.changes is not None and objects.changes[i] != Change.NONE:
            row["change"] = Change(int(objects.changes[i])).name.lower()
        if objects.track_ids is not None and objects.track_ids[i] >= 0:
            row["track"] = int(objects.track_ids[i])
        row |= {"ignore": True} if objects.is_crowd[i] else {}
        row |= {"truncated": True} if objects.is_truncated[i] else {}
        row |= {"in_before": True} if objects.in_before[i] else {}
        mask = objects.segmentations[i]
        if mask or abs(objects.areas[i] - own_areas[i]) > 1e-3 * own_areas[i]:
            row["area"] = float(str(objects.areas[i]))
        row |= {"segmentation": json.loads(mask)} if mask else {}
        rows.append(row)
    return rows
