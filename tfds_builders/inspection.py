"""Looking at one image and its annotations: what is wrong becomes findings, what is right becomes a record."""

import math
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from dataflow import boxes
from dataflow.findings import Code, Finding, Severity, printable
from dataflow.images import ImageError, ImageHeader, is_complete, read_header
from dataflow.records import ImageRecord, Objects
from dataflow.schema import record_to_example
from dataflow.shards import Outcome
from tfds_builders.source import Reference

# Every file with one of these counts as an image, also where it cannot be prepared: none is passed over in silence.
IMAGE_SUFFIXES = frozenset(
    {
        ".jpg",
        ".jpeg",
        ".jpe",
        ".jfif",
        ".png",
        ".bmp",
        ".gif",
        ".webp",
        ".tif",
        ".tiff",
        ".avif",
        ".heic",
        ".heif",
        ".jp2",
    }
)
# A box may leave the image by this much and be cut without ado: annotation tools round to whole pixels.
EDGE_TOLERANCE_PX = 1.0
# What float32 makes of a box at the border of a large image: not worth a finding.
ROUNDING_PX = 1e-2
# The least side a box must have to stay a box when stored as relative float32.
LEAST_SIDE_PX = 1e-2


@dataclass(frozen=True)
class RawObject:
    """One annotation as a source has it, its box already in canonical pixels but not yet checked."""

    box: tuple[float, float, float, float]
    category_id: int
    line: int | str
    area: float | None = None
    """Area in px2 where the source knows better than the box; None for the box's own."""
    is_crowd: bool = False
    track_id: int | None = None


def inside_root(root: Path, path: Path) -> bool:
    """Whether `path`, links followed, lies within `root`: annotations must not reach files outside their source."""
    # Not Path.resolve, which raises on links that go round in a circle.
    return Path(os.path.realpath(path)).is_relative_to(os.path.realpath(root))


def files_below(folder: Path, suffixes: frozenset[str]) -> Iterator[Path]:
    """Files below a folder with one of these suffixes, hidden ones aside; links that lead nowhere are files too."""
    for path in folder.rglob("*"):
        if path.suffix.lower() in suffixes and not path.name.startswith(".") and not path.is_dir():
            yield path


def file_size(path: Path) -> int:
    """Size in bytes; 0 where there is no such file: reading it will say why."""
    try:
        return path.stat().st_size
    except (OSError, ValueError):  # ValueError: a name that no file can have.
        return 0


def _tfds_decodes(data: bytes, header: ImageHeader) -> bool:
    """Whether TFDS's readers (`tf.io.decode_image`) make height x width x 3 of it.

    They know no TIFF, AVIF or JPEG 2000, make four dimensions of GIF and WebP, and read BMP of 8, 24 or 32 bits only.
    """
    if header.format == "BMP":
        bits, compression = data[28], data[30]
        return bits in (8, 24, 32) and compression in (0, 3)
    return header.format in ("JPEG", "PNG")


@dataclass
class Inspection:
    """The findings of one image (or pair) while it is looked at."""

    image_id: str
    repair: bool
    outside_by_design: bool = False
    """Whether boxes of this format routinely leave the image (tracks do): they are cut, not refused."""
    findings: list[Finding] = field(default_factory=list)

    def find(
        self,
        code: Code,
        file: str,
        value: str,
        remedy: str,
        line: int | str | None = None,
        *,
        severity: Severity = "error",
        repaired: bool = False,
    ) -> None:
        """Note a finding about this image."""
        self.findings.append(Finding(code, severity, file, value, remedy, line, self.image_id, repaired))

    @property
    def refused(self) -> bool:
        """Whether something was found that keeps the image out."""
        return any(finding.severity == "error" and not finding.repaired for finding in self.findings)

    def read_image(self, root: Path, file: str) -> tuple[bytes, ImageHeader] | None:
        """The bytes and header of an image file below `root`, or None and a finding."""
        path = root / file
        try:
            if not inside_root(root, path):
                self.find(Code.IMAGE_OUTSIDE_ROOT, file, "the path leaves the source", "keep images below the source")
                return None
            data = path.read_bytes()
        except (OSError, ValueError) as error:  # ValueError: a name that no file can have.
            code = Code.IMAGE_MISSING if isinstance(error, FileNotFoundError) else Code.IMAGE_UNREADABLE
            value = getattr(error, "strerror", None) or str(error)
            self.find(code, file, value, "restore the file or drop its annotations")
            return None
        try:
            header = read_header(data)
        except ImageError as error:
            self.find(Code.IMAGE_UNREADABLE, file, error.message, error.remedy)
            return None
        if not _tfds_decodes(data, header):
            value = f"readers of TFDS datasets do not decode this kind of {header.format}"
            self.find(Code.IMAGE_UNREADABLE, file, value, "convert it to JPEG or PNG")
            return None
        if not is_complete(data, header):
            self.find(Code.IMAGE_UNREADABLE, file, f"the {header.format} ends before its pixels do", "replace the file")
            return None
        return data, header

    def objects(self, raw: Sequence[RawObject], size: boxes.Size, file: str) -> Objects:
        """Checked objects: those that are right, and those that could be cut or left out when repairing."""
        kept: list[tuple[RawObject, list[float]]] = []
        for item in raw:
            box = self._checked_box(item, size, file)
            if box is not None:
                kept.append((item, box))
        xyxy = np.array([box for _, box in kept], np.float32).reshape(-1, 4)
        own_areas = boxes.box_areas(xyxy)
        with_tracks = any(item.track_id is not None for item, _ in kept)
        return Objects(
            boxes=xyxy,
            category_ids=np.array([item.category_id for item, _ in kept], np.int64),
            areas=np.array(
                [own if item.area is None else item.area for (item, _), own in zip(kept, own_areas, strict=True)],
                np.float32,
            ),
            is_crowd=np.array([item.is_crowd for item, _ in kept], np.bool_),
            track_ids=np.array([-1 if item.track_id is None else item.track_id for item, _ in kept], np.int64)
            if with_tracks
            else None,
        )

    def read_annotation(self, root: Path, file: str, missing: str) -> bytes | None:
        """The bytes of one image's own annotation file, or None and a finding; `missing` is the remedy without one."""
        path = root / file
        if not inside_root(root, path):
            self.find(Code.IMAGE_OUTSIDE_ROOT, file, "the path leaves the source", "keep annotations below it")
            return None
        try:
            return path.read_bytes()
        except FileNotFoundError:
            value = "the image has no label file"
            self.find(Code.LABEL_MISSING, file, value, missing, repaired=self.repair)
        except OSError as error:
            self.find(Code.LABEL_MALFORMED, file, error.strerror or str(error), "make it a readable file")
        return None

    def outcome(self, reference: Reference, data: bytes, size: boxes.Size, objects: Objects, **origin: str) -> Outcome:
        """What becomes of a single image: its example, or none when it was refused, and the findings.

        `size` is (height, width) in upright pixels; `origin` are `provenance` and, where there is one, `source_id`.
        """
        if self.refused:
            return Outcome(reference.image_id, None, tuple(self.findings))
        record = ImageRecord(
            image_id=reference.image_id,
            image=data,
            height=size[0],
            width=size[1],
            objects=objects,
            group_id=reference.group_id,
            filename=reference.file,
            **{name: printable(text) for name, text in origin.items()},
        )
        return Outcome(reference.image_id, record_to_example(record), tuple(self.findings))

    def _checked_box(self, item: RawObject, size: boxes.Size, file: str) -> list[float] | None:
        """The box within the image, or None and a finding."""
        text = "box " + ", ".join(f"{number:g}" for number in item.box) + " (x0, y0, x1, y1 px)"
        if not all(math.isfinite(number) for number in item.box):
            self.find(Code.BOX_NOT_FINITE, file, text, "use finite numbers", item.line, repaired=self.repair)
            return None
        x0, y0, x1, y1 = item.box
        if x1 - x0 < LEAST_SIDE_PX or y1 - y0 < LEAST_SIDE_PX:
            self.find(Code.BOX_EMPTY, file, text, "draw it again or drop it", item.line, repaired=self.repair)
            return None
        height, width = size
        beyond = max(-x0, -y0, x1 - width, y1 - height)
        clipped: list[float] = boxes.clip_boxes([item.box], size)[0].tolist()
        is_left = clipped[2] - clipped[0] >= LEAST_SIDE_PX and clipped[3] - clipped[1] >= LEAST_SIDE_PX
        where = f"{text} leaves the image of {width}x{height} px by {beyond:.2f} px"
        if beyond > EDGE_TOLERANCE_PX or not is_left:
            severity: Severity = "info" if self.outside_by_design else "error"
            code = Code.BOX_CLIPPED if self.outside_by_design and is_left else Code.BOX_OUTSIDE
            remedy = "nothing to do: cut at the border" if self.outside_by_design else "clip it, or repair"
            self.find(code, file, where, remedy, item.line, severity=severity, repaired=self.repair)
        elif beyond > ROUNDING_PX:
            remedy = "nothing to do: cut at the border"
            self.find(Code.BOX_CLIPPED, file, where, remedy, item.line, severity="info")
        return clipped if is_left else None
