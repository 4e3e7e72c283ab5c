"""Format A -> prepared -> format B -> prepared: equal records, but for what B's writer says that it cannot hold."""

import json
import tempfile
from collections import Counter
from collections.abc import Iterable
from functools import cache
from pathlib import Path
from typing import Any, get_args

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dataflow.dataset_changes import dataset_changes
from dataflow.images import read_header
from dataflow.prepared import PreparedDataset
from dataflow.records import Categories, ImageRecord, Objects
from tests.factories import photograph, prepare
from tests.tfds_builders.record_strategies import datasets
from tests.tfds_builders.round_trips import (
    Image,
    Side,
    announced,
    differences,
    items,
    prepared_side,
    read_side,
    said_splits,
    side,
)
from tfds_builders.choices import PAIR_FORMATS, FormatName, open_source, open_writer
from tfds_builders.export import export_dataset
from tfds_builders.formats.mot import open_mot
from tfds_builders.losses import Loss
from tfds_builders.sources.source import Source

FORMATS = tuple(name for name in get_args(FormatName) if name not in PAIR_FORMATS)
CATEGORIES = Categories(("voiture à cheval", "犬", "person", "object", "half: <full> & done"), (2, 7, 17, 40, 90))
VOITURE, DOG, PERSON, OBJECT, UNUSED = range(5)
SPLITS = ("train", "validation", "test")
Row = dict[str, Any]
"""An object: its box, and what it has beside it."""


def runs(size: tuple[int, int], box: tuple[int, int, int, int], *, compressed: bool = False) -> str:
    """Run lengths of a box without its last pixel, as JSON."""
    from pycocotools import mask as coco_mask

    x0, y0, x1, y1 = box
    pixels = np.zeros(size, np.uint8, order="F")
    pixels[y0:y1, x0:x1] = 1
    pixels[y1 - 1, x1 - 1] = 0
    if compressed:
        return json.dumps({"size": list(size), "counts": coco_mask.encode(pixels)["counts"].decode()})
    edges = np.flatnonzero(np.diff(pixels.reshape(-1, order="F"), prepend=0))
    counts = np.diff([0, *edges.tolist(), pixels.size]).tolist()
    return json.dumps({"size": list(size), "counts": counts})


def objects(rows: Iterable[Row]) -> Objects:
    """Objects of rows with `box`, and what they have beside it; areas are those of the boxes unless they are given."""
    listed = list(rows)

    def column(name: str, default: Any) -> list[Any]:
        return [row.get(name, default) for row in listed]

    boxes = np.array(column("box", None), np.float32).reshape(-1, 4)
    own = ((boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1])).tolist()
    tracks = column("track", -1)
    return Objects(
        boxes=boxes,
        category_ids=np.array(column("category", PERSON), np.int64),
        areas=np.array([row.get("area", area) for row, area in zip(listed, own, strict=True)], np.float32),
        is_crowd=np.array(column("crowd", False), np.bool_),
        is_truncated=np.array(column("truncated", False), np.bool_),
        segmentations=tuple(column("mask", "")),
        track_ids=np.array(tracks) if any(track >= 0 for track in tracks) else None,
    )


SIZE = (48, 64)
SQUARE: Row = {"box": (2.5, 3, 20, 30.25), "mask": "[[2.5,3,20,3,20,30.25,2.5,30.25]]"}
CORNER: Row = {"box": (30, 10, 50, 40), "mask": "[[30,10,50,10,30,40]]", "area": 300}
PARTS: Row = {"box": (1, 1, 20, 20), "mask": "[[1,1,10,1,1,10],[20,20,12,20,20,12]]", "area": 72.5}
LOOSE: Row = {"box": (5, 5, 25, 25), "mask": "[[6,6,25,6,25,25,6,25]]", "area": 361}
RUNS: Row = {"box": (5, 6, 9, 12), "mask": runs(SIZE, (5, 6, 9, 12)), "area": 23}
PACKED: Row = {"box": (15, 16, 29, 22), "mask": runs(SIZE, (15, 16, 29, 22), compressed=True), "area": 83}
RUNS_OF_LESS: Row = {"box": (40, 2, 60, 20), "mask": runs(SIZE, (42, 4, 58, 18)), "area": 223}
PIXELS: list[Row] = [{"box": box} for box in ((0, 0, 1, 1), (63, 47, 64, 48), (63, 0, 64, 1), (20, 20, 21, 21))]
BORDERS: list[Row] = [{"box": box} for box in ((0, 0, 64, 48), (0, 10, 5, 48), (60.5, 0, 64, 8), (0, 47, 64, 48))]


def picture(seed: int, name: str, rows: Iterable[Row] = (), **more: Any) -> ImageRecord:
    """An image of 64 x 48 px when upright, which no other is like."""
    data = photograph(*more.pop("stored", SIZE), seed=seed, **more.pop("encoded", {}))
    height, width = read_header(data).size
    scene = more.pop("scene", name)
    return ImageRecord(name, data, height, width, objects(rows), scene, "made:1", f"{name}.jpg", **more)


def logical_images() -> list[Image]:
    """Everything that records can have."""
    turned = {"orientation": 6}
    walk: list[Row] = [
        {"box": (1, 2, 10, 20), "track": 0, "truncated": True},
        {"box": (30, 2, 40.5, 20), "track": 7, "category": DOG},
        {"box": (0, 0, 64, 9), "crowd": True, "track": 3},
        {"box": (12, 2, 20, 20)},
    ]
    again: list[Row] = [
        {"box": (3, 2, 12, 20), "track": 0},
        {"box": (12, 2, 20, 9), "track": 0},
        SQUARE | {"track": 2**60},
    ]
    images = [
        ("train", picture(1, "wälk/000001", walk, scene="wälk", source_id="12")),
        ("train", picture(2, "wälk/000002", again, scene="wälk", source_id="3")),
        ("train", picture(3, "wälk/000010", (), scene="wälk", source_id="12")),
        ("train", picture(4, "a/b c/d.e é", [SQUARE | {"category": DOG}, CORNER, {"box": (1, 1, 9, 9)}])),
        ("train", picture(5, "polygons/1", [SQUARE, CORNER | {"category": VOITURE, "truncated": True}])),
        ("test", picture(6, "polygons/2", [SQUARE, CORNER, BORDERS[0] | {"crowd": True}], source_id="x7")),
        ("test", picture(7, "犬 1", [RUNS, PACKED, RUNS_OF_LESS, PARTS, LOOSE], encoded={"encoding": "PNG"})),
        ("validation", picture(8, "pixels", PIXELS)),
        # Shares of the width make 0.9999999 px of it.
        ("validation", picture(17, "the first pixel", PIXELS[:1])),
        ("validation", picture(9, "borders", BORDERS, source_id="99999999999")),
        ("validation", picture(10, "empty")),
        ("validation", picture(11, "images/labels/turned", [SQUARE, PIXELS[1]], stored=(64, 48), encoded=turned)),
        ("train", picture(12, "upside down", [CORNER | {"crowd": True}], encoded={"orientation": 3})),
        ("train", picture(13, "crowds", [{"box": (1, 1, 60, 40), "crowd": True, "category": OBJECT}], scene="street")),
        ("test", picture(14, "street/000007", [{"box": (7, 7, 9, 9), "category": OBJECT}], scene="street")),
        ("test", picture(15, "areas", [{"box": (1, 2, 21, 22), "area": 100}, RUNS | {"area": 7}])),
        ("train", picture(16, "mirrored", [{"box": (0, 1, 40, 2)}], stored=(64, 48), encoded={"orientation": 5})),
    ]
    return [Image(record, split) for split, record in images]


def write(name: FormatName, out: Path, given: Side) -> Counter[str]:
    """Write a side in a format; what the writer announces."""
    out.mkdir(parents=True)
    splits = dict.fromkeys(SPLITS) | {image.split: None for image in given.images.values()}
    writer = open_writer(name, out, given.categories, tuple(map(str, splits)))
    for record, split in items(given):
        writer.add(record, split)
    writer.close()
    return writer.losses


def after(dataset: PreparedDataset, source: Source) -> Side:
    """What was prepared of a source, in the splits that the source said."""
    made = prepared_side(dataset)
    said = said_splits(source)
    for image in made.images.values():
        assert said[image.record.image_id] in (None, image.split), "what a source says is done"
    images = [Image(image.record, said[image.record.image_id]) for image in made.images.values()]
    return side(made.categories, images)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("round_trips")


@pytest.fixture(scope="module")
def first(folder: Path) -> Any:
    """Format -> the dataset prepared of the logical images in that format, made when it is asked for."""

    @cache
    def made(name: FormatName) -> PreparedDataset:
        losses = write(name, folder / name, LOGICAL)
        source = open_source(name, folder / name)
        dataset = prepare(source, folder / "prepared", name)
        assert announced(losses) == dict(differences(LOGICAL, after(dataset, source)).counts)
        return dataset

    return made


LOGICAL = side(CATEGORIES, logical_images())


@pytest.mark.parametrize("name", FORMATS)
def test_all_that_there_is_was_held_or_announced(name: FormatName, first: Any) -> None:
    """And a prepared dataset holds all images, whatever format they came in."""
    dataset = first(name)
    audit = json.loads((dataset.path / "audit.json").read_text(encoding="utf-8"))
    assert (audit["images_in"], audit["images_quarantined"]) == (len(LOGICAL.images), 0)


@pytest.mark.parametrize("target", FORMATS)
@pytest.mark.parametrize("name", FORMATS)
def test_from_every_format_to_every_other(name: FormatName, target: FormatName, first: Any, folder: Path) -> None:
    dataset = first(name)
    out = folder / f"{name}_to_{target}"
    out.mkdir()
    result = export_dataset(dataset, target, out, list(dataset.splits))
    source = open_source(target, out)
    again = prepare(source, folder / "again", f"{name}_to_{target}")
    found = differences(prepared_side(dataset), after(again, source))
    assert announced(Counter(result["not_held"])) == dict(found.counts)
    assert_second_opinion(dataset, again, found.objects_of, found.counts)


def assert_second_opinion(a: PreparedDataset, b: PreparedDataset, objects_of: set[str], counts: Counter[str]) -> None:
    """What `diff-datasets` says, as far as images keep their ids."""
    changes = dataset_changes(a, b)
    assert len(changes.images_added) == len(changes.images_removed) == counts[Loss.IMAGE_IDS]
    assert not changes.pixels_changed
    assert set(changes.objects_changed) == objects_of - set(changes.images_removed)
    assert len(changes.splits_changed or {}) <= counts[Loss.SPLITS]
    assert len(changes.classes_removed) >= counts[Loss.CLASSES_UNUSED]
    if not counts[Loss.CLASSES] + counts[Loss.CLASSES_UNUSED]:
        assert not changes.classes_removed


def test_what_is_held_is_something() -> None:
    """The formats differ in what they hold as is well known: no writer may announce its way out."""
    held = {
        Loss.IMAGE_IDS: {"yolo", "coco", "voc", "labelme", "cvat"},
        Loss.REGIONS: {"coco", "voc", "mot", "labelme", "cvat"},
        Loss.CLASSES: {"yolo", "coco", "voc", "labelme", "cvat"},
        Loss.SPLITS: {"yolo", "coco", "voc", "cvat"},
        Loss.TRUNCATED: {"voc", "labelme", "cvat"},
        Loss.CLASSES_UNUSED: {"yolo", "coco", "voc", "cvat"},
        Loss.CLASS_IDS: {"coco"},
        Loss.MASKS: {"coco"},
        Loss.AREAS: {"coco"},
    }
    lost: dict[str, Counter[str]] = {}
    for name in FORMATS:
        with tempfile.TemporaryDirectory() as out:
            lost[name] = Counter(announced(write(name, Path(out, "x"), LOGICAL)))
    for loss, names in held.items():
        assert {name for name in FORMATS if not lost[name][loss]} == names, loss
    all_masks = lost["voc"][Loss.MASKS]
    assert 0 < lost["cvat"][Loss.MASKS] < lost["labelme"][Loss.MASKS] < lost["yolo"][Loss.MASKS] < all_masks
    assert 0 < lost["mot"][Loss.TRACKS] < lost["voc"][Loss.TRACKS] and not lost["coco"][Loss.TRACKS]
    assert 0 < lost["mot"][Loss.SCENES] < lost["yolo"][Loss.SCENES]


def test_the_one_class_of_a_sequence_has_the_name_it_is_given(tmp_path: Path) -> None:
    """As the writer advises."""
    images = [Image(picture(1, "walk/000001", PIXELS, scene="walk"), "train")]
    given = side(Categories(("person",)), [Image(image.record, image.split) for image in images])
    given.images[images[0].record.image] = Image(
        picture(1, "walk/000001", [row | {"category": 0} for row in PIXELS], scene="walk"), "train"
    )
    losses = write("mot", tmp_path / "mot", given)
    assert losses == {Loss.CLASS_NAME: 4, Loss.SPLITS: 1}
    assert differences(given, read_side(open_mot(tmp_path / "mot"))).counts == announced(losses)
    assert differences(given, read_side(open_mot(tmp_path / "mot", name="person"))).counts == {Loss.SPLITS: 1}


@pytest.mark.parametrize("target", FORMATS)
def test_orientations_that_were_ignored(target: FormatName, tmp_path: Path) -> None:
    """They are announced for the images that have one, and `--exif ignore` brings them back, as it is advised."""
    data = photograph(*SIZE, encoding="JPEG", orientation=6)
    ignored = ImageRecord(
        "turned/000001", data, *SIZE, objects([BORDERS[0], SQUARE]), "turned", "made:1", orientation=1
    )
    plain = picture(2, "turned/000002", [SQUARE], scene="turned")
    ignored = ImageRecord(**{**vars(ignored), "orientation": 1})
    given = side(Categories(CATEGORIES.names[:3]), [Image(ignored, "train"), Image(plain, "train")])
    losses = write(target, tmp_path / "out", given)
    assert losses.pop(Loss.EXIF_IGNORED) == 1
    source = open_source(target, tmp_path / "out")
    again = after(prepare(source, tmp_path / "prepared", exif="ignore"), source)
    assert differences(given, again).counts == announced(losses)


# Names of splits, steps of image ids and class names that some format or other cannot hold.
ODD_SPLITS = ("train", "validation", "test", "val", "night", "Extra_1")
ODD_STEPS = ("..", ".x", "a\\b", "line\nend", "A", "a", "000007", " ", "é.jpg", "x" * 200)
ODD_NAMES = ("#hash", "bell\x07", "bell_", "tab\tin", "object", "person", "background", "0")


@st.composite
def odd_datasets(draw: st.DrawFn) -> Side:
    """Random records with images that differ; some as frames of sequences, some with what few formats can hold."""
    categories, made = draw(datasets())
    is_odd, is_sequence = draw(st.booleans()), draw(st.booleans())
    names, ids = list(categories.names), draw(st.lists(st.integers(0, 9), min_size=9, max_size=9, unique=True))
    if is_odd:
        odd = draw(st.lists(st.sampled_from(ODD_NAMES), min_size=len(names), max_size=len(names), unique=True))
        names = [draw(st.sampled_from((name, other))) for name, other in zip(names, odd, strict=True)]
    images, scene = [], ""
    for number, (own_split, record) in enumerate(made):
        split = draw(st.sampled_from(ODD_SPLITS)) if is_odd else own_split
        # Bytes behind the end of an image are no part of it.
        more: dict[str, Any] = {"image": record.image + bytes([number])}
        if is_odd:
            more["image_id"] = "/".join((draw(st.sampled_from(ODD_STEPS)), record.image_id))
        if is_sequence:
            scene = draw(st.sampled_from((scene or "scene", more.get("image_id", record.image_id).replace("/", "_"))))
            more |= {"image_id": f"{scene}/{number:06d}", "group_id": scene}
        images.append(Image(ImageRecord(**{**vars(record), **more}), split))
    return side(Categories(tuple(names), tuple(sorted(ids[: len(names)])) if is_odd else ()), images)


@settings(max_examples=150, deadline=None)
@given(given=odd_datasets(), name=st.sampled_from(FORMATS), target=st.sampled_from(FORMATS))
def test_any_records(given: Side, name: FormatName, target: FormatName) -> None:
    """Random records through two formats, without a Beam job."""
    with tempfile.TemporaryDirectory() as out:
        for step, kind in enumerate((name, target)):
            losses = write(kind, Path(out, str(step)), given)
            if kind == "labelme" and losses[Loss.CLASSES_UNUSED] == len(given.categories):
                return  # No object names a class, so LabelMe's files are none of any classes.
            found = read_side(open_source(kind, Path(out, str(step))))
            assert announced(losses) == dict(differences(given, found).counts)
            given = side(found.categories, [Image(i.record, i.split or "train") for i in found.images.values()])
