"""Shards: which example goes into which file, and the files themselves, the same bytes on every machine.

An example's shard and its place in it are hashes of its id. TFDS's own writer leaves protobuf maps in an order that
changes from run to run; examples are serialised deterministically here.
"""

import hashlib
import json
import math
import os
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import tensorflow_datasets as tfds
from tensorflow_datasets.core import example_serializer, naming

from dataflow.findings import Code, Finding
from dataflow.records import Categories
from dataflow.schema import Kind, build_features
from dataflow.splits import unit_hash
from dataflow.tfrecord import write_record

TARGET_SHARD_BYTES = 128 * 2**20


@dataclass(frozen=True)
class Outcome:
    """What became of one image (or pair): an example to write, or none and the findings that say why."""

    image_id: str
    example: dict[str, Any] | None
    findings: tuple[Finding, ...] = ()


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

    def template(self, directory: Path, split: str) -> naming.ShardedFileTemplate:
        """TFDS's naming of the shards of a split."""
        return naming.ShardedFileTemplate(
            data_dir=directory, dataset_name=self.name, split=split, filetype_suffix="tfrecord"
        )

    def path(self, directory: Path, key: ShardKey) -> Path:
        """The file of a shard."""
        template = self.template(directory, key.split)
        return Path(template.sharded_filepath(shard_index=key.index, num_shards=key.of))

    def serialiser(self) -> "Serialiser":
        """What turns examples into bytes."""
        return Serialiser(build_features(self.categories, self.kind))


class Serialiser:
    """Examples to bytes: the same example always gives the same bytes."""

    def __init__(self, features: tfds.features.FeaturesDict) -> None:
        self._features = features
        self._inner = example_serializer.ExampleSerializer(features.get_serialized_info())

    def __call__(self, example: dict[str, Any]) -> bytes:
        """The serialised `tf.train.Example`, its map sorted by key."""
        encoded = self._inner.get_tf_example(self._features.encode_example(example))
        return bytes(encoded.SerializeToString(deterministic=True))


@dataclass(frozen=True)
class ShardResult:
    """What was written to one shard, and what was kept out of it."""

    split: str
    index: int
    file: str
    count: int
    num_bytes: int
    sha256: str
    quarantined: tuple[str, ...]
    findings: tuple[Finding, ...]


def shard_count(num_bytes: int, num_examples: int) -> int:
    """Number of shards for so many bytes of images: about 128 MiB each, never more shards than examples."""
    return max(1, min(num_examples, math.ceil(num_bytes / TARGET_SHARD_BYTES)))


def shard_of(image_id: str, shards: int) -> int:
    """The shard an example belongs to."""
    return int(unit_hash("shard", image_id) * shards)


def place_in_shard(image_id: str) -> tuple[float, str]:
    """The sort key of an example within its shard."""
    return unit_hash("place", image_id), image_id


def write_shard(directory: Path, shard_format: ShardFormat, key: ShardKey, outcomes: Iterable[Outcome]) -> ShardResult:
    """Write one shard, one example in memory at a time, under a temporary name that becomes its own when complete."""
    path = shard_format.path(directory, key)
    partial = path.with_name(f".{path.name}.{os.getpid()}")
    serialise = shard_format.serialiser()
    digest = hashlib.sha256()
    count = num_bytes = 0
    quarantined: list[str] = []
    findings: list[Finding] = []
    with partial.open("wb") as file:
        for outcome in outcomes:
            findings += outcome.findings
            if outcome.example is None:
                quarantined.append(outcome.image_id)
                continue
            payload = serialise(outcome.example)
            digest.update(payload)
            num_bytes += len(payload)
            write_record(file, payload)
            count += 1
    partial.replace(path)
    return ShardResult(
        split=key.split,
        index=key.index,
        file=path.name,
        count=count,
        num_bytes=num_bytes,
        sha256=digest.hexdigest(),
        quarantined=tuple(sorted(quarantined)),
        findings=tuple(findings),
    )


def save_result(result: ShardResult, directory: Path) -> None:
    """Leave a shard's result for the launcher, whole or not at all."""
    path = directory / f"{result.file}.json"
    partial = path.with_name(f".{path.name}.{os.getpid()}")
    partial.write_text(json.dumps(asdict(result)))
    partial.replace(path)


def load_results(directory: Path) -> list[ShardResult]:
    """All results in a directory, by split and index."""
    results = []
    for path in sorted(directory.glob("*.json")):
        fields = json.loads(path.read_text())
        fields["quarantined"] = tuple(fields["quarantined"])
        fields["findings"] = tuple(Finding(**(f | {"code": Code(f["code"])})) for f in fields["findings"])
        results.append(ShardResult(**fields))
    return sorted(results, key=lambda result: (result.split, result.index))


def fingerprint(categories: Categories, kind: Kind, results: Iterable[ShardResult]) -> str:
    """SHA-256 (hex) of what the dataset holds: classes, splits, and the digest of every shard."""
    content = {
        "categories": [categories.names, categories.source_ids],
        "kind": kind,
        "shards": [(r.split, r.index, r.count, r.sha256) for r in results],
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
