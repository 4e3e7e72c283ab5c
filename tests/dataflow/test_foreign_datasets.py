"""Datasets that TFDS's own builder code made, read by us."""

import json
import os
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
import tensorflow_datasets as tfds
from tensorflow_datasets.object_detection.coco import AnnotationType, Coco
from tensorflow_datasets.object_detection.voc import Voc

from dataflow.prepared import PreparedDataset
from dataflow.tensorflow_runtime import load_tensorflow
from tests.factories import assert_same_image, coco_json, logical_dataset, photograph, write

PICTURES = logical_dataset(9, classes=2, crowd=True)


class LocalVoc(Voc):
    """TFDS's own VOC builder over local files."""

    url_infos: ClassVar[dict[str, Any]] = {}

    def _split_generators(self, dl_manager: Any) -> Any:
        return {"train": self._generate_examples(os.environ["LOCAL_VOC"], "train")}


class LocalCoco(Coco):
    """TFDS's own COCO builder over local files."""

    url_infos: ClassVar[dict[str, Any]] = {}

    def _split_generators(self, dl_manager: Any) -> Any:
        folder = os.environ["LOCAL_COCO"]
        return {"train": self._generate_examples(folder, folder, "train2017", AnnotationType.BBOXES, None)}


@pytest.fixture(scope="module")
def voc_source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two photographs in VOC's layout; the second is EXIF-rotated, which TFDS does not look at."""
    root = tmp_path_factory.mktemp("voc")
    base = root / "VOCdevkit" / "VOC2007"
    write(base / "JPEGImages" / "000005.jpg", photograph(40, 80))
    write(base / "JPEGImages" / "000007.jpg", photograph(40, 80, seed=1, orientation=6))
    objects = "".join(
        f"<object><name>{name}</name><pose>Left</pose><truncated>0</truncated><difficult>{difficult}</difficult>"
        f"<bndbox><xmin>{x0}</xmin><ymin>{y0}</ymin><xmax>{x1}</xmax><ymax>{y1}</ymax></bndbox></object>"
        for name, difficult, (x0, y0, x1, y1) in (("dog", 0, (8, 4, 40, 20)), ("car", 1, (1, 1, 80, 40)))
    )
    size = "<size><width>80</width><height>40</height></size>"
    write(base / "Annotations" / "000005.xml", f"<annotation>{size}{objects}</annotation>")
    write(base / "Annotations" / "000007.xml", f"<annotation>{size}</annotation>")
    write(base / "ImageSets" / "Main" / "train.txt", "000005\n000007\n")
    return root


@pytest.mark.parametrize("file_format", ["tfrecord", "array_record"])
def test_voc_made_by_tfds(voc_source: Path, file_format: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    load_tensorflow()
    monkeypatch.setenv("LOCAL_VOC", str(voc_source))
    builder = LocalVoc(config="2007", data_dir=tmp_path, file_format=file_format)
    builder.download_and_prepare()
    dataset = PreparedDataset(builder.data_dir)
    assert dataset.splits == {"train": 2} and not dataset.layout.is_ours
    assert dataset.fingerprint.startswith("tfds-")
    names = dataset.categories.names
    assert len(names) == 20
    records = {record.filename: record for record in dataset.records("train")}
    first, second = records["000005.jpg"], records["000007.jpg"]
    assert first.image_id == "000005.jpg"
    assert first.size == second.size == (40, 80), "boxes of TFDS's builders are of the pixels as stored"
    assert first.image == (voc_source / "VOCdevkit/VOC2007/JPEGImages/000005.jpg").read_bytes()
    assert [names[i] for i in first.objects.category_ids] == ["dog", "car"]
    np.testing.assert_allclose(first.objects.boxes, [[8, 4, 40, 20], [1, 1, 80, 40]], atol=1e-4)
    assert first.objects.is_crowd.tolist() == [False, True], "difficult objects are to be ignored"
    assert len(second.objects) == 0
    of_array_record = file_format == "array_record"
    read = builder.as_data_source("train") if of_array_record else tfds.as_numpy(builder.as_dataset("train"))
    theirs = {example["image/filename"]: example for example in read}
    assert_same_image(theirs[b"000007.jpg"]["image"], second.image)


@pytest.mark.parametrize("file_format", ["tfrecord", "array_record"])
def test_coco_made_by_tfds(file_format: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    load_tensorflow()
    pictures = [picture for picture in PICTURES if not picture.orientation]
    content = coco_json(pictures, [f"class {i}" for i in range(80)])
    for annotation in content["annotations"]:
        annotation["area"] = int(annotation["area"])
    for picture in pictures:
        write(tmp_path / "source" / "train2017" / f"{picture.name}.jpg", picture.encoded())
    write(tmp_path / "source" / "annotations" / "instances_train2017.json", json.dumps(content))
    monkeypatch.setenv("LOCAL_COCO", str(tmp_path / "source"))
    builder = LocalCoco(config="2017", data_dir=tmp_path / "out", file_format=file_format)
    builder.download_and_prepare()
    dataset = PreparedDataset(builder.data_dir)
    records = {record.image_id: record for record in dataset.records("train")}
    assert set(records) == {str(101 + i) for i in range(len(pictures))}
    assert dataset.categories.names[13] == "class 13"
    for number, picture in enumerate(pictures, 101):
        record = records[str(number)]
        assert record.filename == f"{picture.name}.jpg" and record.image == picture.encoded()
        expected = [thing.box for thing in picture.things] or np.zeros((0, 4))
        np.testing.assert_allclose(record.objects.boxes, expected, atol=1e-3)
        assert record.objects.category_ids.tolist() == [thing.category for thing in picture.things]
        assert record.objects.is_crowd.tolist() == [thing.ignore for thing in picture.things]
