"""VIRAT Ground: `annotations/CLIP.viratdata.objects.txt` for the frames `frames/CLIP/000123.jpg`.

A row is `object id, duration, frame, left, top, width, height, object type`, separated by blanks, in pixels from 0 on
(README of the annotations, release 2.0). Videos are not read: their frames are images named by their frame numbers,
every one or every n-th, in `frames/CLIP/`, `images/CLIP/` or `CLIP/`. A clip is a scene. A frame without rows is
background, since clips are annotated throughout. With `pairing`, frame i and frame i + K become a before/after pair.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from dataflow.boxes import coco_to_xyxy
from dataflow.errors import UsageError
from dataflow.findings import Code, Finding
from dataflow.records import Categories
from dataflow.splits import FrameRanges
from tfds_builders.formats.virat_rows import SUFFIX, bad_row, read_rows, virat_classes
from tfds_builders.sources.inspection import Inspection, RawObject
from tfds_builders.sources.moved import target_categories
from tfds_builders.sources.pairing import PairOptions
from tfds_builders.sources.photo import IMAGE_SUFFIXES, files_below, inside_root
from tfds_builders.sources.sequences import Frame, SequenceSource

ANNOTATIONS = "annotations"
FRAMES = "frames"
_FOLDERS = (FRAMES, "images", "")
_LAYOUT = f"give a directory with {ANNOTATIONS}/CLIP{SUFFIX} and {FRAMES}/CLIP/000000.jpg and so on"
_EXTRACT = f"ffmpeg -i CLIP.mp4 -vsync 0 -start_number 0 {FRAMES}/CLIP/%06d.jpg"


@dataclass(frozen=True)
class ViratSource(SequenceSource):
    """Clips as `open_virat` found them: (name, object file, folder of its frames), relative to `root`."""

    root: Path
    clips: tuple[tuple[str, str, str], ...] = field(repr=False)
    pairing: PairOptions | None = None
    ranges: FrameRanges | None = field(default=None, repr=False)
    findings: tuple[Finding, ...] = field(default=(), repr=False)

    @property
    def categories(self) -> Categories:
        """VIRAT's object types, or the classes of moved objects."""
        return target_categories(self.pairing.targets) if self.pairing else virat_classes().categories

    def scenes(self) -> Iterator[tuple[list[Frame], list[Finding]]]:
        """The frames of each clip in order, and findings about rows and images that are not among them."""
        for clip, label_file, folder in self.clips:
            images = [(path.relative_to(self.root).as_posix(), path.stem) for path in _images(self.root / folder)]
            numbers = {int(stem) for _, stem in images if stem.isdecimal()}
            rows = read_rows(self.root / label_file, label_file, numbers, tracks_needed=self.pairing is not None)
            frames, findings = [], rows.loose
            for file, stem in images:
                number = int(stem) if stem.isdecimal() else None
                own = ((), ()) if number is None else (rows.of_frame.get(number, ()), rows.bad.get(number, ()))
                frames.append(Frame(clip, number, file, label_file, *own))
            if rows.others:
                first = min(rows.other_frames)
                value = f"{rows.others} rows of {len(rows.other_frames)} frames without image, from frame {first} on"
                remedy = "nothing to do if only some frames were taken from the video; else add the others"
                code, line = Code.LABEL_WITHOUT_IMAGE, rows.first_other
                findings.append(Finding(code, "info", label_file, value, remedy, line))
            yield frames, findings

    @staticmethod
    def bad_row(file: str, line: int, value: str) -> Finding:
        """The finding about a row that cannot be read."""
        return bad_row(file, line, value)

    def raw_objects(self, look: Inspection, frame: Frame) -> list[RawObject]:
        """The boxes of a frame whose type is one of VIRAT's."""
        classes = virat_classes()
        corners = coco_to_xyxy([row[3:] for row in frame.rows]).tolist()
        raw = []
        for (x0, y0, x1, y1), (line, track, kind, *_) in zip(corners, frame.rows, strict=True):
            category = look.class_id(classes, kind, str(kind), frame.label_file, line)
            if category is not None:
                raw.append(RawObject((x0, y0, x1, y1), category, line, track_id=track))
        return raw


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
