"""The builder of differences: a dataset of pairs to one of their difference images, shard by shard."""

from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from dataflow.beam.jobs import ShardJob
from dataflow.errors import UsageError
from dataflow.findings import Finding, Policy
from dataflow.pairs.alignment_counts import merge_counts
from dataflow.pairs.image_diff import DiffMode
from dataflow.pairs.registration import Method
from dataflow.prepared import PreparedDataset
from dataflow.shards import ShardFormat, ShardKey, ShardResult
from tfds_builders.builders import Planned, ShardBuilder
from tfds_builders.contact_sheet import CONTACT_SHEET, write_contact_sheet
from tfds_builders.differences import DifferenceLoader, ImageFormat, shard_to_line
from tfds_builders.running import Running


class DifferencesBuilder(ShardBuilder, skip_registration=True):  # type: ignore[call-arg]
    """A dataset of pairs to a dataset of their differences, shard by shard, in the same order."""

    def __init__(
        self,
        pairs: PreparedDataset,
        *,
        name: str,
        out: Path,
        mode: DiffMode = "absolute",
        align: Method = "none",
        image_format: ImageFormat = "jpeg",
        policy: Policy = "quarantine",
        running: Running = Running(),
        update: bool = False,
    ) -> None:
        if pairs.layout.kind == "images":
            raise UsageError(f"{pairs.path} holds single images, no pairs", "ingest with --pair-gap to make pairs")
        if pairs.layout.kind == "differences":
            raise UsageError(f"{pairs.path} already holds differences", "give the dataset of pairs it was made from")
        if align != "none" and not pairs.layout.knows_frames:
            remedy = "ingest the pairs again"
            raise UsageError(f"{pairs.path} does not say which boxes are of the before frame", remedy)
        self._pairs, self._loader = pairs, DifferenceLoader(pairs.path, mode, image_format, align)
        file_format = pairs.file_format
        super().__init__(name=name, out=out, policy=policy, running=running, file_format=file_format, update=update)

    def _shard_format(self) -> ShardFormat:
        return ShardFormat(self.name, self._pairs.categories, "differences", self._pairs.file_format)

    def _source_path(self) -> Path:
        return self._pairs.path

    def _origin(self) -> Mapping[str, Any]:
        return {
            "source": {"dataset": self._pairs.name, "fingerprint": self._pairs.fingerprint},
            "options": {
                **self._pairs.manifest.get("options", {}),
                "mode": self._loader.mode,
                "align": self._loader.align,
                "image_format": self._loader.image_format,
            },
        }

    def _plan(self) -> Planned:
        shards = [shard for split in self._pairs.splits for shard in self._pairs.shards(split)]
        of = Counter(shard.split for shard in shards)
        digests = self._pairs.shard_digests
        inputs = {
            ShardKey(shard.split, shard.index, of[shard.split]): [
                shard_to_line(shard, digests.get(shard.path.name, ""))
            ]
            for shard in shards
        }
        job = ShardJob(self._shard_format(), inputs, self._loader, sum(shard.count for shard in shards))
        return Planned(job, sum(shard.path.stat().st_size for shard in shards))

    def _whole_findings(self, results: Sequence[ShardResult]) -> Iterable[Finding]:
        return ()

    def _image_paths(self, image_ids: Collection[str]) -> Mapping[str, Path]:
        return {}  # They are in the shards.

    def _tell_more(self, directory: Path, results: Sequence[ShardResult]) -> Mapping[str, Any]:
        write_contact_sheet(directory / CONTACT_SHEET, self.name, self._pairs, self._loader, results)
        counts = merge_counts(result.alignment for result in results if result.alignment is not None)
        return {"alignment": {"method": self._loader.align, **counts.summary()}}
