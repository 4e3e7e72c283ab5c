"""One logical dataset, written in every source format, gives equal records."""

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from xml.sax.saxutils import escape, quoteattr

import numpy as np
import pytest

from tests.factories import (
    Loaded,
    Picture,
    load,
    logical_dataset,
    prepare,
    write,
    write_coco,
    write_mot,
    write_voc,
    write_yolo,
)
from tfds_builders.choices import open_source
from tfds_builders.formats.coco import open_coco
from tfds_builders.formats.cvat import open_cvat
from tfds_builders.formats.labelme import open_labelme
from tfds_builders.formats.mot import open_mot
from tfds_builders.formats.virat import open_virat
from tfds_builders.formats.voc import open_voc
from tfds_builders.formats.yolo import open_yolo
from tfds_builders.sources.source import Source

Names = Sequence[str]
NAMES: Names = ("thing",)


def write_labelme(root: Path, pictures: Sequence[Picture], names: Names = NAMES) -> Path:
    """A JSON file beside each image."""
    for picture in pictures:
        write(root / "images" / f"{picture.name}.jpg", picture.encoded())
        shapes = [
            {
                "label": names[thing.category],
                "points": [thing.box[:2], thing.box[2:]],
                "shape_type": "rectangle",
                "flags": {"iscrowd": True} if thing.ignore else {},
            }
            for thing in picture.things
        ]
        image = f"{picture.name.rpartition('/')[2]}.jpg"
        content = {"shapes": shapes, "imagePath": image, "imageHeight": picture.height, "imageWidth": picture.width}
        write(root / "images" / f"{picture.name}.json", json.dumps(content))
    return root


def write_cvat(root: Path, pictures: Sequence[Picture], names: Names = NAMES) -> Path:
    """`annotations.xml` and `images/`."""
    labels = "".join(f"<label><name>{escape(name)}</name></label>" for name in names)
    text = f"<annotations><meta><task><labels>{labels}</labels></task></meta>"
    for picture in pictures:
        write(root / "images" / f"{picture.name}.jpg", picture.encoded())
        text += f'<image name="{picture.name}.jpg" width="{picture.width}" height="{picture.height}">'
        for thing in picture.things:
            corners = zip(("xtl", "ytl", "xbr", "ybr"), thing.box, strict=True)
            mark = '<attribute name="is_crowd">true</attribute>' if thing.ignore else ""
            placed = " ".join(f'{name}="{number!r}"' for name, number in corners)
            text += f"<box label={quoteattr(names[thing.category])} {placed}>{mark}</box>"
        text += "</image>"
    write(root / "annotations.xml", f"{text}</annotations>")
    return root


def write_virat(root: Path, pictures: Sequence[Picture]) -> Path:
    """Folders as clips; objects are of VIRAT's own types, from 1 on."""
    rows: dict[str, list[str]] = {}
    for picture in pictures:
        clip, _, number = picture.name.rpartition("/")
        write(root / "frames" / f"{picture.name}.jpg", picture.encoded())
        for thing in picture.things:
            x0, y0, x1, y1 = thing.box
            box = f"{x0!r} {y0!r} {x1 - x0!r} {y1 - y0!r}"
            rows.setdefault(clip, []).append(f"{thing.track} 1 {int(number)} {box} {thing.category + 1}")
    for clip, lines in rows.items():
        write(root / "annotations" / f"{clip}.viratdata.objects.txt", "\n".join(lines))
    return root


Open = Callable[[Path, Sequence[Picture]], Source]
OPEN: dict[str, Open] = {
    "yolo": lambda root, pictures: open_yolo(write_yolo(root, pictures)),
    "coco": lambda root, pictures: open_coco(write_coco(root, pictures)),
    "voc": lambda root, pictures: open_voc(write_voc(root, pictures)),
    "mot": lambda root, pictures: open_mot(write_mot(root, pictures), name="thing"),
    "virat": lambda root, pictures: open_virat(write_virat(root, pictures)),
    "labelme": lambda root, pictures: open_labelme(write_labelme(root, pictures)),
    "cvat": lambda root, pictures: open_cvat(write_cvat(root, pictures)),
}
TOLERANCE_PX = 1e-2
VIRAT_TYPES = ("person", "car", "vehicle", "object", "bike")


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
    assert source.categories.names == (VIRAT_TYPES if name == "virat" else NAMES)
    assert_truth(load(source), pictures)


@pytest.mark.parametrize("name", ["coco", "voc", "mot", "labelme", "cvat"])
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
    labelme = open_labelme(write_labelme(tmp_path / "labelme", pictures, names), names)
    cvat = open_cvat(write_cvat(tmp_path / "cvat", pictures, names))
    assert labelme.categories.names == cvat.categories.names == names
    for source in (yolo, coco, voc, labelme, cvat):
        assert_truth(load(source), pictures)


def test_prepared_datasets_are_equal(tmp_path: Path) -> None:
    """The same images go to the same splits and shards, and hold the same boxes, whatever the format they came in."""
    pictures = logical_dataset(10)
    kinds = ("yolo", "coco", "voc", "labelme", "cvat")  # A sequence is one scene, and is not divided.
    made = {kind: prepare(OPEN[kind](tmp_path / kind, pictures), tmp_path / "out", kind) for kind in kinds}
    first = made.pop("yolo")
    assert len(first.splits) == 2
    for other in made.values():
        assert first.splits == other.splits
        for split in first.splits:
            for a, b in zip(first.records(split), other.records(split), strict=True):
                assert (a.image_id, a.size, a.image, a.group_id) == (b.image_id, b.size, b.image, b.group_id)
                assert Path(a.filename).name == Path(b.filename).name, "names start at the root, or at the images"
                np.testing.assert_allclose(a.objects.boxes, b.objects.boxes, rtol=0, atol=TOLERANCE_PX)
                assert a.objects.category_ids.tolist() == b.objects.category_ids.tolist()


def test_formats_are_chosen_by_name(tmp_path: Path) -> None:
    pictures = logical_dataset(2)
    write_yolo(tmp_path / "yolo", pictures)
    assert open_source("yolo", tmp_path / "yolo") == open_yolo(tmp_path / "yolo")
    write_mot(tmp_path / "mot", pictures)
    assert open_source("mot", tmp_path / "mot", name="x") == open_mot(tmp_path / "mot", name="x")
