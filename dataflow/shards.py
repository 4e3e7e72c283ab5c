"""Shards: which example goes into which file, and the files themselves, the same bytes on every machine.

An example's shard and its place in it are hashes of its id, and its bytes depend on its values alone. The number of
shards is a power of two, so that a dataset that grows keeps its shards until it has doubled.
"""

import hashlib
import json
from collections import Counter
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from time import perf_counter
from typing import Any, Literal, Protocol, get_args

import tensorflow_datasets as tfds
import xxhash
from tensorflow_datasets.core import naming

from dataflow.beam.step_times import StepTimes
from dataflow.example_bytes import ExampleBytes
from dataflow.findings import Code, Finding
from dataflow.pairs.alignment_counts import AlignmentCounts, AlignmentTally, PairAlignment, parse_counts
from dataflow.records import Categories
from dataflow.schema import Kind, build_features
from dataflow.splits import unit_hash
from dataflow.stores.paths import REQUESTS, whole_file
from dataflow.tfrecord import write_record

FileFormat = Literal["tfrecord", "array_record"]
FILE_FORMATS: tuple[FileFormat, ...] = get_args(FileFormat)
LARGEST_SHARD_BYTES = 128 * 2**20


@dataclass(frozen=True)
class Sight:
    """What an image is recognised by: the hash of its bytes, and of its looks where it was decoded."""

    content: int
    look: int | None = None


@dataclass(frozen=True)
class Outcome:
    """What became of one image (or pair): an example to write, or none and the findings that say why."""

    image_id: str
    example: dict[str, Any] | None
    findings: tuple[Finding, ...] = ()
    sight: Sight | None = None
    """None for a pair, and for an image that could not be read."""
    unknown_classes: tuple[int, ...] = ()
    """Class numbers in its annotations that name no class; of an image that is refused for them, all numbers."""
    alignment: PairAlignment | None = None
    """Of a difference that is to be written, what alignment found."""
    seconds: tuple[float, float] | None = None
    """What reading it took, and checking or computing it."""


@dataclass(frozen=True)
class ShardKey:
    """One file of a dataset to be: shard `index` of the `of` shards of a split."""

    split: str
    index: int
    of: int


@dataclass(frozen=True)
class ShardFormat:
    """What a worker must know to write the shards of a dataset."""

    name: str
    categories: Categories
    kind: Kind
    file_format: FileFormat = "tfrecord"

    def template(self, directory: Path, split: str) -> naming.ShardedFileTemplate:
        """TFDS's naming of the shards of a split."""
        return naming.ShardedFileTemplate(
            data_dir=directory, dataset_name=self.name, split=split, filetype_suffix=self.file_format
        )

    def file_name(self, key: ShardKey) -> str:
        """The name of a shard's file."""
        template = self.template(Path(), key.split)
        return Path(template.sharded_filepath(shard_index=key.index, num_shards=key.of)).name

    def path(self, directory: Path, key: ShardKey) -> Path:
        """The file of a shard."""
        return directory / self.file_name(key)

    def serialiser(self) -> ExampleBytes:
        """What turns examples into bytes."""
        return ExampleBytes(build_features(self.categories, self.kind))


@dataclass(frozen=True)
class ShardResult:
    """What was written to one shard, and what was kept out of it."""

    split: str
    index: int
    of: int
    file: str
    count: int
    num_bytes: int
    digest: str
    """Of the serialised examples, XXH3 (128 bits, hex): the same whatever the file format."""
    quarantined: tuple[str, ...]
    findings: tuple[Finding, ...]
    contents: str = ""
    """`Sight.content` of every outcome in order, 16 hex digits each; 0 for none."""
    looks: str = ""
    """`Sight.look` of every outcome in order, 32 hex digits each; 0 for none."""
    objects: dict[str, int] = field(default_factory=dict)
    """Objects written, by contiguous class id."""
    ignored: int = 0
    """Regions to ignore among them."""
    unknown_classes: dict[str, int] = field(default_factory=dict)
    """How often class numbers were met that name no class."""
    alignment: AlignmentCounts | None = None
    """Of a shard of differences."""


def shard_count(num_bytes: int, num_examples: int) -> int:
    """Number of shards for so many bytes of images: a power of two, of at most 128 MiB each on average.

    Never more shards than examples.
    """
    shards = 1
    while shards * LARGEST_SHARD_BYTES < num_bytes and shards * 2 <= num_examples:
        shards *= 2
    return shards


def shard_of(image_id: str, shards: int) -> int:
    """The shard an example belongs to."""
    return int(unit_hash("shard", image_id) * shards)


def place_in_shard(image_id: str) -> tuple[float, str]:
    """The sort key of an example within its shard."""
    return unit_hash("place", image_id), image_id


class _Appender(Protocol):
    """Appends one serialised example to a file."""

    def __call__(self, payload: bytes, /) -> Any: ...


@contextmanager
def _appender(path: Path, file_format: FileFormat) -> Iterator[_Appender]:
    """What appends to a new file at `path`; the file is complete when the block ends."""
    if file_format == "array_record":
        from array_record.python.array_record_module import ArrayRecordWriter

        # One example a group, as TFDS writes them: the fastest to read at random.
        writer = ArrayRecordWriter(str(path), "group_size:1")
        try:
            yield writer.write
        finally:
            writer.close()
        return
    with path.open("wb") as file:
        yield lambda payload: write_record(file, payload)


@dataclass
class _Tally:
    """What is counted while a shard is written."""

    count: int = 0
    num_bytes: int = 0
    ignored: int = 0
    digest: Any = field(default_factory=xxhash.xxh3_128)
    quarantined: list[str] = field(default_factory=list)
    findings: list[Finding] = field(default_factory=list)
    sights: list[Sight] = field(default_factory=list)
    objects: Counter[int] = field(default_factory=Counter)
    unknown: Counter[int] = field(default_factory=Counter)
    alignment: AlignmentTally = field(default_factory=AlignmentTally)

    def add(self, outcome: Outcome, payload: bytes | None) -> None:
        """Count an outcome, and its serialised example where it has one."""
        self.findings += outcome.findings
        self.sights.append(outcome.sight or Sight(0))
        self.unknown.update(outcome.unknown_classes)
        if outcome.example is None or payload is None:
            self.quarantined.append(outcome.image_id)
            if any(finding.code is Code.PAIR_UNALIGNED for finding in outcome.findings):
                self.alignment.refuse()
            return
        if outcome.alignment is not None:
            self.alignment.add(outcome.alignment)
        columns = outcome.example["objects"]
        self.objects.update(columns["label"].tolist())
        self.ignored += int(columns["is_crowd"].sum())
        self.digest.update(payload)
        self.num_bytes += len(payload)
        self.count += 1


def write_shard(
    directory: Path,
    shard_format: ShardFormat,
    key: ShardKey,
    outcomes: Iterable[Outcome],
    times: StepTimes | None = None,
) -> ShardResult:
    """Write one shard, one example in memory at a time, under a temporary name that becomes its own when complete.

    `times` gets how long the steps of each image took.
    """
    times = times or StepTimes()
    path = shard_format.path(directory, key)
    serialise = shard_format.serialiser()
    tally = _Tally()
    with whole_file(path) as partial, _appender(partial, shard_format.file_format) as append:
        for outcome in outcomes:
            if outcome.seconds is not None:
                times.add("read", outcome.seconds[0])
                times.add("check", outcome.seconds[1])
            start = perf_counter()
            payload = None if outcome.example is None else serialise(outcome.example)
            if payload is not None:
                encoded = perf_counter()
                append(payload)
                times.add("encode", encoded - start)
                times.add("write", perf_counter() - encoded)
            tally.add(outcome, payload)
    return ShardResult(
        **asdict(key),
        file=path.name,
        count=tally.count,
        num_bytes=tally.num_bytes,
        digest=tally.digest.hexdigest(),
        quarantined=tuple(sorted(tally.quarantined)),
        findings=tuple(tally.findings),
        contents="".join(f"{sight.content:016x}" for sight in tally.sights),
        looks="".join(f"{sight.look or 0:032x}" for sight in tally.sights),
        objects={str(label): count for label, count in sorted(tally.objects.items())},
        ignored=tally.ignored,
        unknown_classes={str(number): count for number, count in sorted(tally.unknown.items())},
        alignment=tally.alignment.counts(),
    )


def save_result(result: ShardResult, directory: Path) -> None:
    """Leave a shard's result for the launcher, whole or not at all."""
    with whole_file(directory / f"{result.file}.json") as partial:
        partial.write_text(json.dumps(asdict(result)))


def parse_result(fields: dict[str, Any]) -> ShardResult:
    """The result that `dataclasses.asdict` took apart."""
    findings = tuple(
        Finding(**(found | {"code": Code(found["code"]), "box": tuple(found["box"]) if found["box"] else None}))
        for found in fields["findings"]
    )
    alignment = None if fields.get("alignment") is None else parse_counts(fields["alignment"])
    told = {"quarantined": tuple(fields["quarantined"]), "findings": findings, "alignment": alignment}
    return ShardResult(**(fields | told))


def load_results(directory: Path) -> list[ShardResult]:
    """All results in a directory, by split and index."""
    with ThreadPoolExecutor(REQUESTS) as pool:
        texts = list(pool.map(lambda path: path.read_text(), directory.glob("*.json")))
    results = (parse_result(json.loads(text)) for text in texts)
    return sorted(results, key=lambda result: (result.split, result.index))


def fingerprint(categories: Categories, kind: Kind, results: Iterable[ShardResult]) -> str:
    """SHA-256 (hex) of what the dataset holds: classes, splits, and the digest of every shard, not its file format."""
    content = {
        "categories": [categories.names, categories.source_ids],
        "kind": kind,
        "shards": [(r.split, r.index, r.count, r.digest) for r in results],
    }
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def split_infos(results: Iterable[ShardResult], shard_format: ShardFormat, directory: Path) -> list[Any]:
    """TFDS's description of the splits of these results."""
    by_split: dict[str, list[ShardResult]] = {}
    for result in results:
        by_split.setdefault(result.split, []).append(result)
    return [
        tfds.core.SplitInfo(
            name=split,
            shard_lengths=[result.count for result in shards],
            num_bytes=sum(result.num_bytes for result in shards),
            filename_template=shard_format.template(directory, split),
        )
        for split, shards in by_split.items()
    ]


def manifest_splits(results: Iterable[ShardResult]) -> dict[str, Any]:
    """What the manifest says of splits and their shards."""
    splits: dict[str, Any] = {}
    for result in results:
        split = splits.setdefault(result.split, {"count": 0, "shards": []})
        split["count"] += result.count
        split["shards"].append(
            {"file": result.file, "count": result.count, "bytes": result.num_bytes, "digest": result.digest}
        )
    return splits
