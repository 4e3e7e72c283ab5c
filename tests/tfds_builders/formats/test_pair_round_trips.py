"""Pairs -> a list of pairs -> prepared: equal pairs, but for what the writer says that a list cannot hold."""

import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, get_args

import numpy as np
import pytest

from dataflow.dataset_changes import dataset_changes
from dataflow.errors import UsageError
from dataflow.prepared import PreparedDataset
from dataflow.records import Categories, Change, FramePair, ImageRecord, Objects, no_objects
from dataflow.splits import parse_splits
from tests.factories import Picture, Thing, logical_dataset, photograph, prepare, write_coco, write_mot
from tests.tfds_builders.round_trips import class_differences, object_differences, orientation
from tfds_builders.choices import PAIR_FORMATS, FormatName, open_source, open_writer
from tfds_builders.difference_builder import DifferencesBuilder
from tfds_builders.export import export_dataset
from tfds_builders.formats.mot import open_mot
from tfds_builders.formats.pairs import open_pairs
from tfds_builders.losses import Loss
from tfds_builders.sources.pairing import PairOptions


@dataclass(frozen=True)
class Pairs:
    """Pairs by id with their splits, and their classes."""

    categories: Categories
    by_id: dict[str, tuple[FramePair, str]]


def pairs_of(dataset: PreparedDataset) -> Pairs:
    """What a prepared dataset of pairs or differences holds."""
    found = [(pair, split) for split in dataset.splits for pair in dataset.pairs(split)]
    return Pairs(dataset.categories, {pair.pair_id: (pair, split) for pair, split in found})


def differences(before: Pairs, after: Pairs) -> dict[str, int]:
    """What `after` has not as `before` has it; what it has beside that fails at once."""
    counts = class_differences(before.categories, after.categories, set())
    assert before.by_id.keys() == after.by_id.keys()
    for pair_id, (a, split) in before.by_id.items():
        b, other = after.by_id[pair_id]
        assert split == other and a.before.image_id == b.before.image_id
        for mine, theirs in ((a.before, b.before), (a.after, b.after)):
            assert (mine.image, mine.size, orientation(mine)) == (theirs.image, theirs.size, orientation(theirs))
            assert mine.group_id == theirs.group_id
        assert np.array_equal(b.homography, np.eye(3)) and b.alignment_score == 1
        counts[Loss.ALIGNMENTS] += not np.array_equal(a.homography, np.eye(3)) or a.alignment_score != 1
        counts[Loss.SOURCE_IDS] += a.after.source_id not in ("", b.after.source_id)
        counts += object_differences(a.objects, before.categories, b.objects, after.categories)
    return dict(+counts)


def targets() -> Objects:
    """All that targets can have."""
    boxes = [[2.5, 3, 20, 30.25], [0, 0, 1, 1], [63, 47, 64, 48], [0, 0, 64, 48], [0.1, 10, 20, 30.7], [5, 6, 9, 12]]
    return Objects(
        boxes=np.array(boxes),
        category_ids=np.array([0, 1, 2, 1, 0, 2]),
        areas=np.array([17.5 * 27.25, 1, 1, 3072, 7, 20]),
        is_crowd=np.arange(6) == 3,
        is_truncated=np.arange(6) == 2,
        segmentations=(
            "[[2.5,3,20,3,20,30.25,2.5,30.25]]",
            "",
            "",
            '{"size":[48,64],"counts":[0,3072]}',
            "",
            "[[5,6,9,6,9,8],[5,9,9,12,5,12]]",
        ),
        track_ids=np.array([7, -1, 0, -1, 2**62, -1]),
        changes=np.array([Change.MOVED, Change.APPEARED, Change.VANISHED, 0, Change.MOVED, 0]),
    )


def image(name: str, seed: int, scene: str, **encoded: Any) -> ImageRecord:
    stored = (64, 48) if encoded.get("orientation") == 6 else (48, 64)
    data = photograph(*stored, seed=seed, **encoded)
    return ImageRecord(name, data, 48, 64, no_objects(), scene, "made:1", f"{name}.jpg")


def rich_pairs() -> Sequence[tuple[FramePair, str]]:
    """Pairs that share frames, turned ones, empty ones, of names that are no words."""
    frames = [image(f"été 1/{number}", number, "été 1") for number in range(3)]
    turned, png = image("turned", 5, "犬", orientation=6), image("images/before/x", 6, "犬", encoding="PNG")
    frozen = [image(f"still/{number}", 9, "still") for number in range(3)]  # One content: a camera that stood still.
    made = [
        ("été 1/0 → 1", frames[0], frames[1], targets(), "train"),
        ("été 1/1 → 2", frames[1], frames[2], targets(), "train"),
        ("empty", image("a", 3, "s"), image("b", 4, "s"), no_objects(), "validation"),
        ("turned", turned, png, targets(), "test"),
        ("still/0-1", frozen[0], frozen[1], no_objects(), "train"),
        ("still/1-2", frozen[1], frozen[2], targets(), "train"),
    ]
    return [
        (FramePair(name, before, replace(after, image_id=name), objects), split)
        for name, before, after, objects, split in made
    ]


def through_a_list(given: Sequence[tuple[FramePair, str]], categories: Categories, out: Path) -> Counter[str]:
    out.mkdir()
    writer = open_writer("pairs", out, categories, ("train", "validation", "test"))
    for pair, split in given:
        writer.add(pair, split)
    writer.close()
    return writer.losses


@pytest.mark.parametrize("ids", [(), (3, 9, 27)])
def test_everything_twice_round(ids: tuple[int, ...], tmp_path: Path) -> None:
    given = rich_pairs()
    first = Pairs(Categories(("Größe 大", "cat", "dog & co"), ids), {pair.pair_id: (pair, s) for pair, s in given})
    losses = through_a_list(given, first.categories, tmp_path / "list")
    dataset = prepare(open_pairs(tmp_path / "list"), tmp_path / "prepared", "one")
    assert dict(losses) == differences(first, pairs_of(dataset)) == ({Loss.CLASS_IDS: 3} if ids else {})
    (tmp_path / "again").mkdir()
    result = export_dataset(dataset, "pairs", tmp_path / "again", list(dataset.splits))
    second = prepare(open_pairs(tmp_path / "again"), tmp_path / "prepared", "two")
    assert result["not_held"] == differences(pairs_of(dataset), pairs_of(second)) == {}
    assert dataset_changes(dataset, second).same


def test_what_a_list_cannot_hold(tmp_path: Path) -> None:
    (pair, split), *others = rich_pairs()
    shifted = np.array([[1, 0, 3], [0, 1, 0], [0, 0, 1]])
    given = [
        (replace(pair, homography=shifted, after=replace(pair.after, source_id="7")), split),
        *((replace(other, alignment_score=0.5), s) for other, s in others[:2]),
    ]
    first = Pairs(Categories(("a", "b", "c")), {pair.pair_id: (pair, s) for pair, s in given})
    losses = through_a_list(given, first.categories, tmp_path / "list")
    second = pairs_of(prepare(open_pairs(tmp_path / "list"), tmp_path / "prepared"))
    assert dict(losses) == differences(first, second) == {Loss.ALIGNMENTS: 3, Loss.SOURCE_IDS: 1}


def test_names_that_a_list_spells_otherwise(tmp_path: Path) -> None:
    """Blanks around names are left out, and not every name of a split is one there."""
    (pair, _), (other, _), *_ = rich_pairs()
    blank = replace(pair, pair_id=" id ", after=replace(pair.after, image_id=" id "))
    losses = through_a_list([(blank, "2020"), (other, "Night")], Categories(("a", "b", "c")), tmp_path / "list")
    assert losses == {Loss.IMAGE_IDS: 1, Loss.SPLITS: 2}
    said = {r.image_id: r.split for r in open_pairs(tmp_path / "list").scan().references}
    assert said == {"id": None, other.pair_id: "night"}


@pytest.fixture(scope="module")
def walk(tmp_path_factory: pytest.TempPathFactory) -> PreparedDataset:
    """Pairs of a sequence of tracks, cut by frame numbers."""
    root = tmp_path_factory.mktemp("walk")
    boxes = ((5, 5, 20, 20), (30, 8, 40, 40), (1, 30, 9, 47))
    pictures = []
    for number in range(9):
        shift = 2.5 * number
        moved = ((boxes[0][0] + shift, 5, boxes[0][2] + shift, 20), *boxes[1:])
        things = [Thing(0, box, track, ignore=track == 3) for track, box in enumerate(moved[: 1 + number % 3], 1)]
        pictures.append(Picture(f"walk/{number + 1:06d}", 48, 64, tuple(things), (None, 6)[number == 2]))
    source = write_mot(root / "mot", pictures)
    ranges: Any = parse_splits("train=1-6,validation=7-9")
    return prepare(open_mot(source, PairOptions(1, targets="arrived-and-left"), ranges), root / "out", splits=ranges)


def test_pairs_of_tracks(walk: PreparedDataset, tmp_path: Path) -> None:
    (tmp_path / "list").mkdir()
    result = export_dataset(walk, "pairs", tmp_path / "list", list(walk.splits))
    again = prepare(open_pairs(tmp_path / "list"), tmp_path / "prepared")
    assert walk.splits == again.splits == {"train": 5, "validation": 2}
    assert sum(len(pair.objects) for pair, _ in pairs_of(walk).by_id.values()) > 7
    assert result["not_held"] == differences(pairs_of(walk), pairs_of(again)) == {}
    assert dataset_changes(walk, again).same
    images = [path.name for path in (tmp_path / "list" / "images").rglob("*.jpg")]
    assert len(images) == 9, "each frame once"


def test_differences_become_the_pairs_that_they_are_of(walk: PreparedDataset, tmp_path: Path) -> None:
    """The difference images are announced as lost; `diff` makes the very same ones again."""
    made = DifferencesBuilder(walk, name="d", out=tmp_path / "one").prepare()
    (tmp_path / "list").mkdir()
    result = export_dataset(made, "pairs", tmp_path / "list", list(made.splits))
    assert result["not_held"] == {Loss.DIFFERENCES: 7}
    assert json.loads((tmp_path / "list" / "export.json").read_text(encoding="utf-8")) == result
    pairs = prepare(open_pairs(tmp_path / "list"), tmp_path / "prepared")
    assert differences(pairs_of(made), pairs_of(pairs)) == {}
    assert dataset_changes(walk, pairs).same
    again = DifferencesBuilder(pairs, name="d", out=tmp_path / "two").prepare()
    assert dataset_changes(made, again).same


@pytest.mark.parametrize("name", get_args(FormatName))
def test_pairs_and_single_images_do_not_mix(name: FormatName, walk: PreparedDataset, tmp_path: Path) -> None:
    if name not in PAIR_FORMATS:
        with pytest.raises(UsageError, match=r"before/after pairs.*--format pairs"):
            export_dataset(walk, name, tmp_path, ["train"])
    else:
        single = prepare(open_source("coco", write_coco(tmp_path / "coco", logical_dataset(4))), tmp_path / "prepared")
        with pytest.raises(UsageError, match=r"single images.*yolo, coco, voc, mot, virat, labelme, cvat"):
            export_dataset(single, name, tmp_path / "out", ["train"])
    assert not any(tmp_path.glob("*.json*")) and not (tmp_path / "out").exists()
