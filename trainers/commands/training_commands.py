"""What each command that trains and predicts does: options to a stage, its result to lines and a dictionary."""

from argparse import Namespace
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from dataflow.errors import UsageError


def verify_loader(arguments: Namespace) -> dict[str, Any]:
    """`shardbox verify-loader`: what the loader promises, proved on a prepared dataset."""
    from dataflow.prepared import PreparedDataset
    from trainers.loader_proof.checks import ProofOptions
    from trainers.loader_proof.proof import Proof, prove_split

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


def asked(arguments: Namespace, recipe: Any) -> dict[str, Any]:
    """What the options that all trainings have ask for beyond the recipe; None where they leave it to the recipe."""
    from dataflow.bridge.view import View
    from trainers.commands.size_options import text_to_padding, text_to_resize

    shown = arguments.input or arguments.mode or arguments.align
    return {
        "steps": arguments.steps,
        "batch_size": arguments.batch_size,
        "view": View(arguments.input or recipe.view.inputs, arguments.mode, arguments.align) if shown else None,
        "augment": arguments.augment or None,
        "epochs": arguments.epochs,
        "learning_rate": arguments.learning_rate,
        "resize": None if arguments.resize is None else text_to_resize(arguments.resize),
        "pad": None if arguments.pad is None else text_to_padding(arguments.pad),
        "accumulate": arguments.accumulate,
        "ema": arguments.ema,
        "bf16": arguments.bf16 or None,
    }


def _watch(arguments: Namespace) -> Any:
    """The evaluation that is asked for, if any."""
    from trainers.recipes.watch import Watch

    given = {"split": arguments.evaluate_split, "best": arguments.best, "patience": arguments.patience}
    chosen = {name: value for name, value in given.items() if value is not None}
    if arguments.evaluate_every is None:
        if chosen:
            raise UsageError("what to do with evaluations, but not when", "give --evaluate-every N too")
        return None
    return Watch(arguments.evaluate_every, **chosen)


@contextmanager
def _resumable() -> Iterator[None]:
    """Say of a training that is interrupted how it goes on."""
    try:
        yield
    except KeyboardInterrupt as stop:
        stop.add_note("the same command with --resume goes on from the last checkpoint")
        raise


def train(arguments: Namespace) -> dict[str, Any]:
    """`shardbox train`: a prepared dataset and a recipe to a run."""
    from dataflow.prepared import PreparedDataset
    from trainers.commands.tuning_commands import look_first
    from trainers.recipes.catalogue import find_recipe
    from trainers.training.processes import is_first
    from trainers.training.stored_runs import trained_here
    from trainers.training.training import train as train_run

    dataset, recipe = PreparedDataset(arguments.dataset), find_recipe(arguments.recipe)
    look_first(dataset, arguments)
    with trained_here(arguments.out, arguments.resume) as (out, callbacks), _resumable():
        summary = train_run(
            dataset,
            recipe,
            out,
            split=arguments.split,
            seed=arguments.seed,
            resume=arguments.resume,
            weights=arguments.weights,
            callbacks=callbacks,
            watch=_watch(arguments),
            **asked(arguments, recipe),
        )
    result = {"run": str(arguments.out), "run_id": summary.run_id, "steps": summary.steps, "loss": summary.loss}
    result |= {"model_step": summary.model_step, "evaluations": list(summary.evaluations)}
    if not is_first():
        return result
    if summary.first_step == summary.steps:
        print("no step was left to do")
    print(
        f"trained {recipe.name} to step {summary.steps} in {summary.seconds:.0f} s; "
        f"{summary.trainable_parameters / 1e6:.2f} M parameters, loss {summary.loss:.3f}"
    )
    if (best := summary.best) is not None:
        figures = f"AP {best['AP']:.3f}, AP50 {best['AP50']:.3f}, loss {best['loss']:.3f}"
        print(f"the best of {len(summary.evaluations)} evaluations, at step {summary.model_step}, is kept: {figures}")
    print(f"written: {arguments.out}; curves: tensorboard --logdir {arguments.out}/tensorboard")
    return result


def predict(arguments: Namespace) -> dict[str, Any]:
    """`shardbox predict`: a prepared dataset and a run to predictions."""
    from dataflow.beam.shard_tasks import TaskRunner
    from dataflow.prepared import PreparedDataset
    from trainers.prediction.prediction import predict as predict_split

    summary = predict_split(
        PreparedDataset(arguments.dataset),
        arguments.run,
        arguments.out,
        split=arguments.split,
        batch_size=arguments.batch_size,
        running=TaskRunner(arguments.runner, arguments.runner_arguments),
    )
    before = f", {summary.images_kept} of them before" if summary.images_kept else ""
    print(f"{summary.detections} detections in {summary.images} images of {arguments.split}{before}")
    if summary.images_damaged:
        print(f"  {summary.images_damaged} images are damaged, and were shown as far as they can be decoded")
    if summary.pairs_unaligned:
        print(f"  {summary.pairs_unaligned} pairs could not be aligned, and were shown without change")
    print(f"written: {arguments.out}")
    return {
        "predictions": str(arguments.out),
        "run_id": summary.run_id,
        "images": summary.images,
        "detections": summary.detections,
        "images_kept": summary.images_kept,
    }
