"""The TFDS builders: a source or a pair dataset to a prepared dataset, by a Beam job, whole or not at all."""

import json
import os
import tempfile
from abc import abstractmethod
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from importlib.metadata import version
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import tensorflow_datasets as tfds
from google.protobuf import json_format  # type: ignore[import-untyped]
from tensorflow_datasets.core import dataset_builder
from tensorflow_datasets.core import splits as splits_lib

from dataflow.beam.jobs import ShardJob, run_shard_job
from dataflow.beam.options import check_runner
from dataflow.errors import DataRefusedError, UsageError
from dataflow.findings import Audit, Finding, Policy, sorted_findings
from dataflow.prepared import MANIFEST, PreparedDataset
from dataflow.progress import watch_directory
from dataflow.schema import SCHEMA_VERSION, build_features
from dataflow.shards import FileFormat, ShardFormat, ShardResult, fingerprint, manifest_splits, split_infos
from dataflow.splits import FrameRanges
from dataflow.stores.cloud_paths import is_cloud
from dataflow.stores.paths import location, upload_files
from tfds_builders.audit.files import write_audit
from tfds_builders.croissant import CROISSANT, croissant
from tfds_builders.directory import (
    discard,
    is_prepared,
    next_to,
    publish,
    remove_unfinished,
    replace_directory,
    sign,
    sweep,
    unfinished,
    unsign,
    write_json,
)
from tfds_builders.finishing import shards_left_behind
from tfds_builders.ingest_options import IngestOptions
from tfds_builders.planning import Plan, plan_shards
from tfds_builders.reuse import (
    forget_digests,
    input_digests,
    same_shards,
    save_digests,
    save_inputs,
    take_shards,
    without_shards,
)
from tfds_builders.running import Running
from tfds_builders.sources.corrections import Corrections, kept_corrections, save_corrections, unknown_images
from tfds_builders.sources.source import Loader, Reference, Source
from tfds_builders.whole_source import whole_source_findings

VERSION = "1.0.0"
# Another version of this package may make other examples of the same inputs.
_SIGNATURE = f"shardbox {version('shardbox')}, schema {SCHEMA_VERSION}"


@dataclass(frozen=True)
class Planned:
    """A job ready to run, and what was found while planning it."""

    job: ShardJob
    num_bytes: int
    quarantined: tuple[str, ...] = ()
    findings: tuple[Finding, ...] = ()


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

    def __init__(
        self, *, name: str, out: Path, policy: Policy, running: Running, file_format: FileFormat, update: bool
    ) -> None:
        """`update`: a dataset that is there already is brought up to date, by writing what has changed."""
        self.name = name
        self._policy, self._running, self._file_format = policy, running, file_format
        self._planned: Planned | None = None
        self._update, self._updated = update, False
        # TFDS makes its own files here; where the dataset is to be in an object store, they are put there in the end.
        self._scratch = tempfile.TemporaryDirectory(prefix="shardbox-") if is_cloud(out) else None
        self._out = out
        try:
            super().__init__(data_dir=self._scratch.name if self._scratch else out, file_format=file_format)
        except (json_format.Error, ValueError, TypeError, KeyError) as error:  # TFDS reads what is there already.
            if not self._target.exists():
                raise
            raise UsageError(f"{self._target} is already there, and damaged", "delete it") from error

    @property
    def target(self) -> Path:
        """The directory that the dataset is to have."""
        return self._target

    @abstractmethod
    def _shard_format(self) -> ShardFormat: ...

    @abstractmethod
    def _source_path(self) -> Path:
        """What workers read."""

    @abstractmethod
    def _plan(self) -> Planned: ...

    @abstractmethod
    def _origin(self) -> Mapping[str, Any]:
        """`source` and `options` of the manifest."""

    @abstractmethod
    def _whole_findings(self, results: Sequence[ShardResult]) -> Iterable[Finding]:
        """What only the whole of the dataset tells."""

    @abstractmethod
    def _image_paths(self, image_ids: Collection[str]) -> Mapping[str, Path]:
        """The image files of some examples, to show them beside their findings."""

    def _source_files(self, image_ids: Collection[str]) -> Mapping[str, str]:
        """The image files of some examples relative to the source, where there are any."""
        return {}

    def _tell_more(self, directory: Path, results: Sequence[ShardResult]) -> Mapping[str, Any]:
        """What the manifest says beyond what all say; files of its own are left in `directory`."""
        return {}

    def _build_data_dir(self, given_data_dir: str | None) -> tuple[str, str]:
        """TFDS's choice of directories; an update is made beside the dataset, of which TFDS then knows nothing."""
        root, directory = super()._build_data_dir(given_data_dir)
        self._target = self._out / Path(directory).relative_to(root) if self._scratch else Path(directory)
        sweep(self._target, self._running.unfinished)
        self._updated = self._update and is_prepared(self._target)
        return root, str(next_to(self._target)) if self._updated and not self._scratch else directory

    def prepare(self) -> PreparedDataset:
        """Run the job and return the dataset it made.

        An updated dataset is the same, byte for byte, as one made anew with the same options.

        Raises:
            RefusedError: the policy is `fail` and something was found, or nothing could be prepared.
            UsageError: the directory is already there and not to be updated.
        """
        target = self._target
        if is_prepared(target) and not self._updated:
            remedy = "bring it up to date with --update, delete it, or choose another --out or --name"
            raise UsageError(f"{target} is already there", remedy)
        paths = {"source": str(self._source_path()), "output": str(target.parent.parent)}
        if not self._running.unfinished:
            check_runner(self._running.runner, self._running.arguments, paths)
        # Planned before TFDS makes any directory: most mistakes show here.
        self._planned = self._plan()
        try:
            self.download_and_prepare()
        finally:
            if not self._scratch and target.parent.is_dir() and not any(target.parent.iterdir()):
                target.parent.rmdir()
        return PreparedDataset(target)

    def download_and_prepare(self, **options: Any) -> None:
        """TFDS's own, which does nothing where the dataset is there already."""
        if self._scratch:
            self._prepare_elsewhere(Path(self._scratch.name), options)
            return
        super().download_and_prepare(**options)
        if self._updated:
            replace_directory(self._target, Path(self.data_dir))
        if self._running.unfinished:
            remove_unfinished(self._running.unfinished)
        # Only now: a job killed while TFDS finished its directory must still have been known as dead.
        unsign(self._target)

    def _prepare_elsewhere(self, scratch: Path, options: Mapping[str, Any]) -> None:
        """Shards are written in the object store, what describes them here; together they become the dataset."""
        self._work = self._running.unfinished or unfinished(self._target)
        if not self._running.unfinished:
            self._sign(self._work)
        try:
            super().download_and_prepare(**options)
            upload_files(Path(self.data_dir), self._work)
            publish(self._work, self._target)
        except BaseException as error:
            if isinstance(error, KeyboardInterrupt) and self._running.outlives_interruption:
                error.add_note(f"the job goes on; when it is done: shardbox finish {self._work}")
            elif not self._running.unfinished:
                discard(self._work)
            raise

    def _sign(self, directory: Path) -> None:
        sign(directory, self._running.words, self._running.outlives_launcher)

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
        if not self._scratch:
            self._sign(directory)
        planned = self._planned or self._plan()
        results = self._run(planned, self._work if self._scratch else directory)
        audit = self._audit(planned, results)
        if self._policy == "fail" and audit.errors:
            raise RefusedError(
                f"refused: {len(audit.errors)} errors, the first {audit.errors[0]}",
                "mend them, or choose --on-finding quarantine or repair",
                audit,
            )
        if not audit.images_prepared:
            first = audit.errors[0] if audit.errors else "there are no images"
            raise RefusedError(f"nothing could be prepared: {first}", "mend the source", audit)
        self._finish(directory, planned, results, audit)

    def _run(self, planned: Planned, directory: Path) -> list[ShardResult]:
        """The results of all shards: of those that stay as they were, and of those that the job writes."""
        job, kept = planned.job, list[ShardResult]()
        if self._updated:
            kept = same_shards(self._target, input_digests(job, _SIGNATURE))
            take_shards(self._target, directory, kept)
            job = without_shards(job, kept)
        digests = input_digests(job, _SIGNATURE)
        if left := self._running.unfinished:
            written = shards_left_behind(left, job, digests, directory, self._running.runner)
            return sorted([*kept, *written], key=_by_place)
        save_digests(directory, digests)
        with watch_directory(directory, planned.num_bytes, f"preparing {self.name}"):
            written = run_shard_job(job, directory, self._running.runner, self._running.arguments)
        forget_digests(directory)
        return sorted([*kept, *written], key=_by_place)

    def _audit(self, planned: Planned, results: Sequence[ShardResult]) -> Audit:
        quarantined = [image_id for result in results for image_id in result.quarantined]
        findings = [finding for result in results for finding in result.findings]
        whole = self._whole_findings(results)
        return Audit(
            images_prepared=sum(result.count for result in results),
            images_quarantined=len(quarantined) + len(planned.quarantined),
            findings=sorted_findings([*planned.findings, *findings, *whole]),
            quarantined=tuple(sorted([*planned.quarantined, *quarantined])),
            quarantined_files=self._source_files(quarantined),
        )

    def _finish(self, directory: Path, planned: Planned, results: Sequence[ShardResult], audit: Audit) -> None:
        shard_format = planned.job.shard_format
        self.info.set_splits(splits_lib.SplitDict(split_infos(results, shard_format, directory)))
        write_audit(directory, audit, self.name, self._image_paths({f.image_id for f in audit.findings if f.image_id}))
        save_inputs(directory, input_digests(planned.job, _SIGNATURE), results)
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
            "splits": manifest_splits(results),
            **self._origin(),
            **self._tell_more(directory, results),
        }
        write_json(directory / MANIFEST, manifest)
        write_json(directory / CROISSANT, croissant(self.info, manifest))


class SourceBuilder(ShardBuilder, skip_registration=True):  # type: ignore[call-arg]
    """Any source format to a prepared dataset."""

    def __init__(
        self,
        source: Source,
        *,
        name: str,
        out: Path,
        options: IngestOptions = IngestOptions(),
        running: Running = Running(),
        origin: Mapping[str, Any] | None = None,
        corrections: Corrections = Corrections(),
        update: bool = False,
    ) -> None:
        """`corrections`: applied to what the source says; an update applies those of the dataset before them."""
        self._source, self._options = source, options
        self._manifest_origin = dict(origin or {"source": name, "options": {}})
        self._plan_made: Plan | None = None
        self._corrections = corrections
        super().__init__(
            name=name, out=out, policy=options.policy, running=running, file_format=options.file_format, update=update
        )
        if self._updated:
            self._corrections = kept_corrections(self._target).then(corrections.lines)

    def _shard_format(self) -> ShardFormat:
        return ShardFormat(self.name, self._source.categories, self._source.kind, self._options.file_format)

    def _source_path(self) -> Path:
        return self._source.root

    def _origin(self) -> Mapping[str, Any]:
        assert self._plan_made is not None
        options = {**self._manifest_origin["options"], "seed": self._plan_made.seed}
        counts = self._corrections.counts()
        return {**self._manifest_origin, "options": options, **({"corrections": counts} if counts else {})}

    def _tell_more(self, directory: Path, results: Sequence[ShardResult]) -> Mapping[str, Any]:
        save_corrections(directory, self._corrections)
        return {}

    def _plan(self) -> Planned:
        wanted = self._options.plan
        if isinstance(wanted.splits, FrameRanges) and getattr(self._source, "ranges", None) != wanted.splits:
            raise UsageError("--splits by frame numbers", "only sequences of frames (mot, virat) have them")
        if wanted.seed is None:
            wanted = replace(wanted, seed=_earlier_seed(self._target))
        listing = self._source.scan()
        plan = self._plan_made = plan_shards(listing.references, wanted, self._class_ids)
        # After the splits, which are those of the source as it is.
        entries = self._corrections.by_image()
        lines = {
            key: [replace(r, corrections=entries.get(r.image_id, ())).to_line() for r in references]
            for key, references in plan.inputs.items()
        }
        expected = sum(len(references) for references in plan.inputs.values())
        job = ShardJob(self._shard_format(), lines, Loader(self._source, self._options.checks), expected)
        num_bytes = sum(reference.num_bytes for references in plan.inputs.values() for reference in references)
        stale = unknown_images(self._corrections, [reference.image_id for reference in listing.references])
        return Planned(job, num_bytes, plan.quarantined, (*listing.findings, *plan.findings, *stale))

    def _class_ids(self, references: Sequence[Reference]) -> Iterable[list[int]]:
        """The classes that images show, none where one cannot be read."""
        loader = Loader(self._source, replace(self._options.checks, level="header"))
        for outcome in loader([reference.to_line() for reference in references]):
            yield outcome.example["objects"]["label"].tolist() if outcome.example else []

    def _whole_findings(self, results: Sequence[ShardResult]) -> Iterable[Finding]:
        assert self._plan_made is not None
        by_user = isinstance(self._options.plan.splits, FrameRanges)
        return whole_source_findings(self._plan_made.inputs, results, self._source.categories, by_user)

    def _image_paths(self, image_ids: Collection[str]) -> Mapping[str, Path]:
        assert self._plan_made is not None
        wanted = set(image_ids)
        every = (reference for references in self._plan_made.inputs.values() for reference in references)
        return {each.image_id: self._source.image_path(each) for each in every if each.image_id in wanted}

    def _source_files(self, image_ids: Collection[str]) -> Mapping[str, str]:
        source = location(self._manifest_origin["source"]).absolute()
        if not source.exists():
            return {}
        return {
            image_id: Path(os.path.relpath(path, source)).as_posix()
            for image_id, path in self._image_paths(image_ids).items()
        }


def _by_place(result: ShardResult) -> tuple[str, int]:
    return result.split, result.index


def _earlier_seed(target: Path) -> int | None:
    """The seed that an earlier build of this dataset split its scenes with."""
    path = target / MANIFEST
    seed = json.loads(path.read_text(encoding="utf-8")).get("options", {}).get("seed") if path.is_file() else None
    return seed if isinstance(seed, int) else None
