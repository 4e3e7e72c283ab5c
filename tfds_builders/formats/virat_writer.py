"""Records to VIRAT object files: `annotations/CLIP.viratdata.objects.txt` and `frames/CLIP/000123.jpg`."""

import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np

from dataflow.boxes import xyxy_to_coco
from dataflow.records import Categories, ImageRecord, Objects
from dataflow.schema import NO_TRACK
from tfds_builders.formats.virat import ANNOTATIONS, FRAMES
from tfds_builders.formats.virat_rows import SUFFIX, virat_classes
from tfds_builders.losses import LossCount, track_ids, unique_tracks, without_regions
from tfds_builders.writing import DistinctNames, ImageNames, safe_path, write_image

_FRAME_ID = re.compile(r"(.+)/([0-9]{6,15})")
_LAST_NUMBER = re.compile(r"([0-9]{1,15})$")
_CLASSES = virat_classes().categories
_KINDS = {name: kind for kind, name in enumerate(_CLASSES.names)}
_OTHER = _KINDS["object"]
"""What is neither person, car, vehicle nor bike."""
_LARGEST_TRACK = 2**53


class ViratWriter:
    """Writes a clip per scene. An image called NAME/000007 is frame 7 of NAME; others get a number that is free.

    Objects of classes that VIRAT has not are written as its `object`; regions to ignore are left out, because VIRAT
    would have them as objects. What has no track is object -1. Rows wait in a file per clip until durations are known.
    """

    def __init__(self, out: Path, categories: Categories, splits: tuple[str, ...]) -> None:
        self.losses: Counter[str] = Counter()
        self._out, self._names = out, categories.names
        self._files = ImageNames()
        self._folders = DistinctNames()
        self._count = LossCount(self.losses, categories, _CLASSES.names)
        self._clips: dict[str, str] = {}
        """The clip of each scene."""
        self._numbers: dict[str, set[int]] = {}
        """The frames that each clip has."""

    def add(self, record: ImageRecord, split: str) -> None:
        """Write one image, and put its rows aside."""
        clip, number = self._place(record)
        frame_id = f"{clip}/{number:06d}"
        write_image(self._out / FRAMES, self._files.name(frame_id, record), record)
        objects = without_regions(record.objects)
        kinds = [_KINDS.get(self._names[category], _OTHER) for category in objects.category_ids.tolist()]
        held = Objects(objects.boxes, np.array(kinds), track_ids=unique_tracks(objects, _LARGEST_TRACK))
        path = self._rows_path(clip)
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("a", encoding="ascii") as file:
            file.writelines(f"{row}\n" for row in _rows(held, number))
        read = replace(record, image_id=frame_id, group_id=clip, source_id="", objects=held)
        self._count.add(record, read, split, None)

    def close(self) -> None:
        """Write the object files, one at a time: rows by frame, with the duration of each object."""
        for clip in self._numbers:
            path = self._rows_path(clip)
            rows = [line.split(" ", 2) for line in path.read_text(encoding="ascii").splitlines()]
            # Objects of a frame stay in their order, which is that of the record.
            rows.sort(key=lambda row: int(row[1]))
            first, last = dict[str, int](), dict[str, int]()
            for track, frame, _ in rows:
                first.setdefault(track, int(frame))
                last[track] = int(frame)
            durations = {track: last[track] - first[track] + 1 for track in first} | {str(NO_TRACK): 1}
            text = "".join(f"{track} {durations[track]} {frame} {rest}\n" for track, frame, rest in rows)
            (self._out / ANNOTATIONS / f"{clip}{SUFFIX}").write_text(text, encoding="ascii")
            path.unlink()
        self._count.close(_CLASSES)

    def _rows_path(self, clip: str) -> Path:
        return self._out / ANNOTATIONS / f"{clip}{SUFFIX}.rows"

    def _place(self, record: ImageRecord) -> tuple[str, int]:
        """The clip and the frame number of an image: those of its id where it says them as a reader would."""
        match = _FRAME_ID.fullmatch(record.image_id)
        scene, number = record.group_id, None
        # Two scenes with tracks of their own must not become one.
        if match and (record.group_id == match[1] or record.objects.track_ids is None):
            scene, number = match[1], int(match[2])
        clip = self._clip(scene)
        taken = self._numbers[clip]
        if number is None or number in taken:
            last = _LAST_NUMBER.search(record.image_id)
            number = int(last[1]) if last else 0
            while number in taken:
                number += 1
        taken.add(number)
        return clip, number

    def _clip(self, scene: str) -> str:
        """The clip of a scene, which no other one has, also where names differ in their case alone."""
        if scene not in self._clips:
            self._clips[scene] = self._folders.name(safe_path(scene))
            self._numbers[self._clips[scene]] = set()
        return self._clips[scene]


def _rows(objects: Objects, number: int) -> Iterator[str]:
    """Object id, frame, left, top, width, height, type of each object, whose classes are VIRAT's."""
    boxes = xyxy_to_coco(objects.boxes).tolist()
    for track, box, kind in zip(track_ids(objects).tolist(), boxes, objects.category_ids.tolist(), strict=True):
        # A float32 has seven digits.
        numbers = " ".join(f"{value:.7g}" for value in box)
        yield f"{track} {number} {numbers} {_CLASSES.source_ids[kind]}"
