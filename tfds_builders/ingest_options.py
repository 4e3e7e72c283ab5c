"""How a source is prepared, whatever its format, and how the manifest tells it."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import PurePath
from typing import Any

from dataflow.findings import Policy
from dataflow.shards import FileFormat
from dataflow.splits import FrameRanges
from tfds_builders.choices import FormatName
from tfds_builders.planning import PlanOptions
from tfds_builders.sources.pairing import PairOptions
from tfds_builders.sources.source import CheckLevel, Checks, ExifPolicy

_PAIRING = PairOptions(gap=1)


@dataclass(frozen=True)
class IngestOptions:
    """How a source is prepared, whatever its format."""

    plan: PlanOptions = field(default_factory=PlanOptions)
    policy: Policy = "quarantine"
    exif: ExifPolicy = "apply"
    level: CheckLevel = "decode"
    file_format: FileFormat = "tfrecord"

    @property
    def checks(self) -> Checks:
        """What workers have to know of it."""
        return Checks(self.policy == "repair", self.exif, self.level)


def listed_options(
    source_format: FormatName, options: Mapping[str, Any], ingest: IngestOptions, splits: str | None
) -> dict[str, Any]:
    """The options that decide what a dataset holds, for its manifest, by the names they have on the command line.

    `options` are those that `open_source` takes. Paths are left out: where files lie does not change what they hold.
    """
    listed: dict[str, Any] = {}
    for name, value in options.items():
        if isinstance(value, PairOptions):
            listed["pair_gap"] = value.gap
            listed["moved_iou"] = value.moved_iou if value.moved_iou != _PAIRING.moved_iou else None
            listed["targets"] = value.targets if value.targets != _PAIRING.targets else None
        elif name == "names":
            listed["names"] = ",".join(value) or None
        elif name == "name":
            listed["names"] = value
        elif not isinstance(value, PurePath | FrameRanges):
            listed[name] = value
    known = ("names", "pair_gap", "moved_iou", "targets")  # In the order of the command line.
    everything = (
        {"format": source_format, "splits": splits, "seed": ingest.plan.seed}
        | {name: listed.get(name) for name in known}
        | {"on_finding": ingest.policy, "exif": ingest.exif, "check": ingest.level, "scenes": ingest.plan.scenes}
        | {name: listed[name] for name in sorted(set(listed) - set(known))}
    )
    return {name: value for name, value in everything.items() if value is not None}
