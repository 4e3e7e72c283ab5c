"""What changed between two prepared datasets, against changes that the test made."""

from dataclasses import replace
from pathlib import Path

import pytest

from dataflow.dataset_changes import DatasetChanges, ObjectChanges, dataset_changes
from dataflow.errors import UsageError
from dataflow.prepared import PreparedDataset
from dataflow.splits import parse_splits
from tests.factories import Picture, Thing, photograph, prepare, write, write_mot, write_yolo
from tfds_builders.difference_builder import DifferencesBuilder
from tfds_builders.formats.mot import open_mot
from tfds_builders.formats.yolo import open_yolo
from tfds_builders.planning import PlanOptions
from tfds_builders.sources.pairing import PairOptions

CAT, DOG = Thing(0, (4, 4, 24, 24)), Thing(1, (30, 10, 60, 40))
NAMES = ("cat", "dog")


def pictures() -> dict[str, Picture]:
    return {name: Picture(name, things=(CAT, DOG)) for name in ("a", "b", "c", "d", "e", "f", "g", "h")}


def dataset(
    folder: Path, of: dict[str, Picture], names: tuple[str, ...] = NAMES, shards: int | None = None
) -> PreparedDataset:
    source = write_yolo(folder / "source", tuple(of.values()), names)
    return prepare(open_yolo(source), folder, plan=PlanOptions(seed=0, shards=shards))


def changes(tmp_path: Path, new: dict[str, Picture], **options: object) -> DatasetChanges:
    old = dataset(tmp_path / "old", pictures())
    return dataset_changes(old, dataset(tmp_path / "new", new, **options))  # type: ignore[arg-type]


@pytest.mark.parametrize("shards", [None, 4])
def test_the_same_is_the_same(tmp_path: Path, shards: int | None) -> None:
    found = changes(tmp_path, pictures(), shards=shards)
    assert found == DatasetChanges(same=True, splits_changed={})


def test_images_that_came_and_went(tmp_path: Path) -> None:
    new = pictures() | {"x": Picture("x"), "y": Picture("y")}
    del new["c"]
    found = changes(tmp_path, new)
    assert (found.images_added, found.images_removed) == (("x", "y"), ("c",))
    assert not found.objects_changed and not found.pixels_changed and not found.splits_changed


def test_pixels(tmp_path: Path) -> None:
    old, new = (dataset(tmp_path / name, pictures()) for name in ("old", "new"))
    source = tmp_path / "new" / "source"
    write(source / "images" / "d.jpg", photograph(48, 64, seed=1234))
    new = prepare(open_yolo(source), tmp_path / "again", plan=PlanOptions(seed=0))
    found = dataset_changes(old, new)
    assert found == DatasetChanges(same=False, pixels_changed=("d",), splits_changed={})


@pytest.mark.parametrize(
    ("things", "expected"),
    [
        ((CAT,), ObjectChanges(removed=1)),
        ((CAT, DOG, Thing(0, (40, 30, 60, 46))), ObjectChanges(added=1)),
        ((CAT, replace(DOG, box=(31, 10, 60, 41))), ObjectChanges(moved=1)),
        ((CAT, replace(DOG, category=0)), ObjectChanges(renamed=1)),
        ((CAT, replace(DOG, box=(0, 30, 20, 46))), ObjectChanges(added=1, removed=1)),
        ((), ObjectChanges(removed=2)),
        ((DOG, CAT), ObjectChanges()),
    ],
)
def test_objects(tmp_path: Path, things: tuple[Thing, ...], expected: ObjectChanges) -> None:
    found = changes(tmp_path, pictures() | {"e": Picture("e", things=things)})
    assert found.objects_changed == ("e",) and found.objects == expected
    assert not found.pixels_changed and not found.images_added


def test_marks(tmp_path: Path) -> None:
    """Of tracks, which only some formats have."""
    frames = [Picture("walk/000001", things=(replace(CAT, track=1), replace(DOG, category=0, track=2)))]
    old = prepare(open_mot(write_mot(tmp_path / "a", frames)), tmp_path / "old")
    swapped = [Picture("walk/000001", things=(replace(CAT, track=1), replace(DOG, category=0, track=7)))]
    new = prepare(open_mot(write_mot(tmp_path / "b", swapped)), tmp_path / "new")
    found = dataset_changes(old, new)
    assert found.objects_changed == ("walk/000001",) and found.objects == ObjectChanges(marked=1)


def test_classes_by_name(tmp_path: Path) -> None:
    """Another order of the classes is no other class of an object."""
    swapped = {
        name: replace(picture, things=(replace(CAT, category=1), replace(DOG, category=0)))
        for name, picture in pictures().items()
    }
    found = changes(tmp_path, swapped, names=("dog", "cat"))
    assert found.classes_reordered and not found.objects_changed
    more = dataset(tmp_path / "more", pictures(), ("cat", "dog", "bird"))
    found = dataset_changes(PreparedDataset(tmp_path / "old" / "dataset" / "1.0.0"), more)
    assert (found.classes_added, found.classes_removed) == (("bird",), ()) and not found.classes_reordered


def test_splits(tmp_path: Path) -> None:
    old = dataset(tmp_path / "old", pictures())
    source = tmp_path / "old" / "source"
    new = prepare(open_yolo(source), tmp_path / "new", splits=parse_splits("train=1"), plan=PlanOptions(seed=0))
    moved = {record.image_id: ("validation", "train") for record in old.records("validation")}
    assert moved and dataset_changes(old, new).splits_changed == moved
    assert dataset_changes(new, old).splits_changed == dict.fromkeys(moved, ("train", "validation"))


def test_pairs_and_their_before_frames(tmp_path: Path) -> None:
    frames = tuple(Picture(f"walk/{i:06d}", things=(Thing(0, (i, 4, i + 20, 24), track=1),)) for i in range(1, 4))
    source = write_mot(tmp_path / "s", frames)
    old = prepare(open_mot(source, PairOptions(2)), tmp_path / "old")
    write(source / "walk" / "img1" / "000001.jpg", photograph(seed=4321))
    new = prepare(open_mot(source, PairOptions(2)), tmp_path / "new")
    found = dataset_changes(old, new)
    assert found.pixels_changed == ("walk/000001-000003",) and not found.objects_changed
    differences = DifferencesBuilder(old, name="d", out=tmp_path / "old").prepare()
    signed = DifferencesBuilder(old, name="e", out=tmp_path / "old", mode="signed").prepare()
    assert dataset_changes(differences, signed).pixels_changed == ("walk/000001-000003",)
    with pytest.raises(UsageError, match="compare two of one kind"):
        dataset_changes(old, differences)


def test_it_is_plain_data(tmp_path: Path) -> None:
    import json

    found = changes(tmp_path, pictures() | {"e": Picture("e")})
    assert json.loads(json.dumps(found.to_json()))["objects"]["removed"] == 2
