"""FiftyOne's own importers open what `shardbox export` writes."""

import uuid
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from dataflow.boxes import fiftyone_to_xyxy
from dataflow.prepared import PreparedDataset
from dataflow.records import ImageRecord
from dataflow.splits import parse_splits
from tests.factories import Picture, Thing, prepare, write_coco
from tfds_builders.export import export_dataset
from tfds_builders.formats.coco import open_coco

NAMES = ("voiture à cheval", "犬")
PICTURES = (
    Picture("scène/1 é", 48, 64, (Thing(1, (0, 0, 64, 48)), Thing(0, (2.5, 3.25, 20, 30)))),
    Picture("scène/2", 33, 20, (Thing(0, (0, 0, 1, 1)), Thing(1, (19, 32, 20, 33)))),
    Picture("empty", 20, 30),
)


@pytest.fixture(scope="module")
def fo() -> Any:
    return pytest.importorskip("fiftyone")


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> PreparedDataset:
    root = tmp_path_factory.mktemp("exports")
    return prepare(open_coco(write_coco(root / "coco", PICTURES, NAMES)), root / "out", splits=parse_splits("train=1"))


def assert_equal(found: Any, record: ImageRecord, size: tuple[int, int]) -> None:
    """A sample's detections are the record's objects, in their order."""
    detections = found.ground_truth.detections if found.ground_truth else []
    labels = [NAMES[i] for i in record.objects.category_ids]
    assert [detection.label for detection in detections] == labels
    boxes = fiftyone_to_xyxy(np.reshape([detection.bounding_box for detection in detections], (-1, 4)), size)
    np.testing.assert_allclose(boxes, record.objects.boxes, rtol=0, atol=1e-2)


def test_fiftyone_opens_coco_and_yolo(fo: Any, dataset: PreparedDataset, tmp_path: Path) -> None:
    records = {record.image_id: record for record in dataset.records("train")}
    assert len(records) == 3
    for name in ("coco", "yolo"):
        (tmp_path / name).mkdir()
        export_dataset(dataset, name, tmp_path / name, ["train"])  # type: ignore[arg-type]
    coco = {
        "dataset_type": fo.types.COCODetectionDataset,
        "data_path": tmp_path / "coco" / "images" / "train",
        "labels_path": tmp_path / "coco" / "annotations" / "instances_train.json",
        "label_types": ["detections"],
        "label_field": "ground_truth",
    }
    # Its own exporter would have called the file dataset.yaml; YOLO trainers take either.
    yolo = {
        "dataset_type": fo.types.YOLOv5Dataset,
        "dataset_dir": tmp_path / "yolo",
        "yaml_path": "data.yaml",
        "split": "train",
    }
    for options in (coco, yolo):
        opened = fo.Dataset.from_dir(name=f"test_{uuid.uuid4().hex}", **options)
        try:
            samples = {Path(sample.filepath).read_bytes(): sample for sample in opened}
            assert samples.keys() == {record.image for record in records.values()}
            for record in records.values():
                assert_equal(samples[record.image], record, record.size)
        finally:
            opened.delete()
