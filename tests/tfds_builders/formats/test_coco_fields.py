"""COCO sources: classes named twice, units and turned boxes, tracks, and what a reference holds."""

import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest

from dataflow.findings import Code
from tests.factories import coco_json, load, photograph, write, write_coco
from tests.tfds_builders.formats.test_coco import BOX, NAMES, PICTURES, load_changed, set_in, source_with
from tfds_builders.formats.coco import open_coco


def test_a_category_named_twice(tmp_path: Path) -> None:
    """13 is called cat as 3 is: which of them is wrong nobody can tell, so they are one when repairing only."""
    source = open_coco(source_with(tmp_path, set_in("categories", 1, "name", to="cat ")))
    assert (source.categories.names, source.categories.source_ids) == (("cat",), (3,))
    loaded = load(source)
    assert loaded.places() == [
        (Code.CLASS_NAMED_TWICE, "instances.json", "/categories"),
        (Code.CLASS_NAMED_TWICE, "instances.json", "/annotations/1/category_id"),
    ]
    assert [finding.severity for finding in loaded.findings] == ["warning", "error"]
    assert loaded.quarantined == ["b"]
    repaired = load(source, repair=True)
    assert not repaired.quarantined and repaired.column("b", "label") == [0, 0]


def test_numbers_of_categories_that_no_class_has_are_counted(tmp_path: Path) -> None:
    """From them the audit tells whether all ids are shifted by one."""
    loaded = load_changed(tmp_path, set_in("annotations", 0, "category_id", to="4"))
    assert loaded.outcomes["a"].unknown_classes == (4,)


def test_normalised_boxes(tmp_path: Path) -> None:
    loaded = load_changed(tmp_path, set_in("annotations", 0, "bbox", to=[0.25, 0.25, 0.5, 0.5]))
    assert loaded.places() == [(Code.BOX_UNITS, "instances.json", "/annotations/0/bbox")]
    assert loaded.quarantined == ["a"]


def test_boxes_on_the_pixels_as_stored(tmp_path: Path) -> None:
    """The JSON has the size of the pixels as stored, and so the boxes are on those; repairing turns them upright."""
    content = coco_json(PICTURES, NAMES)
    write_coco(tmp_path, PICTURES, content=content)
    write(tmp_path / "images" / "a.jpg", photograph(48, 64, orientation=6))
    stored = load(open_coco(tmp_path))
    assert stored.quarantined == ["a"]
    assert (Code.BOX_TURNED, "instances.json", "/images/0") in stored.places()
    assert Code.SIZE_MISMATCH not in {place[0] for place in stored.places()}
    turned = load(open_coco(tmp_path), repair=True)
    assert turned.boxes("a").tolist() == [[12, 24, 36, 40]], "turned clockwise, left is what was below"
    assert load(open_coco(tmp_path), exif="ignore").boxes("a").tolist() == [list(BOX)]


@pytest.mark.parametrize(
    ("value", "track"),
    [
        (7, 7),
        (7.0, 7),
        ("7", 7),
        (0, 0),
        (None, -1),
        ("x", -1),
        (7.5, -1),
        (-3, -1),
        (2**63, -1),
        (True, -1),
        ([7], -1),
    ],
)
def test_tracks(value: Any, track: int, tmp_path: Path) -> None:
    loaded = load_changed(tmp_path, set_in("annotations", 0, "track_id", to=value))
    assert loaded.column("a", "id") == [track] and not loaded.findings


@pytest.mark.parametrize("fields", [{"instance_id": 7}, {"attributes": {"occluded": False, "track_id": 7}}])
def test_where_tools_write_tracks(fields: dict[str, Any], tmp_path: Path) -> None:
    """MMTracking writes `instance_id`, CVAT an attribute."""

    def change(content: dict[str, Any]) -> None:
        content["annotations"][0] |= fields

    assert load_changed(tmp_path, change).column("a", "id") == [7]
    assert load_changed(tmp_path, set_in("annotations", 0, "attributes", to=[7])).column("a", "id") == [-1]


def test_findings_show_their_boxes(tmp_path: Path) -> None:
    loaded = load_changed(tmp_path, set_in("annotations", 0, "iscrowd", to=2))
    assert loaded.findings[0].box == BOX


def test_a_reference_says_when_it_is_stale(tmp_path: Path) -> None:
    """The stamp follows the image; what the JSON says of it travels in the reference itself."""

    def references() -> list[Any]:
        return list(open_coco(tmp_path).scan().references)

    root = source_with(tmp_path)
    first = references()
    content = coco_json(PICTURES, NAMES)
    content["annotations"][0]["area"] = 7
    write(root / "annotations" / "instances.json", json.dumps(content))
    write(root / "images" / "b.jpg", photograph(seed=99))
    pairs = list(zip(first, references(), strict=True))
    assert [a.image_id for a, b in pairs if a.payload != b.payload] == ["a"]
    assert [a.image_id for a, b in pairs if a.stamp != b.stamp] == ["b"]


def test_the_place_of_a_json_file_among_others_does_not_matter(tmp_path: Path) -> None:
    """Adding one leaves the references of the others and what decides about them as they are."""

    def listed() -> tuple[str, dict[str, Any]]:
        source = open_coco(tmp_path)
        return repr(source), {r.image_id: (r.payload, r.stamp) for r in source.scan().references if r.split != "test"}

    for split in ("train", "val"):
        root = tmp_path / "images" / split
        pictures = [dataclasses.replace(picture, name=f"{split}{picture.name}") for picture in PICTURES]
        for picture in pictures:
            write(root / f"{picture.name}.jpg", picture.encoded())
        write(tmp_path / "annotations" / f"instances_{split}.json", json.dumps(coco_json(pictures, NAMES)))
    before = listed()
    write(tmp_path / "images" / "test" / "new.jpg", photograph())
    more = {**coco_json(PICTURES, NAMES), "annotations": [], "images": [{"id": 1, "file_name": "new.jpg"}]}
    write(tmp_path / "annotations" / "instances_a_test.json", json.dumps(more))
    (tmp_path / "images" / "test").rename(tmp_path / "images" / "a_test")
    assert listed() == before and len(before[1]) == 6
