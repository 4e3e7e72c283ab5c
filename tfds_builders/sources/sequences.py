"""Sources of frames with numbers and tracks: what MOTChallenge and VIRAT share."""

from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from dataflow.findings import Code, Finding, printable
from dataflow.records import ImageRecord, Objects
from dataflow.schema import Kind
from dataflow.shards import Outcome
from dataflow.splits import FrameRanges, split_of_frame
from tfds_builders.sources.inspection import Inspection, RawObject
from tfds_builders.sources.pairing import PairOptions, chain_block, nameless_frame, pair_frames, pair_outcome
from tfds_builders.sources.photo import Photo, file_size
from tfds_builders.sources.source import Checks, Listing, Reference, file_stamp


@dataclass(frozen=True)
class Frame:
    """One frame, its rows (JSON data, the line first), and (line, what is wrong) of those that cannot be read."""

    scene: str
    number: int | None
    """None for an image whose name is no number."""
    file: str
    label_file: str
    rows: Sequence[Any] = ()
    bad: Sequence[tuple[int, str]] = ()

    @property
    def frame_id(self) -> str:
        """The scene, and the number in six digits."""
        return f"{self.scene}/{Path(self.file).stem if self.number is None else f'{self.number:06d}'}"

    @property
    def provenance(self) -> str:
        """The first row of the frame, or of the file where it has none."""
        return f"{self.label_file}:{self.rows[0][0] if self.rows else 1}"

    def payload(self) -> list[Any]:
        """Itself as JSON data, from which `Frame(*payload)` makes it again."""
        return [self.scene, self.number, self.file, self.label_file, self.rows, self.bad]


class SequenceSource(ABC):
    """Frames of several scenes, single or in pairs; a format says where they are and what a row means."""

    root: Path
    pairing: PairOptions | None
    ranges: FrameRanges | None
    """Splits by frame number. Frames outside all ranges are left out, with a finding; pairs never straddle."""
    findings: tuple[Finding, ...]

    @abstractmethod
    def scenes(self) -> Iterator[tuple[list[Frame], list[Finding]]]:
        """The frames of each scene in order, and findings about rows that belong to none of them."""

    @abstractmethod
    def raw_objects(self, look: Inspection, frame: Frame) -> list[RawObject]:
        """The objects that the rows of a frame say, with their tracks."""

    @staticmethod
    @abstractmethod
    def bad_row(file: str, line: int, value: str) -> Finding:
        """The finding about a row that cannot be read."""

    @property
    def kind(self) -> Kind:
        """Pairs where frames are paired, single images otherwise."""
        return "pairs" if self.pairing else "images"

    def scan(self) -> Listing:
        """Every frame, or every pair of frames, of every scene."""
        references: list[Reference] = []
        findings = list(self.findings)
        for every, found in self.scenes():
            findings += found
            frames = [frame for frame in every if not self.ranges or self._split(frame) is not None]
            findings += [_out_of_range(frame) for frame in every if self.ranges and self._split(frame) is None]
            if self.pairing:
                pairs, unpaired = pair_frames(frames, self.pairing.gap, self._split)
                references += [self._pair_reference(a, b, self.pairing.gap) for a, b in pairs]
                findings += unpaired
            else:
                references += [self._reference(frame.frame_id, frame) for frame in frames]
        return Listing(tuple(references), tuple(findings))

    def _pair_reference(self, before: Frame, after: Frame, gap: int) -> Reference:
        """A pair, kept with its neighbours in its chain: (i, i + gap), (i + gap, i + 2 gap) and so on share frames."""
        reference = self._reference(f"{before.frame_id}-{after.number:06d}", before, after)
        return replace(reference, keep_with=chain_block(before.scene, before.number or 0, gap))

    def _reference(self, name: str, *frames: Frame) -> Reference:
        """The example called `name` of one frame, or of two of one scene and split."""
        paths = [self.root / frame.file for frame in frames]
        return Reference(
            image_id=name,
            group_id=frames[0].scene,
            num_bytes=sum(map(file_size, paths)),
            payload=[frame.payload() for frame in frames],
            file=frames[-1].file,
            split=self._split(frames[0]),
            stamp=file_stamp(*paths),
        )

    def _split(self, frame: Frame) -> str | None:
        return split_of_frame(frame.number, self.ranges) if self.ranges and frame.number is not None else None

    def image_path(self, reference: Reference) -> Path:
        """Its image file; of a pair, the after frame."""
        return self.root / Frame(*reference.payload[-1]).file  # As it is; the reference's own is made printable.

    def load(self, reference: Reference, checks: Checks) -> Outcome:
        """Read and check one frame, or the two of a pair."""
        look = Inspection(reference.image_id, checks, outside_by_design=True)
        frames = [Frame(*fields) for fields in reference.payload]
        read = [(frame, found) for frame in frames if (found := self._read(look, frame)) is not None]
        if len(read) < len(frames):
            return look.made(reference, None)
        if not self.pairing:
            [(frame, (photo, objects))] = read
            return look.outcome(reference, photo, objects, provenance=frame.provenance)
        before, after = (_record(look, reference, frame, *found) for frame, found in read)
        return pair_outcome(look, reference, before, after, self.pairing)

    def _read(self, look: Inspection, frame: Frame) -> tuple[Photo, Objects] | None:
        """The image of a frame and its objects, all with tracks; None and a finding where there is no image."""
        if frame.number is None:
            look.findings.append(replace(nameless_frame(frame.file), image_id=look.image_id))
        for line, value in frame.bad:
            row = self.bad_row(frame.label_file, line, value)
            look.findings.append(replace(row, image_id=look.image_id, repaired=look.repair))
        photo = look.read_image(self.root, frame.file)
        if photo is None:
            return None
        objects = look.objects(self.raw_objects(look, frame), photo, frame.label_file)
        if objects.track_ids is None:
            objects = replace(objects, track_ids=np.zeros(0, np.int64))
        return photo, objects


def _out_of_range(frame: Frame) -> Finding:
    value = f"frame {Path(frame.file).stem} is in no range of --splits"
    return Finding(Code.SPLIT_MISSING, "info", frame.file, value, "extend a range to use it")


def _record(look: Inspection, reference: Reference, frame: Frame, photo: Photo, objects: Objects) -> ImageRecord:
    """The record of one frame of a pair, under its own name."""
    record = look.record(reference, photo, objects, provenance=frame.provenance)
    return replace(record, image_id=printable(frame.frame_id), filename=printable(frame.file))
