"""VIRAT Ground: `annotations/CLIP.viratdata.objects.txt` for the frames `frames/CLIP/000123.jpg`.

A row is `object id, duration, frame, left, top, width, height, object type`, separated by blanks, in pixels from 0 on
(README of the annotations, release 2.0). Videos are not read: their frames are images named by their frame numbers,
every one or every n-th, in `frames/CLIP/`, `images/CLIP/` or `CLIP/`. A clip is a scene. A frame without rows is
background, since clips are annotated throughout. With `pairing`, frame i and frame i + K become a before/after pair.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from dataflow.boxes import coco_to_xyxy
from dataflow.errors import UsageError
from dataflow.findings import Code, Finding, printable
from dataflow.records import Categories, ImageRecord, Objects
from dataflow.schema import Kind
from dataflow.shards import Outcome
from dataflow.splits import FrameRanges, split_of_frame
from tfds_builders.formats.virat_rows import SUFFIX, Row, bad_row, read_rows, virat_classes
from tfds_builders.inspection import Inspection, RawObject
from tfds_builders.moved import target_categories
from tfds_builders.pairing import PairOptions, nameless_frame, pair_frames, pair_outcome
from tfds_builders.photo import IMAGE_SUFFIXES, Photo, file_size, files_below, inside_root
from tfds_builders.source import Checks, Listing, Reference, file_stamp

ANNOTATIONS = "annotations"
FRAMES = "frames"
_FOLDERS = (FRAMES, "images", "")
_LAYOUT = f"give a directory with {ANNOTATIONS}/CLIP{SUFFIX} and {FRAMES}/CLIP/000000.jpg and so on"
_EXTRACT = f"ffmpeg -i CLIP.mp4 -vsync 0 -start_number 0 {FRAMES}/CLIP/%06d.jpg"


@dataclass(frozen=True)
class _Frame:
    """One frame, its rows, and (line, what is wrong) of those that cannot be read."""

    clip: str
    number: int | None
    """None for an image whose name is no number."""
    file: str
    label_file: str
    rows: Sequence[Row]
    bad: Sequence[tuple[int, str]]

    @property
    def frame_id(self) -> str:
        return f"{self.clip}/{Path(self.file).stem if self.number is None else f'{self.number:06d}'}"

    @property
    def provenance(self) -> str:
        """The first row of the frame, or of the file where it has none."""
        return f"{self.label_file}:{self.rows[0][0] if self.rows else 1}"

    def payload(self) -> list[Any]:
        """Itself as JSON data, from which `_Frame(*payload)` makes it again."""
        return [self.clip, self.number, self.file, self.label_file, self.rows, self.bad]


@dataclass(frozen=True)
class ViratSource:
    """Clips as `open_virat` found them: (name, object file, folder of its frames), relative to `root`."""

    root: Path
    clips: tuple[tuple[str, str, str], ...]
    pairing: PairOptions | None = None
    ranges: FrameRanges | None = None
    """Splits by frame number. Frames outside all ranges are left out, with a finding; pairs never straddle."""
    findings: tuple[Finding, ...] = ()

    @property
    def kind(self) -> Kind:
        """Pairs where frames are paired, single images otherwise."""
        return "pairs" if self.pairing else "images"

    @property
    def categories(self) -> Categories:
        """VIRAT's object types, or the classes of moved objects."""
        return target_categories(self.pairing.targets) if self.pairing else virat_classes().categories

    def scan(self) -> Listing:
        """Every frame, or every pair of frames, of every clip."""
        references: list[Reference] = []
        findings = list(self.findings)
        for clip, label_file, folder in self.clips:
            frames, found = self._frames(clip, label_file, folder)
            findings += found
            if self.pairing:
                pairs, found = pair_frames(frames, self.pairing.gap, self._split)
                references += [self._reference(f"{a.frame_id}-{b.number:06d}", a, b) for a, b in pairs]
                findings += found
            else:
                references += [self._reference(frame.frame_id, frame) for frame in frames]
        return Listing(tuple(references), tuple(findings))

    def _reference(self, name: str, *frames: _Frame) -> Reference:
        """The example called `name` of one frame, or of two of one clip and split."""
        paths = [self.root / frame.file for frame in frames]
        return Reference(
            image_id=name,
            group_id=frames[0].clip,
            num_bytes=sum(map(file_size, paths)),
            payload=[frame.payload() for frame in frames],
            file=frames[-1].file,
            split=self._split(frames[0]),
            stamp=file_stamp(*paths),
        )

    def _split(self, frame: _Frame) -> str | None:
        return split_of_frame(frame.number, self.ranges) if self.ranges and frame.number is not None else None

    def _frames(self, clip: str, label_file: str, folder: str) -> tuple[list[_Frame], list[Finding]]:
        """The frames of a clip in order, and findings about rows and images that are not among them."""
        images = [(path.relative_to(self.root).as_posix(), path.stem) for path in _images(self.root / folder)]
        numbers = {int(stem) for _, stem in images if stem.isdecimal()}
        rows = read_rows(self.root / label_file, label_file, numbers, tracks_needed=self.pairing is not None)
        frames, findings = [], rows.loose
        for file, stem in images:
            number = int(stem) if stem.isdecimal() else None
            frame = _Frame(clip, number, file, label_file, (), ())
            if number is not None:
                frame = replace(frame, rows=rows.of_frame.get(number, ()), bad=rows.bad.get(number, ()))
            if self.ranges and self._split(frame) is None:
                value = f"frame {stem} is in no range of --splits"
                findings.append(Finding(Code.SPLIT_MISSING, "info", file, value, "extend a range to use it"))
            else:
                frames.append(frame)
        if rows.others:
            first = min(rows.other_frames)
            value = f"{rows.others} rows of {len(rows.other_frames)} frames without image, from frame {first} on"
            remedy = "nothing to do if only some frames were taken from the video; else add the others"
            code, line = Code.LABEL_WITHOUT_IMAGE, rows.first_other
            findings.append(Finding(code, "info", label_file, value, remedy, line))
        return frames, findings

    def image_path(self, reference: Reference) -> Path:
        """The image file; of a pair, the after frame."""
        return self.root / _Frame(*reference.payload[-1]).file

    def class_ids(self, reference: Reference) -> Sequence[int]:
        """Contiguous ids of the object types in a frame; none for a pair, whose classes are what became of them."""
        if self.pairing:
            return ()
        ids = dict(virat_classes().ids)
        return sorted({ids[row[2]] for row in _Frame(*reference.payload[0]).rows if row[2] in ids})

    def load(self, reference: Reference, checks: Checks) -> Outcome:
        """Read and check one frame, or the two of a pair."""
        look = Inspection(reference.image_id, checks, outside_by_design=True)
        frames = [_Frame(*fields) for fields in reference.payload]
        read = [(frame, found) for frame in frames if (found := self._read(look, frame)) is not None]
        if len(read) < len(frames):
            return look.made(reference, None)
        if not self.pairing:
            [(frame, (photo, objects))] = read
            return look.outcome(reference, photo, objects, provenance=frame.provenance)
        before, after = (_frame_record(look, reference, frame, *found) for frame, found in read)
        return pair_outcome(look, reference, before, after, self.pairing)

    def _read(self, look: Inspection, frame: _Frame) -> tuple[Photo, Objects] | None:
        """The image of a frame and its objects, all with tracks; None and a finding where there is no image."""
        if frame.number is None:
            look.findings.append(replace(nameless_frame(frame.file), image_id=look.image_id))
        for line, value in frame.bad:
            row = bad_row(frame.label_file, line, value)
            look.findings.append(replace(row, image_id=look.image_id, repaired=look.repair))
        photo = look.read_image(self.root, frame.file)
        if photo is None:
            return None
        classes = virat_classes()
        corners = coco_to_xyxy([row[3:] for row in frame.rows]).tolist()
        raw = []
        for (x0, y0, x1, y1), (line, track, kind, *_) in zip(corners, frame.rows, strict=True):
            category = look.class_id(classes, kind, str(kind), frame.label_file, line)
            if category is not None:
                raw.append(RawObject((x0, y0, x1, y1), category, line, track_id=track))
        objects = look.objects(raw, photo, frame.label_file)
        if objects.track_ids is None:
            objects = replace(objects, track_ids=np.zeros(0, np.int64))
        return photo, objects


def _frame_record(look: Inspection, reference: Reference, frame: _Frame, photo: Photo, objects: Objects) -> ImageRecord:
    """The record of one frame of a pair, under its own name."""
    record = look.record(reference, photo, objects, provenance=frame.provenance)
    return replace(record, image_id=printable(frame.frame_id), filename=printable(frame.file))


def open_virat(source: Path, pairing: PairOptions | None = None, ranges: FrameRanges | None = None) -> ViratSource:
    """A VIRAT source from its directory.

    Raises:
        UsageError: no object files there, no frames of them, or options that make no sense.
    """
    if not source.is_dir():
        raise UsageError(f"{source} is no directory", _LAYOUT)
    clips: dict[str, tuple[str, str]] = {}
    findings: list[Finding] = []
    count = 0
    for path in sorted(source.rglob(f"*{SUFFIX}")):
        if not path.is_file() or path.name.startswith("."):
            continue
        count += 1
        if not inside_root(source, path):
            raise UsageError(f"{path} is a link out of {source}", "copy the file into the source")
        _check_readable(path)
        file = path.relative_to(source).as_posix()
        clip = file.removeprefix(f"{ANNOTATIONS}/").removesuffix(SUFFIX)
        folder = _folder_of(source, clip)
        if folder is None:
            value, remedy = "no frame of this clip is an image", f"nothing to do, or extract them: {_EXTRACT}"
            findings.append(Finding(Code.LABEL_WITHOUT_IMAGE, "info", file, value, remedy))
        elif clip in clips:
            raise UsageError(f"{source}: {clips[clip][0]} and {file} are of one clip", "delete one of them")
        else:
            clips[clip] = (file, folder)
    if not clips:
        what = "frames of its clips as images" if count else f"file CLIP{SUFFIX}"
        raise UsageError(f"{source} holds no {what}", f"{_LAYOUT}: {_EXTRACT}" if count else _LAYOUT)
    findings += _unlabelled(source, {folder for _, folder in clips.values()})
    ordered = tuple((clip, *places) for clip, places in sorted(clips.items()))
    return ViratSource(source, ordered, pairing, ranges, tuple(findings))


def _check_readable(path: Path) -> None:
    try:
        path.open("rb").close()
    except OSError as error:
        raise UsageError(f"{path}: {error.strerror}", "make it a readable file") from error


def _folder_of(source: Path, clip: str) -> str | None:
    """The folder with the frames of a clip, relative to the source; None where there is none with an image."""
    for above in _FOLDERS:
        folder = source / above / clip
        if folder.is_dir() and inside_root(source, folder) and _images(folder):
            return folder.relative_to(source).as_posix()
    return None


def _images(folder: Path) -> list[Path]:
    return sorted(p for p in folder.iterdir() if p.suffix.lower() in IMAGE_SUFFIXES and not p.name.startswith("."))


def _unlabelled(source: Path, known: set[str]) -> list[Finding]:
    """Folders of frames that no object file is about."""
    folders = {
        path.parent.relative_to(source).as_posix()
        for above in _FOLDERS[:-1]
        for path in files_below(source / above, IMAGE_SUFFIXES)
    }
    value, remedy = f"frames without CLIP{SUFFIX}", "add it (empty if nothing is to be seen) or move them away"
    return [Finding(Code.LABEL_MISSING, "error", folder, value, remedy) for folder in sorted(folders - known)]
