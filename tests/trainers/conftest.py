"""Small prepared datasets, written as `shardbox ingest` and `shardbox diff` write them, and random detections."""

import hashlib
import json
import os
import uuid
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tensorflow_datasets as tfds
from tensorflow_datasets.core import naming

from dataflow.example_bytes import ExampleBytes
from dataflow.images import encode_jpeg, encode_png
from dataflow.prepared import MANIFEST, PreparedDataset
from dataflow.records import Categories, FramePair, ImageRecord, Objects, Predictions
from dataflow.schema import Kind, build_features, pair_to_example, record_to_example
from dataflow.tfrecord import write_record
from tests.factories import for_tfds

NAMES = ("person", "car <b>", "dog")


@dataclass(frozen=True)
class Samples:
    """Makes records, pairs, datasets and predictions for tests."""

    root: Path

    def image(self, height: int, width: int, seed: int = 0, png: bool = False) -> bytes:
        """An encoded picture: a gradient with some noise."""
        ramp = np.add.outer(np.arange(height), np.arange(width))[..., None] * (1, 2, 3)
        noise = np.random.default_rng(seed).integers(0, 40, (height, width, 3))
        pixels = ((ramp + noise) % 256).astype(np.uint8)
        return encode_png(pixels) if png else encode_jpeg(pixels)

    def objects(
        self, rng: np.random.Generator, n: int, size: tuple[int, int], classes: int = 3, crowd: float = 0.2
    ) -> Objects:
        """Random objects on a coarse grid, so that equal boxes and exact overlaps happen."""
        boxes = random_boxes(rng, n, size)
        return Objects(
            boxes=boxes,
            category_ids=rng.integers(0, classes, n),
            is_crowd=rng.random(n) < crowd,
            changes=rng.integers(1, 4, n),
            track_ids=np.arange(n) + 1,
        )

    def record(self, image_id: str, objects: Objects, size: tuple[int, int] = (64, 96), **fields: str) -> ImageRecord:
        """An image record with a real picture."""
        image = self.image(*size, seed=len(image_id), png=fields.pop("format", "") == "png")
        given = {"group_id": f"scene of {image_id}", "provenance": "tests", "filename": f"{image_id}.jpg"}
        return ImageRecord(
            image_id=image_id, image=image, height=size[0], width=size[1], objects=objects, **(given | fields)
        )

    def pair(self, pair_id: str, objects: Objects, size: tuple[int, int] = (64, 96), **fields: object) -> FramePair:
        """A before/after pair with real pictures."""
        nothing = Objects(np.zeros((0, 4), np.float32), np.zeros(0, np.int64))
        frames = [self.record(f"{pair_id}-{w}", nothing, size, group_id="scene") for w in ("before", "after")]
        return FramePair(pair_id, frames[0], frames[1], objects, **fields)  # type: ignore[arg-type]

    def dataset(
        self,
        splits: Mapping[str, Sequence[ImageRecord] | Sequence[FramePair]],
        name: str = "tiny",
        kind: Kind = "images",
        categories: Categories | None = None,
    ) -> PreparedDataset:
        """A prepared dataset, in the order given."""
        categories = categories or Categories(NAMES, (7, 3, 90))
        directory = self.root / name / "1.0.0"
        directory.mkdir(parents=True)
        written = {split: [self._example(item, kind) for item in items] for split, items in splits.items()}
        digest = _write(directory, build_features(categories, kind), written)
        listed = [{"name": n, "source_id": s} for n, s in zip(categories.names, categories.source_ids, strict=True)]
        (directory / MANIFEST).write_text(json.dumps({"fingerprint": digest, "categories": listed}))
        return PreparedDataset(directory)

    def foreign(self, records: Sequence[ImageRecord], name: str = "foreign") -> PreparedDataset:
        """A detection dataset as TFDS's own builders make them: numbers for ids, no areas, no manifest."""
        directory = self.root / name / "1.0.0"
        directory.mkdir(parents=True)
        inner = {"bbox": tfds.features.BBoxFeature(), "label": tfds.features.ClassLabel(names=NAMES)}
        features = tfds.features.FeaturesDict(
            {
                "image": tfds.features.Image(),
                "image/id": np.int64,
                "objects": tfds.features.Sequence(inner | {"is_crowd": np.bool_}),
            }
        )
        examples = []
        for record in records:
            columns = for_tfds(record_to_example(record))["objects"]
            objects = {key: columns[key] for key in ("bbox", "label", "is_crowd")}
            examples.append({"image": record.image, "image/id": int(record.image_id), "objects": objects})
        _write(directory, features, {"validation": examples})
        return PreparedDataset(directory)

    def _example(self, item: ImageRecord | FramePair, kind: Kind) -> dict[str, object]:
        if isinstance(item, ImageRecord):
            return record_to_example(item)
        size = item.after.size
        return pair_to_example(item, self.image(*size, seed=9, png=True) if kind == "differences" else None)

    def truth_as_predictions(self, dataset: PreparedDataset, split: str, run_id: str) -> list[Predictions]:
        """Predictions that are right wherever an object counts."""
        return [
            Predictions(
                record.image_id,
                record.objects.boxes[~record.objects.is_crowd],
                np.ones(int((~record.objects.is_crowd).sum())),
                record.objects.category_ids[~record.objects.is_crowd],
                run_id,
            )
            for record in dataset.records(split)
        ]

    def detections(
        self, rng: np.random.Generator, record: ImageRecord, run_id: str, n: int = 12, classes: int = 3
    ) -> Predictions:
        """Adversarial detections: truths shifted, duplicated and of other classes, noise, and many tied scores."""
        boxes = random_boxes(rng, n, record.size)
        category_ids = rng.integers(0, classes, n)
        if len(record.objects):
            source = rng.integers(0, len(record.objects), n)
            near = rng.random(n) < 0.7
            jitter = rng.integers(-2, 3, (n, 4)) * rng.integers(0, 2, (n, 1))
            shifted = record.objects.boxes[source] + jitter
            ordered = np.concatenate(
                [np.minimum(shifted[:, :2], shifted[:, 2:] - 1), shifted[:, 2:]], axis=1, dtype=np.float32
            )
            boxes = np.where(near[:, None], ordered, boxes)
            same = near & (rng.random(n) < 0.85)
            category_ids = np.where(same, record.objects.category_ids[source], category_ids)
        scores = rng.integers(0, 21, n) / 20 if rng.random() < 0.5 else rng.random(n)
        return Predictions(record.image_id, boxes, scores, category_ids, run_id)


def _write(directory: Path, features: tfds.features.FeaturesDict, splits: Mapping[str, Sequence[object]]) -> str:
    """One shard per split and TFDS's metadata; returns a hash of the content."""
    infos, digest = [], hashlib.sha256()
    for split, examples in splits.items():
        template = naming.ShardedFileTemplate(
            data_dir=directory, dataset_name=directory.parent.name, split=split, filetype_suffix="tfrecord"
        )
        ours = "provenance" in features
        payloads = [ExampleBytes(features)(e) if ours else features.serialize_example(e) for e in examples]
        with Path(template.sharded_filepath(shard_index=0, num_shards=1)).open("wb") as file:
            size = sum(write_record(file, payload) for payload in payloads)
        digest.update(b"".join(payloads))
        infos.append(
            tfds.core.SplitInfo(name=split, shard_lengths=[len(payloads)], num_bytes=size, filename_template=template)
        )
    tfds.folder_dataset.write_metadata(data_dir=directory, features=features, split_infos=infos, check_data=False)
    return digest.hexdigest()


def random_boxes(rng: np.random.Generator, n: int, size: tuple[int, int]) -> np.ndarray:
    """(n, 4) float32 xyxy px inside an image of `size`, on a grid of 4 px."""
    height, width = size[0] // 4, size[1] // 4
    x = np.sort(np.stack([rng.integers(0, width, n), rng.integers(1, width + 1, n)]), axis=0)
    y = np.sort(np.stack([rng.integers(0, height, n), rng.integers(1, height + 1, n)]), axis=0)
    x[1] += (x[0] == x[1]) & (x[1] < width)
    y[1] += (y[0] == y[1]) & (y[1] < height)
    x[0] -= x[0] == x[1]
    y[0] -= y[0] == y[1]
    return np.stack([x[0], y[0], x[1], y[1]], axis=1).astype(np.float32) * 4


@pytest.fixture
def samples(tmp_path: Path) -> Samples:
    return Samples(tmp_path / "data")


@pytest.fixture(scope="session", autouse=True)
def own_fiftyone_database(tmp_path_factory: pytest.TempPathFactory) -> None:
    """Keep FiftyOne's database and files of tests, and of what they start, away from the user's own.

    FiftyOne reads the directory when it starts its server, which then lives as long as the process.
    """
    root = tmp_path_factory.mktemp("fiftyone")
    os.environ["FIFTYONE_DATABASE_DIR"] = str(root / "database")
    os.environ["FIFTYONE_DEFAULT_DATASET_DIR"] = str(root / "files")


@pytest.fixture(scope="module")
def fo() -> Any:
    return pytest.importorskip("fiftyone")


@pytest.fixture
def name(fo: Any) -> Iterator[str]:
    chosen = f"test_{uuid.uuid4().hex}"
    yield chosen
    for left in fo.list_datasets(f"{chosen}*"):
        fo.delete_dataset(left)


@pytest.fixture
def into(name: str, tmp_path: Path) -> dict[str, Any]:
    """Where to store."""
    return {"name": name, "media_dir": tmp_path / "media"}


@pytest.fixture
def stores(fo: Any) -> Any:
    from trainers.app import store as fiftyone_store

    return fiftyone_store
