"""MOTChallenge sequences as people have them, single and in pairs."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from dataflow.findings import Code
from tests.factories import Loaded, Picture, load, write
from tests.tfds_builders.broken_sources import sequence
from tfds_builders.formats.mot import open_mot
from tfds_builders.sources.pairing import PairOptions

ROW = "1,7,25,13,16,24,1,-1,-1,-1\n"
BOX = [24, 12, 40, 36]
GT = "walk/gt/gt.txt"


def load_rows(root: Path, rows: str | bytes, repair: bool = False, **options: Any) -> Loaded:
    return load(open_mot(sequence(root, rows), **options), repair)


@pytest.mark.parametrize(
    "rows",
    [
        ROW,
        "\ufeff" + ROW,
        ROW.replace("\n", "\r\n"),
        f"\n  {ROW.strip()}  \n\n",
        "1.0, 7.0, 2.5e1, 13.0, 16, 24, 1.0, -1, -1, -1",
        "1,7,25,13,16,24\n",
        "1,7,25,13,16,24,\n",
        "1,7,25,13,16,24,1\n,,,\n",
        "2,9,1,1,5,5,1\n" + ROW,
    ],
    ids=["plain", "BOM", "CRLF", "blanks", "floats", "no flag", "comma at the end", "empty row", "unsorted"],
)
def test_spellings_of_one_row(rows: str, tmp_path: Path) -> None:
    loaded = load_rows(tmp_path, rows)
    assert not loaded.findings
    assert loaded.boxes("walk/000001").tolist() == [BOX], "the first pixel of MOTChallenge is 1"
    assert loaded.column("walk/000001", "id") == [7]
    assert loaded.example("walk/000001")["scene"] == "walk"
    assert len(loaded.boxes("walk/000003")) == 0


def test_the_first_pixel_is_one(tmp_path: Path) -> None:
    loaded = load_rows(tmp_path, "1,1,1,1,64,48,1\n")
    assert loaded.boxes("walk/000001").tolist() == [[0, 0, 64, 48]] and not loaded.findings


def test_flag_0_is_to_be_ignored(tmp_path: Path) -> None:
    loaded = load_rows(tmp_path, ROW + "1,8,1,1,9,9,0\n1,9,10,1,9,9,0.5\n")
    assert loaded.column("walk/000001", "is_crowd") == [False, True, False]


def test_provenance_is_the_first_row(tmp_path: Path) -> None:
    loaded = load_rows(tmp_path, "2,1,1,1,9,9,1\n\n" + ROW)
    assert loaded.example("walk/000001")["provenance"] == f"{GT}:3"


@pytest.mark.parametrize("rows", ["", "\n", "\ufeff"])
def test_an_empty_file_is_background(rows: str, tmp_path: Path) -> None:
    loaded = load_rows(tmp_path, rows)
    assert not loaded.findings and len(loaded.outcomes) == 3
    assert all(len(loaded.boxes(name)) == 0 for name in loaded.outcomes)


@pytest.mark.parametrize(
    "row",
    [
        "1",
        "1,7",
        "1,7,25,13,16",
        "1 7 25 13 16 24 1",
        "1;7;25;13;16;24;1",
        "1,seven,25,13,16,24,1",
        "1,7.5,25,13,16,24,1",
        "1,1e30,25,13,16,24,1",
        "1,nan,25,13,16,24,1",
        "1,7,25,13,x,24,1",
        "1,7,,13,16,24,1",
        "1,7,25,13,16,24,yes",
        "1,7,25,13,16,24,nan",
    ],
)
def test_malformed_rows(row: str, tmp_path: Path) -> None:
    loaded = load_rows(tmp_path, f"{ROW}{row}\n2,7,25,13,16,24,1\n")
    assert loaded.places() == [(Code.LABEL_MALFORMED, GT, 2)]
    of_frame_1 = " " not in row and ";" not in row
    assert loaded.quarantined == (["walk/000001"] if of_frame_1 else [])
    repaired = load(open_mot(tmp_path), repair=True)
    assert repaired.boxes("walk/000001").tolist() == [BOX]
    assert repaired.findings[0].repaired == of_frame_1


@pytest.mark.parametrize(
    "row", ["x,7,25,13,16,24,1", "frame,id,bb_left,bb_top,w,h,conf", "nan,7,1,1,5,5,1", "1.5,7,1,1,5,5,1"]
)
def test_rows_of_no_frame(row: str, tmp_path: Path) -> None:
    loaded = load_rows(tmp_path, f"{row}\n{ROW}")
    assert loaded.places() == [(Code.LABEL_MALFORMED, GT, 1)]
    assert loaded.findings[0].severity == "error" and not loaded.quarantined


@pytest.mark.parametrize("frame", [0, 4, 999_999, -1])
def test_rows_of_frames_without_image(frame: int, tmp_path: Path) -> None:
    rows = f"{ROW}{frame},7,25,13,16,24,1\n{frame},8,25,13,16,24,1\n"
    loaded = load_rows(tmp_path, rows)
    assert loaded.places() == [(Code.LABEL_WITHOUT_IMAGE, GT, 2)]
    assert f"2 rows of frame {frame}" in loaded.findings[0].value


@pytest.mark.parametrize(
    ("numbers", "code"),
    [
        ("nan,13,16,24", Code.BOX_NOT_FINITE),
        ("25,13,1e60,24", Code.BOX_NOT_FINITE),
        ("25,13,0,24", Code.BOX_EMPTY),
        ("25,13,16,-24", Code.BOX_EMPTY),
    ],
)
def test_bad_boxes(numbers: str, code: Code, tmp_path: Path) -> None:
    loaded = load_rows(tmp_path, f"2,9,1,1,5,5,1\n1,7,{numbers},1\n")
    assert loaded.places() == [(code, GT, 2)] and loaded.quarantined == ["walk/000001"]


def test_tracks_may_leave_the_image(tmp_path: Path) -> None:
    """People walk out of the picture: their boxes are cut, or left out where nothing is left, for information."""
    loaded = load_rows(tmp_path, "1,7,-9,13,20,24,1\n1,8,70,13,20,24,1\n1,9,25,13,16,24,1\n")
    assert loaded.boxes("walk/000001").tolist() == [[0, 12, 10, 36], BOX]
    assert loaded.column("walk/000001", "id") == [7, 9]
    assert loaded.places() == [(Code.BOX_CLIPPED, GT, 1), (Code.BOX_OUTSIDE, GT, 2)]
    assert {finding.severity for finding in loaded.findings} == {"info"}


def test_a_track_is_in_a_frame_once(tmp_path: Path) -> None:
    """Of two places of one track only one could be told from the other frame's: the other would vanish unseen."""
    rows = f"{ROW}1,7,1,1,9,9,1\n2,7,25,13,16,24,1\n"
    single = load_rows(tmp_path, rows)
    assert single.places() == [(Code.LABEL_MALFORMED, GT, 2)] and single.quarantined == ["walk/000001"]
    assert "at line 1" in single.findings[0].value
    paired = load(open_mot(tmp_path, PairOptions(1)))
    assert paired.quarantined == ["walk/000001-000002"] and "walk/000002-000003" in paired.outcomes


def test_rows_without_tracks(tmp_path: Path) -> None:
    """Detections have track -1: good for single images, no use for pairs."""
    rows = "".join(f"{frame},-1,{left},13,16,24,1\n" for frame in (1, 2) for left in (5, 25))
    single = load_rows(tmp_path, rows)
    assert not single.findings and single.column("walk/000001", "id") == [-1, -1]
    paired = load(open_mot(tmp_path, PairOptions(1)))
    assert set(paired.places()) == {(Code.LABEL_MALFORMED, GT, line) for line in (1, 2, 3, 4)}
    assert "tells nobody who moved" in paired.findings[0].value
    assert paired.quarantined == ["walk/000001-000002", "walk/000002-000003"]


def test_turned_photographs(tmp_path: Path) -> None:
    """Boxes are of the upright frame."""
    picture = Picture("walk/000001", 64, 48, orientation=6)
    write(tmp_path / "walk" / "img1" / "000001.jpg", picture.encoded())
    write(tmp_path / GT, "1,7,1,1,48,64,1\n")
    loaded = load(open_mot(tmp_path))
    assert [finding.code for finding in loaded.findings] == [Code.EXIF_ORIENTATION]
    np.testing.assert_array_equal(loaded.boxes("walk/000001"), [[0, 0, 48, 64]])
