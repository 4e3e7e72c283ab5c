"""Small prepared datasets of coloured squares, for tests of detectors."""

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np
import tensorflow_datasets as tfds

from dataflow.images import encode_png
from dataflow.prepared import MANIFEST, PreparedDataset
from dataflow.records import Categories, ImageRecord, Objects
from dataflow.schema import build_features, record_to_example
from dataflow.shards import FileFormat, Outcome, ShardFormat, ShardKey, fingerprint, split_infos, write_shard

TWO_CLASSES = Categories(("red", "green"), (4, 9))


def square_picture(image_id: str, size: tuple[int, int], objects: Objects) -> ImageRecord:
    """Noise of `size` (height, width), each object a bright patch of its class's colour."""
    height, width = size
    pixels = np.random.default_rng(len(image_id)).integers(0, 60, (height, width, 3)).astype(np.uint8)
    for (x0, y0, x1, y1), category in zip(objects.boxes.astype(int), objects.category_ids, strict=True):
        pixels[y0:y1, x0:x1, category] = 250
    return ImageRecord(image_id, encode_png(pixels), height, width, objects, f"scene of {image_id}", "tests")


def squares(n: int) -> Iterator[ImageRecord]:
    """Pictures of two shapes with up to two squares; every third is empty."""
    rng = np.random.default_rng(1)
    for index in range(n):
        height, width = (32, 48) if index % 2 else (40, 32)
        count = index % 3
        corner = np.stack([rng.integers(0, width - 14, count), rng.integers(0, height - 14, count)], axis=1)
        objects = Objects(np.concatenate([corner, corner + 12], axis=1), rng.integers(0, 2, count))
        yield square_picture(f"image{index}", (height, width), objects)


def write_dataset(
    root: Path,
    splits: Mapping[str, Sequence[ImageRecord]],
    categories: Categories = TWO_CLASSES,
    shards: int = 1,
    file_format: FileFormat = "tfrecord",
) -> PreparedDataset:
    """A prepared dataset with so many shards in each split, of examples in the order given."""
    shard_format = ShardFormat("squares", categories, "images", file_format)
    directory = root / "squares" / "1.0.0"
    directory.mkdir(parents=True)
    results = []
    for split, records in splits.items():
        for index in range(shards):
            part = records[len(records) * index // shards : len(records) * (index + 1) // shards]
            outcomes = (Outcome(record.image_id, record_to_example(record)) for record in part)
            results.append(write_shard(directory, shard_format, ShardKey(split, index, shards), outcomes))
    tfds.folder_dataset.write_metadata(
        data_dir=directory,
        features=build_features(categories, "images"),
        split_infos=split_infos(results, shard_format, directory),
        check_data=False,
    )
    listed = [{"name": n, "source_id": s} for n, s in zip(categories.names, categories.source_ids, strict=True)]
    content = {"fingerprint": fingerprint(categories, "images", results), "categories": listed}
    (directory / MANIFEST).write_text(json.dumps(content))
    return PreparedDataset(directory)
