"""The rows of a VIRAT object file (VIRAT Ground dataset, release 2.0, README of the annotations)."""

from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from dataflow.findings import Code, Finding
from tfds_builders.sources.classes import Classes, numbered_classes

SUFFIX = ".viratdata.objects.txt"
NAMES = {1: "person", 2: "car", 3: "vehicle", 4: "object", 5: "bike"}
"""Object types. A car is a passenger vehicle, a vehicle any other one, an object is usually carried."""
_REMEDY = "write object id, duration, frame, left, top, width, height, object type"

Row = tuple[int, int, int, float, float, float, float]
"""Line, track, object type, left, top (whose first pixel is 0), width, height px."""


@dataclass
class Rows:
    """The rows of a file by frame number, of the frames that are wanted; those of the others are counted."""

    of_frame: dict[int, list[Row]] = field(default_factory=dict)
    bad: dict[int, list[tuple[int, str]]] = field(default_factory=dict)
    """(line, what is wrong) of bad rows of wanted frames."""
    loose: list[Finding] = field(default_factory=list)
    """Findings about bad rows of other frames, or of none."""
    others: int = 0
    other_frames: set[int] = field(default_factory=set)
    first_other: int = 0
    """Line of the first row of another frame."""


def virat_classes() -> Classes:
    """VIRAT's object types."""
    return numbered_classes(list(NAMES.items()), "")


def bad_row(file: str, line: int, value: str) -> Finding:
    """The finding about a row that cannot be read."""
    return Finding(Code.LABEL_MALFORMED, "error", file, value, _REMEDY, line)


def read_rows(path: Path, name: str, wanted: Collection[int], tracks_needed: bool) -> Rows:
    """The rows of the file at `path`, which findings call `name`. `tracks_needed`: a row without track is bad.

    Raises:
        OSError: the file cannot be read.
    """
    rows = Rows()
    lines: dict[tuple[int, int], int] = {}
    with path.open(encoding="utf-8-sig", errors="replace") as file:
        for line, text in enumerate(file, 1):
            fields = text.split()
            if not fields:
                continue
            frame: int | None = None
            try:
                frame = _frame(fields)
                row = _parse(fields, line)
                if frame not in wanted:
                    rows.others += 1
                    rows.other_frames.add(frame)
                    rows.first_other = rows.first_other or line
                    continue
                _check_track(row, frame, lines, tracks_needed)
            except ValueError as error:
                value = f"the row {text.strip()[:200]!r}: {error}"
                if frame is None or frame not in wanted:
                    rows.loose.append(bad_row(name, line, value))
                else:
                    rows.bad.setdefault(frame, []).append((line, value))
                continue
            rows.of_frame.setdefault(frame, []).append(row)
    return rows


def _check_track(row: Row, frame: int, lines: dict[tuple[int, int], int], needed: bool) -> None:
    line, track = row[:2]
    if needed and track < 0:
        raise ValueError(f"object {track} tells nobody who moved")
    if track >= 0 and lines.setdefault((frame, track), line) != line:
        raise ValueError(f"object {track} is in this frame already, at line {lines[frame, track]}")


def _frame(fields: Sequence[str]) -> int:
    if len(fields) < 3:
        raise ValueError(f"{len(fields)} fields")
    return _whole(fields[2])


def _parse(fields: Sequence[str], line: int) -> Row:
    """A row.

    Raises:
        ValueError: it has not eight fields, or some are no numbers.
    """
    if len(fields) != 8:
        raise ValueError(f"{len(fields)} fields")
    _whole(fields[1])
    left, top, width, height = map(float, fields[3:7])
    return line, _whole(fields[0]), _whole(fields[7]), left, top, width, height


def _whole(text: str) -> int:
    """A whole number, which some tools write as 3.0.

    Raises:
        ValueError: it is none, or larger than any that counts something.
    """
    value = float(text)
    if not value.is_integer() or abs(value) > 2**53:
        raise ValueError(f"{text[:40]} is no whole number")
    return int(value)
