"""What each command from training on does: options to a call of the stage, its result to lines and a dictionary."""

from argparse import Namespace
from collections.abc import Iterator, Mapping
from typing import Any

from dataflow.errors import UsageError


def verify_loader(arguments: Namespace) -> dict[str, Any]:
    """`shardbox verify-loader`: what the loader promises, proved on a prepared dataset."""
    from dataflow.prepared import PreparedDataset
    from trainers.loader_checks import ProofOptions
    from trainers.loader_proof import Proof, prove_split

    dataset = PreparedDataset(arguments.dataset)
    options = ProofOptions(
        arguments.batch_size, _whole_numbers("--world-sizes", arguments.world_sizes), arguments.seed, arguments.limit
    )
    proofs = []
    filled = [split for split, count in dataset.splits.items() if count]
    for split in [arguments.split] if arguments.split else filled or dataset.splits:
        proofs.append(prove_split(dataset, split, options))
        for line in proofs[-1].lines():
            print(line)
    proof = Proof(dataset.name, dataset.fingerprint, options.seed, tuple(proofs))
    proof.require()
    print(proof.summary())
    return proof.to_json()


def _whole_numbers(option: str, text: str) -> tuple[int, ...]:
    """`1,2,3` as numbers."""
    parts = [part.strip() for part in text.split(",")]
    if not all(part.isascii() and part.isdigit() for part in parts):
        raise UsageError(f"{option} {text}", "give whole numbers with commas between, such as 1,2,3,5")
    return tuple(map(int, parts))


def train(arguments: Namespace) -> dict[str, Any]:
    """`shardbox train`: a prepared dataset and a recipe to a run."""
    from dataflow.prepared import PreparedDataset
    from dataflow.view import View
    from trainers.recipes import find_recipe
    from trainers.training import train as train_run

    recipe = find_recipe(arguments.recipe)
    asked = arguments.input or arguments.mode or arguments.align
    view = View(arguments.input or recipe.view.inputs, arguments.mode, arguments.align) if asked else None
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
        view=view,
        augment=arguments.augment or None,
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
