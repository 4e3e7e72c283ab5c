"""Writing YOLO: what was written is read back, by our reader and by one that knows only what trainers do."""

import json
from collections import Counter
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import pytest
import yaml
from hypothesis import given, settings

from dataflow.errors import UsageError
from dataflow.images import read_header
from dataflow.records import Categories, ImageRecord, Objects, no_objects
from tests.factories import load, photograph
from tests.tfds_builders.record_strategies import datasets, differing_areas
from tfds_builders.formats.yolo import open_yolo
from tfds_builders.formats.yolo_writer import YoloWriter

TOLERANCE_PX = 1e-2


def record(image_id: str = "a", objects: Objects | None = None, **fields: Any) -> ImageRecord:
    """An image of 64 x 48 px."""
    fields = {"image": photograph(), "group_id": image_id, "provenance": "x:1", **fields}
    return ImageRecord(image_id=image_id, height=48, width=64, objects=objects or no_objects(), **fields)


def export(
    out: Path,
    records: list[tuple[str, ImageRecord]],
    categories: Categories | None = None,
    splits: tuple[str, ...] = ("train", "validation", "test"),
) -> Counter[str]:
    writer = YoloWriter(out, categories or Categories(("cat", "dog")), splits)
    for split, item in records:
        writer.add(item, split)
    writer.close()
    return writer.losses


def is_written_as_segments(objects: Objects) -> bool:
    kept = [i for i in range(len(objects)) if not objects.is_crowd[i]]
    parts = [json.loads(objects.segmentations[i] or "[]") for i in kept]
    return bool(parts) and all(len(part) == 1 for part in parts)


def expected_losses(records: list[tuple[str, ImageRecord]]) -> dict[str, int]:
    losses: Counter[str] = Counter()
    for _, item in records:
        objects = item.objects
        kept = np.flatnonzero(~objects.is_crowd)
        as_segments = is_written_as_segments(objects)
        losses["regions to ignore"] += int(objects.is_crowd.sum())
        losses["truncated marks"] += int(objects.is_truncated[kept].sum())
        losses["track ids"] += len(kept) if objects.track_ids is not None else 0
        losses["scenes"] += item.group_id != item.image_id
        losses["ids of the source"] += bool(item.source_id)
        if not as_segments:
            losses["masks"] += sum(bool(objects.segmentations[i]) for i in kept)
            own = Objects(objects.boxes[kept], objects.category_ids[kept], objects.areas[kept])
            losses["areas other than the shape's"] += differing_areas(own)
    return {phrase: count for phrase, count in losses.items() if count}


@settings(max_examples=60, deadline=None)
@given(datasets())
def test_what_was_written_is_read_back(made: tuple[Categories, list[tuple[str, ImageRecord]]]) -> None:
    categories, records = made
    with TemporaryDirectory() as folder:
        losses = export(Path(folder), records, categories)
        source = open_yolo(Path(folder))
        loaded = load(source)
        splits = {reference.image_id: reference.split for reference in source.scan().references}
    assert source.categories == categories
    assert dict(losses) == expected_losses(records)
    assert splits == {item.image_id: split for split, item in records}
    assert not loaded.quarantined
    for _, item in records:
        objects, example = item.objects, loaded.example(item.image_id)
        kept = np.flatnonzero(~objects.is_crowd)
        assert example["image"] == item.image
        assert (example["image/height"], example["image/width"]) == item.size
        assert example["image/orientation"] == read_header(item.image).orientation
        np.testing.assert_allclose(loaded.boxes(item.image_id), objects.boxes[kept], rtol=0, atol=TOLERANCE_PX)
        assert loaded.column(item.image_id, "label") == objects.category_ids[kept].tolist()
        masks = loaded.column(item.image_id, "segmentation")
        if is_written_as_segments(objects):
            for mask, i in zip(masks, kept, strict=True):
                np.testing.assert_allclose(
                    json.loads(mask), json.loads(objects.segmentations[i]), rtol=0, atol=TOLERANCE_PX
                )
            areas = loaded.column(item.image_id, "area")
            np.testing.assert_allclose(areas, objects.areas[kept], rtol=1e-3, atol=0.02)
        else:
            assert masks == [""] * len(kept)


def read_as_a_trainer(out: Path) -> dict[str, dict[str, list[list[float]]]]:
    """Split key -> image path -> rows of class, cx, cy, w, h, by the rules of YOLO trainers and nothing of ours.

    Folders are searched for images; labels are found by replacing the last /images/; a file has either rows of five
    or polygons; numbers are shares of the image; classes are among the names.
    """
    described = yaml.safe_load((out / "data.yaml").read_text(encoding="utf-8"))
    assert set(described) >= {"train", "nc", "names"} and described["nc"] == len(described["names"])
    assert list(described["names"]) == list(range(described["nc"]))
    assert all(isinstance(name, str) for name in described["names"].values())
    found: dict[str, dict[str, list[list[float]]]] = {}
    for key in ("train", "val", "test"):
        for path in sorted((out / described[key]).rglob("*.*")) if key in described else ():
            if path.suffix.lower() not in (".jpg", ".jpeg", ".png", ".bmp"):
                continue
            label = Path("/labels/".join(str(path).rsplit("/images/", 1))).with_suffix(".txt")
            rows = [[float(text) for text in line.split()] for line in label.read_text().splitlines()]
            assert len({len(row) == 5 for row in rows}) < 2, "a trainer refuses segments among boxes"
            for row in rows:
                assert len(row) == 5 or (len(row) > 6 and len(row) % 2 == 1)
                assert all(0 <= number <= 1 for number in row[1:])
                assert row[0] == int(row[0]) and 0 <= row[0] < described["nc"]
            found.setdefault(key, {})[path.relative_to(out / described[key]).as_posix()] = [
                row if len(row) == 5 else [row[0], *around(row[1:])] for row in rows
            ]
    return found


def around(points: list[float]) -> list[float]:
    """cx, cy, w, h of the points x1 y1 x2 y2 ..."""
    xs, ys = points[::2], points[1::2]
    return [(min(xs) + max(xs)) / 2, (min(ys) + max(ys)) / 2, max(xs) - min(xs), max(ys) - min(ys)]


@settings(max_examples=30, deadline=None)
@given(datasets())
def test_trainers_read_it(made: tuple[Categories, list[tuple[str, ImageRecord]]]) -> None:
    categories, records = made
    with TemporaryDirectory() as folder:
        export(Path(folder), records, categories)
        found = read_as_a_trainer(Path(folder))
    assert sum(len(images) for images in found.values()) == len(records)
    for split, item in records:
        suffix = {"JPEG": ".jpg", "PNG": ".png"}[read_header(item.image).format]
        rows = found[{"validation": "val"}.get(split, split)][f"{item.image_id}{suffix}"]
        kept = ~item.objects.is_crowd
        assert [row[0] for row in rows] == item.objects.category_ids[kept].tolist()
        for (_, cx, cy, w, h), box in zip(rows, item.objects.boxes[kept], strict=True):
            corners = np.array([cx - w / 2, cy - h / 2, cx + w / 2, cy + h / 2])
            corners *= [item.width, item.height, item.width, item.height]
            np.testing.assert_allclose(corners, box, rtol=0, atol=TOLERANCE_PX)


def test_the_files_and_what_is_in_them(tmp_path: Path) -> None:
    objects = Objects(np.array([[16, 12, 48, 36]]), np.array([1]))
    export(
        tmp_path, [("train", record("scene/1", objects)), ("validation", record("2"))], splits=("train", "validation")
    )
    files = sorted(path.relative_to(tmp_path).as_posix() for path in tmp_path.rglob("*") if path.is_file())
    assert files == [
        "data.yaml",
        "images/train/scene/1.jpg",
        "images/val/2.jpg",
        "labels/train/scene/1.txt",
        "labels/val/2.txt",
    ]
    assert (tmp_path / "labels/train/scene/1.txt").read_text() == "1 0.50000000 0.50000000 0.50000000 0.50000000\n"
    assert (tmp_path / "labels/val/2.txt").read_text() == ""
    assert yaml.safe_load((tmp_path / "data.yaml").read_text()) == {
        "train": "images/train",
        "val": "images/val",
        "nc": 2,
        "names": {0: "cat", 1: "dog"},
    }


def test_one_object_without_a_polygon_makes_all_of_its_image_boxes(tmp_path: Path) -> None:
    boxes = np.array([[10, 10, 30, 30], [20, 10, 40, 30]])
    polygon = "[[10,10,30,10,30,30,10,30]]"
    other = "[[20,10,40,10,40,30,20,30]]"
    mixed = Objects(boxes, np.zeros(2, np.int64), segmentations=(polygon, ""))
    both = Objects(boxes, np.zeros(2, np.int64), segmentations=(polygon, other))
    losses = export(tmp_path, [("train", record("mixed", mixed)), ("train", record("both", both))])
    lengths = {
        name: [len(line.split()) for line in (tmp_path / f"labels/train/{name}.txt").read_text().splitlines()]
        for name in ("mixed", "both")
    }
    assert lengths == {"mixed": [5, 5], "both": [9, 9]}
    assert dict(losses) == {"masks": 1}


@pytest.mark.parametrize(
    "mask",
    ['{"size":[48,64],"counts":[0,9,3063]}', "[[10,10,30,10]]", "[[10,10,25,10,25,30,10,30]]"],
    ids=["run lengths", "a line", "a polygon that is not in the box"],
)
def test_masks_that_no_segment_can_hold(mask: str, tmp_path: Path) -> None:
    objects = Objects(np.array([[10, 10, 30, 30]]), np.zeros(1, np.int64), segmentations=(mask,))
    assert dict(export(tmp_path, [("train", record("a", objects))])) == {"masks": 1}
    assert load(open_yolo(tmp_path)).boxes("a").tolist() == [[10, 10, 30, 30]]


def test_large_images_keep_a_hundredth_of_a_pixel(tmp_path: Path) -> None:
    box = [[12345.67, 1.25, 12346.67, 2.25]]
    objects = Objects(np.array(box), np.zeros(1, np.int64))
    image = photograph(10, 20000)
    large = ImageRecord("a", image, 10, 20000, objects, "a", "x:1")
    export(tmp_path, [("train", large)])
    np.testing.assert_allclose(load(open_yolo(tmp_path)).boxes("a"), box, rtol=0, atol=TOLERANCE_PX)


def test_splits_of_other_names_stay_splits(tmp_path: Path) -> None:
    losses = export(tmp_path, [("day", record("a")), ("night", record("b"))], splits=("day", "night"))
    references = open_yolo(tmp_path).scan().references
    assert {reference.image_id: reference.split for reference in references} == {"a": "day", "b": "night"}
    assert not losses


def test_a_split_that_data_yaml_cannot_name(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="'names'"):
        YoloWriter(tmp_path, Categories(("cat",)), ("train", "names"))


def test_class_numbers_of_the_source_are_lost(tmp_path: Path) -> None:
    losses = export(tmp_path, [("train", record())], Categories(("cat", "dog"), (3, 7)))
    assert dict(losses) == {"class ids of the source": 2}
