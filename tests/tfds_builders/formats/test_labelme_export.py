"""LabelMe: what is written."""

import json
import tempfile
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from hypothesis import given, settings

from dataflow.findings import Code
from dataflow.images import read_header
from dataflow.records import Categories, ImageRecord, Objects, no_objects
from tests.factories import load, photograph
from tests.tfds_builders.record_strategies import SPLITS, datasets
from tests.tfds_builders.round_trips import masks_lost
from tfds_builders.formats.labelme import LabelmeWriter, open_labelme

JPEG = photograph()  # 64 wide, 48 high
RECTANGLE = {"label": "cat", "points": [[10, 12], [30, 40]], "shape_type": "rectangle", "group_id": None, "flags": {}}


def record(name: str, image: bytes, objects: Objects, **more: Any) -> ImageRecord:
    height, width = read_header(image).size
    return ImageRecord(name, image, height, width, objects, more.pop("group_id", name), "somewhere", **more)


def written(out: Path, names: Sequence[str], *records: ImageRecord) -> LabelmeWriter:
    writer = LabelmeWriter(out, Categories(tuple(names)), ("train", "test"))
    for each in records:
        writer.add(each, "train")
    writer.close()
    return writer


class TestWriter:
    def test_what_it_looks_like(self, tmp_path: Path) -> None:
        objects = Objects(np.array([[1, 2, 30.5, 40]]), np.array([0]), is_crowd=np.array([True]))
        written(tmp_path, ["cat"], record("é/a", JPEG, objects))
        content = json.loads((tmp_path / "images" / "é" / "a.json").read_text(encoding="utf-8"))
        assert content["imagePath"] == "a.jpg" and content["imageData"] is None
        assert (content["imageHeight"], content["imageWidth"]) == (48, 64)
        [drawn] = content["shapes"]
        assert drawn["points"] == [[1, 2], [30.5, 40]] and drawn["shape_type"] == "rectangle"
        assert drawn["flags"] == {"iscrowd": True} and drawn["label"] == "cat"

    def test_equal_records(self, tmp_path: Path) -> None:
        square = json.dumps([[2.5, 3, 20, 3, 20, 30.25, 2.5, 30.25]])
        objects = Objects(
            boxes=np.array([[2.5, 3, 20, 30.25], [0, 0, 1, 1], [5, 5, 64, 48]]),
            category_ids=np.array([1, 0, 1]),
            is_crowd=np.array([False, False, True]),
            is_truncated=np.array([False, True, False]),
            segmentations=(square, "", ""),
        )
        turned = photograph(48, 64, orientation=6, seed=3)
        records = [
            record("scène/000001", JPEG, objects),
            record("scène/000002", photograph(encoding="PNG", seed=2), no_objects()),
            record("b", turned, Objects(np.array([[0, 0, 48, 64]]), np.array([0]))),
        ]
        writer = written(tmp_path, ["cat", "d&g"], *records)
        assert writer.losses == {"splits": 3}
        loaded = load(open_labelme(tmp_path))
        assert {finding.code for finding in loaded.findings} == {
            Code.LABEL_EMPTY,
            Code.EXIF_ORIENTATION,
            Code.BOX_ABSURD,
        }
        for each in records:
            example = loaded.example(each.image_id)
            assert example["image"] == each.image
            assert (example["image/height"], example["image/width"]) == each.size
            assert np.abs(loaded.boxes(each.image_id) - each.objects.boxes).max(initial=0) < 1e-2
            assert loaded.column(each.image_id, "label") == each.objects.category_ids.tolist()
            assert loaded.column(each.image_id, "is_crowd") == each.objects.is_crowd.tolist()
            assert loaded.column(each.image_id, "is_truncated") == each.objects.is_truncated.tolist()
            assert np.allclose(loaded.column(each.image_id, "area"), each.objects.areas, rtol=1e-4)
        assert json.loads(loaded.column("scène/000001", "segmentation")[0]) == json.loads(square)

    def test_losses(self, tmp_path: Path) -> None:
        box = [2, 3, 20, 30]
        corner = json.dumps([[2, 3, 20, 3, 20, 30]])
        objects = Objects(
            boxes=np.array([box] * 5),
            category_ids=np.zeros(5, int),
            areas=np.array([486, 243, 486, 486, 100]),
            segmentations=(
                json.dumps([[2, 3, 20, 3, 20, 30], [2, 3, 5, 5, 2, 30]]),
                corner,
                json.dumps([[2, 3, 20, 3, 20, 15]]),
                json.dumps({"size": [48, 64], "counts": [0, 486, 2586]}),
                "",
            ),
            track_ids=np.array([-1, 7, 8, -1, -1]),
            changes=np.array([0, 1, 0, 0, 0]),
        )
        writer = written(tmp_path, ["cat", "dog"], record("a", JPEG, objects, group_id="walk", source_id="17"))
        assert writer.losses == {
            "splits": 1,
            "masks": 3,
            "track ids": 2,
            "changes": 1,
            "scenes": 1,
            "ids of the source": 1,
            "areas other than the shape's": 1,
            "classes without objects": 1,
        }

    @settings(max_examples=60)
    @given(made=datasets())
    def test_any_records(self, made: tuple[Categories, list[tuple[str, ImageRecord]]]) -> None:
        categories, items = made
        with tempfile.TemporaryDirectory() as folder:
            writer = LabelmeWriter(Path(folder), categories, SPLITS)
            for split, each in items:
                writer.add(each, split)
            writer.close()
            source = open_labelme(Path(folder), categories.names)
            assert source.categories.names == categories.names
            listing, loaded = source.scan(), load(source)
        assert not loaded.quarantined and len(loaded.outcomes) == len(items)
        assert not listing.findings
        lost = Counter[str]()
        for _, each in items:
            objects, name = each.objects, each.image_id
            lost["masks"] += masks_lost(loaded, each)
            lost["scenes"] += each.group_id != name
            lost["track ids"] += 0 if objects.track_ids is None else len(objects)
            lost["ids of the source"] += bool(each.source_id)
            lost["splits"] += 1
        used = {number for _, each in items for number in each.objects.category_ids.tolist()}
        lost["classes without objects"] = len(categories) - len(used)
        sorted_names = sorted(categories.names[number] for number in used)
        lost["class ids of the source"] = sum(sorted_names.index(categories.names[number]) != number for number in used)
        assert writer.losses == +lost
