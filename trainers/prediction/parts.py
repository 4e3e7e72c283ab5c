"""Parts of predictions: the Parquet file of one shard, which says what it is of, and is whole or not there.

A row is an image, also where nothing was detected: `image_id`, `run_id`, `boxes` (M x 4 float32 xyxy px of the original
image), `scores` (M float32), `category_ids` (M int64, contiguous), `source_id`. The footer has, as JSON under
`shardbox`, what the part was made of, and a digest of its rows by which a part that is there is told from one that was
damaged.
"""

import json
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import xxhash

from dataflow.errors import DataRefusedError
from dataflow.records import Predictions, RecordError
from dataflow.stores.paths import local_file, whole_file

TABLE = "predictions.parquet"
SCHEMA = pa.schema(
    [
        ("image_id", pa.string()),
        ("run_id", pa.string()),
        ("boxes", pa.list_(pa.list_(pa.float32(), 4))),
        ("scores", pa.list_(pa.float32())),
        ("category_ids", pa.list_(pa.int64())),
    ]
)
_SOURCE_ID = pa.field("source_id", pa.string())
_FOOTER = b"shardbox"
_ROWS_PER_GROUP = 1024
Names = Sequence[tuple[str, str]]
"""(image id, source id) of images in their order."""


@dataclass(frozen=True)
class Part:
    """What a part says of itself.

    `of` is what it was made of: the run, the dataset, the shard. `damaged` and `refused` are images that were shown as
    far as they could be decoded, and pairs that could not be aligned, each with the reason.
    """

    of: Mapping[str, Any]
    images: int
    detections: int
    digest: str
    damaged: Mapping[str, str] = field(default_factory=dict)
    refused: Mapping[str, str] = field(default_factory=dict)


def part_path(table: Path, index: int, count: int) -> Path:
    """The file of part `index` of `count` in the directory `table`, which any Parquet reader reads as one table."""
    return table / f"part-{index:05d}-of-{count:05d}.parquet"


def table_files(table: Path) -> list[Path]:
    """The files of a table in order: its parts, or itself where it is one file, as it was before there were parts.

    Raises:
        DataRefusedError: parts are missing.
    """
    if table.is_file():
        return [table]
    found = sorted(table.glob("part-*-of-*.parquet"))
    count = int(found[0].stem.rpartition("-")[2]) if found else 0
    if not found or found != [part_path(table, index, count) for index in range(count)]:
        raise DataRefusedError(f"{table} has {len(found)} of its {count} parts", "run `shardbox predict` again")
    return found


def checked(
    predictions: Iterable[Predictions], run_id: str, image_ids: Sequence[str], n_categories: int
) -> Iterator[Predictions]:
    """The predictions as they come.

    Raises:
        DataRefusedError: an image is unknown, predicted twice or left out, a class id names no class, or a
            detection comes from another run.
    """
    known, seen = set(image_ids), set[str]()
    if len(known) < len(image_ids):
        twice, _ = Counter(image_ids).most_common(1)[0]
        raise DataRefusedError(f"image {twice!r} is in the dataset twice", "give each image an id of its own")
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


@contextmanager
def part_writer(path: Path, source_ids: Mapping[str, str]) -> Iterator["PartWriter"]:
    """Writes a part, which is at `path` (a place in an object store, too) when the block has ended well.

    Args:
        path: its place.
        source_ids: the source's id of each image by ours.
    """
    with whole_file(path) as partial:
        try:
            with pq.ParquetWriter(partial, SCHEMA.append(_SOURCE_ID), compression="zstd") as table:
                yield PartWriter(table, source_ids)
        except BaseException:
            partial.unlink(missing_ok=True)
            raise


class PartWriter:
    """Writes rows, and at the end in `finish` what they are of."""

    def __init__(self, table: pq.ParquetWriter, source_ids: Mapping[str, str]) -> None:
        self._table, self._source_ids = table, source_ids
        self._group: list[Predictions] = []
        self._digest = xxhash.xxh3_128()
        self._images = self._detections = 0

    def add(self, item: Predictions) -> None:
        """Append the row of an image."""
        _add_row(self._digest, item)
        self._images, self._detections = self._images + 1, self._detections + len(item)
        self._group.append(item)
        if len(self._group) == _ROWS_PER_GROUP:
            self._flush()

    def finish(self, of: Mapping[str, Any], damaged: Mapping[str, str] = {}, refused: Mapping[str, str] = {}) -> Part:
        """Say what the part is."""
        self._flush()
        part = Part(of, self._images, self._detections, self._digest.hexdigest(), dict(damaged), dict(refused))
        self._table.add_key_value_metadata({_FOOTER: json.dumps(vars(part))})
        return part

    def _flush(self) -> None:
        source_ids = [self._source_ids[item.image_id] for item in self._group]
        self._table.write_table(_to_table(self._group).append_column(_SOURCE_ID, pa.array(source_ids, pa.string())))
        self._group.clear()


def read_part(path: Path) -> Part | None:
    """What a part says of itself; None if there is none, or one that is not what was written."""
    try:
        with local_file(path) as file:
            metadata = pq.read_metadata(file).metadata or {}
            part = Part(**json.loads(metadata[_FOOTER]))
            digest = xxhash.xxh3_128()
            for item in rows(file):
                _add_row(digest, item)
    except (pa.ArrowException, OSError, KeyError, TypeError, ValueError):
        return None
    return part if digest.hexdigest() == part.digest else None


def rows(path: Path) -> Iterator[Predictions]:
    """The rows of a part, a thousand in memory at a time.

    Raises:
        DataRefusedError: the file is damaged.
    """
    try:
        with pq.ParquetFile(path) as file:
            for batch in file.iter_batches(_ROWS_PER_GROUP, columns=SCHEMA.names):
                yield from _from_batch(batch.cast(SCHEMA))
    except (pa.ArrowException, OSError, KeyError, RecordError) as error:
        raise DataRefusedError(f"{path} is damaged ({error})", "run `shardbox predict` again") from error


def names(path: Path) -> Names:
    """The images of a part."""
    table = pq.read_table(path, columns=["image_id", "source_id"])
    return list(zip(table["image_id"].to_pylist(), table["source_id"].to_pylist(), strict=True))


def _add_row(digest: Any, item: Predictions) -> None:
    digest.update(f"{item.image_id}\0{item.run_id}\0{len(item)}\0".encode())
    for values in (item.boxes, item.scores, item.category_ids):
        digest.update(np.ascontiguousarray(values).tobytes())


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
        schema=SCHEMA,
    )


def _from_batch(batch: pa.RecordBatch) -> Iterator[Predictions]:
    columns = [batch.column(name) for name in ("boxes", "scores", "category_ids")]
    bounds = [column.offsets.to_numpy() for column in columns]
    boxes = columns[0].values.values.to_numpy().reshape(-1, 4)
    scores, category_ids = (column.values.to_numpy() for column in columns[1:])
    for row, (image_id, run_id) in enumerate(
        zip(batch.column("image_id").to_pylist(), batch.column("run_id").to_pylist(), strict=True)
    ):
        part = [slice(bound[row], bound[row + 1]) for bound in bounds]
        yield Predictions(image_id, boxes[part[0]], scores[part[1]], category_ids[part[2]], run_id)
