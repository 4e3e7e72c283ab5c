"""Predictions written and read back."""

import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from dataflow.errors import DataRefusedError, UsageError
from dataflow.records import Predictions, no_objects
from trainers.prediction.predictions import coco_image_ids, collect_predictions, read_predictions, write_predictions


@pytest.fixture
def dataset(samples):
    rng = np.random.default_rng(1)
    records = [
        samples.record("a/b.jpg", samples.objects(rng, 3, (64, 96)), source_id="42"),
        samples.record("ünïcode", no_objects(), source_id="7"),
        samples.record("third", samples.objects(rng, 1, (64, 96)), source_id="1000"),
    ]
    return samples.dataset({"validation": records})


def _predictions(run_id="run 1"):
    rng = np.random.default_rng(2)
    boxes = rng.random((5, 4), np.float32) * 30 + [0, 0, 31, 31]
    return [
        Predictions("a/b.jpg", boxes, rng.random(5), [0, 2, 1, 1, 0], run_id),
        Predictions("ünïcode", [], [], [], run_id),
        Predictions("third", boxes[:1] / 3, [1.0], [2], run_id),
    ]


def _write(out, dataset, predictions=None, run_id="run 1", **options):
    items = _predictions() if predictions is None else predictions
    return write_predictions(out, items, run_id=run_id, dataset=dataset, split="validation", **options)


def test_read_back_bit_for_bit(dataset, tmp_path):
    summary = _write(tmp_path / "out", dataset)
    assert (summary.images, summary.detections) == (3, 6)
    read = read_predictions(tmp_path / "out")
    assert (read.run_id, read.split, read.fingerprint) == ("run 1", "validation", dataset.fingerprint)
    assert read.categories == dataset.categories
    assert list(read.by_image) == ["a/b.jpg", "ünïcode", "third"]
    for written in _predictions():
        got = read.by_image[written.image_id]
        for name in ("boxes", "scores", "category_ids"):
            np.testing.assert_array_equal(getattr(got, name), getattr(written, name))
            assert getattr(got, name).dtype == getattr(written, name).dtype
        assert got.run_id == "run 1"


def test_parquet_has_a_row_for_every_image_and_opens_without_us(dataset, tmp_path):
    _write(tmp_path / "out", dataset)
    rows = pq.read_table(tmp_path / "out" / "predictions.parquet").to_pylist()
    assert [(row["image_id"], len(row["boxes"]), len(row["scores"])) for row in rows] == [
        ("a/b.jpg", 5, 5),
        ("ünïcode", 0, 0),
        ("third", 1, 1),
    ]
    assert {row["run_id"] for row in rows} == {"run 1"}


def test_coco_results_use_the_source_ids_and_xywh(dataset, tmp_path):
    _write(tmp_path / "out", dataset)
    results = json.loads((tmp_path / "out" / "coco_results.json").read_text())
    assert [r["image_id"] for r in results] == [42] * 5 + [1000]
    assert [r["category_id"] for r in results] == [7, 90, 3, 3, 7, 90]
    x0, y0, x1, y1 = _predictions()[2].boxes[0]
    np.testing.assert_allclose(results[-1]["bbox"], [x0, y0, x1 - x0, y1 - y0], rtol=1e-6)


def test_many_row_groups(samples, tmp_path):
    records = [samples.record(f"{i:05}", no_objects(), (8, 8)) for i in range(2100)]
    dataset = samples.dataset({"validation": records})
    items = [Predictions(r.image_id, [[0, 0, 1, 1 + i % 3]] * (i % 3), [0.5] * (i % 3), [0] * (i % 3), "r")
             for i, r in enumerate(records)]  # fmt: skip
    _write(tmp_path / "out", dataset, items, "r")
    read = read_predictions(tmp_path / "out")
    assert [len(p) for p in read.by_image.values()] == [i % 3 for i in range(2100)]
    assert all((p.boxes[:, 3] == 1 + len(p)).all() for p in read.by_image.values())


def test_no_detections_at_all(dataset, tmp_path):
    items = [Predictions(p.image_id, [], [], [], "run 1") for p in _predictions()]
    assert _write(tmp_path / "out", dataset, items).detections == 0
    assert json.loads((tmp_path / "out" / "coco_results.json").read_text()) == []
    assert all(p.boxes.shape == (0, 4) for p in read_predictions(tmp_path / "out").by_image.values())


def test_a_failure_leaves_nothing(dataset, tmp_path):
    def broken():
        yield _predictions()[0]
        raise RuntimeError("stopped")

    with pytest.raises(RuntimeError, match="stopped"):
        _write(tmp_path / "out" / "deep", dataset, broken())
    assert list((tmp_path / "out").iterdir()) == []


def test_existing_output_is_refused_unless_it_may_be_replaced(dataset, tmp_path):
    out = tmp_path / "out"
    out.mkdir()
    _write(out, dataset)  # An empty directory is no obstacle.
    with pytest.raises(UsageError, match="exists already; choose another"):
        _write(out, dataset)
    fewer = [Predictions(p.image_id, [], [], [], "run 1") for p in _predictions()]
    _write(out, dataset, fewer, overwrite=True)
    assert read_predictions(out).detections == 0
    other = tmp_path / "precious"
    other.mkdir()
    (other / "letter.txt").write_text("keep me")
    with pytest.raises(UsageError, match="is not replaced"):
        _write(other, dataset, overwrite=True)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["data", "out", "precious"]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda items: items[:2], "leave out 1 of 3 images, such as 'third'"),
        (lambda items: [*items, items[0]], "comes twice"),
        (lambda items: [*items, Predictions("nowhere", [], [], [], "run 1")], "not in the split"),
        (lambda items: [*items[:2], Predictions("third", [[0, 0, 1, 1]], [1], [3], "run 1")], r"class ids \[3\]"),
        (lambda items: [*items[:2], Predictions("third", [], [], [], "run 2")], "is of run 'run 2'"),
    ],
)
def test_predictions_that_do_not_fit_the_split_are_refused(dataset, tmp_path, change, message):
    with pytest.raises(DataRefusedError, match=message):
        _write(tmp_path / "out", dataset, change(_predictions()))
    assert not (tmp_path / "out").exists()
    with pytest.raises(DataRefusedError, match=message):
        collect_predictions(change(_predictions()), run_id="run 1", dataset=dataset, split="validation")


def test_a_directory_that_is_none(dataset, tmp_path):
    with pytest.raises(UsageError, match="is no directory; give a directory that `shardbox predict` wrote"):
        read_predictions(tmp_path / "nowhere")
    with pytest.raises(UsageError, match="holds no predictions"):
        read_predictions(dataset.path)


PART = "predictions.parquet/part-00000-of-00001.parquet"


@pytest.mark.parametrize("file", [PART, "predictions.json"])
def test_damaged_files_are_refused(dataset, tmp_path, file):
    _write(tmp_path / "out", dataset)
    path: Path = tmp_path / "out" / file
    path.write_bytes(path.read_bytes()[:-20])
    with pytest.raises(DataRefusedError, match="is damaged"):
        read_predictions(tmp_path / "out")


def test_a_part_is_missing(dataset, tmp_path):
    _write(tmp_path / "out", dataset)
    part = tmp_path / "out" / PART
    part.rename(part.with_name("part-00000-of-00002.parquet"))
    with pytest.raises(DataRefusedError, match="has 1 of its 2 parts"):
        read_predictions(tmp_path / "out")


def test_the_single_file_of_format_version_1_is_read(dataset, tmp_path):
    """As it was written before there were parts, down to its schema."""
    _write(tmp_path / "out", dataset)
    rows = [
        {"image_id": p.image_id, "run_id": p.run_id, "boxes": p.boxes.tolist(), "scores": p.scores.tolist(),
         "category_ids": p.category_ids.tolist()} for p in _predictions()
    ]  # fmt: skip
    old = tmp_path / "old"
    old.mkdir()
    box = pa.list_(pa.float32(), 4)
    kinds = (pa.string(), pa.string(), pa.list_(box), pa.list_(pa.float32()), pa.list_(pa.int64()))
    schema = pa.schema(list(zip(("image_id", "run_id", "boxes", "scores", "category_ids"), kinds, strict=True)))
    pq.write_table(pa.Table.from_pylist(rows, schema=schema), old / "predictions.parquet", compression="zstd")
    description = json.loads((tmp_path / "out" / "predictions.json").read_text()) | {"format_version": 1}
    del description["images_damaged"], description["pairs_unaligned"]
    (old / "predictions.json").write_text(json.dumps(description))
    assert read_predictions(old).digest == read_predictions(tmp_path / "out").digest


def test_files_that_do_not_belong_together_are_refused(dataset, tmp_path):
    _write(tmp_path / "out", dataset)
    description = tmp_path / "out" / "predictions.json"
    description.write_text(description.read_text().replace('"detections": 6', '"detections": 5'))
    with pytest.raises(DataRefusedError, match="3 images and 6 detections"):
        read_predictions(tmp_path / "out")


@pytest.mark.parametrize(
    ("names", "ids"),
    [
        ([("a", "9"), ("b", "10")], [9, 10]),
        ([("a", "9"), ("b", "")], ["a", "b"]),
        ([("a", "9"), ("b", "9")], ["a", "b"]),
        ([("a", "009"), ("b", "10")], ["a", "b"]),
        ([("139", ""), ("7", "")], [139, 7]),
        ([("a", "0"), ("b", "٣")], ["a", "b"]),
        ([("a", "1" * 19), ("b", "1")], ["a", "b"]),
        ([], []),
    ],
)
def test_coco_image_ids(names, ids):
    assert coco_image_ids(names) == {name: value for (name, _), value in zip(names, ids, strict=True)}
