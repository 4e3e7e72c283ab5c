"""What each command does: options to a call of the stage, and its result to a few lines and a dictionary."""

import json
import os
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
    from tfds_builders.choices import open_source, recognise

    source_path = _existing(arguments.source, "the source")
    if arguments.format == "auto":
        arguments.format = recognise(source_path)
        print(f"{arguments.source} is read as {arguments.format}")
    for option, source_format in _ONLY_FOR.items():
        if getattr(arguments, option) is not None and arguments.format != source_format:
            flag = "--" + option.replace("_", "-")
            raise UsageError(f"{flag} with --format {arguments.format}", f"it is for --format {source_format} only")
    splits = parse_splits(arguments.splits) if arguments.splits else None
    options = _source_options(arguments, splits)
    source = open_source(arguments.format, source_path, **options)
    # The name as it was given: `resolve` would take that of what a link leads to.
    name = _dataset_name(arguments.name, Path(os.path.abspath(arguments.source)))  # noqa: PTH100
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
    if arguments.format in ("yolo", "voc"):
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

    refused = Path(builder.data_dir).parent / "refused.json"
    try:
        dataset = builder.prepare()
    except RefusedError as error:
        refused.parent.mkdir(parents=True, exist_ok=True)
        refused.write_text(json.dumps(error.audit.to_json(), indent=1, ensure_ascii=False), encoding="utf-8")
        for line in _finding_lines(error.audit):
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
    for line in _counted_findings(audit):
        print(line)
    print(f"written: {_shown(dataset.path)}")
    return {
        "dataset": str(dataset.path),
        "fingerprint": dataset.fingerprint,
        "splits": dataset.splits,
        **{key: audit[key] for key in ("images_in", "images_prepared", "images_quarantined", "counts")},
    }


def _shown(path: Path) -> Path:
    """A path as short as a user would write it here."""
    return path.relative_to(Path.cwd()) if path.is_relative_to(Path.cwd()) else path


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


def train(arguments: Namespace) -> dict[str, Any]:
    """`shardbox train`: a prepared dataset and a recipe to a run."""
    from dataflow.prepared import PreparedDataset
    from trainers.recipes import find_recipe
    from trainers.training import train as train_run

    recipe = find_recipe(arguments.recipe)
    summary = train_run(
        PreparedDataset(arguments.dataset),
        recipe,
        arguments.out,
        split=arguments.split,
        steps=arguments.steps,
        batch_size=arguments.batch_size,
        seed=arguments.seed,
        resume=arguments.resume,
        weights=arguments.weights,
    )
    print(
        f"trained {recipe.name} to step {summary.steps} in {summary.seconds:.0f} s; "
        f"{summary.trainable_parameters / 1e6:.2f} M parameters, loss {summary.loss:.3f}"
    )
    print(f"written: {arguments.out}; curves: tensorboard --logdir {arguments.out}/tensorboard")
    return {"run": str(arguments.out), "run_id": summary.run_id, "steps": summary.steps, "loss": summary.loss}


def predict(arguments: Namespace) -> dict[str, Any]:
    """`shardbox predict`: a prepared dataset and a run to predictions."""
    from dataflow.prepared import PreparedDataset
    from trainers.prediction import predict as predict_split

    summary = predict_split(
        PreparedDataset(arguments.dataset),
        arguments.run,
        arguments.out,
        split=arguments.split,
        batch_size=arguments.batch_size,
    )
    print(f"{summary.detections} detections in {summary.images} images of {arguments.split}")
    print(f"written: {arguments.out}")
    return {
        "predictions": str(arguments.out),
        "run_id": summary.run_id,
        "images": summary.images,
        "detections": summary.detections,
    }


def evaluate(arguments: Namespace) -> dict[str, Any]:
    """`shardbox evaluate`: predictions against the truth, to figures and a report."""
    from dataflow.prepared import PreparedDataset
    from trainers.evaluation import evaluate as compare
    from trainers.outputs import check_output
    from trainers.predictions import read_predictions
    from trainers.report import write_report

    check_output(arguments.out, "report.json", overwrite=False)
    dataset = PreparedDataset(arguments.dataset)
    predictions = read_predictions(arguments.predictions)
    evaluation = compare(dataset, predictions, arguments.split or predictions.split)
    write_report(evaluation, dataset, predictions, arguments.out)
    for line in _figure_lines(evaluation.figures):
        print(line)
    print(f"written: {arguments.out}; read {arguments.out / 'report.html'}")
    return {"report": str(arguments.out / "report.json"), "figures": dict(evaluation.figures)}


def _figure_lines(figures: Mapping[str, float | None]) -> Iterator[str]:
    """COCO's twelve figures as a table of two lines a group; a dash where there are no such objects."""
    for names in (("AP", "AP50", "AP75", "APs", "APm", "APl"), ("AR1", "AR10", "AR100", "ARs", "ARm", "ARl")):
        yield "  " + "".join(f"{name:>8}" for name in names)
        values = (figures[name] for name in names)
        yield "  " + "".join(f"{'-' if value is None else format(value, '.3f'):>8}" for value in values)


def browse(arguments: Namespace) -> dict[str, Any]:
    """`shardbox browse`: truth and predictions to FiftyOne, and its App."""
    from dataflow.prepared import PreparedDataset
    from trainers.predictions import read_predictions

    dataset = PreparedDataset(arguments.dataset)
    predictions = [read_predictions(path) for path in arguments.predictions]
    from trainers.fiftyone_store import launch, store  # It takes seconds, which mistakes need not wait for.

    known = [*(found.split for found in predictions), *(s for s in ("validation",) if s in dataset.splits)]
    split = arguments.split or next(iter([*known, *dataset.splits]))
    stored = store(dataset, predictions, split=split, name=arguments.name)
    print(f"FiftyOne dataset {stored.name}: {stored.samples} samples")
    if not arguments.no_app:
        launch(stored.name, port=arguments.port)
    return {"fiftyone_dataset": stored.name, "samples": stored.samples}


def demo(arguments: Namespace) -> dict[str, Any]:
    """`shardbox demo`: every stage on generated scenes."""
    from trainers.cli import build_parser
    from trainers.demo import run_demo

    def run(words: list[str]) -> dict[str, Any]:
        parsed = build_parser().parse_args(words)
        parsed.runner_arguments = ()
        result: dict[str, Any] = parsed.command(parsed)
        return result

    return run_demo(arguments.out, run)
