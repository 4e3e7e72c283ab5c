"""Writing VOC: what was written is read back, by our reader and by torchvision's."""

import json
import subprocess
import sys
from collections import Counter
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
from hypothesis import given, settings

from dataflow.images import read_header
from dataflow.records import Categories, ImageRecord, Objects
from tests.factories import load, logical_dataset, photograph, write_voc
from tests.tfds_builders.record_strategies import datasets, differing_areas
from tfds_builders.formats.voc import open_voc
from tfds_builders.formats.voc_writer import VocWriter

TOLERANCE_PX = 1e-2
SETS = {"train": "train", "validation": "val", "test": "test"}


def export(
    out: Path,
    records: list[tuple[str, ImageRecord]],
    categories: Categories,
    splits: tuple[str, ...] = ("train", "validation", "test"),
) -> Counter[str]:
    writer = VocWriter(out, categories, splits)
    for split, item in records:
        writer.add(item, split)
    writer.close()
    return writer.losses


def expected_losses(records: list[tuple[str, ImageRecord]]) -> dict[str, int]:
    losses: Counter[str] = Counter()
    for _, item in records:
        objects = item.objects
        losses["masks"] += sum(map(bool, objects.segmentations))
        losses["areas other than the shape's"] += differing_areas(objects)
        losses["track ids"] += len(objects) if objects.track_ids is not None else 0
        losses["scenes"] += item.group_id != item.image_id
        losses["ids of the source"] += bool(item.source_id)
    return {phrase: count for phrase, count in losses.items() if count}


@settings(max_examples=60, deadline=None)
@given(datasets())
def test_what_was_written_is_read_back(made: tuple[Categories, list[tuple[str, ImageRecord]]]) -> None:
    categories, records = made
    with TemporaryDirectory() as folder:
        losses = export(Path(folder), records, categories)
        source = open_voc(Path(folder))
        loaded = load(source)
        listing = source.scan()
    assert source.categories == categories
    assert dict(losses) == expected_losses(records)
    assert {reference.image_id: reference.split for reference in listing.references} == {
        item.image_id: split for split, item in records
    }
    assert not listing.findings and not loaded.quarantined
    for _, item in records:
        objects, example = item.objects, loaded.example(item.image_id)
        assert example["image"] == item.image
        assert (example["image/height"], example["image/width"]) == item.size
        assert example["image/orientation"] == read_header(item.image).orientation
        np.testing.assert_allclose(loaded.boxes(item.image_id), objects.boxes, rtol=0, atol=TOLERANCE_PX)
        assert loaded.column(item.image_id, "label") == objects.category_ids.tolist()
        assert loaded.column(item.image_id, "is_crowd") == objects.is_crowd.tolist()
        assert loaded.column(item.image_id, "is_truncated") == objects.is_truncated.tolist()


def test_the_logical_dataset_goes_round(tmp_path: Path) -> None:
    """As read from one VOC directory, so from the one that is written of it, regions to ignore included."""
    pictures = logical_dataset(8, classes=2, crowd=True)
    source = open_voc(write_voc(tmp_path / "a", pictures, ("köttur", "<b>")), ("köttur", "<b>"))
    first = load(source)
    records = []
    for image_id, outcome in first.outcomes.items():
        assert outcome.example is not None
        columns = outcome.example["objects"]
        objects = Objects(first.boxes(image_id), columns["label"], is_crowd=columns["is_crowd"])
        size = outcome.example["image/height"], outcome.example["image/width"]
        image = outcome.example["image"]
        records.append(("train", ImageRecord(image_id, image, *size, objects, image_id, "x:1")))
    assert not export(tmp_path / "b", records, source.categories)
    second = load(open_voc(tmp_path / "b"))
    assert set(second.outcomes) == set(first.outcomes)
    for image_id in first.outcomes:
        np.testing.assert_allclose(second.boxes(image_id), first.boxes(image_id), rtol=0, atol=TOLERANCE_PX)
        for name in ("label", "is_crowd"):
            assert second.column(image_id, name) == first.column(image_id, name)


TORCHVISION = """
import json, sys
from torchvision.datasets import VOCDetection
found = {}
for name in ("train", "val", "trainval"):
    dataset = VOCDetection(sys.argv[1], year="2012", image_set=name)
    found[name] = [[image.size, target["annotation"]] for image, target in dataset]
print(json.dumps(found))
"""


def test_torchvision_reads_it(tmp_path: Path) -> None:
    """In a process of its own, because torch and TensorFlow want to be loaded in one order."""
    whole = Objects(
        np.array([[0, 0, 64, 48], [10, 12, 11, 13], [1.5, 2.25, 30, 40]]),
        np.array([1, 0, 0]),
        is_crowd=np.array([True, False, False]),
        is_truncated=np.array([False, True, False]),
    )
    records = [
        ("train", ImageRecord("scene/ünï 犬", photograph(), 48, 64, whole, "g", "x:1")),
        (
            "validation",
            ImageRecord("b", photograph(seed=1), 48, 64, Objects(np.zeros((0, 4)), np.zeros(0)), "g", "x:1"),
        ),
    ]
    export(tmp_path / "VOCdevkit/VOC2012", records, Categories(("a & b", "犬")), ("train", "validation"))
    run = [sys.executable, "-c", TORCHVISION, str(tmp_path)]
    found = json.loads(subprocess.run(run, capture_output=True, text=True, check=True).stdout)
    assert [len(found[name]) for name in ("train", "val", "trainval")] == [1, 1, 2]
    size, annotation = found["train"][0]
    assert size == [64, 48] and annotation["size"] == {"width": "64", "height": "48", "depth": "3"}
    assert annotation["filename"] == "scene/ünï 犬.jpg"
    flags = [(item["name"], item["difficult"], item["truncated"]) for item in annotation["object"]]
    assert flags == [("犬", "1", "0"), ("a & b", "0", "1"), ("a & b", "0", "0")]
    boxes = [[item["bndbox"][key] for key in ("xmin", "ymin", "xmax", "ymax")] for item in annotation["object"]]
    assert boxes == [["1", "1", "64", "48"], ["11", "13", "11", "13"], ["2.500", "3.250", "30", "40"]]
    assert found["val"][0][1]["object"] == []


def test_the_files(tmp_path: Path) -> None:
    empty = Objects(np.zeros((0, 4)), np.zeros(0))
    records = [
        (split, ImageRecord(name, photograph(), 48, 64, empty, name, "x:1"))
        for split, name in (("train", "s/2"), ("train", "1"), ("validation", "3"), ("night", "4"))
    ]
    losses = export(tmp_path, records, Categories(("cat",)), ("train", "validation", "night"))
    assert dict(losses) == {"splits": 1}
    sets = {path.name: path.read_text().split() for path in (tmp_path / "ImageSets/Main").iterdir()}
    assert sets == {
        "train.txt": ["s/2", "1"],
        "val.txt": ["3"],
        "trainval.txt": ["1", "3", "s/2"],
        "night.txt": ["4"],
    }
    assert (tmp_path / "JPEGImages/s/2.jpg").is_file() and (tmp_path / "Annotations/s/2.xml").is_file()
    splits = {reference.image_id: reference.split for reference in open_voc(tmp_path).scan().references}
    assert splits == {"1": "train", "s/2": "train", "3": "validation", "4": None}


def test_class_names_that_xml_cannot_hold(tmp_path: Path) -> None:
    objects = Objects(np.array([[1, 2, 30, 40]]), np.zeros(1, np.int64))
    records = [("train", ImageRecord("a", photograph(), 48, 64, objects, "a", "x:1"))]
    losses = export(tmp_path, records, Categories(("a\x07b", "a_b", "#c")), ("train",))
    assert dict(losses) == {"classes of objects": 1, "classes without objects": 1}
    assert load(open_voc(tmp_path)).boxes("a").tolist() == [[1, 2, 30, 40]]
    assert open_voc(tmp_path).categories.names == ("a_b-2", "a_b", "_#c"), "two classes do not become one"
