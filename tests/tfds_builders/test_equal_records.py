"""One logical dataset, written in every source format, gives equal records."""

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pytest

from tests.factories import (
    Loaded,
    Picture,
    load,
    logical_dataset,
    prepare,
    write_coco,
    write_mot,
    write_voc,
    write_yolo,
)
from tfds_builders.choices import open_source
from tfds_builders.formats.coco import open_coco
from tfds_builders.formats.mot import open_mot
from tfds_builders.formats.voc import open_voc
from tfds_builders.formats.yolo import open_yolo
from tfds_builders.source import Source

Open = Callable[[Path, Sequence[Picture]], Source]
OPEN: dict[str, Open] = {
    "yolo": lambda root, pictures: open_yolo(write_yolo(root, pictures)),
    "coco": lambda root, pictures: open_coco(write_coco(root, pictures)),
    "voc": lambda root, pictures: open_voc(write_voc(root, pictures)),
    "mot": lambda root, pictures: open_mot(write_mot(root, pictures), name="thing"),
}
TOLERANCE_PX = 1e-2


def assert_truth(loaded: Loaded, pictures: Sequence[Picture], with_crowd: bool = True) -> None:
    """The examples say what the pictures say."""
    assert not [finding for finding in loaded.findings if finding.severity != "info"]
    assert set(loaded.outcomes) == {picture.name for picture in pictures}
    for picture in pictures:
        example = loaded.example(picture.name)
        assert (example["image/height"], example["image/width"]) == (picture.height, picture.width)
        assert example["image"] == picture.encoded()
        assert example["image/id"] == picture.name
        expected = np.array([thing.box for thing in picture.things]).reshape(-1, 4)
        np.testing.assert_allclose(loaded.boxes(picture.name), expected, rtol=0, atol=TOLERANCE_PX)
        assert loaded.column(picture.name, "label") == [thing.category for thing in picture.things]
        crowd = [thing.ignore and with_crowd for thing in picture.things]
        assert loaded.column(picture.name, "is_crowd") == crowd
        areas = [(x1 - x0) * (y1 - y0) for x0, y0, x1, y1 in expected]
        np.testing.assert_allclose(loaded.column(picture.name, "area"), areas, rtol=1e-3, atol=TOLERANCE_PX)


@pytest.mark.parametrize("name", sorted(OPEN))
@pytest.mark.parametrize("seed", range(3))
def test_every_format_gives_the_logical_dataset(name: str, seed: int, tmp_path: Path) -> None:
    pictures = logical_dataset(8, seed=seed)
    source = OPEN[name](tmp_path, pictures)
    assert source.categories.names == ("thing",)
    assert_truth(load(source), pictures)


@pytest.mark.parametrize("name", ["coco", "voc", "mot"])
def test_formats_with_regions_to_ignore(name: str, tmp_path: Path) -> None:
    pictures = logical_dataset(8, crowd=True)
    assert any(thing.ignore for picture in pictures for thing in picture.things)
    assert_truth(load(OPEN[name](tmp_path, pictures)), pictures)


def test_formats_with_classes(tmp_path: Path) -> None:
    pictures, names = logical_dataset(8, classes=4), ("person", "voiture à cheval", "犬", "traffic light")
    yolo = open_yolo(write_yolo(tmp_path / "yolo", pictures, names))
    coco = open_coco(write_coco(tmp_path / "coco", pictures, names))
    assert yolo.categories.names == coco.categories.names == names
    assert coco.categories.source_ids == (3, 13, 23, 33)
    voc = open_voc(write_voc(tmp_path / "voc", pictures, names), names)
    assert voc.categories.names == names
    for source in (yolo, coco, voc):
        assert_truth(load(source), pictures)


def test_prepared_datasets_are_equal(tmp_path: Path) -> None:
    """The same images go to the same splits and shards, and hold the same boxes, whatever the format they came in."""
    pictures = logical_dataset(10)
    kinds = ("yolo", "coco")  # A MOT sequence is one scene, and is not divided.
    made = {kind: prepare(OPEN[kind](tmp_path / kind, pictures), tmp_path / "out", kind) for kind in kinds}
    assert made["yolo"].splits == made["coco"].splits
    for split in made["yolo"].splits:
        for a, b in zip(made["yolo"].records(split), made["coco"].records(split), strict=True):
            assert (a.image_id, a.size, a.image) == (b.image_id, b.size, b.image)
            assert a.filename == f"images/{b.filename}", "names are relative to the root, or to the folder of images"
            np.testing.assert_allclose(a.objects.boxes, b.objects.boxes, rtol=0, atol=TOLERANCE_PX)
            assert a.objects.category_ids.tolist() == b.objects.category_ids.tolist()


def test_formats_are_chosen_by_name(tmp_path: Path) -> None:
    pictures = logical_dataset(2)
    write_yolo(tmp_path / "yolo", pictures)
    assert open_source("yolo", tmp_path / "yolo") == open_yolo(tmp_path / "yolo")
    write_mot(tmp_path / "mot", pictures)
    assert open_source("mot", tmp_path / "mot", name="x") == open_mot(tmp_path / "mot", name="x")
