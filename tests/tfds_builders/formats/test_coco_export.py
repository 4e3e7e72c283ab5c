"""Records written as COCO: read back equal, and opened by pycocotools."""

import contextlib
import io
import json
import tempfile
import tracemalloc
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tensorflow_datasets as tfds
from hypothesis import given, settings
from hypothesis import strategies as st
from pycocotools import mask as coco_mask
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from dataflow.boxes import xyxy_to_coco
from dataflow.example_bytes import ExampleBytes
from dataflow.records import Categories, ImageRecord, Objects, no_objects
from dataflow.schema import build_features, example_to_record, find_layout
from tests.factories import load, photograph
from tfds_builders.formats.coco import open_coco
from tfds_builders.formats.coco_writer import CocoWriter
from tfds_builders.sources.source import Source

CATEGORIES = Categories(("cat", "voiture à cheval", "犬"), (3, 0, 90))
POLYGON = "[[1.5,2,10,2,10,20.25,1.5,20.25]]"
RUNS = json.dumps({"size": [48, 64], "counts": [100, 20, 48 * 64 - 120]}, separators=(",", ":"))
Item = tuple[ImageRecord, str]


def image(image_id: str, objects: Objects | None = None, **fields: Any) -> ImageRecord:
    """A record of 64 x 48 px, whose scene is the image itself, as a COCO source has it."""
    return ImageRecord(
        image_id=image_id,
        image=fields.pop("image", photograph(seed=sum(image_id.encode()))),
        height=fields.pop("height", 48),
        width=fields.pop("width", 64),
        objects=no_objects() if objects is None else objects,
        group_id=fields.pop("group_id", image_id),
        provenance="test",
        **fields,
    )


def full_objects() -> Objects:
    """An ordinary box, one of one pixel, a region to ignore with run lengths, one with an area of its own."""
    return Objects(
        boxes=np.array([[0, 0, 64, 48], [63, 47, 64, 48], [2, 0, 4, 48], [1.5, 2, 10.1, 20.3]], np.float32),
        category_ids=np.array([0, 1, 2, 1]),
        areas=np.array([64 * 48, 1, 20, 155.125], np.float32),
        is_crowd=np.array([False, False, True, False]),
        segmentations=("", "", RUNS, POLYGON),
        track_ids=np.array([5, 0, -1, 2**40]),
    )


def export(out: Path, items: Iterable[Item], categories: Categories = CATEGORIES) -> Counter[str]:
    """Write records; what was lost beside the split where there is one only: readers divide a single file."""
    listed = list(items)
    writer = CocoWriter(out, categories, tuple(dict.fromkeys(split for _, split in listed)))
    for record, split in listed:
        writer.add(record, split)
    writer.close()
    if len({split for _, split in listed}) == 1:
        assert writer.losses.pop("splits") == len(listed)
    return writer.losses


def read_records(source: Source) -> dict[str, ImageRecord]:
    """Every image of a source as a record, as a prepared dataset would give it."""
    loaded = load(source)
    assert not [finding for finding in loaded.findings if finding.severity == "error"], loaded.findings
    features = build_features(source.categories, "images")
    layout, serialise = find_layout(features, "test"), ExampleBytes(features)
    decoders = {"image": tfds.decode.SkipDecoding()}
    payloads = (serialise(loaded.example(image_id)) for image_id in loaded.outcomes)
    records = [
        example_to_record(features.deserialize_example_np(payload, decoders=decoders), layout, "")
        for payload in payloads
    ]
    return {record.image_id: record for record in records}


def words(record: ImageRecord, categories: Categories) -> list[str]:
    """The class names of a record's objects."""
    return [categories.names[index] for index in record.objects.category_ids]


def assert_round_trip(out: Path, records: Sequence[ImageRecord], categories: Categories = CATEGORIES) -> None:
    """The same images with the same objects in the same order."""
    source = open_coco(out)
    numbers = dict(zip(categories.names, categories.source_ids, strict=True))
    assert dict(zip(source.categories.names, source.categories.source_ids, strict=True)) == numbers
    back = read_records(source)
    assert back.keys() == {record.image_id for record in records}
    for ours in records:
        theirs = back[ours.image_id]
        assert (ours.size, ours.group_id, ours.image) == (theirs.size, theirs.group_id, theirs.image)
        assert words(ours, categories) == words(theirs, source.categories)
        a, b = ours.objects, theirs.objects
        np.testing.assert_allclose(a.boxes, b.boxes, rtol=0, atol=1e-2)
        np.testing.assert_allclose(a.areas, b.areas, rtol=1e-5, atol=1e-2)
        assert a.is_crowd.tolist() == b.is_crowd.tolist()
        assert [json.loads(text or "0") for text in a.segmentations] == [json.loads(t or "0") for t in b.segmentations]
        tracks = [[-1] * len(o) if o.track_ids is None else o.track_ids.tolist() for o in (a, b)]
        assert tracks[0] == tracks[1]


def written(out: Path, split: str = "train") -> Any:
    """What a JSON file holds, every number of the kind it has there."""
    return json.loads((out / "annotations" / f"instances_{split}.json").read_text(encoding="utf-8"))


def test_everything_it_holds(tmp_path: Path) -> None:
    records = [image("scène/犬 1", full_objects(), source_id="9"), image("empty"), image("deep/er/x.y", full_objects())]
    assert export(tmp_path, [(record, "train") for record in records]) == {}
    assert_round_trip(tmp_path, records)
    assert (tmp_path / "images" / "train" / "scène" / "犬 1.jpg").read_bytes() == records[0].image
    left = {path.relative_to(tmp_path).as_posix() for path in (tmp_path / "annotations").iterdir()}
    assert left == {"annotations/instances_train.json"}, "nothing temporary is left"


def test_numbers(tmp_path: Path) -> None:
    """Images keep theirs where they can, annotations start at 1, and digits are those of a float32."""
    ids = ["7", "", "1", "7", "007", "x", "-3", "9" * 30]
    records = [image(f"{i}", full_objects() if i == 0 else None, source_id=text) for i, text in enumerate(ids)]
    losses = export(tmp_path, [(record, "train") for record in records])
    assert losses == {"ids of the source": 6}
    content = written(tmp_path)
    numbers = [entry["id"] for entry in content["images"]]
    assert numbers[0] == 7 and len(set(numbers)) == len(ids) and all(number >= 0 for number in numbers)
    assert [entry["id"] for entry in content["annotations"]] == [1, 2, 3, 4]
    assert content["annotations"][3]["bbox"] == [1.5, 2, 8.6, 18.3]
    assert content["annotations"][3]["area"] == 155.125
    assert [entry["id"] for entry in content["categories"]] == [3, 0, 90]
    assert "track_id" not in content["annotations"][2] and "segmentation" not in content["annotations"][0]


def test_splits(tmp_path: Path) -> None:
    """Each has its file, where image numbers are its own."""
    names = {"a": "train", "b": "validation", "c": "test", "d": "train"}
    records = {name: image(name, full_objects(), source_id="5" if name != "d" else "6") for name in names}
    assert export(tmp_path, [(records[name], split) for name, split in names.items()]) == {}
    assert_round_trip(tmp_path, list(records.values()))
    assert {r.image_id: r.split for r in open_coco(tmp_path).scan().references} == names


def test_names_of_splits_that_a_reader_does_not_know(tmp_path: Path) -> None:
    items = [(image("a"), "train"), (image("b"), "extra"), (image("c"), "val")]
    assert export(tmp_path, items) == {"splits": 2}
    assert_round_trip(tmp_path, [record for record, _ in items])


def test_what_it_cannot_hold(tmp_path: Path) -> None:
    objects = Objects(
        boxes=np.array([[1, 1, 9, 9], [2, 2, 20, 20]], np.float32),
        category_ids=np.array([0, 0]),
        is_truncated=np.array([True, False]),
        changes=np.array([0, 1]),
    )
    turned = photograph(48, 64, orientation=6)
    items = [
        image("walk/1", objects, group_id="walk"),
        image("../up", image=turned, orientation=1),
        image("b", image=turned, height=64, width=48, orientation=6),
    ]
    losses = export(tmp_path, [(record, "train") for record in items])
    exif = next(phrase for phrase in losses if phrase.startswith("EXIF"))
    assert losses == {
        "truncated marks": 1,
        "changes": 1,
        "scenes": 1,
        "image ids": 1,
        exif: 1,
    }


def test_suffixes(tmp_path: Path) -> None:
    png = image("p", image=photograph(encoding="PNG"))
    jpeg = image("j", filename="images/j.JPEG")
    export(tmp_path, [(png, "train"), (jpeg, "train")])
    assert {path.name for path in (tmp_path / "images" / "train").iterdir()} == {"p.png", "j.JPEG"}
    assert_round_trip(tmp_path, [png, jpeg])


def quiet(out: Path, split: str = "train") -> COCO:
    """pycocotools' own reader."""
    with contextlib.redirect_stdout(io.StringIO()):
        return COCO(str(out / "annotations" / f"instances_{split}.json"))


def test_pycocotools_reads_it(tmp_path: Path) -> None:
    records = [image("a", full_objects(), source_id="9"), image("empty", source_id="2")]
    export(tmp_path, [(record, "train") for record in records])
    coco = quiet(tmp_path)
    assert sorted(coco.getImgIds()) == [2, 9] and sorted(coco.getCatIds()) == [0, 3, 90]
    annotations = coco.loadAnns(coco.getAnnIds(imgIds=[9]))
    boxes = xyxy_to_coco(records[0].objects.boxes)
    np.testing.assert_allclose([entry["bbox"] for entry in annotations], boxes, rtol=0, atol=1e-3)
    assert coco_mask.area(coco.annToRLE(annotations[2])) == 20, "the run lengths"
    assert abs(int(coco_mask.area(coco.annToRLE(annotations[3]))) - 155.125) < 30, "the polygon"


def test_the_truth_scores_1_against_itself(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    items = []
    for i in range(6):
        corner = rng.uniform(0, 20, (4, 2))
        boxes = np.hstack([corner, corner + rng.uniform(5, 20, (4, 2))])
        objects = Objects(boxes=boxes.astype(np.float32), category_ids=rng.integers(0, 3, 4))
        items.append((image(f"{i}", objects), "train"))
    export(tmp_path, items)
    coco = quiet(tmp_path)
    keys = ("image_id", "category_id", "bbox")
    detections = [{key: entry[key] for key in keys} | {"score": 0.9} for entry in coco.dataset["annotations"]]
    with contextlib.redirect_stdout(io.StringIO()):
        evaluation = COCOeval(coco, coco.loadRes(detections), "bbox")
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    assert evaluation.stats[0] == pytest.approx(1.0), "an annotation with id 0 would never match"


def test_memory(tmp_path: Path) -> None:
    """Annotations go to the disk as they come."""
    writer = CocoWriter(tmp_path, CATEGORIES, ("train",))
    boxes = np.tile(np.array([[1, 1, 9, 9]], np.float32), (200, 1))
    objects = Objects(boxes=boxes, category_ids=np.zeros(200, np.int64), segmentations=(POLYGON,) * 200)
    data = photograph()
    writer.add(image("first", objects, image=data), "train")
    tracemalloc.start()
    for i in range(200):
        writer.add(image(f"{i}", objects, image=data), "train")
    kept = tracemalloc.get_traced_memory()[0]
    tracemalloc.stop()
    writer.close()
    assert len(written(tmp_path)["annotations"]) == 201 * 200
    assert kept < 200 * 2000, "40,000 annotations take no memory, ids and names of images do"


# Boxes within the first pixel alone are taken for relative ones.
sides = st.floats(1.25, 40, width=32)
corners = st.tuples(st.floats(0, 63, width=32), st.floats(0, 47, width=32), sides, sides)


@st.composite
def objects_of_images(draw: st.DrawFn) -> Objects:
    """Any objects on 64 x 48 px: borders, slivers, repeated boxes, tracks, crowds, areas."""
    n = draw(st.integers(0, 5))
    rows = [draw(corners) for _ in range(n)]
    boxes = np.array([[x, y, min(x + w, 64), min(y + h, 48)] for x, y, w, h in rows], np.float32).reshape(-1, 4)
    numbers = st.integers(-1, 2**63 - 1)
    tracks = draw(st.none() | st.lists(numbers, min_size=n, max_size=n))
    return Objects(
        boxes=boxes,
        category_ids=np.array([draw(st.integers(0, 2)) for _ in range(n)], np.int64),
        areas=np.array([draw(st.floats(0, 1e9, width=32)) for _ in range(n)], np.float32),
        is_crowd=np.array([draw(st.booleans()) for _ in range(n)], np.bool_),
        segmentations=tuple(draw(st.sampled_from(["", RUNS, POLYGON])) for _ in range(n)),
        track_ids=None if tracks is None else np.array(tracks, np.int64),
    )


steps = st.text(st.characters(exclude_categories=["Cs", "Cc"], exclude_characters="/\\"), min_size=1, max_size=8)
names = st.lists(steps, min_size=1, max_size=3).map("/".join)
splits = st.sampled_from(["train", "validation", "test"])


@settings(max_examples=60, deadline=None)
@given(data=st.dictionaries(names, st.tuples(objects_of_images(), splits, st.text("0123", max_size=2)), max_size=5))
def test_any_records(data: dict[str, tuple[Objects, str, str]]) -> None:
    """What is written is read again: under the same ids unless the losses say otherwise."""
    if not data:
        return
    with tempfile.TemporaryDirectory() as folder:
        items = [(image(name, objects, source_id=number), split) for name, (objects, split, number) in data.items()]
        losses = export(Path(folder), items)
        assert losses.keys() <= {"ids of the source", "image ids"}
        if "image ids" in losses:
            assert len(read_records(open_coco(Path(folder)))) == len(items)
        else:
            assert_round_trip(Path(folder), [record for record, _ in items])
