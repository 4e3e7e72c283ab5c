"""Predictions on disk: what one run detected in every image of one split.

A prediction directory holds

| file | content |
|---|---|
| `predictions.parquet` | one row per image, also where nothing was detected: `image_id`, `run_id`, `boxes` (M x 4 float32 xyxy px of the original image), `scores` (M float32), `category_ids` (M int64, contiguous) |
| `coco_results.json` | the same detections as COCO results: source ids of the classes, xywh px |
| `predictions.json` | which run, which dataset (by fingerprint), which split, the classes, counts |
"""  # noqa: E501

import hashlib
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import IO, Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from dataflow.boxes import xyxy_to_coco
from dataflow.errors import DataRefusedError, UsageError
from dataflow.prepared import PreparedDataset
from dataflow.records import Categories, Predictions, RecordError
from dataflow.registration import Method
from trainers.outputs import whole_directory

TABLE = "predictions.parquet"
COCO_RESULTS = "coco_results.json"
DESCRIPTION = "predictions.json"
FORMAT_VERSION = 1
_ROWS_PER_GROUP = 1024
_SCHEMA = pa.schema(
    [
        ("image_id", pa.string()),
        ("run_id", pa.string()),
        ("boxes", pa.list_(pa.list_(pa.float32(), 4))),
        ("scores", pa.list_(pa.float32())),
        ("category_ids", pa.list_(pa.int64())),
    ]
)


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
    image_ids = [record.image_id for record in dataset.records(split)]
    checked = _checked(predictions, run_id, image_ids, len(dataset.categories))
    by_image = {p.image_id: p for p in checked}
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
    names = [(record.image_id, record.source_id) for record in dataset.records(dataset.check_split(split))]
    coco_ids = coco_image_ids(names)
    categories = dataset.categories
    images = detections = 0
    with whole_directory(out, DESCRIPTION, overwrite) as work:
        with (
            pq.ParquetWriter(work / TABLE, _SCHEMA, compression="zstd") as table,
            (work / COCO_RESULTS).open("w", encoding="utf-8") as results,
        ):
            results.write("[")
            group: list[Predictions] = []
            for item in _checked(predictions, run_id, list(coco_ids), len(categories)):
                _write_results(results, item, coco_ids[item.image_id], categories, first=detections == 0)
                images, detections = images + 1, detections + len(item)
                group.append(item)
                if len(group) == _ROWS_PER_GROUP:
                    table.write_table(_to_table(group))
                    group.clear()
            table.write_table(_to_table(group))
            results.write("\n]\n")
        more = {"images": images, "detections": detections, "align": align}
        _write_description(work, run_id, dataset, split, more)
    return PredictionSummary(out, run_id, images, detections)


def read_predictions(path: Path) -> PredictionSet:
    """The predictions in a directory.

    Raises:
        UsageError: `path` is no prediction directory.
        DataRefusedError: its files are damaged or do not belong together.
    """
    path = Path(path)
    if not (path / DESCRIPTION).is_file() or not (path / TABLE).is_file():
        what = "holds no predictions" if path.is_dir() else "is no directory"
        raise UsageError(f"{path} {what}", "give a directory that `shardbox predict` wrote")
    try:
        description = json.loads((path / DESCRIPTION).read_text(encoding="utf-8"))
        listed = description["categories"]
        categories = Categories(
            tuple(entry["name"] for entry in listed), tuple(int(entry["source_id"]) for entry in listed)
        )
        rows = list(_from_table(pq.read_table(path / TABLE, schema=_SCHEMA)))
        read = PredictionSet(
            run_id=description["run_id"],
            dataset=description["dataset"],
            fingerprint=description["fingerprint"],
            split=description["split"],
            categories=categories,
            by_image={row.image_id: row for row in rows},
            align=description.get("align", "none"),
        )
        counted = (description["images"], description["detections"])
    except (pa.ArrowException, OSError, KeyError, TypeError, json.JSONDecodeError, RecordError) as error:
        raise DataRefusedError(f"{path} is damaged ({error})", "run `shardbox predict` again") from error
    if (len(read.by_image), read.detections) != counted or len(rows) != len(read.by_image):
        raise DataRefusedError(
            f"{path}: {TABLE} has {len(rows)} images and {read.detections} detections, "
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


def _checked(
    predictions: Iterable[Predictions], run_id: str, image_ids: Sequence[str], n_categories: int
) -> Iterator[Predictions]:
    """The predictions as they come, refused as `write_predictions` says."""
    known, seen = set(image_ids), set[str]()
    for item in predictions:
        name = f"predictions of run {run_id!r}: image {item.image_id!r}"
        if item.image_id not in known:
            raise DataRefusedError(f"{name} is not in the split", "predict the split that is named")
        if item.image_id in seen:
            raise DataRefusedError(f"{name} comes twice", "give one `Predictions` per image")
        if item.run_id != run_id:
            raise DataRefusedError(f"{name} is of run {item.run_id!r}", "write each run by itself")
        if len(item) and not 0 <= item.category_ids.min() <= item.category_ids.max() < n_categories:
            raise DataRefusedError(
                f"{name} has class ids {sorted(set(item.category_ids.tolist()))}",
                f"use contiguous ids, 0 to {n_categories - 1}",
            )
        seen.add(item.image_id)
        yield item
    missing = [image for image in image_ids if image not in seen]
    if missing:
        raise DataRefusedError(
            f"predictions of run {run_id!r} leave out {len(missing)} of {len(known)} images, such as {missing[0]!r}",
            "give a `Predictions` without boxes for an image in which nothing was detected",
        )


def _write_results(file: IO[str], item: Predictions, image_id: int | str, categories: Categories, first: bool) -> None:
    """Append the detections of one image to an open JSON list."""
    rows = zip(item.category_ids.tolist(), xyxy_to_coco(item.boxes).tolist(), item.scores.tolist(), strict=True)
    for category, box, score in rows:
        result = {
            "image_id": image_id,
            "category_id": categories.source_ids[category],
            "bbox": box,
            "score": score,
        }
        file.write(("\n" if first else ",\n") + json.dumps(result, ensure_ascii=False))
        first = False


def _write_description(
    work: Path, run_id: str, dataset: PreparedDataset, split: str, more: Mapping[str, int | str]
) -> None:
    content: dict[str, Any] = {
        "format_version": FORMAT_VERSION,
        "run_id": run_id,
        "dataset": dataset.name,
        "fingerprint": dataset.fingerprint,
        "split": split,
        "categories": [
            {"id": index, "name": name, "source_id": source}
            for index, (name, source) in enumerate(
                zip(dataset.categories.names, dataset.categories.source_ids, strict=True)
            )
        ],
        **more,
    }
    text = json.dumps(content, indent=2, ensure_ascii=False) + "\n"
    (work / DESCRIPTION).write_text(text, encoding="utf-8")


def _to_table(items: Sequence[Predictions]) -> pa.Table:
    """One row per image."""
    offsets = pa.array(np.cumsum([0, *(len(item) for item in items)], dtype=np.int32))

    def flat(name: str, width: int, dtype: Any) -> Any:
        parts = [getattr(item, name).reshape(-1) for item in items] + [np.zeros(0, dtype)]
        values = pa.array(np.concatenate(parts).astype(dtype))
        return values if width == 1 else pa.FixedSizeListArray.from_arrays(values, width)

    return pa.Table.from_arrays(
        [
            pa.array([item.image_id for item in items], pa.string()),
            pa.array([item.run_id for item in items], pa.string()),
            pa.ListArray.from_arrays(offsets, flat("boxes", 4, np.float32)),
            pa.ListArray.from_arrays(offsets, flat("scores", 1, np.float32)),
            pa.ListArray.from_arrays(offsets, flat("category_ids", 1, np.int64)),
        ],
        schema=_SCHEMA,
    )


def _from_table(table: pa.Table) -> Iterator[Predictions]:
    for batch in table.to_batches():
        columns = [batch.column(name) for name in ("boxes", "scores", "category_ids")]
        bounds = [column.offsets.to_numpy() for column in columns]
        boxes = columns[0].values.values.to_numpy().reshape(-1, 4)
        scores, category_ids = (column.values.to_numpy() for column in columns[1:])
        for row, (image_id, run_id) in enumerate(
            zip(batch.column("image_id").to_pylist(), batch.column("run_id").to_pylist(), strict=True)
        ):
            part = [slice(bound[row], bound[row + 1]) for bound in bounds]
            yield Predictions(image_id, boxes[part[0]], scores[part[1]], category_ids[part[2]], run_id)
