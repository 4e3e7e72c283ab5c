"""Statistics of a prepared dataset: counted shard by shard, in this process or by Beam, and what is odd about them."""

import hashlib
import json
import tempfile
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import xxhash

from dataflow.beam.shard_tasks import IN_THIS_PROCESS, TaskRunner, parts_there, run_tasks
from dataflow.errors import DataRefusedError, ShardboxError, UsageError
from dataflow.prepared import PreparedDataset, Shard
from dataflow.records import Categories, FramePair, ImageRecord
from dataflow.schema import Kind, example_image_id, example_to_pair, example_to_record
from dataflow.stores.cloud_paths import is_cloud
from dataflow.stores.paths import remove_tree, upload_files, whole_file
from dataflow.tallies import Tally, parse_tally
from trainers.outputs import resumable_directory

STATISTICS = "stats.json"
_PARTS = "parts"
_AT_A_TIME = 512
_SHOWN_COPIES = 20
FORMAT_VERSION = 1


@dataclass(frozen=True)
class Copies:
    """Images whose bytes are the same; of pairs, the bytes of both frames."""

    images: int
    """All that have a copy."""
    across_splits: int
    """Of these, those with a copy in another split."""
    shown: tuple[tuple[tuple[str, str], ...], ...]
    """(split, image id) of the first few groups."""


@dataclass(frozen=True, eq=False)
class Statistics:
    """What was counted of a dataset."""

    name: str
    fingerprint: str
    kind: Kind
    categories: Categories
    splits: Mapping[str, Tally]
    copies: Copies

    @property
    def total(self) -> Tally:
        """All splits together."""
        total = Tally()
        for tally in self.splits.values():
            total.merge(tally)
        return total


@dataclass(frozen=True)
class StatisticsTask:
    """Counts a shard; its part is JSON: the tally, and of each image id and hash of its bytes."""

    dataset: Path
    fingerprint: str
    splits: tuple[str, ...]
    directory: Path

    @property
    def paths(self) -> Mapping[str, str]:
        """See `dataflow.beam.shard_tasks.ShardTask`."""
        return {"the dataset": str(self.dataset), "--out": str(self.directory)}

    def load(self) -> PreparedDataset:
        """The dataset.

        Raises:
            UsageError: it cannot be read here.
            DataRefusedError: it is not the one that the launcher saw.
        """
        dataset = PreparedDataset(self.dataset)
        if dataset.fingerprint != self.fingerprint:
            remedy = "give a path that is the same directory everywhere"
            raise DataRefusedError(f"a worker reads another dataset in {self.dataset} than the launcher", remedy)
        return dataset

    def shards(self, dataset: PreparedDataset) -> list[Shard]:
        """All shards, split by split."""
        return [shard for split in self.splits for shard in dataset.shards(split)]

    def part(self, number: int) -> Path:
        """The file of a part."""
        return self.directory / _PARTS / f"{number:08d}.json"

    def kept(self, number: int) -> bool:
        """Whether a part is there and can be read."""
        try:
            return bool(json.loads(self.part(number).read_text(encoding="utf-8"))["tally"])
        except (OSError, ValueError, KeyError):
            return False

    def write(self, shard: int, loaded: PreparedDataset) -> Iterator[int]:
        """See `dataflow.beam.shard_tasks.ShardTask`.

        Raises:
            ShardboxError: an example is broken; the message names the image, its shard and its place there.
        """
        tally, waiting = Tally(), []
        ids: list[str] = []
        contents: list[str] = []
        for record, content, without_area in _records(loaded, self.shards(loaded)[shard]):
            ids.append(record.pair_id if isinstance(record, FramePair) else record.image_id)
            contents.append(content)
            tally.without_area += without_area
            waiting.append(record)
            if len(waiting) == _AT_A_TIME:
                tally.add(waiting)
                waiting.clear()
            yield 1
        tally.add(waiting)
        told = {"tally": tally.to_json(), "ids": ids, "contents": contents}
        with whole_file(self.part(shard)) as file:
            file.write_text(json.dumps(told), encoding="utf-8")


def _records(dataset: PreparedDataset, shard: Shard) -> Iterator[tuple[ImageRecord | FramePair, str, int]]:
    """Of each example its record, the hash of its images' bytes, and how many of its boxes have no area."""
    layout = dataset.layout
    make: Any = example_to_record if layout.kind == "images" else example_to_pair
    frames = {"images": ("image",), "pairs": ("before", "image"), "differences": ("before", "after")}[layout.kind]
    for place, (position, example) in enumerate(dataset.shard_values(shard, tuple(dataset.builder.info.features))):
        try:
            record = make(example, layout, position)
            _check_inside(record, len(dataset.categories))
        except ShardboxError as error:
            name = f"image {example_image_id(example, layout, position)!r} ({shard.path}, example {place})"
            raise UsageError(f"{name}: {error.message}", error.remedy) from error
        digest = xxhash.xxh3_64()
        for frame in frames:
            digest.update(example[frame])
        yield record, digest.hexdigest(), len(example[layout.objects]["label"]) - len(record.objects)


def _check_inside(record: ImageRecord | FramePair, n_categories: int) -> None:
    frame = record.after if isinstance(record, FramePair) else record
    record.objects.check_inside(frame.size, n_categories)


def count_dataset(
    dataset: PreparedDataset, out: Path | None = None, running: TaskRunner = IN_THIS_PROCESS
) -> Statistics:
    """Count all splits of a dataset; with `out`, and write `stats.json` and `stats.html` there.

    Counts are the same wherever they are made. With `out`, the next call keeps what one that was killed has counted.

    Args:
        dataset: any prepared dataset.
        out: directory to write; it appears whole or not at all.
        running: where it is done. By Beam it needs `out`, beside which workers leave their parts.

    Raises:
        UsageError: `out` exists, or is needed and not given; an example is broken.
    """
    if running.by_beam and out is None:
        raise UsageError("a runner was given, but no --out", "give --out DIR: workers leave what they count beside it")
    splits = tuple(dataset.splits)
    key = hashlib.sha256(json.dumps([dataset.fingerprint, splits, version("shardbox"), FORMAT_VERSION]).encode())
    with _work_directory(out, key.hexdigest()[:16]) as work:
        (work / _PARTS).mkdir(exist_ok=True)
        task = StatisticsTask(dataset.path.resolve(), dataset.fingerprint, splits, work.resolve())
        shards = task.shards(dataset)
        left = [number for number in range(len(shards)) if not task.kept(number)]
        for number in left:
            task.part(number).unlink(missing_ok=True)
        run_tasks(
            task,
            left,
            what="count",
            images=sum(shards[number].count for number in left),
            parts=lambda: parts_there([task.part(number) for number in left]),
            running=running,
            loaded=None if running.by_beam else dataset,
        )
        statistics = _collect(task, dataset, shards)
        if out is not None:
            _write(statistics, work)
            remove_tree(work / _PARTS)
    return statistics


def _write(statistics: Statistics, work: Path) -> None:
    from trainers.pages.statistics_page import write_statistics

    if not is_cloud(work):
        write_statistics(statistics, work)
        return
    with _temporary() as here:
        write_statistics(statistics, here)
        upload_files(here, work)


@contextmanager
def _temporary() -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix="shardbox-stats-") as work:
        yield Path(work)


def _work_directory(out: Path | None, key: str) -> AbstractContextManager[Path]:
    return _temporary() if out is None else resumable_directory(out, STATISTICS, key)


def _collect(task: StatisticsTask, dataset: PreparedDataset, shards: list[Shard]) -> Statistics:
    """The parts added up, one in memory at a time: of all images only eight bytes each are held together."""
    splits = {split: Tally() for split in task.splits}
    hashes = []
    for number, shard in enumerate(shards):
        part = json.loads(task.part(number).read_text(encoding="utf-8"))
        splits[shard.split].merge(parse_tally(part["tally"]))
        hashes.append(np.array([int(content, 16) for content in part["contents"]], np.uint64))
    copies = _copies(task, shards, hashes)
    return Statistics(dataset.name, dataset.fingerprint, dataset.layout.kind, dataset.categories, splits, copies)


def _copies(task: StatisticsTask, shards: list[Shard], hashes: list[Any]) -> Copies:
    found = np.sort(np.concatenate([np.zeros(0, np.uint64), *hashes]))
    twice = np.unique(found[1:][found[1:] == found[:-1]])
    where: dict[int, Counter[str]] = {}
    for shard, contents in zip(shards, hashes, strict=True):
        for content in contents[np.isin(contents, twice)].tolist():
            where.setdefault(content, Counter())[shard.split] += 1
    across = [content for content, counts in where.items() if len(counts) > 1]
    shown = [*across, *(content for content in where if len(where[content]) == 1)][:_SHOWN_COPIES]
    groups: dict[int, list[tuple[str, str]]] = {content: [] for content in shown}
    for number, (shard, contents) in enumerate(zip(shards, hashes, strict=True)):
        if np.isin(contents, np.array(shown, np.uint64)).any():
            ids = json.loads(task.part(number).read_text(encoding="utf-8"))["ids"]
            for image_id, content in zip(ids, contents.tolist(), strict=True):
                if content in groups:
                    groups[content].append((shard.split, image_id))
    return Copies(
        images=sum(sum(counts.values()) for counts in where.values()),
        across_splits=sum(sum(where[content].values()) for content in across),
        shown=tuple(tuple(group) for group in groups.values()),
    )


def shared_scenes(statistics: Statistics) -> int:
    """How many scenes have images in more than one split."""
    seen = Counter(scene for tally in statistics.splits.values() for scene in tally.scenes)
    return sum(count > 1 for count in seen.values())


def median_of_bins(counts: Mapping[str, int]) -> float | None:
    """The middle of the quarter octave that holds the median of what was counted; None for nothing."""
    bins = sorted((int(name), count) for name, count in counts.items() if name != "none")
    half, passed = sum(count for _, count in bins) / 2, 0
    for number, count in bins:
        passed += count
        if passed >= half:
            return float(2 ** ((number + 0.5) / 4))
    return None
