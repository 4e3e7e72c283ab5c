"""MOTChallenge sequences: `img1/000001.jpg ...`, `gt/gt.txt`, `seqinfo.ini` (Milan et al. 2016, section 3.4).

A row of `gt.txt` is `frame, track id, left, top, width, height, flag, ...`; rows with flag 0 are regions to ignore. A
source is one sequence or a directory of sequences; a sequence is one scene. With `pair_gap` K, frame i and frame i + K
become a before/after pair whose targets are the objects that moved, appeared or vanished.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from dataflow.boxes import mot_to_xyxy
from dataflow.errors import UsageError
from dataflow.findings import Code, Finding, printable
from dataflow.records import Categories, ImageRecord, Objects
from dataflow.schema import Kind
from dataflow.shards import Outcome
from dataflow.splits import FrameRanges, split_of_frame
from tfds_builders.formats.mot_rows import Row, bad_row, frame_images, is_sequence, read_rows
from tfds_builders.inspection import Inspection, RawObject
from tfds_builders.moved import target_categories
from tfds_builders.pairing import PairOptions, nameless_frame, pair_frames, pair_outcome
from tfds_builders.photo import Photo, file_size, inside_root
from tfds_builders.source import Checks, Listing, Reference, file_stamp

_LAYOUT = "give a directory with img1/ and gt/gt.txt, or a directory of such"


@dataclass(frozen=True)
class _Frame:
    """One frame, its rows, and (line, what is wrong) of those that cannot be read."""

    sequence: str
    number: int | None
    """None for an image whose name is no number."""
    file: str
    label_file: str
    rows: Sequence[Row]
    bad: Sequence[tuple[int, str]]

    @property
    def frame_id(self) -> str:
        return f"{self.sequence}/{Path(self.file).stem if self.number is None else f'{self.number:06d}'}"

    @property
    def provenance(self) -> str:
        """The first row of the frame, or of the file where it has none."""
        return f"{self.label_file}:{self.rows[0][0] if self.rows else 1}"

    def payload(self) -> list[Any]:
        """Itself as JSON data, from which `_Frame(*payload)` makes it again."""
        return [self.sequence, self.number, self.file, self.label_file, self.rows, self.bad]


@dataclass(frozen=True)
class MotSource:
    """Sequences of tracks, as `open_mot` found them, relative to `root` ("." for a source that is one sequence)."""

    root: Path
    sequences: tuple[str, ...] = field(repr=False)
    name: str = "object"
    pairing: PairOptions | None = None
    ranges: FrameRanges | None = field(default=None, repr=False)
    """Splits by frame number. Frames outside all ranges are left out, with a finding; pairs never straddle."""
    findings: tuple[Finding, ...] = field(default=(), repr=False)

    @property
    def kind(self) -> Kind:
        """Pairs where frames are paired, single images otherwise."""
        return "pairs" if self.pairing else "images"

    @property
    def categories(self) -> Categories:
        """The one class of the tracks, or the classes of moved objects."""
        return target_categories(self.pairing.targets) if self.pairing else Categories((self.name,))

    def scan(self) -> Listing:
        """Every frame, or every pair of frames, of every sequence."""
        references: list[Reference] = []
        findings = list(self.findings)
        for folder in self.sequences:
            frames, found = self._frames(folder)
            findings += found
            if self.pairing:
                pairs, found = pair_frames(frames, self.pairing.gap, self._split)
                references += [self._reference(f"{a.frame_id}-{b.number:06d}", a, b) for a, b in pairs]
                findings += found
            else:
                references += [self._reference(frame.frame_id, frame) for frame in frames]
        return Listing(tuple(references), tuple(findings))

    def _reference(self, name: str, *frames: _Frame) -> Reference:
        """The example called `name` of one frame, or of two of one scene and split."""
        paths = [self.root / frame.file for frame in frames]
        return Reference(
            image_id=name,
            group_id=frames[0].sequence,
            num_bytes=sum(map(file_size, paths)),
            payload=[frame.payload() for frame in frames],
            file=frames[-1].file,
            split=self._split(frames[0]),
            stamp=file_stamp(*paths),
        )

    def _split(self, frame: _Frame) -> str | None:
        return split_of_frame(frame.number, self.ranges) if self.ranges and frame.number is not None else None

    def _frames(self, folder: str) -> tuple[list[_Frame], list[Finding]]:
        """The frames of a sequence in order, and findings about rows that belong to no frame."""
        base = self.root / folder
        name = base.resolve().name
        label_file = Path(folder, "gt", "gt.txt").as_posix()
        rows = read_rows(self.root / label_file, label_file, tracks_needed=self.pairing is not None)
        frames, findings, seen = [], rows.loose, set()
        for path in frame_images(base, self.root):
            file = path.relative_to(self.root).as_posix()
            number = int(path.stem) if path.stem.isdecimal() else None
            if number is None:
                frame = _Frame(name, None, file, label_file, (), ())
            else:
                seen.add(number)
                frame = _Frame(name, number, file, label_file, rows.of_frame.get(number, ()), rows.bad.get(number, ()))
            if self.ranges and self._split(frame) is None:
                value = f"frame {path.stem} is in no range of --splits"
                findings.append(Finding(Code.SPLIT_MISSING, "info", file, value, "extend a range to use it"))
            else:
                frames.append(frame)
        for number in sorted(rows.of_frame.keys() - seen):
            lost = rows.of_frame[number]
            value, remedy = f"{len(lost)} rows of frame {number}, which has no image", "restore it or delete the rows"
            findings.append(Finding(Code.LABEL_WITHOUT_IMAGE, "error", label_file, value, remedy, lost[0][0]))
        for number in sorted(rows.bad.keys() - seen):
            findings += [bad_row(label_file, line, value) for line, value in rows.bad[number]]
        return frames, findings

    def image_path(self, reference: Reference) -> Path:
        """Its image file; of a pair, the after frame."""
        file: str = reference.payload[-1][2]  # As it is; that of the reference is made printable.
        return self.root / file

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
        corners = mot_to_xyxy([row[2:6] for row in frame.rows]).tolist()
        raw = [
            RawObject((x0, y0, x1, y1), 0, row[0], is_crowd=row[6], track_id=row[1])
            for (x0, y0, x1, y1), row in zip(corners, frame.rows, strict=True)
        ]
        objects = look.objects(raw, photo, frame.label_file)
        if objects.track_ids is None:
            objects = replace(objects, track_ids=np.zeros(0, np.int64))
        return photo, objects


def _frame_record(look: Inspection, reference: Reference, frame: _Frame, photo: Photo, objects: Objects) -> ImageRecord:
    """The record of one frame of a pair, under its own name."""
    record = look.record(reference, photo, objects, provenance=frame.provenance)
    return replace(record, image_id=printable(frame.frame_id), filename=printable(frame.file))


def open_mot(
    source: Path,
    pairing: PairOptions | None = None,
    ranges: FrameRanges | None = None,
    name: str = "object",
) -> MotSource:
    """A MOT source from a sequence directory, or a directory of them.

    Raises:
        UsageError: no sequence there.
    """
    if not source.is_dir():
        raise UsageError(f"{source} is no directory", _LAYOUT)
    folders = sorted(path for path in source.iterdir() if path.is_dir())
    sequences = (".",) if is_sequence(source) else tuple(path.name for path in folders if is_sequence(path))
    if not sequences:
        raise UsageError(f"{source} is no MOTChallenge sequence and holds none", _LAYOUT)
    findings = []
    for path in folders if sequences != (".",) else ():
        if path.name not in sequences and (path / "img1").is_dir():
            value, remedy = "a sequence without gt/gt.txt", "add it (empty if nothing is to be seen) or move it away"
            findings.append(Finding(Code.LABEL_MISSING, "error", path.name, value, remedy))
    for sequence in sequences:
        truth = source / sequence / "gt" / "gt.txt"
        if not inside_root(source, truth):
            raise UsageError(f"{truth} is a link out of {source}", "copy the file into the source")
        if not any(True for _ in frame_images(source / sequence, source)):
            raise UsageError(f"{source / sequence} holds no images", "add frames such as img1/000001.jpg")
    return MotSource(source, sequences, name, pairing, ranges, tuple(findings))
