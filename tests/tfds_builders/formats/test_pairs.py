"""Lists of pairs: labels of targets and of frames, class names, ids, scenes and splits."""

import csv
import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from dataflow.errors import UsageError
from dataflow.findings import Code
from dataflow.records import Change
from tests.factories import load, photograph, prepare, write
from tests.tfds_builders.pair_lists import BOX, OTHER, VOC, YOLO, frames, json_list, pair, table, thing
from tfds_builders.formats.pairs import open_pairs
from tfds_builders.sources.source import Checks, Loader

RECTANGLE = {"shape_type": "rectangle"}


class TestTargets:
    def test_inline(self, tmp_path: Path) -> None:
        labels = [
            thing(change="moved", track=7),
            thing(OTHER, "dog", change="appeared", ignore=True, truncated=True, area=123.5),
            thing([1, 2, 3.5, 9], change=None, track=None, ignore=False),
        ]
        source = open_pairs(json_list(tmp_path, pair(labels=labels)))
        assert source.categories.names == ("cat", "dog") and source.kind == "pairs"
        loaded = load(source)
        assert not loaded.findings
        name = "a/1__b/1"
        np.testing.assert_allclose(loaded.boxes(name), [BOX, OTHER, [1, 2, 3.5, 9]], atol=1e-4)
        columns = {key: loaded.column(name, key) for key in ("label", "change", "id", "is_crowd", "is_truncated")}
        assert columns == {
            "label": [0, 1, 0],
            "change": [Change.MOVED, Change.APPEARED, Change.NONE],
            "id": [7, -1, -1],
            "is_crowd": [False, True, False],
            "is_truncated": [False, True, False],
        }
        assert loaded.column(name, "area") == pytest.approx([560, 123.5, 17.5])

    def test_images_of_a_pair(self, tmp_path: Path) -> None:
        loaded = load(open_pairs(json_list(tmp_path, pair(labels=[thing()], id="one", before_id="first", scene="s"))))
        example = loaded.example("one")
        assert (example["before"], example["image"]) == (photograph(seed=2), photograph(seed=3))
        assert (example["before/id"], example["before/filename"]) == ("first", "a/1.jpg")
        assert (example["image/filename"], example["scene"]) == ("b/1.jpg", "s")
        assert example["provenance"] == "pairs.jsonl:1"

    def test_the_same_box_may_come_and_go(self, tmp_path: Path) -> None:
        labels = [thing(change="appeared"), thing(change="vanished")]
        assert not load(open_pairs(json_list(tmp_path, pair(labels=labels)))).findings
        again = load(open_pairs(json_list(tmp_path, pair(labels=[thing(change="moved"), thing(change="moved")]))))
        assert again.places() == [(Code.OBJECT_TWICE, "pairs.jsonl", "1#/labels/1/box")]

    @pytest.mark.parametrize(
        ("file", "content"),
        [
            ("l/1.txt", YOLO),
            ("l/1.xml", VOC.format(extra="")),
            ("l/1.json", json.dumps([thing()])),
            (
                "l/1.JSON",
                json.dumps({"shapes": [{"label": "cat", "points": [[30, 12], [10, 40]], "shape_type": "rectangle"}]}),
            ),
            ("l/1.json", json.dumps({"shapes": [{"label": "cat", "points": [[10, 12], [30, 12], [20, 40]]}]})),
        ],
    )
    def test_label_files(self, file: str, content: str, tmp_path: Path) -> None:
        write(tmp_path / file, content)
        for source in (
            open_pairs(table(tmp_path / "csv", "before,after,labels\na/1.jpg,b/1.jpg,x.xml\n"), names=("cat",)),
            open_pairs(table(tmp_path, f"before,after,labels\na/1.jpg,b/1.jpg,{file}\n"), names=("cat",)),
            open_pairs(json_list(tmp_path, pair(labels=file)) / "pairs.jsonl", names=("cat",)),
        )[1:]:
            loaded = load(source)
            np.testing.assert_allclose(loaded.boxes("a/1__b/1"), [BOX], atol=1e-4)
            assert not loaded.findings

    def test_polygons_are_kept(self, tmp_path: Path) -> None:
        write(tmp_path / "1.txt", "0 0.25 0.25 0.75 0.25 0.75 0.75\n")
        loaded = load(open_pairs(json_list(tmp_path, pair(labels="1.txt")), names=("cat",)))
        np.testing.assert_allclose(loaded.boxes("a/1__b/1"), [[16, 12, 48, 36]], atol=1e-4)
        assert json.loads(loaded.column("a/1__b/1", "segmentation")[0]) == [[16, 12, 48, 12, 48, 36]]
        assert loaded.column("a/1__b/1", "area") == [384]

    def test_nothing_changed_is_not_the_same_as_no_labels(self, tmp_path: Path) -> None:
        frames(tmp_path, 1, 2, 3)
        root = json_list(tmp_path, pair(1, labels=[]), pair(2), pair(3, labels=None))
        loaded = load(open_pairs(root, names=("cat",)))
        assert loaded.places() == [(Code.LABEL_MISSING, "pairs.jsonl", line) for line in (2, 3)]
        assert loaded.quarantined == ["a/2__b/2", "a/3__b/3"]
        repaired = load(open_pairs(root, names=("cat",)), repair=True)
        assert not repaired.quarantined and all(finding.repaired for finding in repaired.findings)

    @pytest.mark.parametrize("stored", [True, False])
    def test_turned_frames(self, stored: bool, tmp_path: Path) -> None:
        """Both are 48 x 64 px when upright; only one of them is stored so."""
        write(tmp_path / "a" / "1.jpg", photograph(64, 48))
        write(tmp_path / "b" / "1.jpg", photograph(48, 64, orientation=6) if stored else photograph(64, 48, seed=1))
        write(tmp_path / "pairs.jsonl", json.dumps(pair(labels=[thing([1, 50, 20, 60])])))
        example = load(open_pairs(tmp_path)).example("a/1__b/1")
        assert (example["image/height"], example["image/width"]) == (64, 48)
        assert (example["before/orientation"], example["image/orientation"]) == (1, 6 if stored else 1)


class TestNames:
    @pytest.mark.parametrize(
        ("file", "text"),
        [
            ("classes.txt", "\ufeffdog\r\n cat \n\n"),
            ("data.yaml", "names: [dog, cat]"),
            ("data.yml", "names:\n  0: dog\n  1: cat\n"),
        ],
    )
    def test_beside_the_list(self, file: str, text: str, tmp_path: Path) -> None:
        write(tmp_path / file, text)
        source = open_pairs(json_list(tmp_path, pair(labels=[thing()])))
        assert source.categories.names == ("dog", "cat")
        assert load(source).column("a/1__b/1", "label") == [1]
        assert open_pairs(tmp_path, names=("cat", "cow")).categories.names == ("cat", "cow")

    @pytest.mark.parametrize(
        ("file", "text", "match"),
        [
            ("classes.txt", b"\xff\n", "not UTF-8 at byte 0"),
            ("data.yaml", "names: [yes, no]", "in quotes"),
            ("data.yaml", "names: {1: cat}", "numbered from 0"),
            ("data.yaml", "names: [", "not YAML"),
        ],
    )
    def test_that_are_none(self, file: str, text: str | bytes, match: str, tmp_path: Path) -> None:
        write(tmp_path / file, text)
        with pytest.raises(UsageError, match=match):
            open_pairs(json_list(tmp_path, pair(labels=[thing()])))

    def test_a_name_twice(self, tmp_path: Path) -> None:
        write(tmp_path / "classes.txt", "cat\ncat\ndog\n")
        write(tmp_path / "x.txt", "1 0.5 0.5 0.25 0.5\n2 0.5 0.5 0.25 0.5\n")
        source = open_pairs(json_list(tmp_path, pair(labels="x.txt")))
        assert source.categories.names == ("cat", "dog")
        assert load(source).places() == [
            (Code.CLASS_NAMED_TWICE, "classes.txt", None),
            (Code.CLASS_NAMED_TWICE, "x.txt", 1),
        ]
        assert load(source, repair=True).column("a/1__b/1", "label") == [0, 1]

    def test_names_that_no_dataset_can_have(self, tmp_path: Path) -> None:
        labels = [thing(), thing(OTHER, "two\nlines"), thing([1, 1, 9, 9], "\ud800")]
        loaded = load(open_pairs(json_list(tmp_path, pair(labels=labels))))
        assert loaded.places() == [(Code.CLASS_UNKNOWN, "pairs.jsonl", f"1#/labels/{i}/class") for i in (1, 2)]


IMAGES = st.sampled_from(["1", "2", "x/1", "x/2", "x/y/3", "z/1"])


class TestIdsAndScenes:
    def scan(self, root: Path, *rows: dict[str, Any]) -> list[tuple[str, str]]:
        write(root / "pairs.jsonl", "".join(json.dumps(row | {"labels": [thing()]}) + "\n" for row in rows))
        listing = open_pairs(root).scan()
        self.findings = listing.findings
        return [(reference.image_id, reference.group_id) for reference in listing.references]

    def row(self, before: str, after: str, **more: Any) -> dict[str, Any]:
        return {"before": before, "after": after, **more}

    def test_sequences(self, tmp_path: Path) -> None:
        rows = [self.row(f"walk/{i}.jpg", f"walk/{i + 1}.jpg") for i in (1, 3)] + [self.row("run/1.jpg", "run/x/2.jpg")]
        assert self.scan(tmp_path, *rows) == [
            ("walk/1__2", "walk"),
            ("walk/3__4", "walk"),
            ("run/1__x/2", "run"),
        ]

    def test_parallel_folders(self, tmp_path: Path) -> None:
        rows = [self.row("a/1.jpg", "b/1.jpg"), self.row("a/2.jpg", "b/2.jpg")]
        assert self.scan(tmp_path, *rows) == [("a/1__b/1", "a/1__b/1"), ("a/2__b/2", "a/2__b/2")]

    def test_pairs_that_share_an_image_are_of_one_scene(self, tmp_path: Path) -> None:
        rows = [
            self.row("3.jpg", "4.jpg"),
            self.row("1.jpg", "2.jpg"),
            self.row("2.jpg", "3.jpg"),
            self.row("8.jpg", "9.jpg"),
        ]
        assert self.scan(tmp_path, *rows) == [
            ("3__4", "1__2"),
            ("1__2", "1__2"),
            ("2__3", "1__2"),
            ("8__9", "8__9"),
        ]
        assert not self.findings

    def test_given(self, tmp_path: Path) -> None:
        rows = [self.row("x/1.jpg", "x/2.jpg", id=5, scene="s"), self.row("x/2.jpg", "x/3.jpg", scene="t")]
        assert self.scan(tmp_path, *rows) == [("5", "s"), ("x/2__3", "t")]
        (finding,) = self.findings
        assert (finding.code, finding.severity, finding.line) == (Code.SPLIT_LEAK, "warning", 2)

    def test_splits(self, tmp_path: Path) -> None:
        frames(tmp_path, 1, 2, 3)
        rows = [pair(i, labels=[thing()], split=split) for i, split in enumerate(("Train", "val", "test"), 1)]
        dataset = prepare(open_pairs(json_list(tmp_path, *rows)), tmp_path / "out")
        assert dataset.splits == {"test": 1, "train": 1, "validation": 1}

    @settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
    @given(
        rows=st.lists(
            st.tuples(*[st.sampled_from(["1", "2", "x/1", "x/2", "x/y/3", "z/1"])] * 2), min_size=1, max_size=8
        )
    )
    def test_every_row_is_a_pair_and_no_image_is_in_two_scenes(
        self, rows: list[tuple[str, str]], tmp_path: Path
    ) -> None:
        found = self.scan(tmp_path, *(self.row(f"{a}.jpg", f"{b}.jpg") for a, b in rows))
        assert len({name for name, _ in found}) == len(rows), "ids are unique"
        assert not self.findings
        scene: dict[str, str] = {}
        for (a, b), (_, group) in zip(rows, found, strict=True):
            assert scene.setdefault(a, group) == group == scene.setdefault(b, group)
        shuffled = self.scan(tmp_path, *(self.row(f"{a}.jpg", f"{b}.jpg") for a, b in reversed(rows)))
        if len(set(rows)) == len(rows) and all(a != b for a, b in rows):
            assert sorted(shuffled) == sorted(found), "order changes nothing"


def test_references_travel_as_lines(tmp_path: Path) -> None:
    """Also with half characters in them, and on a worker that has nothing but the line."""
    labels = [thing(name="\ud800"), thing(OTHER, "Größe")]
    source = open_pairs(json_list(tmp_path, pair(labels=labels, scene="\udcff")), names=("Größe",))
    (reference,) = source.scan().references
    assert reference.to_line().isascii() and reference.stamp.count(" ") == 1
    (outcome,) = Loader(source, Checks())([reference.to_line()])
    assert [str(finding.code) for finding in outcome.findings] == ["class-unknown"]


def test_a_csv_written_by_python(tmp_path: Path) -> None:
    buffer = io.StringIO()
    writer = csv.DictWriter(buffer, ["before", "after", "labels", "scene"])
    writer.writeheader()
    writer.writerow({"before": 'a/"q", é.jpg', "after": "b/1.jpg", "labels": "l.json", "scene": "x, y"})
    root = table(tmp_path, buffer.getvalue())
    write(root / "l.json", json.dumps([thing()]))
    write(root / "a" / '"q", é.jpg', photograph(seed=9))
    loaded = load(open_pairs(root))
    assert not loaded.findings
    assert loaded.example('a/"q", é__b/1')["scene"] == "x, y"
