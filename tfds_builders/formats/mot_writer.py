"""Records to MOTChallenge sequences: `SEQUENCE/img1/000001.jpg`, `SEQUENCE/gt/gt.txt`, `SEQUENCE/seqinfo.ini`."""

import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path, PurePosixPath

import numpy as np
import numpy.typing as npt

from dataflow.boxes import Size, xyxy_to_mot
from dataflow.records import Categories, ImageRecord, Objects
from tfds_builders.losses import Loss, LossCount, add_losses, unique_tracks
from tfds_builders.writing import DistinctNames, ImageNames, safe_path, write_image

# What a reader calls the class of tracks where it is not told a name.
_CLASSES = Categories(("object",))
_LARGEST_TRACK = 2**53


@dataclass
class _Sequence:
    """A sequence in the making: the file name and number of each frame in the order they came.

    A frame whose id says no number has None until all are there: numbers go by the order of the ids.
    """

    folder: str
    frames: list[tuple[str, str, int | None]] = field(default_factory=list)
    """(image id, file name below img1, number)."""
    size: Size = (0, 0)


class MotWriter:
    """Writes a sequence per scene. An image called NAME/000007 is frame 7 of NAME; others get numbers by their ids.

    Boxes without a track get -1, as MOTChallenge has it for detections. The class column says 1 for all, the
    visibility column 1, which is what tools that filter by them let pass.
    """

    def __init__(self, out: Path, categories: Categories, splits: tuple[str, ...]) -> None:
        self.losses: Counter[str] = Counter()
        self._out = out
        self._files = ImageNames()
        self._sequences: dict[str, _Sequence] = {}
        self._folders = DistinctNames()
        one = len(categories) == 1
        self._count = LossCount(self.losses, categories, _CLASSES.names, Loss.CLASS_NAME if one else Loss.CLASSES)

    def add(self, record: ImageRecord, split: str) -> None:
        """Write one image and its rows."""
        scene, number = self._place(record)
        sequence = self._sequence(scene)
        if sequence.folder != scene:
            number = None
        key = len(sequence.frames)
        stem = f"new_{key}" if number is None else f"{number:06d}"
        path = self._files.name(f"{sequence.folder}/img1/{stem}", record)
        write_image(self._out, path, record)
        sequence.frames.append((record.image_id, PurePosixPath(path).name, number))
        sequence.size = sequence.size if key else record.size
        tracks = unique_tracks(record.objects, _LARGEST_TRACK)
        rows = self._out / sequence.folder / "gt" / "rows"
        rows.parent.mkdir(exist_ok=True)
        with rows.open("a", encoding="ascii") as file:
            file.writelines(f"{key},{row}\n" for row in _rows(record.objects, tracks))
        boxes = record.objects.boxes
        held = Objects(boxes, np.zeros(len(boxes), np.int64), is_crowd=record.objects.is_crowd, track_ids=tracks)
        # Its id is known when all frames have their numbers.
        read = replace(record, group_id=sequence.folder, source_id="", objects=held)
        self._count.add(record, read, split, None)

    def close(self) -> None:
        """Number the frames that have no numbers yet, and write `gt.txt` and `seqinfo.ini`, a sequence at a time."""
        for sequence in self._sequences.values():
            folder = self._out / sequence.folder
            numbers = _numbers(sequence)
            for (image_id, name, number), new in zip(sequence.frames, numbers, strict=True):
                add_losses(self.losses, {Loss.IMAGE_IDS: image_id != f"{sequence.folder}/{new:06d}"})
                if number is None:
                    path = folder / "img1" / name
                    path.rename(path.with_name(f"{new:06d}{path.suffix}"))
            rows = folder / "gt" / "rows"
            lines = []
            for line in rows.read_text(encoding="ascii").splitlines():
                key, _, row = line.partition(",")
                lines.append((numbers[int(key)], row))
            lines.sort(key=lambda item: item[0])
            text = "".join(f"{number},{row}\n" for number, row in lines)
            (folder / "gt" / "gt.txt").write_text(text, encoding="ascii")
            rows.unlink()
            (folder / "seqinfo.ini").write_text(_seqinfo(sequence, max(numbers)), encoding="utf-8")
        self._count.close(_CLASSES)

    def _place(self, record: ImageRecord) -> tuple[str, int | None]:
        """The sequence of an image and its frame number; None where its id does not say it as a reader would."""
        match = re.fullmatch(r"([^/\\]+)/([0-9]{6,15})", record.image_id)
        is_id = match is not None and f"{int(match[2]):06d}" == match[2]
        # Two scenes with tracks of their own must not become one.
        if match is not None and is_id and (record.group_id == match[1] or record.objects.track_ids is None):
            return match[1], int(match[2])
        return record.group_id, None

    def _sequence(self, scene: str) -> _Sequence:
        """The sequence of a scene, in a folder that no other one has."""
        if scene not in self._sequences:
            self._sequences[scene] = _Sequence(self._folders.name(safe_path(scene).replace("/", "_")))
        return self._sequences[scene]


def _rows(objects: Objects, tracks: npt.NDArray[np.int64]) -> Iterator[str]:
    """Track, left, top, width, height, flag, class, visibility of each object."""
    boxes = xyxy_to_mot(objects.boxes).tolist()
    for track, box, ignore in zip(tracks.tolist(), boxes, objects.is_crowd.tolist(), strict=True):
        # A float32 has seven digits.
        numbers = ",".join(f"{number:.7g}" for number in box)
        yield f"{track},{numbers},{int(not ignore)},1,1"


def _numbers(sequence: _Sequence) -> list[int]:
    """The number of each frame: those without one follow, by the order of their ids, in the numbers left free."""
    taken = {number for _, _, number in sequence.frames if number is not None}
    numbers = [number or 0 for _, _, number in sequence.frames]
    waiting = [key for key, (_, _, number) in enumerate(sequence.frames) if number is None]
    new = 0
    for key in sorted(waiting, key=lambda key: _natural(sequence.frames[key][0])):
        new += 1
        while new in taken:
            new += 1
        numbers[key] = new
    return numbers


def _natural(text: str) -> tuple[list[tuple[int, str]], str]:
    """Sorts frame_2 before frame_10."""
    parts = re.split(r"([0-9]+)", text)
    return [(int(part), "") if i % 2 else (-1, part) for i, part in enumerate(parts)], text


def _seqinfo(sequence: _Sequence, length: int) -> str:
    """`seqinfo.ini`. Tools want a frame rate; a record knows of none, so a frame is one unit of time."""
    suffix = PurePosixPath(sequence.frames[0][1]).suffix
    height, width = sequence.size
    return (
        f"[Sequence]\nname={sequence.folder}\nimDir=img1\nframeRate=1\nseqLength={length}\n"
        f"imWidth={width}\nimHeight={height}\nimExt={suffix}\n"
    )
