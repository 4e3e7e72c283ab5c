"""The files of a MOTChallenge sequence: rows of `gt.txt`, and which images are its frames."""

import configparser
import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from dataflow.errors import UsageError
from dataflow.findings import Code, Finding
from tfds_builders.sources.photo import IMAGE_SUFFIXES, inside_root

ROW_REMEDY = "write frame, track id, left, top, width, height, flag (0 to ignore)"

Row = tuple[int, int, float, float, float, float, bool]
"""Line, track, left, top (whose first pixel is 1), width, height px, whether it is to be ignored."""


@dataclass(frozen=True)
class Rows:
    """The rows of a `gt.txt` by frame number; (line, what is wrong) of bad rows of a frame; findings of no frame."""

    of_frame: dict[int, list[Row]] = field(default_factory=dict)
    bad: dict[int, list[tuple[int, str]]] = field(default_factory=dict)
    loose: list[Finding] = field(default_factory=list)


def bad_row(file: str, line: int, value: str) -> Finding:
    """The finding about a row that cannot be read."""
    return Finding(Code.LABEL_MALFORMED, "error", file, value, ROW_REMEDY, line)


def read_rows(path: Path, name: str, tracks_needed: bool) -> Rows:
    """The rows of the file at `path`, which findings call `name`. `tracks_needed`: a row without track is bad."""
    rows = Rows()
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
            value = f"the row {text!r}: {error}"
            if frame is None:
                rows.loose.append(bad_row(name, line, value))
            else:
                rows.bad.setdefault(frame, []).append((line, value))
            continue
        rows.of_frame.setdefault(frame, []).append(row)
    return rows


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
    left, top, width, height = map(float, fields[2:6])
    return line, track, left, top, width, height, flag == 0


def _whole(text: str) -> int:
    """A whole number, which some tools write as 3.0.

    Raises:
        ValueError: it is none, or larger than any that counts something.
    """
    value = float(text)
    if not value.is_integer() or abs(value) > 2**53:
        raise ValueError(f"{text} is no whole number")
    return int(value)


def is_sequence(path: Path) -> bool:
    """Whether a folder has the truth of a sequence."""
    return (path / "gt" / "gt.txt").is_file()


def frame_images(base: Path, root: Path) -> list[Path]:
    """The image files of a sequence, sorted. seqinfo.ini may name another folder than img1.

    Raises:
        UsageError: seqinfo.ini cannot be read, or there is no such folder within `root`.
    """
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
