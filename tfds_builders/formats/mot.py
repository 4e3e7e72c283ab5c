"""MOTChallenge sequences: `img1/000001.jpg ...`, `gt/gt.txt`, `seqinfo.ini` (Milan et al. 2016, section 3.4).

A row of `gt.txt` is `frame, track id, left, top, width, height, flag, ...`; rows with flag 0 are regions to ignore. A
source is one sequence or a directory of sequences; a sequence is one scene. With `pair_gap` K, frame i and frame i + K
become a before/after pair whose targets are the objects that moved, appeared or vanished.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from dataflow.boxes import mot_to_xyxy
from dataflow.errors import UsageError
from dataflow.findings import Code, Finding
from dataflow.records import Categories
from dataflow.splits import FrameRanges
from tfds_builders.formats.mot_rows import bad_row, frame_images, is_sequence, read_rows
from tfds_builders.sources.inspection import Inspection, RawObject
from tfds_builders.sources.moved import target_categories
from tfds_builders.sources.pairing import PairOptions
from tfds_builders.sources.photo import inside_root
from tfds_builders.sources.sequences import Frame, SequenceSource

_LAYOUT = "give a directory with img1/ and gt/gt.txt, or a directory of such"


@dataclass(frozen=True)
class MotSource(SequenceSource):
    """Sequences of tracks, as `open_mot` found them, relative to `root` ("." for a source that is one sequence)."""

    root: Path
    sequences: tuple[str, ...] = field(repr=False)
    name: str = "object"
    pairing: PairOptions | None = None
    ranges: FrameRanges | None = field(default=None, repr=False)
    findings: tuple[Finding, ...] = field(default=(), repr=False)

    @property
    def categories(self) -> Categories:
        """The one class of the tracks, or the classes of moved objects."""
        return target_categories(self.pairing.targets) if self.pairing else Categories((self.name,))

    def scenes(self) -> Iterator[tuple[list[Frame], list[Finding]]]:
        """The frames of each sequence in order, and findings about rows that belong to no frame."""
        for folder in self.sequences:
            base = self.root / folder
            scene = base.resolve().name
            label_file = Path(folder, "gt", "gt.txt").as_posix()
            rows = read_rows(self.root / label_file, label_file, tracks_needed=self.pairing is not None)
            frames, findings = [], rows.loose
            for path in frame_images(base, self.root):
                file = path.relative_to(self.root).as_posix()
                number = int(path.stem) if path.stem.isdecimal() else None
                own = ((), ()) if number is None else (rows.of_frame.get(number, ()), rows.bad.get(number, ()))
                frames.append(Frame(scene, number, file, label_file, *own))
            seen = {frame.number for frame in frames}
            for number in sorted(rows.of_frame.keys() - seen):
                lost, remedy = rows.of_frame[number], "restore it or delete the rows"
                value = f"{len(lost)} rows of frame {number}, which has no image"
                findings.append(Finding(Code.LABEL_WITHOUT_IMAGE, "error", label_file, value, remedy, lost[0][0]))
            for number in sorted(rows.bad.keys() - seen):
                findings += [self.bad_row(label_file, line, value) for line, value in rows.bad[number]]
            yield frames, findings

    @staticmethod
    def bad_row(file: str, line: int, value: str) -> Finding:
        """The finding about a row that cannot be read."""
        return bad_row(file, line, value)

    def raw_objects(self, look: Inspection, frame: Frame) -> list[RawObject]:
        """The boxes of a frame; flag 0 makes a region to ignore."""
        corners = mot_to_xyxy([row[2:6] for row in frame.rows]).tolist()
        return [
            RawObject((x0, y0, x1, y1), 0, row[0], is_crowd=row[6], track_id=row[1])
            for (x0, y0, x1, y1), row in zip(corners, frame.rows, strict=True)
        ]


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
