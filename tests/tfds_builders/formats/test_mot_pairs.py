"""MOTChallenge sequences: frames in pairs, and splits by frame number."""

import re
from pathlib import Path
from typing import Any

import pytest

from dataflow.errors import UsageError
from dataflow.findings import Code
from dataflow.records import Change
from dataflow.splits import FrameRanges, parse_splits
from tests.factories import Loaded, load, photograph, prepare, write
from tests.tfds_builders.broken_sources import sequence
from tfds_builders.formats.mot import MotSource, open_mot
from tfds_builders.sources.pairing import PairOptions, chain_block

ROW = "1,7,25,13,16,24,1,-1,-1,-1\n"
BOX = [24, 12, 40, 36]
GT = "walk/gt/gt.txt"


class TestPairs:
    # Track 1 moves, 2 stays, 3 appears, 4 vanishes, 5 moves and is to be ignored, 6 stays and is to be ignored.
    ROWS = (
        "1,1,1,1,10,10,1\n1,2,20,1,10,10,1\n1,4,40,1,10,10,1\n1,5,1,20,8,8,0\n1,6,1,40,8,8,0\n"
        "2,1,12,1,10,10,1\n2,2,21,1,10,10,1\n2,3,55,1,9,10,1\n2,5,30,20,8,8,1\n2,6,1,40,8,8,0\n"
    )
    OLD, NEW, CAME, WENT = [0, 0, 10, 10], [11, 0, 21, 10], [54, 0, 63, 10], [39, 0, 49, 10]
    IGNORED = ([0, 19, 8, 27], [29, 19, 37, 27], [0, 39, 8, 47], [0, 39, 8, 47])

    def pair(self, root: Path, **options: Any) -> tuple[Loaded, list[tuple[list[float], int, str, bool]]]:
        loaded = load(open_mot(sequence(root, self.ROWS, frames=2), PairOptions(1, **options)))
        name = "walk/000001-000002"
        columns = [loaded.column(name, key) for key in ("label", "change", "is_crowd")]
        changes = [Change(change).name for change in columns[1]]
        return loaded, list(zip(loaded.boxes(name).tolist(), columns[0], changes, columns[2], strict=True))

    def test_both(self, tmp_path: Path) -> None:
        loaded, found = self.pair(tmp_path)
        wanted = [row for row in found if not row[3]]
        assert wanted == [
            (self.OLD, 0, "MOVED", False),
            (self.NEW, 0, "MOVED", False),
            (self.CAME, 0, "APPEARED", False),
            (self.WENT, 0, "VANISHED", False),
        ]
        assert [row[0] for row in found if row[3]] == list(self.IGNORED)
        assert loaded.column("walk/000001-000002", "id") == [1, 1, 3, 4, 5, 5, 6, 6]
        assert not loaded.findings

    def test_after(self, tmp_path: Path) -> None:
        _, found = self.pair(tmp_path, targets="after")
        assert [row for row in found if not row[3]] == [
            (self.NEW, 0, "MOVED", False),
            (self.CAME, 0, "APPEARED", False),
        ]
        assert [row[0] for row in found if row[3]] == list(self.IGNORED), "both places stay regions to ignore"

    def test_arrived_and_left(self, tmp_path: Path) -> None:
        _, found = self.pair(tmp_path, targets="arrived-and-left")
        assert [row for row in found if not row[3]] == [
            (self.OLD, 1, "MOVED", False),
            (self.NEW, 0, "MOVED", False),
            (self.CAME, 0, "APPEARED", False),
            (self.WENT, 1, "VANISHED", False),
        ]
        source = open_mot(tmp_path, PairOptions(1, targets="arrived-and-left"))
        assert source.categories.names == ("arrived", "left")

    def test_how_far_is_moved(self, tmp_path: Path) -> None:
        """Track 2 moved by 1 of 10 px: its boxes overlap by 9 / 11."""
        for threshold, moved in ((9 / 11 - 1e-3, 2), (9 / 11 + 1e-3, 4)):
            _, found = self.pair(tmp_path, moved_iou=threshold)
            assert sum(row[2] == "MOVED" and not row[3] for row in found) == moved

    def test_images_of_a_pair(self, tmp_path: Path) -> None:
        loaded, _ = self.pair(tmp_path)
        example = loaded.example("walk/000001-000002")
        assert example["before"] == photograph(seed=1) and example["image"] == photograph(seed=2)
        assert (example["before/id"], example["before/filename"]) == ("walk/000001", "walk/img1/000001.jpg")
        assert example["image/filename"] == "walk/img1/000002.jpg"
        assert (example["scene"], example["alignment_score"]) == ("walk", 1.0)

    @pytest.mark.parametrize(("gap", "count"), [(1, 5), (2, 4), (5, 1), (6, 0)])
    def test_gap(self, gap: int, count: int, tmp_path: Path) -> None:
        listing = open_mot(sequence(tmp_path, "", frames=6), PairOptions(gap)).scan()
        names = [f"walk/{i:06d}-{i + gap:06d}" for i in range(1, count + 1)]
        assert [reference.image_id for reference in listing.references] == names

    def test_missing_frames_make_no_wider_pairs(self, tmp_path: Path) -> None:
        sequence(tmp_path, "", frames=5)
        (tmp_path / "walk" / "img1" / "000003.jpg").unlink()
        names = [reference.image_id for reference in open_mot(tmp_path, PairOptions(1)).scan().references]
        assert names == ["walk/000001-000002", "walk/000004-000005"]

    def test_frames_of_two_sizes(self, tmp_path: Path) -> None:
        sequence(tmp_path, "")
        write(tmp_path / "walk" / "img1" / "000002.jpg", photograph(48, 60))
        loaded = load(open_mot(tmp_path, PairOptions(1)))
        assert set(loaded.places()) == {(Code.SIZE_MISMATCH, f"walk/img1/00000{number}.jpg", None) for number in (2, 3)}
        assert len(loaded.quarantined) == 2

    def test_two_images_of_one_frame(self, tmp_path: Path) -> None:
        sequence(tmp_path, ROW + "2,7,25,13,16,24,1\n")
        write(tmp_path / "walk" / "img1" / "000002.png", photograph(encoding="PNG"))
        paired = load(open_mot(tmp_path, PairOptions(1)))
        assert paired.places() == [(Code.DUPLICATE_ID, "walk/img1/000002.png", None)]
        assert len(paired.boxes("walk/000001-000002")) == 0, "nothing moved: the rows are those of either image"
        assert paired.example("walk/000001-000002")["image/filename"] == "walk/img1/000002.jpg"
        singles = open_mot(tmp_path).scan().references
        assert [reference.image_id for reference in singles].count("walk/000002") == 2, "planning finds it"

    @pytest.mark.parametrize("options", [(0,), (-1,), (1, 0.0), (1, 1.5), (1, float("nan"))])
    def test_options_that_make_no_sense(self, options: tuple[Any, ...]) -> None:
        with pytest.raises(UsageError, match=r"--pair-gap|--moved-iou"):
            PairOptions(*options)


class TestRanges:
    RANGES = parse_splits("train=1-5,validation=6-9")

    def source(self, root: Path, gap: int | None = None) -> MotSource:
        assert isinstance(self.RANGES, FrameRanges)
        return open_mot(sequence(root, "", frames=10), PairOptions(gap) if gap else None, self.RANGES)

    def test_frames(self, tmp_path: Path) -> None:
        listing = self.source(tmp_path).scan()
        splits = {int(reference.image_id[-6:]): reference.split for reference in listing.references}
        assert splits == {number: "train" if number <= 5 else "validation" for number in range(1, 10)}
        (finding,) = listing.findings
        assert (finding.code, finding.severity, finding.file) == (
            Code.SPLIT_MISSING,
            "info",
            "walk/img1/000010.jpg",
        )

    @pytest.mark.parametrize("gap", [1, 2, 4])
    def test_pairs_never_straddle(self, gap: int, tmp_path: Path) -> None:
        source = self.source(tmp_path, gap)
        by_split: dict[str | None, set[int]] = {}
        for reference in source.scan().references:
            by_split.setdefault(reference.split, set()).update(map(int, re.findall(r"\d{6}", reference.image_id)))
        assert by_split["train"] <= set(range(1, 6))
        assert by_split.get("validation", set()) <= set(range(6, 10))
        assert len(source.scan().references) == (5 - gap) + max(4 - gap, 0)

    def test_prepared(self, tmp_path: Path) -> None:
        dataset = prepare(self.source(tmp_path / "source", 1), tmp_path / "out", splits=self.RANGES)
        assert dataset.splits == {"train": 4, "validation": 3}


@pytest.mark.parametrize("gap", [1, 10])
def test_pairs_with_a_frame_in_common_are_kept_together(gap: int) -> None:
    blocks: dict[str, list[int]] = {}
    for number in range(1, 1000):
        blocks.setdefault(chain_block("walk", number, gap), []).append(number)
    whole = [numbers for numbers in blocks.values() if numbers[0] >= 32 * gap and numbers[-1] + gap < 1000]
    assert whole and all(len(numbers) == 32 for numbers in whole)
    for numbers in blocks.values():
        assert numbers == list(range(numbers[0], numbers[-1] + 1, gap)), "each begins with the frame the last ends with"
    assert chain_block("walk", 1, gap) != chain_block("run", 1, gap)


def test_the_pairs_of_a_sequence_say_what_they_are_kept_with(tmp_path: Path) -> None:
    references = open_mot(sequence(tmp_path, "1,1,10,10,5,5,1,1,1\n"), PairOptions(1)).scan().references
    assert references and all(reference.keep_with for reference in references)
    assert not any(reference.keep_with for reference in open_mot(tmp_path).scan().references)
