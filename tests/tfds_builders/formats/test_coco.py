"""COCO sources as people have them: spellings, duplicates, and what is wrong with them."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from dataflow.findings import Code
from tests.factories import Loaded, Picture, Thing, coco_json, load, photograph, prepare, write, write_coco
from tfds_builders.formats.coco import open_coco

BOX = (24.0, 12.0, 40.0, 36.0)
PICTURES = (
    Picture("a", things=(Thing(0, BOX),)),
    Picture("b", things=(Thing(1, BOX), Thing(0, (0, 0, 64, 48)))),
    Picture("c"),
)
NAMES = ("cat", "dog")
Change = Callable[[dict[str, Any]], None]


def source_with(root: Path, change: Change = lambda content: None) -> Path:
    """The three pictures, their JSON changed."""
    content = coco_json(PICTURES, NAMES)
    change(content)
    return write_coco(root, PICTURES, content=content)


def load_changed(root: Path, change: Change, repair: bool = False) -> Loaded:
    return load(open_coco(source_with(root, change)), repair)


def set_in(*path: Any, to: Any) -> Change:
    """A change of one value."""

    def change(content: dict[str, Any]) -> None:
        place: Any = content
        for key in path[:-1]:
            place = place[key]
        place[path[-1]] = to

    return change


def delete(*path: Any) -> Change:
    def change(content: dict[str, Any]) -> None:
        place: Any = content
        for key in path[:-1]:
            place = place[key]
        del place[path[-1]]

    return change


def test_images_categories_and_ids(tmp_path: Path) -> None:
    source = open_coco(source_with(tmp_path))
    assert (source.categories.names, source.categories.source_ids) == (NAMES, (3, 13))
    loaded = load(source)
    assert not loaded.findings
    assert loaded.column("b", "label") == [1, 0]
    example = loaded.example("b")
    assert (example["image/source_id"], example["image/filename"]) == ("102", "b.jpg")
    assert example["provenance"] == "instances.json#/images/1"
    assert len(loaded.boxes("c")) == 0, "an image without annotations is background"


def test_categories_are_ordered_by_their_numbers(tmp_path: Path) -> None:
    def change(content: dict[str, Any]) -> None:
        content["categories"].reverse()

    assert open_coco(source_with(tmp_path, change)).categories.names == NAMES


@pytest.mark.parametrize(
    "change",
    [
        set_in("annotations", 0, "image_id", to="101"),
        set_in("annotations", 0, "image_id", to=101.0),
        set_in("images", 0, "id", to="101"),
        set_in("images", 0, "id", to=101.0),
        set_in("annotations", 0, "category_id", to="3"),
        set_in("annotations", 0, "category_id", to=3.0),
        set_in("categories", 0, "id", to="3"),
        set_in("categories", 0, "name", to=" cat "),
        set_in("annotations", 0, "bbox", to=["24", "12.0", "1.6e1", 24]),
        set_in("annotations", 0, "area", to=None),
        delete("annotations", 0, "area"),
        delete("annotations", 0, "iscrowd"),
        set_in("annotations", 0, "iscrowd", to=None),
        set_in("annotations", 0, "iscrowd", to=False),
        set_in("annotations", 0, "iscrowd", to="0"),
        set_in("images", 0, "height", to="48"),
        set_in("images", 0, "width", to=64.0),
        set_in("images", 0, "file_name", to="./a.jpg"),
        set_in("info", to="not of interest"),
    ],
)
def test_spellings_that_mean_the_same(change: Change, tmp_path: Path) -> None:
    loaded = load_changed(tmp_path, change)
    assert not loaded.findings
    assert (loaded.boxes("a").tolist(), loaded.column("a", "label")) == ([list(BOX)], [0])
    assert (loaded.column("a", "is_crowd"), loaded.column("a", "area")) == ([False], [384.0])


@pytest.mark.parametrize(
    ("word", "kept"), [("f3-ä", "f3-ä"), ("007", "007"), ("\udce9", "\\xe9"), ("\ud800", "\\ud800")]
)
def test_ids_may_be_words(word: str, kept: str, tmp_path: Path) -> None:
    """Even half a character, as a JSON escape may leave it."""

    def change(content: dict[str, Any]) -> None:
        content["images"][0]["id"] = content["annotations"][0]["image_id"] = word

    source_with(tmp_path)
    content = coco_json(PICTURES, NAMES)
    change(content)
    write(tmp_path / "annotations" / "instances.json", json.dumps(content))
    loaded = load(open_coco(tmp_path))
    assert not loaded.findings and loaded.example("a")["image/source_id"] == kept


@pytest.mark.parametrize("crowd", [1, 1.0, "1", True])
def test_crowd_and_area_are_kept(crowd: Any, tmp_path: Path) -> None:
    def change(content: dict[str, Any]) -> None:
        content["annotations"][0] |= {"iscrowd": crowd, "area": 12.5}

    loaded = load_changed(tmp_path, change)
    assert (loaded.column("a", "is_crowd"), loaded.column("a", "area")) == ([True], [12.5])


@pytest.mark.parametrize(
    ("change", "code", "pointer"),
    [
        (set_in("annotations", 0, "category_id", to=99), Code.CLASS_UNKNOWN, "/annotations/0/category_id"),
        (set_in("annotations", 0, "category_id", to=None), Code.CLASS_UNKNOWN, "/annotations/0/category_id"),
        (set_in("annotations", 0, "category_id", to=[3]), Code.CLASS_UNKNOWN, "/annotations/0/category_id"),
        (set_in("annotations", 0, "category_id", to=True), Code.CLASS_UNKNOWN, "/annotations/0/category_id"),
        (delete("annotations", 0, "category_id"), Code.CLASS_UNKNOWN, "/annotations/0/category_id"),
        (set_in("annotations", 0, "bbox", to=None), Code.LABEL_MALFORMED, "/annotations/0/bbox"),
        (delete("annotations", 0, "bbox"), Code.LABEL_MALFORMED, "/annotations/0/bbox"),
        (set_in("annotations", 0, "bbox", to=[]), Code.LABEL_MALFORMED, "/annotations/0/bbox"),
        (set_in("annotations", 0, "bbox", to=[1, 2, 3]), Code.LABEL_MALFORMED, "/annotations/0/bbox"),
        (set_in("annotations", 0, "bbox", to=[1, 2, 3, 4, 5]), Code.LABEL_MALFORMED, "/annotations/0/bbox"),
        (set_in("annotations", 0, "bbox", to="1234"), Code.LABEL_MALFORMED, "/annotations/0/bbox"),
        (
            set_in("annotations", 0, "bbox", to={"x": 1, "y": 1, "w": 2, "h": 2}),
            Code.LABEL_MALFORMED,
            "/annotations/0/bbox",
        ),
        (set_in("annotations", 0, "bbox", to=[1, 2, None, 4]), Code.LABEL_MALFORMED, "/annotations/0/bbox"),
        (set_in("annotations", 0, "bbox", to=[1, 2, 3, 10**400]), Code.LABEL_MALFORMED, "/annotations/0/bbox"),
        (set_in("annotations", 0, "bbox", to=[1, 2, float("nan"), 4]), Code.BOX_NOT_FINITE, "/annotations/0/bbox"),
        (set_in("annotations", 0, "bbox", to=[1, 2, 1e300, 4]), Code.BOX_NOT_FINITE, "/annotations/0/bbox"),
        (set_in("annotations", 0, "bbox", to=[1, 2, 0, 4]), Code.BOX_EMPTY, "/annotations/0/bbox"),
        (set_in("annotations", 0, "bbox", to=[30, 20, -5, 4]), Code.BOX_EMPTY, "/annotations/0/bbox"),
        (set_in("annotations", 0, "bbox", to=[70, 20, 5, 4]), Code.BOX_OUTSIDE, "/annotations/0/bbox"),
        (set_in("annotations", 0, "iscrowd", to=2), Code.LABEL_MALFORMED, "/annotations/0/iscrowd"),
        (set_in("annotations", 0, "iscrowd", to="yes"), Code.LABEL_MALFORMED, "/annotations/0/iscrowd"),
        (set_in("annotations", 0, "iscrowd", to=[0]), Code.LABEL_MALFORMED, "/annotations/0/iscrowd"),
    ],
)
def test_what_is_wrong_with_an_annotation(change: Change, code: Code, pointer: str, tmp_path: Path) -> None:
    loaded = load_changed(tmp_path, change)
    assert loaded.places() == [(code, "instances.json", pointer)]
    assert loaded.quarantined == ["a"] and loaded.findings[0].image_id == "a"
    repaired = load(open_coco(tmp_path), repair=True)
    assert repaired.findings[0].repaired and len(repaired.boxes("a")) == 0
    assert len(repaired.boxes("b")) == 2


@pytest.mark.parametrize("area", [float("nan"), float("inf"), -1, "big", [384]])
def test_a_bad_area_is_that_of_the_box_when_repaired(area: Any, tmp_path: Path) -> None:
    loaded = load_changed(tmp_path, set_in("annotations", 0, "area", to=area))
    assert loaded.places() == [(Code.LABEL_MALFORMED, "instances.json", "/annotations/0/area")]
    assert loaded.quarantined == ["a"]
    repaired = load(open_coco(tmp_path), repair=True)
    assert repaired.column("a", "area") == [384.0] and repaired.boxes("a").tolist() == [list(BOX)]


@pytest.mark.parametrize("image_id", [999, None, [101], {"a": 1}, "x", True])
def test_annotations_of_no_image(image_id: Any, tmp_path: Path) -> None:
    loaded = load_changed(tmp_path, set_in("annotations", 0, "image_id", to=image_id))
    assert loaded.places() == [(Code.LABEL_WITHOUT_IMAGE, "instances.json", "/annotations/0/image_id")]
    assert loaded.findings[0].severity == "error"


def test_an_annotation_without_image_id_is_not_that_of_an_image_without_id(tmp_path: Path) -> None:
    def change(content: dict[str, Any]) -> None:
        del content["images"][0]["id"], content["annotations"][0]["image_id"]

    loaded = load_changed(tmp_path, change)
    assert loaded.places() == [
        (Code.LABEL_WITHOUT_IMAGE, "instances.json", "/annotations/0/image_id"),
        (Code.LABEL_MALFORMED, "instances.json", "/images/0/id"),
    ]
    assert loaded.quarantined == ["a"]


def test_images_that_share_an_id_are_kept_out(tmp_path: Path) -> None:
    """Nobody can tell whose annotations they are; one of the images would silently become background."""
    loaded = load_changed(tmp_path, set_in("images", 1, "id", to="101"))
    assert loaded.quarantined == ["a", "b"]
    assert set(loaded.places()) == {
        (Code.DUPLICATE_ID, "instances.json", "/images/0/id"),
        (Code.DUPLICATE_ID, "instances.json", "/images/1/id"),
        (Code.LABEL_WITHOUT_IMAGE, "instances.json", "/annotations/1/image_id"),
        (Code.LABEL_WITHOUT_IMAGE, "instances.json", "/annotations/2/image_id"),
    }
    assert load(open_coco(tmp_path), repair=True).quarantined == ["a", "b"]


@pytest.mark.parametrize("name", ["a.jpg", "./a.jpg", "x/../a.jpg"])
def test_a_file_listed_twice_is_prepared_once(name: str, tmp_path: Path) -> None:
    """The second entry is kept out under a name of its own, so that all three entries are accounted for."""
    loaded = load_changed(tmp_path, set_in("images", 1, "file_name", to=name))
    assert loaded.places() == [(Code.LISTED_TWICE, "instances.json", "/images/1/file_name")]
    assert "at instances.json#/images/0" in loaded.findings[0].value
    assert (len(loaded.outcomes), loaded.quarantined) == (3, ["instances.json#/images/1"])
    assert loaded.boxes("a").tolist() == [list(BOX)], "the first entry is prepared"
    assert load(open_coco(tmp_path), repair=True).quarantined == ["instances.json#/images/1"]


def test_a_file_listed_twice_in_the_audit(tmp_path: Path) -> None:
    root = source_with(tmp_path / "source", set_in("images", 1, "file_name", to="a.jpg"))
    dataset = prepare(open_coco(root), tmp_path / "out")
    audit = json.loads((dataset.path / "audit.json").read_text())
    assert (audit["images_in"], audit["images_prepared"]) == (3, 2)
    assert audit["quarantined"] == ["instances.json#/images/1"]
    assert audit["counts"]["image-listed-twice"] == 1 and "duplicate-image-id" not in audit["counts"]


def test_files_that_differ_in_their_suffix_share_an_id(tmp_path: Path) -> None:
    """Which is a matter of the plan, as in any format."""
    root = source_with(tmp_path, set_in("images", 1, "file_name", to="a.png"))
    write(root / "images" / "a.png", photograph(encoding="PNG"))
    listing = open_coco(root).scan()
    assert [reference.image_id for reference in listing.references] == ["a", "a", "c"] and not listing.findings


@pytest.mark.parametrize(
    ("change", "code", "pointer", "name"),
    [
        (delete("images", 0, "file_name"), Code.LABEL_MALFORMED, "/images/0/file_name", "/images/0"),
        (set_in("images", 0, "file_name", to=None), Code.LABEL_MALFORMED, "/images/0/file_name", "/images/0"),
        (set_in("images", 0, "file_name", to=""), Code.LABEL_MALFORMED, "/images/0/file_name", "/images/0"),
        (set_in("images", 0, "id", to=None), Code.LABEL_MALFORMED, "/images/0/id", "a"),
        (set_in("images", 0, "height", to=47), Code.SIZE_MISMATCH, "/images/0", "a"),
        (set_in("images", 0, "width", to=48), Code.SIZE_MISMATCH, "/images/0", "a"),
        (delete("images", 0, "height"), Code.LABEL_MALFORMED, "/images/0", "a"),
        (set_in("images", 0, "width", to=None), Code.LABEL_MALFORMED, "/images/0", "a"),
        (set_in("images", 0, "width", to=float("inf")), Code.LABEL_MALFORMED, "/images/0", "a"),
    ],
)
def test_what_is_wrong_with_an_image(change: Change, code: Code, pointer: str, name: str, tmp_path: Path) -> None:
    loaded = load_changed(tmp_path, change)
    assert (code, "instances.json", pointer) in loaded.places()
    assert loaded.quarantined == [name] and len(loaded.outcomes) == 3


def test_the_size_can_be_had_from_the_image(tmp_path: Path) -> None:
    repaired = load_changed(tmp_path, delete("images", 0, "height"), repair=True)
    assert repaired.findings[0].repaired and repaired.boxes("a").tolist() == [list(BOX)]


@pytest.mark.parametrize(
    ("name", "code"),
    [
        ("gone.jpg", Code.IMAGE_MISSING),
        ("a.jpg/", Code.IMAGE_UNREADABLE),
        ("A.JPG", Code.IMAGE_MISSING),
        ("a.jpg ", Code.IMAGE_MISSING),
        ("deep\\a.jpg", Code.IMAGE_MISSING),
        ("x" * 300 + ".jpg", Code.IMAGE_UNREADABLE),
        ("a\0.jpg", Code.IMAGE_UNREADABLE),
        (".", Code.IMAGE_UNREADABLE),
        ("..", Code.IMAGE_OUTSIDE_ROOT),
        ("/", Code.IMAGE_OUTSIDE_ROOT),
        ("../../secret.jpg", Code.IMAGE_OUTSIDE_ROOT),
        ("SECRET", Code.IMAGE_OUTSIDE_ROOT),
        ("link.jpg", Code.IMAGE_OUTSIDE_ROOT),
        ("\ud800.jpg", Code.IMAGE_UNREADABLE),
        ("empty.jpg", Code.IMAGE_EMPTY),
        ("text.jpg", Code.IMAGE_UNREADABLE),
        ("cut.jpg", Code.IMAGE_TRUNCATED),
    ],
)
def test_what_is_wrong_with_a_file(name: str, code: Code, tmp_path: Path) -> None:
    secret = write(tmp_path / "secret.jpg", photograph())
    root = source_with(tmp_path / "source")
    write(root / "images" / "empty.jpg", b"")
    write(root / "images" / "text.jpg", "no photograph")
    write(root / "images" / "cut.jpg", photograph(480, 640)[:20_000])
    (root / "images" / "link.jpg").symlink_to(secret)
    content = coco_json(PICTURES, NAMES)
    content["images"][0]["file_name"] = name.replace("SECRET", str(secret))
    write(root / "annotations" / "instances.json", json.dumps(content))
    loaded = load(open_coco(root), repair=True)
    if name == "a.jpg/":  # The trailing slash says directory, but means the file.
        assert not loaded.findings
        return
    assert [place[0] for place in loaded.places()] == [code]
    assert len(loaded.quarantined) == 1 and len(loaded.outcomes) == 3
    loaded.findings[0].file.encode()


@pytest.mark.parametrize("name", ["with space", "ünïcödé", "犬", "deep/er/nested", "a.b.c", "100%"])
def test_names(name: str, tmp_path: Path) -> None:
    write_coco(tmp_path, [Picture(name, things=(Thing(0, BOX),))])
    loaded = load(open_coco(tmp_path))
    assert not loaded.findings and loaded.boxes(name).tolist() == [list(BOX)]


def test_order_of_the_file_does_not_matter(tmp_path: Path) -> None:
    def reverse(content: dict[str, Any]) -> None:
        content["images"].reverse()

    first = prepare(open_coco(source_with(tmp_path / "a")), tmp_path / "out", "a")
    second = prepare(open_coco(source_with(tmp_path / "b", reverse)), tmp_path / "out", "b")
    for split in first.splits:
        for a, b in zip(first.records(split), second.records(split), strict=True):
            assert (a.image_id, a.image) == (b.image_id, b.image)
            np.testing.assert_array_equal(a.objects.boxes, b.objects.boxes)
