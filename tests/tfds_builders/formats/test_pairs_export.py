"""Pairs written as a list: what comes back, what cannot be held, and that an image is one file."""

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from dataflow.prepared import PreparedDataset
from dataflow.records import Categories, Change, FramePair, ImageRecord, Objects, no_objects
from tests.factories import load, photograph, prepare, write
from tests.tfds_builders.broken_sources import sequence
from tests.tfds_builders.pair_lists import BOX, OTHER
from tfds_builders.formats.mot import open_mot
from tfds_builders.formats.pairs import open_pairs
from tfds_builders.formats.pairs_writer import PairsWriter
from tfds_builders.sources.pairing import PairOptions

NAMES = ("Größe 大", "cat")


def image(name: str, seed: int = 0, scene: str = "s", **more: Any) -> ImageRecord:
    data = more.pop("data", None) or photograph(seed=seed)
    fields: dict[str, Any] = {"filename": f"{name}.jpg", "orientation": 1} | more
    return ImageRecord(name, data, 48, 64, no_objects(), scene, "list:1", **fields)


def pair(name: str, before: ImageRecord, after: ImageRecord, objects: Objects | None = None, **more: Any) -> FramePair:
    return FramePair(name, before, replace(after, image_id=name), objects or no_objects(), **more)


def export(out: Path, pairs: Sequence[tuple[FramePair, str]], names: Sequence[str] = NAMES) -> dict[str, int]:
    out.mkdir(parents=True, exist_ok=True)
    writer = PairsWriter(out, Categories(tuple(names)), ("train", "validation"))
    for item, split in pairs:
        writer.add(item, split)
    writer.close()
    return dict(writer.losses)


def again(root: Path, out: Path) -> dict[str, tuple[str, FramePair]]:
    """What the list gives when it is prepared: (split, pair) by id."""
    dataset = prepare(open_pairs(root), out)
    return {item.pair_id: (split, item) for split in dataset.splits for item in dataset.pairs(split)}


def assert_same(ours: FramePair, theirs: FramePair) -> None:
    assert (ours.pair_id, ours.before.image_id) == (theirs.pair_id, theirs.before.image_id)
    for mine, other in ((ours.before, theirs.before), (ours.after, theirs.after)):
        assert mine.image == other.image and mine.size == other.size and mine.group_id == other.group_id
        assert mine.orientation == other.orientation
    assert_same_objects(ours.objects, theirs.objects)


def assert_same_objects(a: Objects, b: Objects) -> None:
    np.testing.assert_allclose(a.boxes, b.boxes, atol=1e-2)
    np.testing.assert_allclose(a.areas, b.areas, rtol=2e-3)
    for name, missing in (("category_ids", 0), ("is_crowd", 0), ("is_truncated", 0), ("track_ids", -1), ("changes", 0)):
        columns = [np.full(len(o), missing) if getattr(o, name) is None else getattr(o, name) for o in (a, b)]
        assert columns[0].tolist() == columns[1].tolist(), name
    assert [json.loads(text or "0") for text in a.segmentations] == [
        json.loads(text or "0") for text in b.segmentations
    ]


def test_everything_comes_back(tmp_path: Path) -> None:
    objects = Objects(
        boxes=np.array([BOX, OTHER, [0, 0, 1, 1], [63, 47, 64, 48], [0, 0, 64, 48]]),
        category_ids=np.array([1, 0, 1, 1, 0]),
        areas=np.array([300, 400, 1, 1, 64 * 48]),
        is_crowd=np.array([False, True, False, False, False]),
        is_truncated=np.array([False, False, True, False, True]),
        segmentations=("[[10, 12, 30, 12, 30, 40]]", "", "", "", '{"size": [48, 64], "counts": [0, 3072]}'),
        track_ids=np.array([7, 0, -1, 2**63 - 1, -1]),
        changes=np.array([Change.MOVED, Change.NONE, Change.APPEARED, Change.VANISHED, Change.NONE]),
    )
    turned = photograph(64, 48, orientation=6)
    pairs = [
        (pair("é/1 → 2", image("été/1", 1), image("été/2", 2), objects), "train"),
        (pair("empty", image("x", 3, "t"), image("y", 4, "t")), "validation"),
        (pair("turned", image("u", 5, "v", data=turned, orientation=6), image("w", 6, "v")), "train"),
        (pair("../out/.hidden", image("../b", 7, "w"), image("/c", 8, "w"), objects), "validation"),
    ]
    assert not export(tmp_path / "out", pairs)
    source = open_pairs(tmp_path / "out")
    assert source.categories.names == NAMES
    assert not [finding for finding in load(source).findings if finding.severity == "error"]
    back = again(tmp_path / "out", tmp_path / "prepared")
    assert back.keys() == {item.pair_id for item, _ in pairs}
    for item, split in pairs:
        assert back[item.pair_id][0] == split
        assert_same(item, back[item.pair_id][1])


def test_a_file_for_each_image(tmp_path: Path) -> None:
    """Frames 1, 2 and 3 make the pairs 1-2 and 2-3: three files, and none of them outside its folder."""
    frames = [image(f"walk/img1/{number}", number) for number in (1, 2, 3)]
    export(tmp_path, [(pair("1-2", frames[0], frames[1]), "train"), (pair("2-3", frames[1], frames[2]), "train")])
    rows = [json.loads(line) for line in (tmp_path / "pairs.jsonl").read_text(encoding="utf-8").splitlines()]
    first, second, third = (
        f"images/{file}.jpg" for file in ("before/walk/img1/1", "after/walk/img1/2", "after/walk/img1/3")
    )
    assert [(row["before"], row["after"]) for row in rows] == [(first, second), (second, third)]
    assert [row["before_id"] for row in rows] == ["walk/img1/1", "walk/img1/2"]
    written = sorted(path.relative_to(tmp_path).as_posix() for path in tmp_path.rglob("*.jpg"))
    assert written == sorted([first, second, third])


def test_images_that_share_a_name(tmp_path: Path) -> None:
    pairs = [(pair(f"p{i}", image("x", 2 * i), image("y", 2 * i + 1)), "train") for i in range(2)]
    assert not export(tmp_path / "out", pairs)
    back = again(tmp_path / "out", tmp_path / "prepared")
    for item, _ in pairs:
        assert_same(item, back[item.pair_id][1])


def test_what_cannot_be_held(tmp_path: Path) -> None:
    shifted = np.array([[1, 0, 3], [0, 1, 0], [0, 0, 1]])
    turned = photograph(orientation=3)
    frame = Objects(np.array([BOX]), np.array([0]))
    pairs = [
        pair("a", image("1", 1), image("2", 2), homography=shifted),
        pair("b", image("3", 3), image("4", 4), alignment_score=0.5),
        pair("c", image("5", 5), image("6", data=turned, source_id="77")),
        pair("d", replace(image("7", 7), objects=frame), image("8", 8)),
        pair("e", image("9", 9), image("10", 10)),
    ]
    assert export(tmp_path, [(item, "train") for item in pairs]) == {
        "alignments of the two frames": 2,
        "EXIF orientations that were ignored": 1,
        "ids of the source": 1,
        "objects of the frames themselves": 1,
    }


def test_a_prepared_dataset_of_pairs(tmp_path: Path) -> None:
    """MOT to pairs to a list and back: the same targets, the list's own classes."""
    rows = "1,1,1,1,10,10,1\n1,2,20,1,10,10,0\n2,1,22,21,10,10,1\n2,2,20,1,10,10,0\n3,3,5,5,9,9,1\n"
    dataset: PreparedDataset = prepare(
        open_mot(sequence(tmp_path / "mot", rows), PairOptions(1, targets="arrived-and-left")), tmp_path / "first"
    )
    pairs = [(item, split) for split in dataset.splits for item in dataset.pairs(split)]
    assert not export(tmp_path / "out", pairs, dataset.categories.names)
    back = again(tmp_path / "out", tmp_path / "second")
    assert len(back) == len(pairs) == 2 and sum(len(item.objects) for item, _ in pairs) >= 6
    for item, split in pairs:
        assert back[item.pair_id][0] == split
        assert_same(item, back[item.pair_id][1])
    names = sorted(path.name for path in (tmp_path / "out").rglob("*.jpg"))
    assert names == ["000001.jpg", "000002.jpg", "000003.jpg"], "each once, whatever the order of the pairs"


@pytest.fixture(scope="module")
def photographs() -> list[bytes]:
    return [photograph(seed=seed) for seed in range(6)]


NAME = st.text(st.characters(exclude_categories=["Cs", "Cc"]), min_size=1, max_size=12).map(str.strip).filter(bool)
CORNERS = st.tuples(st.floats(0, 1, width=32), st.floats(0, 1, width=32)).map(sorted)


@settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data(), count=st.integers(0, 4))
def test_any_objects(data: st.DataObject, count: int, photographs: list[bytes], tmp_path: Path) -> None:
    boxes = []
    for _ in range(count):
        (x0, x1), (y0, y1) = data.draw(CORNERS), data.draw(CORNERS)
        boxes.append([x0 * 60, y0 * 44, x1 * 60 + 4, y1 * 44 + 4])

    def column(values: st.SearchStrategy[Any]) -> list[Any]:
        return data.draw(st.lists(values, min_size=count, max_size=count))

    objects = Objects(
        boxes=np.array(boxes, np.float32).reshape(-1, 4),
        category_ids=np.array(column(st.integers(0, 1)), np.int64),
        areas=np.array(column(st.floats(0.125, 4000, width=32)), np.float32),
        is_crowd=np.array(column(st.booleans()), np.bool_),
        is_truncated=np.array(column(st.booleans()), np.bool_),
        track_ids=np.array(column(st.integers(-1, 2**63 - 1)), np.int64),
        changes=np.array(column(st.sampled_from(Change)), np.int64),
    )
    name = data.draw(
        st.text(st.characters(exclude_categories=["Cs", "Cc"]), min_size=1, max_size=12).map(str.strip).filter(bool)
    )
    item = pair(name, image(name, data=photographs[0]), image(f"{name}2", data=photographs[1]), objects)
    out = tmp_path / "out"
    for old in sorted(out.rglob("*"), reverse=True):
        old.unlink() if old.is_file() else old.rmdir()
    assert not export(out, [(item, "train")])
    (reference,) = open_pairs(out).scan().references
    assert (reference.image_id, reference.split) == (name, "train")
    loaded = load(open_pairs(out))
    assert not [finding for finding in loaded.findings if finding.severity == "error"]
    np.testing.assert_allclose(loaded.boxes(name), objects.boxes, atol=1e-2)
    np.testing.assert_allclose(loaded.column(name, "area"), objects.areas, rtol=2e-3)
    assert objects.track_ids is not None and objects.changes is not None
    assert loaded.column(name, "id") == objects.track_ids.tolist()
    assert loaded.column(name, "change") == objects.changes.tolist()
    assert loaded.example(name)["before/id"] == name


def test_the_list_is_plain_json_lines(tmp_path: Path) -> None:
    """As any other program reads it, with the shortest numbers that are the same."""
    objects = Objects(np.array([[0.1, 12, 30.3, 40]]), np.array([0]), changes=np.array([Change.MOVED]))
    export(tmp_path, [(pair("p", image("1", 1), image("2", 2), objects), "train")])
    (row,) = (json.loads(line) for line in (tmp_path / "pairs.jsonl").read_text(encoding="utf-8").splitlines())
    assert row == {
        "id": "p",
        "before": "images/before/1.jpg",
        "after": "images/after/2.jpg",
        "before_id": "1",
        "scene": "s",
        "split": "train",
        "labels": [{"box": [0.1, 12.0, 30.3, 40.0], "class": NAMES[0], "change": "moved"}],
    }
    assert (tmp_path / "classes.txt").read_text(encoding="utf-8").splitlines() == list(NAMES)


def test_what_was_written_by_hand_in_between_is_found(tmp_path: Path) -> None:
    export(tmp_path, [(pair("p", image("1", 1), image("2", 2)), "train")])
    write(tmp_path / "images" / "after" / "2.jpg", b"")
    assert [str(finding.code) for finding in load(open_pairs(tmp_path)).findings] == ["image-empty"]
