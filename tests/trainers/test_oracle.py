"""The oracle: the truth, sent through the whole road as if a detector had found it, scores an AP of 1.

It guards the geometry from source file to figure: ingest, shards, bridge, padding, the way back to original pixels,
evaluation. One box convention mixed up anywhere on the road and the figure falls.
"""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from dataflow.bridge.batches import targets_to_predictions
from dataflow.bridge.image_augmentation import ImageAugmentation
from dataflow.bridge.loader import BatchLoader
from dataflow.bridge.resize import ResizePolicy
from dataflow.prepared import PreparedDataset
from dataflow.records import Predictions
from dataflow.splits import FrameRanges
from tests.factories import Picture, Thing, logical_dataset, prepare, write_coco, write_mot, write_yolo
from tfds_builders.difference_builder import DifferencesBuilder
from tfds_builders.formats.coco import open_coco
from tfds_builders.formats.mot import open_mot
from tfds_builders.formats.yolo import open_yolo
from tfds_builders.sources.pairing import PairOptions
from trainers.evaluation.evaluation import Evaluation, evaluate
from trainers.prediction.predictions import collect_predictions, read_predictions, write_predictions

DATA = Path(__file__).parents[2].parent / "shared" / "data"
COMPOSITIONS = [((64, 96), 1), ((480, 640), 8), ((333, 1000), 5)]


def oracle(dataset: PreparedDataset, split: str, edges: tuple[int, int], batch_size: int) -> Iterator[Predictions]:
    """What a detector would say that is never wrong."""
    for batch in BatchLoader(dataset, split, ResizePolicy(*edges), batch_size, training=False):
        yield from targets_to_predictions(batch, "oracle")


def judged(dataset: PreparedDataset, split: str, edges: tuple[int, int], batch_size: int) -> Evaluation:
    found = collect_predictions(
        oracle(dataset, split, edges, batch_size), run_id="oracle", dataset=dataset, split=split
    )
    return evaluate(dataset, found, split)


def assert_perfect(dataset: PreparedDataset, edges: tuple[int, int], batch_size: int) -> None:
    for split in dataset.splits:
        evaluation = judged(dataset, split, edges, batch_size)
        assert evaluation.figures["AP"] == pytest.approx(1.0, abs=1e-9)
        assert evaluation.figures["AR100"] == pytest.approx(1.0, abs=1e-9)
        assert (evaluation.errors.total.fp, evaluation.errors.total.fn) == (0, 0)


@pytest.fixture(scope="module")
def generated(tmp_path_factory: pytest.TempPathFactory) -> dict[str, PreparedDataset]:
    """The same pictures (EXIF orientations, an empty one, ignore regions) from every format, and their pairs."""
    root = tmp_path_factory.mktemp("sources")
    out = root / "prepared"
    pictures = logical_dataset(9, classes=1, crowd=False)
    with_crowd = logical_dataset(9, classes=1, crowd=True)
    moving = [Picture(f"scene/{frame:06d}", 60, 80, _walkers(frame)) for frame in range(1, 7)]
    datasets = {
        "yolo": prepare(open_yolo(write_yolo(root / "yolo", pictures)), out, "yolo"),
        "coco": prepare(open_coco(write_coco(root / "coco", with_crowd)), out, "coco"),
        "mot": prepare(open_mot(write_mot(root / "mot", with_crowd)), out, "mot"),
    }
    pairs = prepare(open_mot(write_mot(root / "walk", moving), PairOptions(gap=1)), out, "pairs")
    datasets["differences"] = DifferencesBuilder(pairs, name="differences", out=out).prepare()
    return datasets


def _walkers(frame: int) -> tuple[Thing, ...]:
    """One who walks, and one who stands."""
    x = 4.0 + 9 * frame
    return Thing(0, (x, 10.5, x + 12, 40.25), track=1), Thing(0, (60.0, 20.0, 71.5, 50.0), track=2)


@pytest.mark.parametrize(("edges", "batch_size"), COMPOSITIONS)
@pytest.mark.parametrize("kind", ["yolo", "coco", "mot", "differences"])
def test_truth_of_every_format_is_perfect(
    generated: dict[str, PreparedDataset], kind: str, edges: tuple[int, int], batch_size: int
) -> None:
    assert_perfect(generated[kind], edges, batch_size)


@pytest.mark.parametrize("kind", ["yolo", "coco", "mot", "differences"])
def test_augmented_truth_is_as_perfect(generated: dict[str, PreparedDataset], kind: str) -> None:
    """Mirrored, smaller, and parts that still show every object: the way back undoes it all."""
    dataset = generated[kind]
    for split, total in dataset.splits.items():
        boxes = {record.image_id: record.objects.boxes for record in dataset.records(split)}
        found: dict[str, Predictions] = {}
        mirrored, parts = set(), set()
        for batch in BatchLoader(
            dataset,
            split,
            ResizePolicy(200, 300),
            total,
            training=True,
            flip=0.5,
            augmentation=ImageAugmentation(scale=3, crop=0.9),
            steps=40,
        ):
            shown = zip(targets_to_predictions(batch, "oracle"), batch.shown.tolist(), strict=True)
            for one, (left, top, right, bottom) in shown:
                part = np.array([min(left, right), top, max(left, right), bottom])
                whole = ((boxes[one.image_id] - part) * [1, 1, -1, -1] >= 0).all()
                if whole:
                    found[one.image_id] = one
                    mirrored.add(left > right)
                    parts.add(tuple(part))
        assert found.keys() == boxes.keys()
        predicted = collect_predictions(found.values(), run_id="oracle", dataset=dataset, split=split)
        evaluation = evaluate(dataset, predicted, split)
        assert evaluation.figures["AP"] == pytest.approx(1.0, abs=1e-9)
        assert (evaluation.errors.total.fp, evaluation.errors.total.fn) == (0, 0)
        assert total < 4 or (mirrored == {True, False} and len(parts) > 1)


def test_predictions_on_disk_are_as_perfect(generated: dict[str, PreparedDataset], tmp_path: Path) -> None:
    dataset = generated["differences"]
    split = next(iter(dataset.splits))
    items = oracle(dataset, split, (100, 200), 3)
    write_predictions(tmp_path / "p", items, run_id="oracle", dataset=dataset, split=split)
    evaluation = evaluate(dataset, read_predictions(tmp_path / "p"), split)
    assert evaluation.figures["AP"] == pytest.approx(1.0, abs=1e-9)


def test_the_oracle_notices_a_shift(generated: dict[str, PreparedDataset]) -> None:
    """The test would fail if it should: boxes that are off by three pixels are no longer perfect."""
    dataset = generated["yolo"]
    split = next(iter(dataset.splits))
    items = [replace(found, boxes=found.boxes + 3) for found in oracle(dataset, split, (64, 96), 2)]
    shifted = collect_predictions(items, run_id="oracle", dataset=dataset, split=split)
    figure = evaluate(dataset, shifted, split).figures["AP"]
    assert figure is not None
    assert figure < 0.95


@pytest.mark.skipif(not (DATA / "coco128").is_dir(), reason=f"{DATA / 'coco128'} is absent: real data is not shipped")
@pytest.mark.parametrize("kind", ["yolo", "coco"])
def test_coco128_is_perfect(tmp_path: Path, kind: str) -> None:
    source = open_yolo(DATA / "coco128") if kind == "yolo" else open_coco(DATA / "coco128")
    dataset = prepare(source, tmp_path, kind)
    for edges, batch_size in COMPOSITIONS:
        assert_perfect(dataset, edges, batch_size)


@pytest.mark.skipif(not (DATA / "pets09_s2l1").is_dir(), reason=f"{DATA / 'pets09_s2l1'} is absent: not shipped")
def test_pets_pairs_are_perfect(tmp_path: Path) -> None:
    ranges = FrameRanges((("train", 1, 150), ("validation", 151, 200)))
    pairs = prepare(open_mot(DATA / "pets09_s2l1", PairOptions(gap=10), ranges), tmp_path, "pairs", splits=ranges)
    dataset = DifferencesBuilder(pairs, name="differences", out=tmp_path).prepare()
    for edges, batch_size in COMPOSITIONS:
        assert_perfect(dataset, edges, batch_size)
