"""What each command that looks at results does: options to a stage, its result to lines and a dictionary."""

from argparse import Namespace
from collections import Counter
from typing import Any

from dataflow.errors import UsageError


def evaluate(arguments: Namespace) -> dict[str, Any]:
    """`shardbox evaluate`: predictions against the truth, to figures and a report."""
    from dataflow.prepared import PreparedDataset
    from trainers.commands.evaluation_lines import evaluation_lines
    from trainers.evaluation.evaluation import evaluate as compare
    from trainers.outputs import check_output, made_here
    from trainers.pages.report import write_report
    from trainers.prediction.predictions import read_predictions

    check_output(arguments.out, "report.json", overwrite=False)
    dataset = PreparedDataset(arguments.dataset)
    predictions = read_predictions(arguments.predictions)
    evaluation = compare(dataset, predictions, arguments.split or predictions.split)
    with made_here(arguments.out, "report.json") as out:
        write_report(evaluation, dataset, predictions, out)
    for line in evaluation_lines(evaluation):
        print(line)
    print(f"written: {arguments.out}; read {arguments.out / 'report.html'}")
    return {
        "report": str(arguments.out / "report.json"),
        "figures": dict(evaluation.figures),
        "intervals": dict(evaluation.intervals),
        "warnings": list(evaluation.warnings),
    }


def browse(arguments: Namespace) -> dict[str, Any]:
    """`shardbox browse`: truth and predictions to FiftyOne, and its App."""
    from dataflow.prepared import PreparedDataset
    from trainers.commands.comparing_commands import labelled
    from trainers.prediction.predictions import read_predictions

    dataset = PreparedDataset(arguments.dataset)
    if arguments.export_tags is not None:
        return _export_tags(arguments, dataset)
    if arguments.tag is not None:
        raise UsageError("--tag says what is exported", "add --export-tags FILE")
    predictions = labelled({path: read_predictions(path) for path in arguments.predictions})
    from trainers.app.store import launch, store  # It takes seconds, which mistakes need not wait for.

    known = [*(found.split for found in predictions.values()), *(s for s in ("validation",) if s in dataset.splits)]
    split = arguments.split or next(iter([*known, *dataset.splits]))
    stored = store(dataset, predictions.values(), split=split, name=arguments.name, labels=list(predictions))
    print(f"FiftyOne dataset {stored.name}: {stored.samples} samples")
    if not arguments.no_app:
        launch(stored.name, port=arguments.port)
    return {"fiftyone_dataset": stored.name, "samples": stored.samples}


def _export_tags(arguments: Namespace, dataset: Any) -> dict[str, Any]:
    """What people did in the App, as corrections."""
    from trainers.app.tags import export_tags

    entries = export_tags(dataset, arguments.export_tags, name=arguments.name, tag=arguments.tag)
    counts = Counter(entry["action"] for entry in entries)
    images = len({entry["image_id"] for entry in entries})
    listed = ", ".join(f"{count} {action}" for action, count in sorted(counts.items())) or "nothing"
    print(f"{listed} in {images} images; written: {arguments.export_tags}")
    if entries:
        print(f"apply them with: shardbox ingest SOURCE ... --relabel {arguments.export_tags} --update")
    return {"corrections": str(arguments.export_tags), "images": images, "counts": dict(sorted(counts.items()))}


def demo(arguments: Namespace) -> dict[str, Any]:
    """`shardbox demo`: every stage on generated scenes."""
    from trainers.cli import parse
    from trainers.commands.demo import run_demo

    def run(words: list[str]) -> dict[str, Any]:
        parsed = parse(words)
        result: dict[str, Any] = parsed.command(parsed)
        return result

    return run_demo(arguments.out, run)
