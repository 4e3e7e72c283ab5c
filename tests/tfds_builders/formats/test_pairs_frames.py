"""Lists of pairs whose labels are those of the frames: who moved, appeared and vanished."""

import io
import json
from pathlib import Path
from typing import Any, ClassVar

import pytest

from dataflow.errors import UsageError
from dataflow.findings import Code
from tests.factories import load, pixels, write
from tests.tfds_builders.pair_lists import BOX, OTHER, VOC, YOLO, found, json_list, pair, table, thing
from tfds_builders.formats.pairs import open_pairs


class TestFrames:
    """Track 1 stays, 2 moves, 3 vanishes, 4 appears, 5 is a region to ignore in one frame."""

    PLACES: ClassVar = {
        "stay": [1, 1, 9, 9],
        "old": BOX,
        "new": OTHER,
        "gone": [1, 30, 8, 45],
        "came": [50, 30, 60, 46],
    }

    def rows(self, tracks: bool = True) -> dict[str, Any]:
        def of(*items: tuple[str, int]) -> list[dict[str, Any]]:
            return [thing(list(self.PLACES[at])) | ({"track": n} if tracks else {}) for at, n in items]

        before, after = of(("stay", 1), ("old", 2), ("gone", 3)), of(("came", 4), ("new", 2), ("stay", 1))
        return pair(before_labels=before, after_labels=after)

    @pytest.mark.parametrize(
        ("targets", "wanted"),
        [
            ("both", [("old", "MOVED"), ("new", "MOVED"), ("gone", "VANISHED"), ("came", "APPEARED")]),
            ("after", [("new", "MOVED"), ("came", "APPEARED")]),
            ("arrived-and-left", [("old", "MOVED"), ("new", "MOVED"), ("gone", "VANISHED"), ("came", "APPEARED")]),
        ],
    )
    def test_tracks_decide(self, targets: Any, wanted: list[tuple[str, str]], tmp_path: Path) -> None:
        source = open_pairs(json_list(tmp_path, self.rows()), targets=targets)
        loaded = load(source)
        assert found(loaded) == [(self.PLACES[place], change) for place, change in wanted]
        assert not loaded.findings
        two = targets == "arrived-and-left"
        assert source.categories.names == (("arrived", "left") if two else ("moved",))
        assert loaded.column("a/1__b/1", "label") == ([1, 0, 1, 0] if two else [0] * len(wanted))

    def test_how_far_is_moved(self, tmp_path: Path) -> None:
        """Boxes that overlap by 9 of 11 px."""
        row = pair(before_labels=[thing([0, 0, 10, 10], track=1)], after_labels=[thing([1, 0, 11, 10], track=1)])
        for threshold, count in ((9 / 11 - 1e-3, 0), (9 / 11 + 1e-3, 2)):
            loaded = load(open_pairs(json_list(tmp_path, row), moved_iou=threshold))
            assert len(found(loaded)) == count

    def scene(self, root: Path) -> None:
        """Two frames of one background; a red thing moves, a blue one vanishes, a green one stays."""
        ground = pixels(96, 128, seed=5) // 4 + 90
        first, second = ground.copy(), ground.copy()
        for image, (x, y), colour in (
            (first, (10, 10), (220, 20, 20)),
            (second, (80, 60), (220, 20, 20)),
            (first, (100, 10), (20, 20, 220)),
            (first, (50, 40), (20, 200, 20)),
            (second, (50, 40), (20, 200, 20)),
        ):
            image[y : y + 20, x : x + 12] = colour
        from PIL import Image

        for name, image in (("a", first), ("b", second)):
            buffer = io.BytesIO()
            Image.fromarray(image).save(buffer, "PNG")
            write(root / name / "1.png", buffer.getvalue())

    BEFORE, AFTER = ([10, 10, 22, 30], [100, 10, 112, 30], [50, 40, 62, 60]), ([50, 40, 62, 60], [80, 60, 92, 80])

    def test_appearance_decides_without_tracks(self, tmp_path: Path) -> None:
        self.scene(tmp_path)
        row = {
            "before": "a/1.png",
            "after": "b/1.png",
            "before_labels": [thing(list(box)) for box in self.BEFORE],
            "after_labels": [thing(list(box)) for box in self.AFTER],
        }
        write(tmp_path / "pairs.jsonl", json.dumps(row))
        loaded = load(open_pairs(tmp_path))
        assert sorted(found(loaded)) == [
            ([10, 10, 22, 30], "MOVED"),
            ([80, 60, 92, 80], "MOVED"),
            ([100, 10, 112, 30], "VANISHED"),
        ]
        assert not loaded.findings

    def test_tracks_of_some_objects_are_not_used(self, tmp_path: Path) -> None:
        """These tracks would say that nothing is the same thing; appearance knows better."""
        self.scene(tmp_path)
        row = {
            "before": "a/1.png",
            "after": "b/1.png",
            "before_labels": [thing(list(box), track=i) for i, box in enumerate(self.BEFORE)],
            "after_labels": [thing(list(box)) for box in self.AFTER[:1]] + [thing(list(self.AFTER[1]), track=9)],
        }
        write(tmp_path / "pairs.jsonl", json.dumps(row))
        loaded = load(open_pairs(tmp_path))
        assert ([80, 60, 92, 80], "MOVED") in found(loaded)
        (finding,) = loaded.findings
        assert (finding.code, finding.severity, finding.line) == (Code.LABEL_MALFORMED, "warning", 1)
        assert "4 of 5" in finding.value

    def test_classes_are_not_mixed(self, tmp_path: Path) -> None:
        """A thing of another class at the same place has appeared."""
        self.scene(tmp_path)
        still = [50, 40, 62, 60]
        row = {"before": "a/1.png", "after": "b/1.png"}
        row |= {"before_labels": [thing(still)], "after_labels": [thing(still, "dog")]}
        write(tmp_path / "pairs.jsonl", json.dumps(row))
        assert sorted(change for _, change in found(load(open_pairs(tmp_path)))) == ["APPEARED", "VANISHED"]

    def test_ignore_regions_need_no_tracks(self, tmp_path: Path) -> None:
        row = self.rows()
        row["before_labels"].append(thing([0, 40, 5, 48], ignore=True))
        row["after_labels"].append(thing([20, 40, 25, 48], ignore=True))
        loaded = load(open_pairs(json_list(tmp_path, row)))
        assert not loaded.findings
        assert sum(loaded.column("a/1__b/1", "is_crowd")) == 2 and len(found(loaded)) == 4

    @pytest.mark.parametrize(("before", "after"), [([], [thing(track=3)]), ([thing(track=3)], []), ([], [])])
    def test_an_empty_frame(self, before: Any, after: Any, tmp_path: Path) -> None:
        loaded = load(open_pairs(json_list(tmp_path, pair(before_labels=before, after_labels=after))))
        assert [change for _, change in found(loaded)] == ["APPEARED"] * len(after) + ["VANISHED"] * len(before)
        assert loaded.column("a/1__b/1", "id") == [3] * (len(before) + len(after)), "the tracks stay what they are"

    @pytest.mark.parametrize(
        ("suffix", "before", "after"),
        [
            (".txt", "0 0.5 0.5 0.25 0.5 7\n", "0 0.2 0.5 0.25 0.5 7\n0 0.8 0.5 0.25 0.5 8\n"),
            (
                ".xml",
                VOC.format(extra="<trackid>7</trackid>"),
                VOC.format(extra="<track_id>8</track_id>"),
            ),
            (".json", json.dumps([thing(track=7)]), json.dumps([thing(OTHER, track=7)])),
        ],
    )
    def test_files_with_tracks(self, suffix: str, before: str, after: str, tmp_path: Path) -> None:
        write(tmp_path / f"x{suffix}", before)
        write(tmp_path / f"y{suffix}", after)
        head = "before;after;before_labels;after_labels\r\n"
        loaded = load(open_pairs(table(tmp_path, f"{head}a/1.jpg;b/1.jpg;x{suffix};y{suffix}\r\n"), names=("cat",)))
        assert not loaded.findings
        wanted = {".txt": ["MOVED", "MOVED", "APPEARED"], ".xml": ["VANISHED", "APPEARED"], ".json": ["MOVED", "MOVED"]}
        assert [change for _, change in found(loaded)] == wanted[suffix]

    def test_a_track_twice_in_a_frame(self, tmp_path: Path) -> None:
        row = self.rows()
        row["after_labels"].append(thing([30, 30, 36, 40], track=2))
        loaded = load(open_pairs(json_list(tmp_path, row)))
        assert loaded.places() == [(Code.LABEL_MALFORMED, "pairs.jsonl", "1#/after_labels/3/box")]
        assert loaded.quarantined == ["a/1__b/1"]
        repaired = load(open_pairs(tmp_path), repair=True)
        assert not repaired.quarantined and len(found(repaired)) == 4

    def test_classes_by_number_need_names_only_beside_others(self, tmp_path: Path) -> None:
        write(tmp_path / "x.txt", YOLO)
        write(tmp_path / "y.xml", VOC.format(extra=""))
        alike, mixed = (
            pair(before_labels="x.txt", after_labels="x.txt"),
            pair(before_labels="x.txt", after_labels="y.xml"),
        )
        assert found(load(open_pairs(json_list(tmp_path, alike)))) == []
        with pytest.raises(UsageError, match="YOLO labels, and others"):
            open_pairs(json_list(tmp_path, mixed))
        assert found(load(open_pairs(tmp_path, names=("cat",)))) == []
        write(tmp_path / "classes.txt", "dog\n")
        assert load(open_pairs(tmp_path)).places() == [(Code.CLASS_UNKNOWN, "y.xml", "/annotation/object[1]/name")]
