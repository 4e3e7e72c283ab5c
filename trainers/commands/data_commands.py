"""What each command about data does: options to a call of the stage, its result to a few lines and a dictionary."""

import json
import os
import re
from argparse import Namespace
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from dataflow.errors import UsageError
from dataflow.findings import Finding
from dataflow.splits import FrameRanges, Splits, parse_splits
from dataflow.stores.cloud_paths import is_cloud, listed
from tfds_builders.pages.markup import plural

_SHOWN_FINDINGS = 10
# Which formats an option is for.
_ONLY_FOR = {
    "pair_gap": ("mot", "virat"),
    "moved_iou": ("mot", "virat", "pairs"),
    "targets": ("mot", "virat", "pairs"),
    "images": ("coco",),
    "names": ("yolo", "voc", "mot", "labelme", "cvat", "pairs"),
}
_SHOWN_IDS = 5
_MOST_SHARDS = 100_000


def _existing(path: Path, what: str) -> Path:
    """`path`, absolute, which must be there."""
    if not path.exists():
        raise UsageError(f"{what} {path} does not exist", "check the path")
    return path.resolve()


def _absolute(path: Path) -> Path:
    """`path` from the root on, links as they are."""
    return path if is_cloud(path) else Path(os.path.abspath(path))  # noqa: PTH100


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
    from tfds_builders.choices import open_source, recognise
    from tfds_builders.ingest_options import IngestOptions, listed_options
    from tfds_builders.planning import PlanOptions

    source_path = listed(_existing(arguments.source, "the source"))
    if arguments.format == "auto":
        arguments.format = recognise(source_path)
        print(f"{arguments.source} is read as {arguments.format}")
    for option, formats in _ONLY_FOR.items():
        if getattr(arguments, option) is not None and arguments.format not in formats:
            flag = "--" + option.replace("_", "-")
            raise UsageError(f"{flag} with --format {arguments.format}", f"it is for --format {' or '.join(formats)}")
    if arguments.shards is not None and not 1 <= arguments.shards <= _MOST_SHARDS:
        raise UsageError(f"--shards {arguments.shards}", f"use 1 to {_MOST_SHARDS}")
    splits = parse_splits(arguments.splits) if arguments.splits else None
    options = _source_options(arguments, splits)
    source = open_source(arguments.format, source_path, **options)
    # The name as it was given: `resolve` would take that of what a link leads to.
    name = _dataset_name(arguments.name, _absolute(arguments.source))
    ingest_options = IngestOptions(
        plan=PlanOptions(splits, arguments.seed, arguments.scenes, arguments.shards),
        policy=arguments.on_finding,
        exif=arguments.exif,
        level=arguments.check,
        file_format=arguments.file_format,
    )
    told = listed_options(arguments.format, options, ingest_options, arguments.splits)
    builder = SourceBuilder(
        source,
        name=name,
        out=arguments.out.resolve(),
        options=ingest_options,
        running=_running(arguments),
        origin={"source": str(arguments.source), "options": told},
        corrections=_corrections(arguments.relabel, source),
        update=arguments.update,
    )
    return _prepare(builder, "pairs" if source.kind == "pairs" else "images")


def _corrections(paths: Sequence[Path], source: Any) -> Any:
    """The corrections of all lists, in their order."""
    from tfds_builders.sources.corrections import Corrections, read_corrections

    return Corrections().then(line for path in paths for line in read_corrections(path, source.categories))


def _source_options(arguments: Namespace, splits: Splits | None) -> dict[str, Any]:
    """What the format's `open_` function takes."""
    names = tuple(name.strip() for name in arguments.names.split(",")) if arguments.names else ()
    if arguments.format == "coco":
        return {"images": listed(_existing(arguments.images, "--images")) if arguments.images else None}
    if arguments.format == "pairs":
        given = {"names": names or None, "targets": arguments.targets, "moved_iou": arguments.moved_iou}
        return {option: value for option, value in given.items() if value is not None}
    if arguments.format in ("mot", "virat"):
        options = {"pairing": _pairing(arguments), "ranges": splits if isinstance(splits, FrameRanges) else None}
        return options | ({"name": names[0]} if names else {})
    return {"names": names}


def _pairing(arguments: Namespace) -> Any:
    """How frames become pairs; None where they stay single."""
    from tfds_builders.sources.pairing import PairOptions

    if arguments.pair_gap is None:
        if arguments.moved_iou is not None or arguments.targets is not None:
            raise UsageError("--moved-iou and --targets are about pairs", "add --pair-gap K")
        return None
    iou = 0.5 if arguments.moved_iou is None else arguments.moved_iou
    return PairOptions(arguments.pair_gap, iou, arguments.targets or "both")


def _running(arguments: Namespace) -> Any:
    from tfds_builders.running import Running

    return Running(arguments.runner, arguments.runner_arguments, arguments.words, arguments.unfinished)


def diff(arguments: Namespace) -> dict[str, Any]:
    """`shardbox diff`: pairs to differences."""
    from dataflow.bridge.view import default_mode
    from dataflow.prepared import PreparedDataset
    from tfds_builders.difference_builder import DifferencesBuilder

    pairs = PreparedDataset(arguments.dataset.resolve())
    targets = pairs.manifest.get("options", {}).get("targets", "both")
    mode = arguments.mode or default_mode(pairs)
    if mode != "signed" and targets != "both":
        print(
            f"note: a difference of mode {mode} shows a moved object at both of its places, alike; targets {targets!r} "
            "need --mode signed, or the after frame beside it: train with --input stack"
        )
    builder = DifferencesBuilder(
        pairs,
        name=_dataset_name(arguments.name or f"{pairs.name}_{mode}", arguments.dataset),
        out=arguments.out.resolve(),
        mode=mode,
        align=arguments.align,
        image_format=arguments.format,
        policy=arguments.on_finding,
        running=_running(arguments),
        update=arguments.update,
    )
    return _prepare(builder, "pairs")


def finish(arguments: Namespace) -> dict[str, Any]:
    """`shardbox finish`: what the launcher of a build did not live to do."""
    from tfds_builders.directory import claim, read_build, remove_unfinished
    from trainers.cli import parse

    build = read_build(arguments.directory)
    claim(arguments.directory, arguments.launcher_is_gone)
    if arguments.discard:
        remove_unfinished(arguments.directory)
        print(f"removed: {_shown(arguments.directory)}")
        return {"removed": str(arguments.directory)}
    unfinished = arguments.directory.resolve()
    os.chdir(build["folder"])
    begun = parse(build["words"])
    begun.unfinished = unfinished
    print(f"finishing: shardbox {' '.join(build['words'])}")
    return begun.command(begun)  # type: ignore[no-any-return]


def _prepare(builder: Any, what: str) -> dict[str, Any]:
    """Run a builder and tell what became of every image."""
    from tfds_builders.builders import RefusedError

    refused = builder.target.parent / "refused.json"
    try:
        dataset = builder.prepare()
    except RefusedError as error:
        refused.parent.mkdir(parents=True, exist_ok=True)
        refused.write_text(json.dumps(error.audit.to_json(), indent=1, ensure_ascii=False), encoding="utf-8")
        for line in _finding_lines(error.audit.to_json()):
            print(line)
        print(f"all findings: {_shown(refused)}")
        raise
    refused.unlink(missing_ok=True)
    audit = json.loads((dataset.path / "audit.json").read_text(encoding="utf-8"))
    splits = ", ".join(f"{split} {count}" for split, count in dataset.splits.items())
    print(
        f"{dataset.name}: {audit['images_in']} {what} in = {audit['images_prepared']} prepared + "
        f"{audit['images_quarantined']} quarantined ({splits})"
    )
    for line in _finding_lines(audit):
        print(line)
    alignment = dataset.manifest.get("alignment")
    pages = f"{_shown(dataset.path / 'audit.html')}"
    if alignment:
        print(_alignment_line(alignment))
        pages = f"{pages} and {_shown(dataset.path / 'diff.html')}"
    metrics = json.loads((dataset.path / "metrics.json").read_text(encoding="ascii"))
    print(_metrics_line(metrics, what))
    print(f"written: {_shown(dataset.path)}; read {pages}")
    return {
        "dataset": str(dataset.path),
        "fingerprint": dataset.fingerprint,
        "splits": dataset.splits,
        **{key: audit[key] for key in ("images_in", "images_prepared", "images_quarantined", "counts")},
        **({"alignment": alignment} if alignment else {}),
        "metrics": metrics,
    }


def _metrics_line(metrics: Mapping[str, Any], what: str) -> str:
    """What the job did and what took how long, in a line."""
    done = metrics["images_prepared"] + metrics["images_quarantined"]
    steps = ", ".join(f"{step} {told['mean']:.2f}" for step, told in metrics["milliseconds_an_image"].items())
    took = "" if metrics["seconds"] is None else f", in {metrics['seconds']:.1f} s"
    each = f"; each took {steps} ms" if steps else ""
    return (
        f"{metrics['runner']} wrote {plural(metrics['shards_written'], 'shard')} of {done} {what}, "
        f"{metrics['bytes_written'] / 1e6:.1f} MB{took}{each}"
    )


def _alignment_line(alignment: Mapping[str, Any]) -> str:
    """What alignment found, in a line."""
    change = f"the frames of a pair differ by {alignment['mean_change']:.1f} grey levels on average"
    if alignment["method"] == "none":
        return f"nothing was aligned; {change}"
    models = ", ".join(f"{count} {model}" for model, count in alignment["models"].items())
    return (
        f"aligned by {alignment['method']}: {alignment['aligned']} pairs ({models}), {alignment['refused']} refused; "
        f"residual {alignment['mean_residual_px']:.2f} px, score {alignment['mean_score']:.2f}, and {change}"
    )


def stats(arguments: Namespace) -> dict[str, Any]:
    """`shardbox stats`: what a prepared dataset holds, by split, class and size, and what is odd about it."""
    from dataflow.beam.shard_tasks import TaskRunner
    from dataflow.prepared import PreparedDataset
    from trainers.statistics.dataset_statistics import count_dataset
    from trainers.statistics.statistics_json import statistics_json
    from trainers.statistics.statistics_text import statistics_lines

    dataset = PreparedDataset(arguments.dataset.resolve())
    statistics = count_dataset(dataset, arguments.out, TaskRunner(arguments.runner, arguments.runner_arguments))
    for line in statistics_lines(statistics):
        print(line)
    if arguments.out is not None:
        print(f"written: {arguments.out}; read {arguments.out / 'stats.html'}")
    return statistics_json(statistics)


def export(arguments: Namespace) -> dict[str, Any]:
    """`shardbox export`: a prepared dataset to an annotation format."""
    from dataflow.prepared import PreparedDataset
    from tfds_builders.export import EXPORT, export_dataset
    from tfds_builders.losses import Loss
    from trainers.outputs import check_output, made_here, whole_directory

    check_output(arguments.out, EXPORT, overwrite=False)
    dataset = PreparedDataset(arguments.dataset.resolve())
    splits = [arguments.split] if arguments.split else list(dataset.splits)
    with made_here(arguments.out, EXPORT) as out, whole_directory(out, EXPORT) as directory:
        result = export_dataset(dataset, arguments.format, directory, splits)
    counts = ", ".join(f"{split} {count}" for split, count in result["splits"].items())
    print(f"{dataset.name}: {result['examples']} examples as {arguments.format} ({counts})")
    for what, count in result["not_held"].items():
        print(f"  {arguments.format} cannot hold {Loss(what).told(count)}")
    print(f"written: {_shown(arguments.out.resolve())}")
    return {"out": str(arguments.out), **result}


def diff_datasets(arguments: Namespace) -> dict[str, Any]:
    """`shardbox diff-datasets`: what B has that A has not, and the reverse."""
    from dataflow.dataset_changes import dataset_changes
    from dataflow.prepared import PreparedDataset

    first, second = PreparedDataset(arguments.dataset.resolve()), PreparedDataset(arguments.other.resolve())
    changes = dataset_changes(first, second)
    for line in _change_lines(changes):
        print(line)
    return changes.to_json()


def _change_lines(changes: Any) -> Iterator[str]:
    if changes.same:
        yield "the same images, objects, classes and splits"
        return
    listed: dict[str, Sequence[str]] = {
        "images added": changes.images_added,
        "images removed": changes.images_removed,
        "images with other pixels": changes.pixels_changed,
        "images with other objects": changes.objects_changed,
        "images in another split": [f"{i} ({a} to {b})" for i, (a, b) in changes.splits_changed.items()],
        "classes added": changes.classes_added,
        "classes removed": changes.classes_removed,
    }
    for what, ids in listed.items():
        if ids:
            more = f" and {len(ids) - _SHOWN_IDS} more" if len(ids) > _SHOWN_IDS else ""
            yield f"{what}: {len(ids)}: {', '.join(ids[:_SHOWN_IDS])}{more}"
    if changes.classes_reordered:
        yield "the classes are in another order"
    found = changes.objects
    if changes.objects_changed:
        parts = f"{found.added} added, {found.removed} removed, {found.moved} moved, {found.renamed} renamed"
        yield f"objects: {parts}, {found.marked} with another mark, track or mask"


def _shown(path: Path) -> Path:
    """A path as short as a user would write it here."""
    return path.relative_to(Path.cwd()) if path.is_relative_to(Path.cwd()) else path


def _finding_lines(audit: Mapping[str, Any]) -> Iterator[str]:
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
