"""Predictions on disk: what one run detected in every image of one split.

A prediction directory holds

| file | content |
|---|---|
| `predictions.parquet/` | one row per image, a file for each shard (see `trainers.prediction.parts`) |
| `coco_results.json` | the same detections as COCO results: source ids of the classes, xywh px |
| `predictions.json` | which run, which dataset (by fingerprint), which split, the classes, counts |

`pyarrow.parquet.read_table`, pandas and DuckDB read the directory of Parquet files as one table. Until format version 1
it was one file, which is read as well.
"""

import hashlib
import json
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from dataflow.boxes import xyxy_to_coco
from dataflow.errors import DataRefusedError, UsageError
from dataflow.pairs.registration import Method
from dataflow.prepared import PreparedDataset
from dataflow.records import Categories, Predictions, RecordError
from dataflow.stores.cloud_paths import is_cloud
from dataflow.stores.paths import local_directory, location, whole_file
from trainers.outputs import whole_directory
from trainers.prediction.parts import TABLE, Part, checked, names, part_path, part_writer, rows, table_files

COCO_RESULTS = "coco_results.json"
DESCRIPTION = "predictions.json"
FORMAT_VERSION = 2


@dataclass(frozen=True, eq=False)
class PredictionSet:
    """What one run detected in one split: one `Predictions` per image, in `by_image`."""

    run_id: str
    dataset: str
    fingerprint: str
    """Fingerprint of the dataset that was predicted."""
    split: str
    categories: Categories
    by_image: Mapping[str, Predictions]
    align: Method = "none"
    """How frames of pairs were aligned on the way: detections are in the pixels of the after frame."""

    @property
    def detections(self) -> int:
        """Number of detections in all images."""
        return sum(len(predictions) for predictions in self.by_image.values())

    @cached_property
    def digest(self) -> str:
        """SHA-256 (hex) of all detections, whatever the order of the images."""
        digest = hashlib.sha256()
        for image_id in sorted(self.by_image):
            item = self.by_image[image_id]
            digest.update(f"{image_id}\0{len(item)}\0".encode())
            for values in (item.boxes, item.scores, item.category_ids):
                digest.update(values.tobytes())
        return digest.hexdigest()


@dataclass(frozen=True)
class PredictionSummary:
    """What was written."""

    path: Path
    run_id: str
    images: int
    detections: int


def collect_predictions(
    predictions: Iterable[Predictions], *, run_id: str, dataset: PreparedDataset, split: str
) -> PredictionSet:
    """Predictions as a set in memory, checked as `write_predictions` checks them.

    Raises:
        DataRefusedError: see `write_predictions`.
    """
    image_ids = [image_id for shard in dataset.shards(split) for image_id, _ in dataset.shard_ids(shard)]
    by_image = {p.image_id: p for p in checked(predictions, run_id, image_ids, len(dataset.categories))}
    return PredictionSet(run_id, dataset.name, dataset.fingerprint, split, dataset.categories, by_image)


def write_predictions(
    out: Path,
    predictions: Iterable[Predictions],
    *,
    run_id: str,
    dataset: PreparedDataset,
    split: str,
    align: Method = "none",
    overwrite: bool = False,
) -> PredictionSummary:
    """Stream predictions into the directory `out`, which appears whole or not at all; see `PredictionSet`.

    Raises:
        UsageError: `out` exists (with `overwrite`: and holds no predictions), or there is no such split.
        DataRefusedError: an image is unknown, predicted twice or left out, a class id names no class, or a
            detection comes from another run.
    """
    names = dict(name for shard in dataset.shards(split) for name in dataset.shard_ids(shard))
    of = {"run_id": run_id, "fingerprint": dataset.fingerprint, "split": split, "align": align}
    with whole_directory(out, DESCRIPTION, overwrite) as work:
        (work / TABLE).mkdir()
        with part_writer(part_path(work / TABLE, 0, 1), names) as writer:
            for item in checked(predictions, run_id, list(names), len(dataset.categories)):
                writer.add(item)
            part = writer.finish(of)
        finish_predictions(work, [part], dataset)
    return PredictionSummary(out, run_id, part.images, part.detections)


def finish_predictions(work: Path, parts: Sequence[Part], dataset: PreparedDataset) -> None:
    """Write what goes beside the parts in the directory `work`: `coco_results.json` and `predictions.json`.

    Raises:
        DataRefusedError: two shards have an image in common.
    """
    with local_directory(work / TABLE) as table:
        files = table_files(table)
        named = [name for file in files for name in names(file)]
        coco_ids = coco_image_ids(named)
        if len(coco_ids) < len(named):
            twice, _ = Counter(image for image, _ in named).most_common(1)[0]
            raise DataRefusedError(f"image {twice!r} is in {dataset.path} twice", "give each image an id of its own")
        with whole_file(work / COCO_RESULTS) as path, path.open("w", encoding="utf-8") as results:
            results.write("[")
            comma = ""
            for item in (row for file in files for row in rows(file)):
                for result in _coco_results(item, coco_ids[item.image_id], dataset.categories):
                    results.write(f"{comma}\n{result}")
                    comma = ","
            results.write("\n]\n")
    _write_description(work, parts, dataset)


def read_predictions(path: Path) -> PredictionSet:
    """The predictions in a directory, of this machine or in an object store.

    Raises:
        UsageError: `path` is no prediction directory.
        DataRefusedError: its files are damaged or do not belong together.
    """
    path = location(path)
    if is_cloud(path) and not (path / DESCRIPTION).is_file():
        raise UsageError(f"{path} holds no predictions", "give a directory that `shardbox predict` wrote")
    with local_directory(path) as here:
        return _read(here)


def _read(path: Path) -> PredictionSet:
    if not (path / DESCRIPTION).is_file() or not (path / TABLE).exists():
        what = "holds no predictions" if path.is_dir() else "is no directory"
        raise UsageError(f"{path} {what}", "give a directory that `shardbox predict` wrote")
    try:
        description = json.loads((path / DESCRIPTION).read_text(encoding="utf-8"))
        listed = description["categories"]
        categories = Categories(
            tuple(entry["name"] for entry in listed), tuple(int(entry["source_id"]) for entry in listed)
        )
        found = [row for file in table_files(path / TABLE) for row in rows(file)]
        read = PredictionSet(
            run_id=description["run_id"],
            dataset=description["dataset"],
            fingerprint=description["fingerprint"],
            split=description["split"],
            categories=categories,
            by_image={row.image_id: row for row in found},
            align=description.get("align", "none"),
        )
        counted = (description["images"], description["detections"])
    except (OSError, KeyError, TypeError, json.JSONDecodeError, RecordError) as error:
        raise DataRefusedError(f"{path} is damaged ({error})", "run `shardbox predict` again") from error
    if (len(read.by_image), read.detections) != counted or len(found) != len(read.by_image):
        raise DataRefusedError(
            f"{path}: {TABLE} has {len(found)} images and {read.detections} detections, "
            f"{DESCRIPTION} says {counted[0]} and {counted[1]}",
            "run `shardbox predict` again",
        )
    return read


def coco_image_ids(names: Sequence[tuple[str, str]]) -> dict[str, int | str]:
    """COCO's `image_id` by ours, for all images of a split, given as (image id, source id).

    The number the source gave, where every image has one of its own (a dataset without source ids may have
    numbers for ids); our ids otherwise.
    """
    numbers = [_number(source or image) for image, source in names]
    if len(set(numbers)) == len(names) and None not in numbers:
        return {image: number for (image, _), number in zip(names, numbers, strict=True) if number is not None}
    return {image: image for image, _ in names}


def _number(text: str) -> int | None:
    """The number that `text` is the usual spelling of (no leading zeros), if it fits 64 bits."""
    plain = text.isascii() and text.isdigit() and len(text) <= 18 and (text == "0" or text[0] != "0")
    return int(text) if plain else None


def _coco_results(item: Predictions, image_id: int | str, categories: Categories) -> Iterator[str]:
    """The detections of one image as JSON."""
    found = zip(item.category_ids.tolist(), xyxy_to_coco(item.boxes).tolist(), item.scores.tolist(), strict=True)
    for category, box, score in found:
        result = {
            "image_id": image_id,
            "category_id": categories.source_ids[category],
            "bbox": box,
            "score": score,
        }
        yield json.dumps(result, ensure_ascii=False)


def _write_description(work: Path, parts: Sequence[Part], dataset: PreparedDataset) -> None:
    of, categories = parts[0].of, dataset.categories
    content: dict[str, Any] = {
        "format_version": FORMAT_VERSION,
        "run_id": of["run_id"],
        "dataset": dataset.name,
        "fingerprint": dataset.fingerprint,
        "split": of["split"],
        "categories": [
            {"id": index, "name": name, "source_id": source}
            for index, (name, source) in enumerate(zip(categories.names, categories.source_ids, strict=True))
        ],
        "images": sum(part.images for part in parts),
        "detections": sum(part.detections for part in parts),
        "align": of["align"],
        "images_damaged": sum(len(part.damaged) for part in parts),
        "pairs_unaligned": sum(len(part.refused) for part in parts),
    }
    text = json.dumps(content, indent=2, ensure_ascii=False) + "\n"
    (work / DESCRIPTION).write_text(text, encoding="utf-8")
