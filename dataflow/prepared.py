"""A prepared dataset on disk, ours or any TFDS detection dataset's, read without TensorFlow."""

import hashlib
import json
import tempfile
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import tensorflow_datasets as tfds
from google.protobuf import json_format  # type: ignore[import-untyped]
from tensorflow_datasets.core import constants

from dataflow.errors import UsageError
from dataflow.example_values import ExampleValues
from dataflow.records import Categories, FramePair, ImageRecord
from dataflow.schema import Layout, example_image_id, example_to_pair, example_to_record, find_layout, image_features
from dataflow.shards import FILE_FORMATS, FileFormat
from dataflow.stores.cloud_paths import is_cloud
from dataflow.stores.paths import local_file, location
from dataflow.tfrecord import CorruptRecordError, read_records

MANIFEST = "manifest.json"
AUDIT = "audit.json"
METRICS = "metrics.json"
_SOURCE_ID = "image/source_id"
_DESCRIPTION = ("dataset_info.json", "features.json")


@dataclass(frozen=True)
class Shard:
    """One file of a split."""

    split: str
    index: int
    path: Path
    count: int


class PreparedDataset:
    """A directory `.../name/version` that TFDS (or Shardbox) prepared.

    Raises:
        UsageError: the directory is missing, holds no prepared dataset, or none for detection.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = location(path)
        if not all((self.path / name).is_file() for name in _DESCRIPTION):
            raise UsageError(f"{self.path} is no prepared dataset", _remedy(self.path))
        try:
            self.builder = self._open()
        except (json_format.Error, ValueError, TypeError, KeyError) as error:
            reason = (str(error).splitlines() or [type(error).__name__])[0]
            raise UsageError(f"{self.path}: its description cannot be read ({reason})", "prepare it again") from error
        self.layout: Layout = find_layout(self.builder.info.features, str(self.path))

    def _open(self) -> Any:
        """TFDS's builder; for a dataset in an object store, of a copy of what describes it."""
        if not is_cloud(self.path):
            return tfds.builder_from_directory(self.path)
        with tempfile.TemporaryDirectory(prefix="shardbox-") as folder:
            for file in self.path.iterdir():
                if file.name in _DESCRIPTION or file.name.endswith(".labels.txt"):
                    Path(folder, file.name).write_bytes(file.read_bytes())
            return tfds.builder_from_directory(folder)

    @property
    def name(self) -> str:
        """Name of the dataset."""
        return str(self.builder.name)

    @property
    def splits(self) -> dict[str, int]:
        """Number of examples by split."""
        return {name: int(info.num_examples) for name, info in self.builder.info.splits.items() if ":" not in name}

    @cached_property
    def manifest(self) -> Mapping[str, Any]:
        """Content of `manifest.json`; empty for a dataset that is not ours."""
        path = self.path / MANIFEST
        return json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}

    @property
    def file_format(self) -> FileFormat:
        """How its shards are stored."""
        value = self.builder.info.file_format.value
        if value not in FILE_FORMATS:
            raise UsageError(f"{self.path} is stored as {value}", f"prepare it as one of {', '.join(FILE_FORMATS)}")
        return value  # type: ignore[no-any-return]

    @cached_property
    def shard_digests(self) -> Mapping[str, str]:
        """What the manifest says of the content of each shard, by file name; empty for a dataset that is not ours."""
        splits = self.manifest.get("splits", {}).values()
        return {shard["file"]: shard.get("digest", "") for split in splits for shard in split["shards"]}

    @cached_property
    def categories(self) -> Categories:
        """The classes, with the source's ids where the manifest has them."""
        label = self.builder.info.features[self.layout.objects].feature["label"]
        listed = self.manifest.get("categories", [])
        return Categories(tuple(label.names), tuple(int(entry["source_id"]) for entry in listed))

    @cached_property
    def fingerprint(self) -> str:
        """What identifies the content: the manifest's, or for others a hash of TFDS's own description and sizes."""
        if "fingerprint" in self.manifest:
            return str(self.manifest["fingerprint"])
        parts = [(self.path / name).read_bytes() for name in _DESCRIPTION]
        return "tfds-" + hashlib.sha256(b"\0".join(parts)).hexdigest()

    def check_split(self, split: str) -> str:
        """`split` itself.

        Raises:
            UsageError: the dataset has no such split.
        """
        if split not in self.splits:
            raise UsageError(
                f"{self.path} has no split {split!r}", f"choose with --split among {', '.join(self.splits)}"
            )
        return split

    def shards(self, split: str) -> list[Shard]:
        """The files of a split, in order."""
        info = self.builder.info.splits[self.check_split(split)]
        counts = info.shard_lengths
        return [
            Shard(split, index, self.path / Path(path).name, int(count))
            for index, (path, count) in enumerate(zip(info.filepaths, counts, strict=True))
        ]

    def examples(self, split: str) -> Iterator[tuple[str, dict[str, Any]]]:
        """(position, parsed example with images still encoded), in shard order; one example in memory at a time."""
        for shard in self.shards(split):
            yield from self.shard_examples(shard)

    def shard_examples(self, shard: Shard) -> Iterator[tuple[str, dict[str, Any]]]:
        """The examples of one shard; see `examples`.

        Raises:
            CorruptRecordError: the file is damaged, or holds another number of examples than the dataset says.
        """
        features = self.builder.info.features
        skip = {name: tfds.decode.SkipDecoding() for name in image_features(self.layout)}
        yield from self._parsed(shard, lambda payload: features.deserialize_example_np(payload, decoders=skip))

    def _parsed(self, shard: Shard, parse: Callable[[bytes], dict[str, Any]]) -> Iterator[tuple[str, dict[str, Any]]]:
        found = 0
        for index, payload in enumerate(read_payloads(shard.path)):
            yield f"{shard.path.name}__{index}", parse(payload)
            found += 1
        if found != shard.count:
            raise CorruptRecordError(f"{shard.path}: {found} of {shard.count} examples", "prepare the dataset again")

    def shard_values(self, shard: Shard, names: Collection[str]) -> Iterator[tuple[str, dict[str, Any]]]:
        """Some values of the examples of one shard, by feature name; a tenth of the time of `shard_examples`.

        Raises:
            ShardboxError: see `shard_examples`.
        """
        yield from self._parsed(shard, ExampleValues(self.builder.info.features, names))

    def shard_ids(self, shard: Shard) -> Iterator[tuple[str, str]]:
        """(image id, source id) of the examples of one shard, in order; nothing else is unpacked.

        Raises:
            ShardboxError: see `shard_examples`.
        """
        for position, example in self.shard_values(shard, (self.layout.image_id, self.layout.filename, _SOURCE_ID)):
            yield example_image_id(example, self.layout, position), str(example.get(_SOURCE_ID, b""), "utf-8")

    def records(self, split: str) -> Iterator[ImageRecord]:
        """The images of a split with their objects, in shard order."""
        for shard in self.shards(split):
            yield from self.shard_records(shard)

    def shard_records(self, shard: Shard) -> Iterator[ImageRecord]:
        """The images of one shard; see `records`."""
        for position, example in self.shard_examples(shard):
            yield example_to_record(example, self.layout, position)

    def pairs(self, split: str) -> Iterator[FramePair]:
        """The before/after pairs of a split of a pair or difference dataset, in shard order.

        Raises:
            UsageError: the dataset holds single images.
        """
        for shard in self.shards(split):
            yield from self.shard_pairs(shard)

    def shard_pairs(self, shard: Shard) -> Iterator[FramePair]:
        """The pairs of one shard; see `pairs`."""
        if self.layout.kind == "images":
            raise UsageError(f"{self.path} holds single images, no pairs", "ingest with --pair-gap to make pairs")
        for position, example in self.shard_examples(shard):
            yield example_to_pair(example, self.layout, position)


def read_payloads(path: Path) -> Iterator[bytes]:
    """The serialised examples of a shard, from front to back.

    Raises:
        CorruptRecordError: the file is damaged.
    """
    if is_cloud(path):
        with local_file(path) as copied:
            yield from read_payloads(copied)
        return
    if ".array_record" in path.name:
        yield from _array_payloads(path)
        return
    with path.open("rb") as file:
        yield from read_records(file, str(path))


def _array_payloads(path: Path) -> Iterator[bytes]:
    from array_record.python.array_record_module import ArrayRecordReader

    path.open("rb").close()  # It would not say why it cannot be opened.
    reader = ArrayRecordReader(str(path))
    try:
        while reader.record_index() < reader.num_records():
            yield reader.read()
    except RuntimeError as error:
        raise CorruptRecordError(f"{path}: damaged record ({error})", "prepare the dataset again") from error
    finally:
        with suppress(RuntimeError):  # A damaged file complains again.
            reader.close()


def _remedy(path: Path) -> str:
    """What to do about a path that is no prepared dataset: the nearest one below it, if there is just one."""
    if not path.exists():
        return "check the path; `shardbox ingest` and `shardbox diff` print the directory they wrote"
    found = [*sorted(path.glob("*/*/dataset_info.json")), *sorted(path.glob("*/dataset_info.json"))]
    below = [info.parent for info in found if not info.parent.name.startswith(constants.INCOMPLETE_PREFIX)]
    if below:
        return f"give the directory of one version, such as {below[0]}"
    return "make one with `shardbox ingest`"
