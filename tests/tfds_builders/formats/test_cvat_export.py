"""CVAT: what is written."""

import json
import tempfile
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from pycocotools import mask as coco_mask

from dataflow.findings import Code
from dataflow.images import read_header
from dataflow.records import Categories, ImageRecord, Objects, no_objects
from tests.factories import load, photograph
from tests.tfds_builders.record_strategies import SPLITS, datasets
from tests.tfds_builders.round_trips import masks_lost
from tfds_builders.formats.cvat import open_cvat
from tfds_builders.formats.cvat_writer import CvatWriter

JPEG = photograph()  # 64 wide, 48 high
XML = "annotations.xml"
BOX = 'xtl="10" ytl="12" xbr="30" ybr="40"'
FIRST = 4  # The line of the first element behind <meta>.


def record(name: str, content: bytes, objects: Objects, **more: Any) -> ImageRecord:
    height, width = read_header(content).size
    return ImageRecord(name, content, height, width, objects, more.pop("group_id", name), "somewhere", **more)


def written(out: Path, names: Sequence[str], *records: ImageRecord, split: str = "train") -> CvatWriter:
    out.mkdir(exist_ok=True)
    writer = CvatWriter(out, Categories(tuple(names)), ("train", "test"))
    for each in records:
        writer.add(each, split)
    writer.close()
    return writer


RUNS = json.dumps({"size": [48, 64], "counts": [48 * 5 + 6, 2, 46, 1, 3072 - 48 * 6 - 7]})
SQUARE = json.dumps([[2.5, 3, 20, 3, 20, 30.25, 2.5, 30.25]])


def rich_objects() -> Objects:
    return Objects(
        boxes=np.array([[2.5, 3, 20, 30.25], [0, 0, 1, 1], [5, 5, 64, 48], [5, 6, 7, 8]]),
        category_ids=np.array([1, 0, 1, 0]),
        areas=np.array([17.5 * 27.25, 1, 59 * 43, 3]),
        is_crowd=np.array([False, False, True, False]),
        is_truncated=np.array([False, True, False, False]),
        segmentations=(SQUARE, "", "", RUNS),
        track_ids=np.array([-1, 7, 0, -1]),
    )


class TestWriter:
    def test_equal_records(self, tmp_path: Path) -> None:
        turned = photograph(48, 64, orientation=6, seed=3)
        records = [
            record("scène/000001", JPEG, rich_objects(), source_id="17"),
            record("scène/000002", photograph(encoding="PNG", seed=2), no_objects()),
            record("b", turned, Objects(np.array([[0, 0, 48, 64]]), np.array([0])), source_id="17"),
        ]
        writer = written(tmp_path, ["cat", 'd&g "<é>'], *records)
        assert writer.losses == {"ids of the source": 1}
        assert sorted(path.name for path in tmp_path.iterdir()) == [XML, "images"]
        source = open_cvat(tmp_path)
        assert source.categories.names == ("cat", 'd&g "<é>')
        assert {reference.split for reference in source.scan().references} == {"train"}
        loaded = load(source)
        assert {finding.code for finding in loaded.findings} == {Code.EXIF_ORIENTATION, Code.BOX_ABSURD}
        for each in records:
            example = loaded.example(each.image_id)
            assert example["image"] == each.image
            assert (example["image/height"], example["image/width"]) == each.size
            assert np.abs(loaded.boxes(each.image_id) - each.objects.boxes).max(initial=0) < 1e-2
            assert loaded.column(each.image_id, "label") == each.objects.category_ids.tolist()
            assert loaded.column(each.image_id, "is_crowd") == each.objects.is_crowd.tolist()
            assert loaded.column(each.image_id, "is_truncated") == each.objects.is_truncated.tolist()
            assert np.allclose(loaded.column(each.image_id, "area"), each.objects.areas, rtol=1e-4)
        masks = [json.loads(text or "null") for text in loaded.column("scène/000001", "segmentation")]
        assert masks == [json.loads(SQUARE), None, None, json.loads(RUNS)]
        assert loaded.column("scène/000001", "id") == [-1, 7, 0, -1]
        assert loaded.example("scène/000001")["image/source_id"] == "17"

    def test_compressed_run_lengths(self, tmp_path: Path) -> None:
        runs = json.loads(RUNS)
        compressed = coco_mask.frPyObjects(runs, 48, 64)
        text = json.dumps({"size": [48, 64], "counts": compressed["counts"].decode()})
        box = np.array([[5, 6, 7, 8]])
        each = record("a", JPEG, Objects(box, np.array([0]), np.array([3]), segmentations=(text,)))
        assert not written(tmp_path, ["cat"], each).losses
        assert json.loads(load(open_cvat(tmp_path)).column("a", "segmentation")[0]) == runs

    @pytest.mark.parametrize("split", ["train", "validation", "test", "night"])
    def test_splits(self, split: str, tmp_path: Path) -> None:
        written(tmp_path, ["cat"], record("a", JPEG, no_objects()), split=split)
        [reference] = open_cvat(tmp_path).scan().references
        assert reference.split == split

    def test_losses(self, tmp_path: Path) -> None:
        box = [2, 3, 20, 30]
        objects = Objects(
            boxes=np.array([box] * 3),
            category_ids=np.zeros(3, int),
            areas=np.array([486, 486, 100]),
            segmentations=(json.dumps([[2, 3, 20, 3, 20, 30], [2, 3, 5, 5, 2, 30]]), RUNS, ""),
            changes=np.array([0, 1, 0]),
        )
        writer = written(tmp_path, ["c\x01t"], record("a\x02", JPEG, objects, group_id="walk", source_id="x17"))
        assert writer.losses == {
            "image ids": 1,
            "classes of objects": 3,
            "masks": 2,
            "changes": 1,
            "scenes": 1,
            "ids of the source": 1,
            "areas other than the shape's": 1,
        }
        loaded = load(open_cvat(tmp_path))
        assert list(loaded.outcomes) == ["a_"] and np.abs(loaded.boxes("a_") - box).max() < 1e-3

    @settings(max_examples=60)
    @given(made=datasets())
    def test_any_records(self, made: tuple[Categories, list[tuple[str, ImageRecord]]]) -> None:
        categories, items = made
        with tempfile.TemporaryDirectory() as folder:
            writer = CvatWriter(Path(folder), categories, SPLITS)
            for split, each in items:
                writer.add(each, split)
            writer.close()
            source = open_cvat(Path(folder))
            assert source.categories.names == categories.names
            listing, loaded = source.scan(), load(source)
        assert not loaded.quarantined and len(loaded.outcomes) == len(items)
        assert not listing.findings
        assert {reference.image_id: reference.split for reference in listing.references} == {
            each.image_id: split for split, each in items
        }
        lost = Counter[str]()
        for _, each in items:
            objects, name = each.objects, each.image_id
            lost["masks"] += masks_lost(loaded, each)
            lost["scenes"] += each.group_id != name
            tracks = [-1] * len(objects) if objects.track_ids is None else objects.track_ids.tolist()
            assert loaded.column(name, "id") == tracks
        with_id = [each for _, each in items if each.source_id]
        lost["ids of the source"] = max(0, len(with_id) - 1)  # They all are the same.
        assert writer.losses == +lost
