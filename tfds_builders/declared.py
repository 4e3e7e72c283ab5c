"""A source declared as a TFDS dataset, so that `tfds build` prepares it and `tfds.load` opens it.

A folder `my_dataset` with `my_dataset_dataset_builder.py`:

    from tfds_builders.declared import DeclaredBuilder

    class Builder(DeclaredBuilder):
        FORMAT = "coco"
        SOURCE = "/data/cars"

is all that is needed. What it prepares is what `shardbox ingest` prepares from the same source and options.
"""

import dataclasses
import inspect
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar, Literal

import tensorflow_datasets as tfds
from tensorflow_datasets.core import dataset_builder

from dataflow.beam.options import DEFAULT_RUNNER
from dataflow.errors import UsageError
from dataflow.findings import Policy
from dataflow.splits import FrameRanges, parse_splits
from tfds_builders.builders import VERSION, SourceBuilder
from tfds_builders.choices import FormatName, open_source, recognise
from tfds_builders.ingest_options import IngestOptions, listed_options
from tfds_builders.planning import PlanOptions
from tfds_builders.running import Running
from tfds_builders.sources.source import CheckLevel, ExifPolicy

_DESCRIPTION = "Prepared by Shardbox."


@dataclasses.dataclass(eq=False)
class SourceConfig(tfds.core.BuilderConfig):  # type: ignore[misc]
    """One variant of a declared source, such as another gap between the frames of a pair.

    What is None is as the class says; `options` are added to those of the class.
    """

    source: str | Path | None = None
    splits: str | None = None
    options: Mapping[str, Any] = dataclasses.field(default_factory=dict)


class DeclaredBuilder(dataset_builder.FileReaderBuilder, skip_registration=True):  # type: ignore[misc, call-arg]
    """The base class of declared sources. A subclass says what is to be prepared by its class attributes.

    Its features are known once it is prepared (they hold the names of the classes, which the source knows). From then
    on the source is not needed any more. README.md and CITATIONS.bib beside the subclass, and an `_info` that returns
    `self.dataset_info_from_configs(homepage=..., license=...)`, describe it as they do in any TFDS dataset.
    """

    VERSION = tfds.core.Version(VERSION)
    BUILDER_CONFIGS: ClassVar[list[SourceConfig]] = []
    MANUAL_DOWNLOAD_INSTRUCTIONS = (
        "Annotated images that are here already: name their folder (or file) by SOURCE in the class, by --manual_dir "
        "of `tfds build`, or by tfds.download.DownloadConfig(manual_dir=...)."
    )

    FORMAT: ClassVar[FormatName | Literal["auto"]] = "auto"
    """Format of the source; `auto` recognises it by what it holds."""
    SOURCE: ClassVar[str | Path | None] = None
    """Where the source is; a relative path is below the folder of the subclass. None: what `find_source` says."""
    OPTIONS: ClassVar[Mapping[str, Any]] = {}
    """Options of the format, as its `open_` function takes them."""
    SPLITS: ClassVar[str | None] = None
    """As for --splits: `train=0.8,validation=0.2`."""
    SEED: ClassVar[int | None] = None
    SCENES: ClassVar[str | None] = None
    SHARDS: ClassVar[int | None] = None
    """Shards of each split; None: as many as their bytes want. `DownloadConfig(num_shards=...)` goes before it."""
    ON_FINDING: ClassVar[Policy] = "quarantine"
    EXIF: ClassVar[ExifPolicy] = "apply"
    CHECK: ClassVar[CheckLevel] = "decode"

    def find_source(self, dl_manager: tfds.download.DownloadManager) -> str | os.PathLike[str]:
        """Where the source is, if SOURCE is None: the `manual_dir`. Override it to download and extract."""
        path: os.PathLike[str] = dl_manager.manual_dir
        return path

    def download_and_prepare(
        self,
        *,
        download_dir: str | os.PathLike[str] | None = None,
        download_config: tfds.download.DownloadConfig | None = None,
        file_format: Any = None,
    ) -> None:
        """TFDS's own, which does nothing where the dataset is there already, through our job.

        Raises:
            UsageError: there is no such source, or `download_config` asks for what our job does not do.
            RefusedError: the policy is `fail` and something was found, or nothing could be prepared.
        """
        config = download_config or tfds.download.DownloadConfig()
        if config.download_mode == tfds.download.GenerateMode.UPDATE_DATASET_INFO:
            super().download_and_prepare(download_config=config)
            return
        if self.data_path.exists() and not config.download_mode.overwrite_dataset:
            return
        if file_format is not None:
            self.info.set_file_format(file_format, override=True)
        if config.max_examples_per_split is not None:
            raise UsageError("max_examples_per_split of a declared source", "leave it out: all of it is prepared")
        # TFDS's download manager makes directories: only where it is needed.
        needed = self._setting("source") is None
        manager = self._make_download_manager(download_dir=download_dir, download_config=config) if needed else None
        self._download_and_prepare(manager, config)
        self.info.read_from_directory(self.data_dir)

    def _download_and_prepare(self, dl_manager: Any, download_config: tfds.download.DownloadConfig) -> None:
        located = self._locate(dl_manager)
        if self.data_path.exists():  # It is to be overwritten.
            self.data_path.rmtree()
            self.info._features = None  # Those of the new classes are read back afterwards.
        _Job(self, located, download_config).prepare()

    def _info(self) -> tfds.core.DatasetInfo:
        return self.dataset_info_from_configs()

    def dataset_info_from_configs(self, **fields: Any) -> tfds.core.DatasetInfo:
        """TFDS's own, with a description in any case: README.md's, the one given, the class's docstring."""
        own = type(self).__dict__.get("__doc__")
        return super().dataset_info_from_configs(**{"description": inspect.cleandoc(own or _DESCRIPTION)} | fields)

    @classmethod
    def get_metadata(cls) -> Any:
        """TFDS's own; none for a class that was typed into a notebook or `python -c`."""
        if cls.__module__ == "__main__":
            return tfds.core.dataset_metadata.DatasetMetadata(description=None, citation=None, tags=[])
        return super().get_metadata()

    def _locate(self, dl_manager: Any) -> tuple[Path, str]:
        """The source, and what it is called in the manifest: as it was declared."""
        declared = self._setting("source")
        called = os.fspath(self.find_source(dl_manager) if declared is None else declared)
        path = Path(called)
        if declared is not None and not path.is_absolute():
            path = Path(inspect.getfile(type(self))).parent / path
        if not path.exists():
            raise UsageError(f"the source {path} does not exist", "check SOURCE or --manual_dir")
        return path.resolve(), called

    def _setting(self, name: str) -> Any:
        """`source` or `splits`: the config's, or else the class's."""
        own = getattr(self.builder_config, name, None)
        return getattr(self, name.upper()) if own is None else own


class AnnotatedImages(DeclaredBuilder):
    """Annotated images in any format that is recognised by what it holds.

    Ready made: `tfds build annotated_images --imports tfds_builders.declared --manual_dir SOURCE --data_dir DIR`.
    """


class _Job(SourceBuilder, skip_registration=True):  # type: ignore[call-arg]
    """What `shardbox ingest` runs, writing where TFDS expects the dataset of a declared builder."""

    def __init__(
        self, declared: DeclaredBuilder, located: tuple[Path, str], config: tfds.download.DownloadConfig
    ) -> None:
        # As attributes of the instance, because TFDS looks them up while it constructs a builder.
        self.VERSION = declared.version
        self.BUILDER_CONFIGS = declared.BUILDER_CONFIGS
        self.DEFAULT_BUILDER_CONFIG_NAME = declared.DEFAULT_BUILDER_CONFIG_NAME
        self._declared = declared
        path, called = located
        source_format = recognise(path) if declared.FORMAT == "auto" else declared.FORMAT
        splits = declared._setting("splits")
        options = {**declared.OPTIONS, **getattr(declared.builder_config, "options", {})}
        ingest = _ingest_options(declared, splits, config)
        listed = listed_options(source_format, options, ingest, splits)
        if isinstance(ingest.plan.splits, FrameRanges):
            options["ranges"] = ingest.plan.splits
        super().__init__(
            open_source(source_format, path, **options),
            name=declared.name,
            out=Path(os.fspath(declared.data_dir_root)),
            options=ingest,
            running=_running(config),
            origin={"source": called, "options": listed},
        )

    def _create_builder_config(self, builder_config: Any, version: Any) -> Any:
        return self._declared.builder_config

    def _info(self) -> tfds.core.DatasetInfo:
        """The declared description with the source's features."""
        described = self._declared.info
        homepages = described.as_proto.location.urls  # `homepage` would be TFDS's own catalogue where there is none.
        return tfds.core.DatasetInfo(
            builder=self,
            features=super()._info().features,
            description=described.description,
            homepage=homepages[0] if homepages else None,
            citation=described.citation,
            license=described.redistribution_info.license or None,
        )


def _ingest_options(
    declared: DeclaredBuilder, splits: str | None, config: tfds.download.DownloadConfig
) -> IngestOptions:
    shards = declared.SHARDS if config.num_shards is None else config.num_shards
    return IngestOptions(
        plan=PlanOptions(parse_splits(splits) if splits else None, declared.SEED, declared.SCENES, shards),
        policy=declared.ON_FINDING,
        exif=declared.EXIF,
        level=declared.CHECK,
        file_format=declared.info.file_format.value,
    )


def _running(config: tfds.download.DownloadConfig) -> Running:
    """TFDS's Beam settings as ours: a runner's name, and flags."""
    settings = config.beam_options.get_all_options(drop_default=True) if config.beam_options else {}
    runner = config.beam_runner or settings.pop("runner", None) or DEFAULT_RUNNER
    flags: list[str] = []
    for name, value in settings.items():
        values = value if isinstance(value, list) else [value]
        flags += [f"--{name}" if item is True else f"--{name}={item}" for item in values if item is not False]
    return Running(runner if isinstance(runner, str) else type(runner).__name__, tuple(flags))
