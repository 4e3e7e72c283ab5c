"""What each command does: options to a call of the stage, and its result to a few lines and a dictionary."""

import json
import re
from argparse import Namespace
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from dataflow.errors import UsageError
from dataflow.findings import Audit, Finding
from dataflow.splits import FrameRanges, Splits, parse_splits

_SHOWN_FINDINGS = 10
_ONLY_FOR = {"pair_gap": "mot", "moved_iou": "mot", "targets": "mot", "images": "coco"}


def _existing(path: Path, what: str) -> Path:
    """`path`, absolute, which must be there."""
    if not path.exists():
        raise UsageError(f"{what} {path} does not exist", "check the path")
    return path.resolve()


def _dataset_name(wanted: str | None, path: Path) -> str:
    """A name that TFDS accepts: the one wanted, or one made of the path's."""
    if wanted is not None:
        if not re.fullmatch(r"[a-z][a-z0-9_]*", wanted):
            raise UsageError(f"--name {wanted}", "use lower-case letters, digits and _, a letter first")
        return wanted
    name = re.sub(r"[^a-z0-9]+", "_", path.stem.lower()).strip("_")
    return name if name[:1].isalpha() else f"dataset_{name}".rstrip("_")


def ingest(arguments: Namespace) -> dict[str, Any]:
    """`shardbox ingest`: any source format to a prepared dataset."""
    from tfds_builders.builders import SourceBuilder
    from tfds_builders.choices import open_source

    source_path = _existing(arguments.source, "the source")
    for option, source_format in _ONLY_FOR.items():
        if getattr(arguments, option) is not None and arguments.format != source_format:
            flag = "--" + option.replace("_", "-")
            raise UsageError(f"{flag} with --format {arguments.format}", f"it is for --format {source_format} only")
    splits = parse_splits(arguments.splits) if arguments.splits else None
    options = _source_options(arguments, splits)
    source = open_source(arguments.format, source_path, **options)
    name = _dataset_name(arguments.name, source_path)
    builder = SourceBuilder(
        source,
        name=name,
        out=arguments.out.resolve(),
        splits=splits,
        seed=arguments.seed,
        policy=arguments.on_finding,
        running=_running(arguments),
        origin={"source": str(arguments.source), "options": _listed_options(arguments)},
    )
    return _prepare(builder, "pairs" if source.kind == "pairs" else "images")


def _source_options(arguments: Namespace, splits: Splits | None) -> dict[str, Any]:
    from tfds_builders.formats.mot import PairOptions

    names = tuple(name.strip() for name in arguments.names.split(",")) if arguments.names else ()
    if arguments.format == "coco":
        images = _existing(arguments.images, "--images") if arguments.images else None
        return {"images": images}
    if arguments.format == "yolo":
        return {"names": names}
    if arguments.pair_gap is None and (arguments.moved_iou is not None or arguments.targets is not None):
        raise UsageError("--moved-iou and --targets are about pairs", "add --pair-gap K")
    pairing = None
    if arguments.pair_gap is not None:
        iou = 0.5 if arguments.moved_iou is None else arguments.moved_iou
        pairing = PairOptions(arguments.pair_gap, iou, arguments.targets or "both")
    ranges = splits if isinstance(splits, FrameRanges) else None
    return {"pairing": pairing, "ranges": ranges} | ({"name": names[0]} if names else {})


def _listed_options(arguments: Namespace) -> dict[str, Any]:
    """The options that decide what the dataset holds, for its manifest."""
    kept = ("format", "splits", "seed", "names", "pair_gap", "moved_iou", "targets", "on_finding")
    return {key: getattr(arguments, key) for key in kept if getattr(arguments, key) is not None}


def _running(arguments: Namespace) -> Any:
    from tfds_builders.builders import Running

    return Running(arguments.runner, arguments.runner_arguments)


def diff(arguments: Namespace) -> dict[str, Any]:
    """`shardbox diff`: pairs to differences."""
    from dataflow.prepared import PreparedDataset
    from tfds_builders.builders import DifferencesBuilder

    pairs = PreparedDataset(arguments.dataset.resolve())
    targets = pairs.manifest.get("options", {}).get("targets", "both")
    if arguments.mode == "absolute" and targets != "both":
        print(
            f"note: an absolute difference shows a moved object at both of its places, alike; targets {targets!r} need "
            "--mode signed"
        )
    builder = DifferencesBuilder(
        pairs,
        name=_dataset_name(arguments.name or f"{pairs.name}_{arguments.mode}", arguments.dataset),
        out=arguments.out.resolve(),
        mode=arguments.mode,
        image_format=arguments.format,
        policy=arguments.on_finding,
        running=_running(arguments),
    )
    return _prepare(builder, "pairs")


def _prepare(builder: Any, what: str) -> dict[str, Any]:
    """Run a builder and tell what became of every image."""
    from tfds_builders.builders import RefusedError

    try:
        dataset = builder.prepare()
    except RefusedError as error:
        path = Path(builder.data_dir).parent / "refused.json"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(error.audit.to_json(), indent=1, ensure_ascii=False))
        for line in _finding_lines(error.audit):
            print(line)
        print(f"all findings: {path}")
        raise
    audit = json.loads((dataset.path / "audit.json").read_text())
    splits = ", ".join(f"{split} {count}" for split, count in dataset.splits.items())
    print(
        f"{dataset.name}: {audit['images_in']} {what} in = {audit['images_prepared']} prepared + "
        f"{audit['images_quarantined']} quarantined ({splits})"
    )
    for line in _counted_findings(audit):
        print(line)
    print(f"written: {dataset.path}")
    return {
        "dataset": str(dataset.path),
        "fingerprint": dataset.fingerprint,
        "splits": dataset.splits,
        **{key: audit[key] for key in ("images_in", "images_prepared", "images_quarantined", "counts")},
    }


def _finding_lines(audit: Audit) -> Iterator[str]:
    yield from (f"  {finding}" for finding in audit.findings[:_SHOWN_FINDINGS])
    if len(audit.findings) > _SHOWN_FINDINGS:
        yield f"  and {len(audit.findings) - _SHOWN_FINDINGS} more"


def _counted_findings(audit: Mapping[str, Any]) -> Iterator[str]:
    """Findings worth a line each, the most severe first; those of no consequence only counted."""
    findings = [Finding(**finding) for finding in audit["findings"]]
    shown = [finding for finding in findings if finding.severity != "info"]
    shown.sort(key=lambda finding: finding.severity)
    yield from (f"  {finding.severity}: {finding}" for finding in shown[:_SHOWN_FINDINGS])
    if len(shown) > _SHOWN_FINDINGS:
        yield f"  and {len(shown) - _SHOWN_FINDINGS} more, listed in audit.json"
    quiet = [finding for finding in findings if finding.severity == "info"]
    if quiet:
        counts = ", ".join(f"{code} {n}" for code, n in audit["counts"].items() if any(f.code == code for f in quiet))
        yield f"  for information, in audit.json: {counts}"
