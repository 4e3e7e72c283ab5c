"""VIRAT object files: what is read, and what is found."""

import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dataflow.errors import UsageError
from dataflow.findings import Code, Policy
from dataflow.records import Change
from dataflow.splits import FrameRanges
from tests.factories import assert_balanced, assert_none_lost, load, photograph, write
from tfds_builders.formats.virat import open_virat
from tfds_builders.sources.pairing import PairOptions

CLIP = "VIRAT_S_000001"
TXT = f"annotations/{CLIP}.viratdata.objects.txt"
NAMES = ("person", "car", "vehicle", "object", "bike")
ROW = "7 3 1 24 12 16 24 2\n"  # Object 7 for 3 frames: in frame 1 a car at 24, 12 of 16 x 24 px.


def clip(root: Path, rows: str | bytes, frames: Sequence[int] = (0, 1, 2), name: str = CLIP, folder: str = "") -> Path:
    for number in frames:
        file = f"{folder or f'frames/{name}'}/{number:06d}.jpg"
        write(root / file, photograph(seed=number))
    write(root / "annotations" / f"{name}.viratdata.objects.txt", rows)
    return root


class TestLayouts:
    def test_frames_of_a_clip(self, tmp_path: Path) -> None:
        source = open_virat(clip(tmp_path, ROW + "8 1 1 0 0 5 6 1\n"))
        assert source.categories.names == NAMES and source.categories.source_ids == (1, 2, 3, 4, 5)
        loaded = load(source)
        assert not loaded.findings
        assert sorted(loaded.outcomes) == [f"{CLIP}/{number:06d}" for number in range(3)]
        middle = f"{CLIP}/000001"
        assert loaded.boxes(middle).tolist() == [[24, 12, 40, 36], [0, 0, 5, 6]], "pixels from 0 on"
        assert loaded.column(middle, "label") == [1, 0] and loaded.column(middle, "id") == [7, 8]
        assert loaded.example(middle)["scene"] == CLIP and loaded.example(middle)["provenance"] == f"{TXT}:1"
        assert len(loaded.boxes(f"{CLIP}/000000")) == 0, "clips are annotated throughout"

    @pytest.mark.parametrize("folder", [f"frames/{CLIP}", f"images/{CLIP}", CLIP])
    def test_folders(self, folder: str, tmp_path: Path) -> None:
        assert len(load(open_virat(clip(tmp_path, ROW, folder=folder))).outcomes) == 3

    def test_object_files_right_in_the_source(self, tmp_path: Path) -> None:
        root = clip(tmp_path, ROW)
        (root / TXT).rename(root / Path(TXT).name)
        assert load(open_virat(root)).example(f"{CLIP}/000001")["provenance"] == f"{CLIP}.viratdata.objects.txt:1"

    def test_several_clips(self, tmp_path: Path) -> None:
        for name in ("b", "day 1/a", "é"):
            clip(tmp_path, ROW, name=name)
        loaded = load(open_virat(tmp_path))
        assert not loaded.findings and len(loaded.outcomes) == 9
        assert {loaded.example(f"{name}/000001")["scene"] for name in ("b", "day 1/a", "é")} == {"b", "day 1/a", "é"}

    def test_every_nth_frame(self, tmp_path: Path) -> None:
        rows = "".join(f"7 9 {frame} 24 12 16 24 2\n" for frame in range(9))
        loaded = load(open_virat(clip(tmp_path, rows, frames=(0, 4, 8))))
        assert loaded.places() == [(Code.LABEL_WITHOUT_IMAGE, TXT, 2)], "once for the clip"
        assert loaded.findings[0].severity == "info" and "6 rows of 6 frames" in loaded.findings[0].value
        assert not loaded.quarantined

    def test_clips_of_which_no_frame_was_taken(self, tmp_path: Path) -> None:
        clip(tmp_path, ROW)
        clip(tmp_path, ROW, frames=(), name="other")
        loaded = load(open_virat(tmp_path))
        assert loaded.places() == [(Code.LABEL_WITHOUT_IMAGE, "annotations/other.viratdata.objects.txt", None)]
        assert loaded.findings[0].severity == "info"

    def test_frames_without_object_file(self, tmp_path: Path) -> None:
        clip(tmp_path, ROW)
        write(tmp_path / "frames" / "other" / "000001.jpg", photograph())
        loaded = load(open_virat(tmp_path))
        assert loaded.places() == [(Code.LABEL_MISSING, "frames/other", None)] and len(loaded.outcomes) == 3

    def test_an_empty_file_and_blank_lines(self, tmp_path: Path) -> None:
        clip(tmp_path, "", name="empty")
        clip(tmp_path, f"\ufeff\n{ROW.rstrip()}\r\n\n")
        loaded = load(open_virat(tmp_path))
        assert not loaded.findings and len(loaded.boxes(f"{CLIP}/000001")) == 1

    @pytest.mark.parametrize(
        ("files", "message"),
        [
            ({}, "holds no file CLIP"),
            ({TXT: ROW}, "holds no frames of its clips"),
            ({TXT: ROW, f"frames/{CLIP}/notes.txt": ""}, "holds no frames of its clips"),
        ],
    )
    def test_what_is_no_source(self, files: dict[str, str], message: str, tmp_path: Path) -> None:
        for name, content in files.items():
            write(tmp_path / name, content)
        with pytest.raises(UsageError, match=message) as caught:
            open_virat(tmp_path)
        assert ("ffmpeg" in caught.value.remedy) == bool(files), "videos are not read"
        with pytest.raises(UsageError, match="is no directory"):
            open_virat(tmp_path / "nowhere")

    def test_two_files_of_one_clip(self, tmp_path: Path) -> None:
        write(clip(tmp_path, ROW) / Path(TXT).name, ROW)
        with pytest.raises(UsageError, match="are of one clip"):
            open_virat(tmp_path)

    def test_links_out_of_the_source(self, tmp_path: Path) -> None:
        secret = write(tmp_path / "secret", "a password\n")
        root = clip(tmp_path / "source", ROW)
        frame = root / "frames" / CLIP / "000001.jpg"
        frame.unlink()
        frame.symlink_to(write(tmp_path / "secret.jpg", photograph()))
        loaded = load(open_virat(root), repair=True)
        assert loaded.places() == [(Code.IMAGE_OUTSIDE_ROOT, f"frames/{CLIP}/000001.jpg", None)]
        (root / TXT).unlink()
        (root / TXT).symlink_to(secret)
        with pytest.raises(UsageError, match="is a link out of"):
            open_virat(root)

    def test_frames_that_are_no_numbers(self, tmp_path: Path) -> None:
        clip(tmp_path, ROW)
        write(tmp_path / "frames" / CLIP / "cover.jpg", photograph())
        file = f"frames/{CLIP}/cover.jpg"
        loaded = load(open_virat(tmp_path), repair=True)
        assert loaded.places() == [(Code.LABEL_MALFORMED, file, None)] and loaded.quarantined == [f"{CLIP}/cover"]
        paired = load(open_virat(tmp_path, PairOptions(1)))
        assert paired.places() == [(Code.LABEL_MALFORMED, file, None)] and len(paired.outcomes) == 2

    def test_where_its_image_is(self, tmp_path: Path) -> None:
        source = open_virat(clip(tmp_path, ROW + "8 1 1 0 0 5 6 1\n9 1 1 0 0 5 6 0\n"))
        _, second, _ = source.scan().references
        assert source.image_path(second) == tmp_path / "frames" / CLIP / "000001.jpg"
        pair = open_virat(tmp_path, PairOptions(1)).scan().references[0]
        assert open_virat(tmp_path, PairOptions(1)).image_path(pair) == source.image_path(second)


BROKEN = [
    ("7 3 1 24 12 16 24", Code.LABEL_MALFORMED),
    ("7 3 1 24 12 16 24 2 9", Code.LABEL_MALFORMED),
    ("7 3 1 24 12 16 wide 2", Code.LABEL_MALFORMED),
    ("7.5 3 1 24 12 16 24 2", Code.LABEL_MALFORMED),
    ("7 3 1 24 12 16 24 car", Code.LABEL_MALFORMED),
    ("9 3 1 0 0 5 6 1", Code.LABEL_MALFORMED),  # Object 9 is in the frame already.
    ("7 3 1 24 12 16 24 0", Code.CLASS_UNKNOWN),
    ("7 3 1 24 12 16 24 6", Code.CLASS_UNKNOWN),
    ("7 3 1 24 12 0 24 2", Code.BOX_EMPTY),
    ("7 3 1 24 12 -16 24 2", Code.BOX_EMPTY),
    ("7 3 1 nan 12 16 24 2", Code.BOX_NOT_FINITE),
    ("7 3 1 0 12 1e300 24 2", Code.BOX_NOT_FINITE),
]


class TestFindings:
    @pytest.mark.parametrize(("row", "code"), BROKEN)
    def test_rows(self, row: str, code: Code, tmp_path: Path) -> None:
        source = open_virat(clip(tmp_path, f"9 3 1 1 1 20 20 1\n{row}\n"))
        loaded = load(source)
        assert loaded.places() == [(code, TXT, 2)] and loaded.quarantined == [f"{CLIP}/000001"]
        repaired = load(source, repair=True)
        assert repaired.places() == [(code, TXT, 2)] and repaired.findings[0].repaired
        assert repaired.boxes(f"{CLIP}/000001").tolist() == [[1, 1, 21, 21]]

    @pytest.mark.parametrize("row", ["no row", "7 3", "7 3 x 24 12 16 24 2", "7 3 5 24 12 16"])
    def test_rows_of_no_frame_that_is_there(self, row: str, tmp_path: Path) -> None:
        loaded = load(open_virat(clip(tmp_path, f"{ROW}{row}\n")))
        assert loaded.places() == [(Code.LABEL_MALFORMED, TXT, 2)] and not loaded.quarantined

    def test_objects_leave_the_image_by_design(self, tmp_path: Path) -> None:
        rows = "1 1 1 -10 5 30 20 1\n2 1 1 100 5 30 20 1\n3 1 1 30 20 100 100 1\n"
        loaded = load(open_virat(clip(tmp_path, rows)))
        assert loaded.boxes(f"{CLIP}/000001").tolist() == [[0, 5, 20, 25], [30, 20, 64, 48]]
        codes = [(finding.code, finding.severity, finding.line) for finding in loaded.findings]
        assert codes == [
            (Code.BOX_CLIPPED, "info", 1),
            (Code.BOX_OUTSIDE, "info", 2),
            (Code.BOX_CLIPPED, "info", 3),
        ]

    def test_an_image_that_cannot_be_read(self, tmp_path: Path) -> None:
        write(clip(tmp_path, ROW) / "frames" / CLIP / "000001.jpg", b"")
        loaded = load(open_virat(tmp_path), repair=True)
        assert loaded.places() == [(Code.IMAGE_EMPTY, f"frames/{CLIP}/000001.jpg", None)]


class TestPairs:
    # Object 1 moves, 2 stays, 3 appears, 4 vanishes.
    ROWS = (
        "1 2 0 0 0 10 10 1\n2 2 0 19 0 10 10 2\n4 1 0 39 0 10 10 3\n"
        "1 2 2 11 0 10 10 1\n2 2 2 20 0 10 10 2\n3 1 2 54 0 9 10 1\n"
    )

    @pytest.mark.parametrize(
        ("targets", "wanted"),
        [
            ("both", [(0, "MOVED", 0), (11, "MOVED", 0), (54, "APPEARED", 0), (39, "VANISHED", 0)]),
            ("after", [(11, "MOVED", 0), (54, "APPEARED", 0)]),
            ("arrived-and-left", [(0, "MOVED", 1), (11, "MOVED", 0), (54, "APPEARED", 0), (39, "VANISHED", 1)]),
        ],
    )
    def test_moved_objects(self, targets: Any, wanted: list[tuple[int, str, int]], tmp_path: Path) -> None:
        source = open_virat(clip(tmp_path, self.ROWS), PairOptions(2, targets=targets))
        loaded = load(source)
        name = f"{CLIP}/000000-000002"
        assert source.kind == "pairs" and list(loaded.outcomes) == [name] and not loaded.findings
        changes = [Change(change).name for change in loaded.column(name, "change")]
        left = [int(box[0]) for box in loaded.boxes(name)]
        assert list(zip(left, changes, loaded.column(name, "label"), strict=True)) == wanted

    def test_frames_of_two_sizes(self, tmp_path: Path) -> None:
        write(clip(tmp_path, self.ROWS) / "frames" / CLIP / "000002.jpg", photograph(50, 64))
        loaded = load(open_virat(tmp_path, PairOptions(2)))
        assert loaded.places() == [(Code.SIZE_MISMATCH, f"frames/{CLIP}/000002.jpg", None)]
        assert loaded.quarantined == [f"{CLIP}/000000-000002"]

    def test_a_frame_twice(self, tmp_path: Path) -> None:
        write(clip(tmp_path, self.ROWS) / "frames" / CLIP / "2.jpg", photograph(seed=9))
        loaded = load(open_virat(tmp_path, PairOptions(2)))
        assert loaded.places() == [(Code.DUPLICATE_ID, f"frames/{CLIP}/2.jpg", None)] and len(loaded.outcomes) == 1

    def test_objects_without_track(self, tmp_path: Path) -> None:
        clip(tmp_path, self.ROWS + "-1 1 2 1 30 10 10 1\n")
        assert load(open_virat(tmp_path)).column(f"{CLIP}/000002", "id") == [1, 2, 3, -1]
        loaded = load(open_virat(tmp_path, PairOptions(2)))
        assert loaded.places() == [(Code.LABEL_MALFORMED, TXT, 7)] and loaded.quarantined

    def test_ranges(self, tmp_path: Path) -> None:
        ranges = FrameRanges((("train", 0, 1), ("validation", 2, 3)))
        clip(tmp_path, ROW, frames=range(5))
        source = open_virat(tmp_path, ranges=ranges)
        assert [r.split for r in source.scan().references] == ["train", "train", "validation", "validation"]
        assert load(source).places() == [(Code.SPLIT_MISSING, f"frames/{CLIP}/000004.jpg", None)]
        pairs = open_virat(tmp_path, PairOptions(1), ranges).scan().references
        assert [r.image_id for r in pairs] == [f"{CLIP}/000000-000001", f"{CLIP}/000002-000003"]

    @pytest.mark.parametrize("options", [{"gap": 0}, {"gap": 1, "moved_iou": 0.0}, {"gap": 1, "moved_iou": 1.5}])
    def test_options_that_make_no_sense(self, options: Any, tmp_path: Path) -> None:
        with pytest.raises(UsageError):
            open_virat(clip(tmp_path, ROW), PairOptions(**options))


class TestPolicies:
    @pytest.mark.parametrize(("policy", "prepared"), [("quarantine", 3), ("repair", 5), ("fail", 0)])
    def test_no_image_is_lost(self, policy: Policy, prepared: int, tmp_path: Path) -> None:
        root = tmp_path / "source"
        clip(root, f"{ROW}9 3 2 1\n9 3 3 1 1 20 20 0\n9 3 4 1 1 20 20 1\n", frames=range(6))
        write(root / "frames" / CLIP / "000004.jpg", b"no image")
        write(root / "frames" / CLIP / "cover.jpg", photograph(seed=9))
        assert_none_lost(open_virat(root), root, tmp_path / "out", policy, prepared=prepared, total=7)


fields = st.one_of(
    st.integers(-3, 70).map(str),
    st.floats().map(str),
    st.sampled_from(["nan", "-inf", "1e999", "1_0", "½", "9" * 400, "\0", "٣", "-0", "0x1"]),
)
lines = st.one_of(st.lists(fields, max_size=10), st.lists(fields, min_size=8, max_size=8), st.text().map(str.split))


class TestGarbage:
    @settings(max_examples=100)
    @given(rows=st.lists(lines, max_size=5), gap=st.sampled_from([None, 1]), repair=st.booleans())
    def test_rows(self, rows: list[list[str]], gap: int | None, repair: bool) -> None:
        with tempfile.TemporaryDirectory() as folder:
            text = "\n".join(" ".join(row) for row in rows).encode("utf-8", "replace")
            root = clip(Path(folder), text, frames=(0, 1))
            assert_balanced(load(open_virat(root, PairOptions(gap) if gap else None), repair), 1 if gap else 2)

    @given(data=st.binary(max_size=80), keep=st.integers(0, 60))
    def test_bytes_and_stumps(self, data: bytes, keep: int) -> None:
        with tempfile.TemporaryDirectory() as folder:
            root = clip(Path(folder), data)
            clip(root, (ROW * 3).encode()[:keep], name="stump")
            assert_balanced(load(open_virat(root)), 6)
