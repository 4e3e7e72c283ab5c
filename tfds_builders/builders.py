"""The TFDS builders: a source or a pair dataset to a prepared dataset, by a Beam job, whole or not at all."""

import json
import os
import shutil
import socket
from abc import abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import tensorflow_datasets as tfds
from google.protobuf import json_format  # type: ignore[import-untyped]
from tensorflow_datasets.core import constants, dataset_builder
from tensorflow_datasets.core import splits as splits_lib

from dataflow.beam_jobs import DEFAULT_RUNNER, ShardJob, check_runner, run_shard_job
from dataflow.errors import DataRefusedError, UsageError
from dataflow.findings import Audit, Finding, Policy, sorted_findings
from dataflow.image_diff import DiffMode
from dataflow.prepared import AUDIT, MANIFEST, PreparedDataset, Shard
from dataflow.progress import watch_directory
from dataflow.schema import SCHEMA_VERSION, build_features
from dataflow.shards import ShardFormat, ShardKey, ShardResult, fingerprint, split_infos
from dataflow.splits import FrameRanges, Splits
from tfds_builders.differences import DifferenceLoader, ImageFormat
from tfds_builders.planning import plan_shards
from tfds_builders.source import Loader, Source

VERSION = "1.0.0"
_OWNER = ".owner.json"


@dataclass(frozen=True)
class Running:
    """Where a Beam job runs: a runner's name and the options that the user wrote after `--`."""

    runner: str = DEFAULT_RUNNER
    arguments: tuple[str, ...] = ()


@dataclass(frozen=True)
class Planned:
    """A job ready to run, and what was found while planning it."""

    job: ShardJob
    num_bytes: int
    quarantined: tuple[str, ...]
    findings: tuple[Finding, ...]


class RefusedError(DataRefusedError):
    """The data was refused; `audit` says why in full."""

    def __init__(self, message: str, remedy: str, audit: Audit) -> None:
        super().__init__(message, remedy)
        self.audit = audit


class ShardBuilder(dataset_builder.FileReaderBuilder, skip_registration=True):  # type: ignore[misc, call-arg]
    """A TFDS builder whose shards come from one of our Beam jobs.

    TFDS gives the directory its name only when everything in it is complete; `audit.json` and `manifest.json` are
    written beside the shards before that.
    """

    VERSION = tfds.core.Version(VERSION)

    def __init__(self, *, name: str, out: Path, policy: Policy, running: Running) -> None:
        self.name = name
        self._policy, self._running = policy, running
        self._planned: Planned | None = None
        target = out / name / VERSION
        try:
            super().__init__(data_dir=out, file_format="tfrecord")
        except (json_format.Error, ValueError, TypeError, KeyError) as error:  # TFDS reads what is there already.
            if not target.exists():
                raise
            raise UsageError(f"{target} is already there, and damaged", "delete it") from error

    @abstractmethod
    def _shard_format(self) -> ShardFormat: ...

    @abstractmethod
    def _plan(self) -> Planned: ...

    @abstractmethod
    def _origin(self) -> Mapping[str, Any]:
        """`source` and `options` of the manifest."""

    def prepare(self) -> PreparedDataset:
        """Run the job and return the dataset it made.

        Raises:
            RefusedError: the policy is `fail` and something was found, or nothing could be prepared.
            UsageError: the directory is already there.
        """
        target = Path(self.data_dir)
        if target.exists():
            raise UsageError(f"{target} is already there", "delete it, or choose another --out or --name")
        check_runner(self._running.runner, self._running.arguments)
        # Planned before TFDS makes any directory: most mistakes show here.
        self._planned = self._plan()
        _sweep(target.parent)
        try:
            self.download_and_prepare()
        finally:
            if target.parent.is_dir() and not any(target.parent.iterdir()):
                target.parent.rmdir()
        return PreparedDataset(target)

    def download_and_prepare(self, **options: Any) -> None:
        """TFDS's own, which does nothing where the dataset is there already."""
        super().download_and_prepare(**options)
        # Only now: a job killed while TFDS finished its directory must still have been known as dead.
        (Path(self.data_dir) / _OWNER).unlink(missing_ok=True)

    def _info(self) -> tfds.core.DatasetInfo:
        shard_format = self._shard_format()
        return tfds.core.DatasetInfo(
            builder=self,
            description="Prepared by Shardbox.",
            features=build_features(shard_format.categories, shard_format.kind),
        )

    def _make_download_manager(self, **_: Any) -> Any:
        """Nothing is downloaded; TFDS's own manager would leave a directory for it behind."""
        return SimpleNamespace(downloaded_size=0)

    def _log_download_bytes(self) -> None:
        """The command line says what happens."""

    def _log_download_done(self) -> None:
        """The command line says what happened."""

    def _download_and_prepare(self, dl_manager: Any, download_config: Any = None) -> None:
        """TFDS calls this with `data_dir` pointing to a temporary directory."""
        directory = Path(self.data_dir)
        _write_json(directory / _OWNER, {"host": socket.gethostname(), "pid": os.getpid()})
        planned = self._planned or self._plan()
        with watch_directory(directory, planned.num_bytes, f"preparing {self.name}"):
            results = run_shard_job(planned.job, directory, self._running.runner, self._running.arguments)
        audit = _audit(planned, results)
        if self._policy == "fail" and audit.errors:
            raise RefusedError(
                f"refused: {len(audit.errors)} errors, the first {audit.errors[0]}",
                "mend them, or choose --on-finding quarantine or repair",
                audit,
            )
        if not audit.images_prepared:
            first = audit.errors[0] if audit.errors else "there are no images"
            raise RefusedError(f"nothing could be prepared: {first}", "mend the source", audit)
        self._finish(directory, planned.job.shard_format, results, audit)

    def _finish(self, directory: Path, shard_format: ShardFormat, results: Sequence[ShardResult], audit: Audit) -> None:
        self.info.set_splits(splits_lib.SplitDict(split_infos(results, shard_format, directory)))
        _write_json(directory / AUDIT, audit.to_json())
        manifest = {
            "schema_version": SCHEMA_VERSION,
            "fingerprint": fingerprint(shard_format.categories, shard_format.kind, results),
            "kind": shard_format.kind,
            "categories": [
                {"name": name, "source_id": source_id}
                for name, source_id in zip(
                    shard_format.categories.names, shard_format.categories.source_ids, strict=True
                )
            ],
            "splits": _manifest_splits(results),
            **self._origin(),
        }
        _write_json(directory / MANIFEST, manifest)


class SourceBuilder(ShardBuilder, skip_registration=True):  # type: ignore[call-arg]
    """Any source format to a prepared dataset."""

    def __init__(
        self,
        source: Source,
        *,
        name: str,
        out: Path,
        splits: Splits | None = None,
        seed: int = 0,
        policy: Policy = "quarantine",
        running: Running = Running(),
        origin: Mapping[str, Any] | None = None,
    ) -> None:
        self._source, self._splits, self._seed = source, splits, seed
        self._manifest_origin = dict(origin or {"source": name, "options": {}})
        super().__init__(name=name, out=out, policy=policy, running=running)

    def _shard_format(self) -> ShardFormat:
        return ShardFormat(self.name, self._source.categories, self._source.kind)

    def _origin(self) -> Mapping[str, Any]:
        return self._manifest_origin

    def _plan(self) -> Planned:
        if isinstance(self._splits, FrameRanges) and getattr(self._source, "ranges", None) != self._splits:
            raise UsageError("--splits by frame numbers", "only sequences of frames (--format mot) have them")
        listing = self._source.scan()
        plan = plan_shards(listing.references, self._splits, self._seed)
        loader = Loader(self._source, repair=self._policy == "repair")
        job = ShardJob(self._shard_format(), plan.shards, plan.inputs, loader, len(plan.inputs))
        num_bytes = sum(reference.num_bytes for _, reference in plan.inputs)
        return Planned(job, num_bytes, plan.quarantined, listing.findings + plan.findings)


class DifferencesBuilder(ShardBuilder, skip_registration=True):  # type: ignore[call-arg]
    """A dataset of pairs to a dataset of their differences, shard by shard, in the same order."""

    def __init__(
        self,
        pairs: PreparedDataset,
        *,
        name: str,
        out: Path,
        mode: DiffMode = "absolute",
        image_format: ImageFormat = "jpeg",
        policy: Policy = "quarantine",
        running: Running = Running(),
    ) -> None:
        if pairs.layout.kind == "images":
            raise UsageError(f"{pairs.path} holds single images, no pairs", "ingest with --pair-gap to make pairs")
        if pairs.layout.kind == "differences":
            raise UsageError(f"{pairs.path} already holds differences", "give the dataset of pairs it was made from")
        self._pairs, self._mode, self._image_format = pairs, mode, image_format
        super().__init__(name=name, out=out, policy=policy, running=running)

    def _shard_format(self) -> ShardFormat:
        return ShardFormat(self.name, self._pairs.categories, "differences")

    def _origin(self) -> Mapping[str, Any]:
        return {
            "source": {"dataset": self._pairs.name, "fingerprint": self._pairs.fingerprint},
            "options": {
                **self._pairs.manifest.get("options", {}),
                "mode": self._mode,
                "image_format": self._image_format,
            },
        }

    def _plan(self) -> Planned:
        inputs: list[tuple[ShardKey, Shard]] = []
        for split in self._pairs.splits:
            shards = self._pairs.shards(split)
            inputs += [(ShardKey(split, shard.index, len(shards)), shard) for shard in shards]
        loader = DifferenceLoader(self._pairs.path, self._mode, self._image_format)
        keys = tuple(key for key, _ in inputs)
        expected = sum(shard.count for _, shard in inputs)
        job = ShardJob(self._shard_format(), keys, tuple(inputs), loader, expected)
        return Planned(job, sum(shard.path.stat().st_size for _, shard in inputs), (), ())


def _audit(planned: Planned, results: Sequence[ShardResult]) -> Audit:
    quarantined = [image_id for result in results for image_id in result.quarantined]
    findings = [finding for result in results for finding in result.findings]
    return Audit(
        images_prepared=sum(result.count for result in results),
        images_quarantined=len(quarantined) + len(planned.quarantined),
        findings=sorted_findings([*planned.findings, *findings]),
        quarantined=tuple(sorted([*planned.quarantined, *quarantined])),
    )


def _manifest_splits(results: Sequence[ShardResult]) -> dict[str, Any]:
    splits: dict[str, Any] = {}
    for result in results:
        split = splits.setdefault(result.split, {"count": 0, "shards": []})
        split["count"] += result.count
        split["shards"].append(
            {"file": result.file, "count": result.count, "bytes": result.num_bytes, "sha256": result.sha256}
        )
    return splits


def _write_json(path: Path, content: Mapping[str, Any]) -> None:
    """Write a file whole or not at all."""
    partial = path.with_name(f"{path.name}.partial")
    text = json.dumps(content, indent=1, ensure_ascii=False)
    # The source's own path may hold bytes that are no UTF-8: they become JSON escapes.
    partial.write_text(text, encoding="utf-8", errors="backslashreplace")
    partial.replace(path)


def _sweep(directory: Path) -> None:
    """Remove what killed jobs left here: temporary directories whose process is gone."""
    for path in directory.glob(f"{constants.INCOMPLETE_PREFIX}*_{VERSION}"):
        owner = path / _OWNER
        if not owner.is_file():
            # Killed before it had written its name.
            if not {entry.name for entry in path.iterdir()} - {f"{_OWNER}.partial"}:
                shutil.rmtree(path)
            continue
        made_by = json.loads(owner.read_text(encoding="utf-8"))
        pid = int(made_by["pid"])
        # Our own number: in a container every job may run under the same one.
        if made_by["host"] == socket.gethostname() and (pid == os.getpid() or not _alive(pid)):
            shutil.rmtree(path)


def _alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True
