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
from dataflow.findings import Code, Finding, printable
from dataflow.images import ImageHeader
from dataflow.records import Categories, FramePair, ImageRecord
from dataflow.schema import Kind, pair_to_example, record_to_example
from dataflow.shards import Outcome
from dataflow.splits import FrameRanges, split_of_frame
from tfds_builders.inspection import IMAGE_SUFFIXES, Inspection, RawObject, file_size, inside_root
from tfds_builders.moved import Targets, moved_objects, target_categories
from tfds_builders.source import Listing, Reference

_LAYOUT = "give a directory with img1/ and gt/gt.txt, or a directory of such"
_ROW = "write frame, track id, left, top, width, height, flag (0 to ignore)"


@dataclass(frozen=True)
class PairOptions:
    """How frames become pairs: `gap` frames apart, and what counts as having moved."""

    gap: int
    moved_iou: float = 0.5
    targets: Targets = "both"


@dataclass(frozen=True)
class _Frame:
    """One frame and its rows: (line, track, box xyxy px, ignore); `bad` are findings about it."""

    sequence: str
    number: int | None
    """None for an image whose name is no number."""
    file: str
    label_file: str
    rows: tuple[tuple[int, int, tuple[float, float, float, float], bool], ...]
    bad: tuple[Finding, ...]

    @property
    def frame_id(self) -> str:
        return f"{self.sequence}/{Path(self.file).stem if self.number is None else f'{self.number:06d}'}"


@dataclass(frozen=True)
class MotSource:
    """Sequences of tracks, as `open_mot` found them, relative to `root` ("." for a source that is one sequence)."""

    root: Path
    sequences: tuple[str, ...]
    name: str = "object"
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
                pairs, found = self._pairs(frames, self.pairing.gap)
                references += pairs
                findings += found
            else:
                references += [self._single(frame) for frame in frames]
        return Listing(tuple(references), tuple(findings))

    def _single(self, frame: _Frame) -> Reference:
        return Reference(frame.frame_id, frame.sequence, self._bytes(frame), frame, frame.file, self._split(frame))

    def _pairs(self, frames: Sequence[_Frame], gap: int) -> tuple[list[Reference], list[Finding]]:
        """Frame i with frame i + `gap`, both of one split; and findings about images that cannot be paired."""
        by_number: dict[int, _Frame] = {}
        findings: list[Finding] = []
        for frame in frames:
            if frame.number is None:
                findings += frame.bad
            elif by_number.setdefault(frame.number, frame) is not frame:
                value = f"frame {frame.number} is {by_number[frame.number].file}"
                findings.append(Finding(Code.DUPLICATE_ID, "error", frame.file, value, "rename or delete one of them"))
        references = []
        for number, before in sorted(by_number.items()):
            after = by_number.get(number + gap)
            if after is not None and self._split(before) == self._split(after):
                pair_id = f"{before.frame_id}-{after.number:06d}"
                size = self._bytes(before) + self._bytes(after)
                split = self._split(before)
                references.append(Reference(pair_id, before.sequence, size, (before, after), after.file, split))
        return references, findings

    def _split(self, frame: _Frame) -> str | None:
        return split_of_frame(frame.number, self.ranges) if self.ranges and frame.number is not None else None

    def _bytes(self, frame: _Frame) -> int:
        return file_size(self.root / frame.file)

    def _frames(self, folder: str) -> tuple[list[_Frame], list[Finding]]:
        """The frames of a sequence in order, and findings about rows that belong to no frame."""
        base = self.root / folder
        name = base.resolve().name
        label_file = Path(folder, "gt", "gt.txt").as_posix()
        rows, bad, findings = _read_rows(self.root / label_file, label_file, tracks_needed=self.pairing is not None)
        frames, seen = [], set()
        for path in _images(base, self.root):
            file = path.relative_to(self.root).as_posix()
            number = int(path.stem) if path.stem.isdecimal() else None
            if number is None:
                remedy = "name frames by number, as 000001.jpg"
                nameless = Finding(Code.LABEL_MALFORMED, "error", file, "not a frame number", remedy)
                frame = _Frame(name, None, file, label_file, (), (nameless,))
            else:
                seen.add(number)
                frame = _Frame(name, number, file, label_file, tuple(rows.get(number, ())), tuple(bad.get(number, ())))
            if self.ranges and self._split(frame) is None:
                value = f"frame {path.stem} is in no range of --splits"
                findings.append(Finding(Code.SPLIT_MISSING, "info", file, value, "extend a range to use it"))
            else:
                frames.append(frame)
        for number in sorted(rows.keys() - seen):
            value = f"{len(rows[number])} rows of frame {number}, which has no image"
            remedy = "restore the frame or delete the rows"
            findings.append(Finding(Code.LABEL_WITHOUT_IMAGE, "error", label_file, value, remedy, rows[number][0][0]))
        findings += [finding for number in sorted(bad.keys() - seen) for finding in bad[number]]
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
            repaired = look.repair and frame.number is not None
            look.findings.append(replace(finding, image_id=look.image_id, repaired=repaired))
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
            image_id=printable(frame.frame_id),
            image=data,
            height=height,
            width=width,
            objects=objects,
            group_id=printable(frame.sequence),
            provenance=f"{printable(frame.label_file)}:{first_line}",
            filename=printable(frame.file),
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
    if not source.is_dir():
        raise UsageError(f"{source} is no directory", _LAYOUT)
    folders = sorted(path for path in source.iterdir() if path.is_dir())
    sequences = (".",) if _is_sequence(source) else tuple(path.name for path in folders if _is_sequence(path))
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
        if not any(True for _ in _images(source / sequence, source)):
            raise UsageError(f"{source / sequence} holds no images", "add frames such as img1/000001.jpg")
    return MotSource(source, sequences, name, pairing, ranges, tuple(findings))


def _is_sequence(path: Path) -> bool:
    return (path / "gt" / "gt.txt").is_file()


def _images(base: Path, root: Path) -> list[Path]:
    """The image files of a sequence, sorted. seqinfo.ini may name another folder than img1."""
    folder = base / "img1"
    info = base / "seqinfo.ini"
    if info.is_file():
        parser = configparser.ConfigParser(interpolation=None)
        try:
            parser.read_string(info.read_text(encoding="utf-8-sig"))
        except (configparser.Error, UnicodeDecodeError) as error:
            raise UsageError(f"{info}: {str(error).splitlines()[0]}", "mend or delete the file") from error
        folder = base / parser.get("Sequence", "imDir", fallback="img1")
    if not folder.is_dir() or not inside_root(root, folder):
        raise UsageError(f"{base} has no folder {folder.name} of images", "add it, or mend imDir in seqinfo.ini")
    return sorted(p for p in folder.iterdir() if p.suffix.lower() in IMAGE_SUFFIXES and not p.name.startswith("."))


Row = tuple[int, int, tuple[float, float, float, float], bool]


def _read_rows(
    path: Path, name: str, tracks_needed: bool
) -> tuple[dict[int, list[Row]], dict[int, list[Finding]], list[Finding]]:
    """Rows by frame number, findings by frame number, and findings of no frame."""
    rows: dict[int, list[Row]] = {}
    bad: dict[int, list[Finding]] = {}
    loose: list[Finding] = []
    lines: dict[tuple[int, int], int] = {}
    for line, text in enumerate(path.read_text(encoding="utf-8-sig", errors="replace").splitlines(), 1):
        fields = [field.strip() for field in text.split(",")]
        if not any(fields):
            continue
        frame: int | None = None
        try:
            frame = _whole(fields[0])
            row = _parse_row(fields, line)
            track = row[1]
            if tracks_needed and track < 0:
                raise ValueError(f"track {track} tells nobody who moved")
            if track >= 0 and lines.setdefault((frame, track), line) != line:
                raise ValueError(f"track {track} is in this frame already, at line {lines[frame, track]}")
        except ValueError as error:
            finding = Finding(Code.LABEL_MALFORMED, "error", name, f"the row {text!r}: {error}", _ROW, line)
            (loose if frame is None else bad.setdefault(frame, [])).append(finding)
            continue
        rows.setdefault(frame, []).append(row)
    return rows, bad, loose


def _parse_row(fields: Sequence[str], line: int) -> Row:
    """A row of `gt.txt`.

    Raises:
        ValueError: it has too few fields, or some that are no numbers.
    """
    if len(fields) < 6:
        raise ValueError(f"{len(fields)} fields")
    track = _whole(fields[1])
    flag = float(fields[6]) if len(fields) > 6 and fields[6] else 1.0
    if math.isnan(flag):
        raise ValueError("the flag is no number")
    with np.errstate(all="ignore"):  # A number too large for a box becomes infinite, and a finding later on.
        x0, y0, x1, y1 = mot_to_xyxy([[float(field) for field in fields[2:6]]])[0].tolist()
    return line, track, (x0, y0, x1, y1), flag == 0


def _whole(text: str) -> int:
    """A whole number, which some tools write as 3.0.

    Raises:
        ValueError: it is none, or larger than any that counts something.
    """
    value = float(text)
    if not value.is_integer() or abs(value) > 2**53:
        raise ValueError(f"{text} is no whole number")
    return int(value)
