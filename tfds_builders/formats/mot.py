"""MOTChallenge sequences: `img1/000001.jpg ...`, `gt/gt.txt`, `seqinfo.ini` (Milan et al. 2016, section 3.4).

A row of `gt.txt` is `frame, track id, left, top, width, height, flag, ...`; rows with flag 0 are regions to ignore. A
source is one sequence or a directory of sequences; a sequence is one scene. With `pair_gap` K, frame i and frame i + K
become a before/after pair whose targets are the objects that moved, appeared or vanished.
"""

import configparser
import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from dataflow.boxes import mot_to_xyxy
from dataflow.errors import UsageError
from dataflow.findings import Code, Finding
from dataflow.images import ImageHeader
from dataflow.records import Categories, FramePair, ImageRecord
from dataflow.schema import Kind, pair_to_example, record_to_example
from dataflow.shards import Outcome
from dataflow.splits import FrameRanges, split_of_frame
from tfds_builders.inspection import IMAGE_SUFFIXES, Inspection, RawObject, inside_root
from tfds_builders.moved import Targets, moved_objects, target_categories
from tfds_builders.source import Listing, Reference


@dataclass(frozen=True)
class PairOptions:
    """How frames become pairs: `gap` frames apart, and what counts as having moved."""

    gap: int
    moved_iou: float = 0.5
    targets: Targets = "both"


@dataclass(frozen=True)
class _Frame:
    """One frame and its rows: (line, track, box xyxy px, ignore); `bad` are findings about its rows."""

    sequence: str
    number: int
    file: str
    label_file: str
    rows: tuple[tuple[int, int, tuple[float, float, float, float], bool], ...]
    bad: tuple[Finding, ...]

    @property
    def frame_id(self) -> str:
        return f"{self.sequence}/{self.number:06d}"


@dataclass(frozen=True)
class MotSource:
    """Sequences of tracks, as `open_mot` found them, relative to `root` ("." for a source that is one sequence)."""

    root: Path
    sequences: tuple[str, ...]
    name: str = "object"
    pairing: PairOptions | None = None
    ranges: FrameRanges | None = None
    """Splits by frame number. Frames outside all ranges are left out, with a finding; pairs never straddle."""

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
        findings: list[Finding] = []
        for folder in self.sequences:
            frames, found = self._frames(folder)
            findings += found
            references += self._pairs(frames) if self.pairing else [self._single(frame) for frame in frames]
        return Listing(tuple(references), tuple(findings))

    def _single(self, frame: _Frame) -> Reference:
        return Reference(frame.frame_id, frame.sequence, self._bytes(frame), frame, frame.file, self._split(frame))

    def _pairs(self, frames: Sequence[_Frame]) -> list[Reference]:
        assert self.pairing is not None
        by_number = {frame.number: frame for frame in frames}
        references = []
        for before in frames:
            after = by_number.get(before.number + self.pairing.gap)
            if after is not None and self._split(before) == self._split(after):
                pair_id = f"{before.frame_id}-{after.number:06d}"
                size = self._bytes(before) + self._bytes(after)
                split = self._split(before)
                references.append(Reference(pair_id, before.sequence, size, (before, after), after.file, split))
        return references

    def _split(self, frame: _Frame) -> str | None:
        return split_of_frame(frame.number, self.ranges) if self.ranges else None

    def _bytes(self, frame: _Frame) -> int:
        return (self.root / frame.file).stat().st_size

    def _frames(self, folder: str) -> tuple[list[_Frame], list[Finding]]:
        """The frames of a sequence in order, and findings about rows that belong to no frame."""
        base = self.root / folder
        name = base.resolve().name
        label_file = Path(folder, "gt", "gt.txt").as_posix()
        rows, bad, findings = _read_rows(self.root / label_file, label_file)
        frames = []
        for path in _images(base, self.root):
            if not path.stem.isdigit():
                file = path.relative_to(self.root).as_posix()
                remedy = "name frames by number, as 000001.jpg"
                findings.append(Finding(Code.LABEL_MALFORMED, "error", file, "not a frame number", remedy))
                continue
            number = int(path.stem)
            file = path.relative_to(self.root).as_posix()
            frame = _Frame(name, number, file, label_file, tuple(rows.pop(number, ())), tuple(bad.pop(number, ())))
            if self.ranges and self._split(frame) is None:
                value = f"frame {number} is in no range of --splits"
                findings.append(Finding(Code.SPLIT_MISSING, "info", file, value, "extend a range to use it"))
            else:
                frames.append(frame)
        for number, orphans in sorted(rows.items()):
            value = f"{len(orphans)} rows of frame {number}, which has no image"
            remedy = "restore the frame or delete the rows"
            findings.append(Finding(Code.LABEL_WITHOUT_IMAGE, "error", label_file, value, remedy, orphans[0][0]))
        findings += [finding for found in bad.values() for finding in found]
        return frames, findings

    def load(self, reference: Reference, repair: bool) -> Outcome:
        """Read and check one frame, or the two of a pair."""
        look = Inspection(reference.image_id, repair, outside_by_design=True)
        payload: _Frame | tuple[_Frame, _Frame] = reference.payload
        frames: tuple[_Frame, ...] = payload if isinstance(payload, tuple) else (payload,)
        good = [record for frame in frames if (record := self._record(look, frame)) is not None]
        if len(good) == 2 and good[0].size != good[1].size:
            (h0, w0), (h1, w1) = good[0].size, good[1].size
            value = f"the before frame is {w0}x{h0} px, the after frame {w1}x{h1} px"
            look.find(Code.SIZE_MISMATCH, frames[1].file, value, "pair frames of one size")
        if look.refused:
            return Outcome(reference.image_id, None, tuple(look.findings))
        example = self._pair_example(reference, good[0], good[1]) if self.pairing else record_to_example(good[0])
        return Outcome(reference.image_id, example, tuple(look.findings))

    def _pair_example(self, reference: Reference, before: ImageRecord, after: ImageRecord) -> dict[str, object]:
        assert self.pairing is not None
        objects = moved_objects(before.objects, after.objects, self.pairing.targets, self.pairing.moved_iou)
        return pair_to_example(FramePair(reference.image_id, before, after, objects))

    def _record(self, look: Inspection, frame: _Frame) -> ImageRecord | None:
        for finding in frame.bad:
            look.findings.append(replace(finding, image_id=look.image_id, repaired=look.repair))
        read: tuple[bytes, ImageHeader] | None = look.read_image(self.root, frame.file)
        if read is None:
            return None
        data, header = read
        raw = [RawObject(box, 0, line, is_crowd=ignore, track_id=track) for line, track, box, ignore in frame.rows]
        objects = look.objects(raw, header.size, frame.label_file)
        height, width = header.size
        if objects.track_ids is None:
            objects = replace(objects, track_ids=np.zeros(0, np.int64))
        first_line = frame.rows[0][0] if frame.rows else 1
        return ImageRecord(
            image_id=frame.frame_id,
            image=data,
            height=height,
            width=width,
            objects=objects,
            group_id=frame.sequence,
            provenance=f"{frame.label_file}:{first_line}",
            filename=frame.file,
        )


def open_mot(
    source: Path,
    pairing: PairOptions | None = None,
    ranges: FrameRanges | None = None,
    name: str = "object",
) -> MotSource:
    """A MOT source from a sequence directory, or a directory of them.

    Raises:
        UsageError: no sequence there, or options that make no sense.
    """
    if pairing and pairing.gap < 1:
        raise UsageError(f"--pair-gap {pairing.gap}", "use 1 or more frames")
    if pairing and not 0 < pairing.moved_iou <= 1:
        raise UsageError(f"--moved-iou {pairing.moved_iou}", "use a number above 0 and up to 1")
    inside = sorted(path.name for path in source.iterdir() if path.is_dir() and _is_sequence(path))
    sequences = (".",) if _is_sequence(source) else tuple(inside)
    if not sequences:
        raise UsageError(
            f"{source} is no MOTChallenge sequence and holds none",
            "give a directory with img1/ and gt/gt.txt, or a directory of such",
        )
    for sequence in sequences:
        if not any(True for _ in _images(source / sequence, source)):
            raise UsageError(f"{source / sequence} holds no images", "add frames such as img1/000001.jpg")
    return MotSource(source, sequences, name, pairing, ranges)


def _is_sequence(path: Path) -> bool:
    return (path / "gt" / "gt.txt").is_file()


def _images(base: Path, root: Path) -> list[Path]:
    """The image files of a sequence, sorted. seqinfo.ini may name another folder than img1."""
    folder = base / "img1"
    info = base / "seqinfo.ini"
    if info.is_file():
        parser = configparser.ConfigParser()
        try:
            parser.read_string(info.read_text(encoding="utf-8"))
        except (configparser.Error, UnicodeDecodeError) as error:
            raise UsageError(f"{info}: {str(error).splitlines()[0]}", "mend or delete the file") from error
        folder = base / parser.get("Sequence", "imDir", fallback="img1")
    if not folder.is_dir() or not inside_root(root, folder):
        raise UsageError(f"{base} has no folder {folder.name} of images", "add it, or mend imDir in seqinfo.ini")
    return sorted(path for path in folder.iterdir() if path.suffix.lower() in IMAGE_SUFFIXES)


Row = tuple[int, int, tuple[float, float, float, float], bool]


def _read_rows(path: Path, name: str) -> tuple[dict[int, list[Row]], dict[int, list[Finding]], list[Finding]]:
    """Rows by frame number, findings by frame number, and findings of no frame."""
    rows: dict[int, list[Row]] = {}
    bad: dict[int, list[Finding]] = {}
    loose: list[Finding] = []
    remedy = "write frame, track id, left, top, width, height, flag (0 to ignore)"
    for line, text in enumerate(path.read_text(encoding="utf-8", errors="replace").splitlines(), 1):
        if not text.strip():
            continue
        fields = text.split(",")
        try:
            frame, track = int(float(fields[0])), int(float(fields[1]))
            left, top, width, height = (float(field) for field in fields[2:6])
            flag = float(fields[6]) if len(fields) > 6 else 1.0
        except (ValueError, OverflowError):
            finding = Finding(Code.LABEL_MALFORMED, "error", name, f"the row {text!r}", remedy, line)
            number = _number(fields[0])
            (loose if number is None else bad.setdefault(number, [])).append(finding)
            continue
        x0, y0, x1, y1 = mot_to_xyxy([[left, top, width, height]])[0].tolist()
        rows.setdefault(frame, []).append((line, track, (x0, y0, x1, y1), flag == 0))
    return rows, bad, loose


def _number(text: str) -> int | None:
    try:
        value = float(text)
    except ValueError:
        return None
    return int(value) if math.isfinite(value) else None
