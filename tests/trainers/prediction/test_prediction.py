"""Predictions of a run: in pixels of the original images, the same in any batch, and refused where classes differ."""

from pathlib import Path

import numpy as np
import pytest
import torch

from dataflow.errors import UsageError
from dataflow.prepared import PreparedDataset
from dataflow.records import Categories, Objects
from tests.trainers.small_runs import write_run
from tests.trainers.small_sets import square_picture, write_dataset
from trainers.detectors.detections import Detections
from trainers.prediction.prediction import predict
from trainers.prediction.predictions import read_predictions

SIZES = ((64, 96), (90, 40), (33, 57), (64, 64), (120, 96))


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> PreparedDataset:
    objects = Objects([[4, 8, 32, 30]], [1])
    records = [square_picture(f"image {i}", size, objects) for i, size in enumerate(SIZES)]
    return write_dataset(tmp_path_factory.mktemp("data"), {"validation": records, "other": records[:2]})


@pytest.fixture(scope="module")
def run(dataset: PreparedDataset, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_run(tmp_path_factory.mktemp("run"), dataset)


def test_every_image_is_predicted_once_in_its_own_pixels(dataset, run: Path, tmp_path: Path):
    summary = predict(dataset, run, tmp_path / "out")
    written = read_predictions(tmp_path / "out")
    assert (summary.images, summary.detections) == (5, written.detections)
    assert written.run_id == summary.run_id
    assert set(written.by_image) == {record.image_id for record in dataset.records("validation")}
    for record in dataset.records("validation"):
        predictions = written.by_image[record.image_id]
        assert 0 < len(predictions) <= 100
        height, width = record.size
        assert (predictions.boxes >= 0).all()
        assert (predictions.boxes <= [width, height, width, height]).all()
        assert (np.diff(predictions.scores) <= 0).all()
    assert predict(dataset, run, tmp_path / "other", split="other").images == 2


def test_the_batch_an_image_comes_in_changes_nothing(dataset, run: Path, tmp_path: Path):
    """But the order of floating-point sums, and so the order of detections that score alike."""
    predict(dataset, run, tmp_path / "alone", batch_size=1)
    predict(dataset, run, tmp_path / "together", batch_size=5)
    alone, together = (read_predictions(tmp_path / name).by_image for name in ("alone", "together"))
    for image_id, expected in alone.items():
        np.testing.assert_allclose(together[image_id].scores, expected.scores, rtol=1e-3, atol=1e-5)
        best = slice(0, 5)
        np.testing.assert_allclose(together[image_id].boxes[best], expected.boxes[best], rtol=1e-3, atol=0.05)


def test_a_detector_that_finds_the_targets_predicts_the_truth(dataset, run: Path, tmp_path: Path, monkeypatch):
    """The way from a detector's relative boxes to the original pixels, for any size, padding and batch."""
    box = np.array([4, 8, 32, 30])
    sizes = iter([size for record in dataset.records("validation") for size in [record.size]])

    def oracle(model, output, limit=100):
        found = []
        for _ in range(len(output.sizes)):
            height, width = next(sizes)
            x0, y0, x1, y1 = box / [width, height, width, height]
            relative = torch.tensor([[(x0 + x1) / 2, (y0 + y1) / 2, x1 - x0, y1 - y0]])
            found.append(Detections(relative, torch.ones(1), torch.ones(1, dtype=torch.int64)))
        return found

    monkeypatch.setattr("trainers.prediction.prediction.detect", oracle)
    predict(dataset, run, tmp_path / "out", batch_size=3)
    for predictions in read_predictions(tmp_path / "out").by_image.values():
        np.testing.assert_allclose(predictions.boxes, box[None], atol=1e-3)
        assert predictions.category_ids.tolist() == [1]


def test_other_classes_are_refused(run: Path, tmp_path: Path):
    picture = square_picture("image", (64, 96), Objects([[4, 8, 32, 30]], [1]))
    other = write_dataset(tmp_path, {"validation": [picture]}, Categories(("green", "red")))
    with pytest.raises(UsageError, match=r"trained on 2 classes \(red, green\), .* has 2 classes \(green, red\)"):
        predict(other, run, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_what_cannot_be_predicted_is_refused(dataset, run: Path, tmp_path: Path):
    with pytest.raises(UsageError, match="has no split 'train'"):
        predict(dataset, run, tmp_path / "out", split="train")
    with pytest.raises(UsageError, match="a batch size of 0"):
        predict(dataset, run, tmp_path / "out", batch_size=0)
    with pytest.raises(UsageError, match=r"is no run: it has no run\.json"):
        predict(dataset, tmp_path, tmp_path / "out")
    predict(dataset, run, tmp_path / "out", split="other")
    with pytest.raises(UsageError, match="exists"):
        predict(dataset, run, tmp_path / "out")
