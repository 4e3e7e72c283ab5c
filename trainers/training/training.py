"""Training: a prepared dataset and a recipe to a run (see `trainers.training.runs` for what is in its directory)."""

import shutil
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Unpack

from transformers import PreTrainedModel, TrainerCallback

from dataflow.errors import UsageError
from dataflow.prepared import PreparedDataset
from trainers.recipes.changes import Changes, or_as_it_was, to_json
from trainers.recipes.recipe import Recipe
from trainers.training import processes
from trainers.training.averaging import Average
from trainers.training.resuming import resumed
from trainers.training.runs import (
    CHECKPOINTS,
    Checkpoint,
    describe_run,
    image_processor,
    is_finished,
    read_description,
    save_model,
    write_description,
)
from trainers.training.seeds import begin_at, check_seed
from trainers.training.stage_training import Plan, TrainedStage, train_stages


@dataclass(frozen=True)
class TrainingSummary:
    """What was trained."""

    path: Path
    run_id: str
    recipe: str
    steps: int
    """Step that training ended with: less than the recipe's where it lost patience."""
    first_step: int
    """Step that this call started from: more than 0 where a run was resumed."""
    batch_size: int
    seconds: float
    """Of the steps of this call, their evaluations and checkpoints; building the model and saving it at the end not
    counted."""
    images_per_second: float
    losses: tuple[tuple[int, float], ...]
    """(step, mean loss since the step before it in this list), over the whole run."""
    evaluations: tuple[Mapping[str, float], ...]
    """`step`, `AP`, `AP50` and `loss` of each evaluation, over the whole run."""
    model_step: int
    """Step that the run's model is of: the best, where the run was watched."""
    parameters: int
    trainable_parameters: int
    load_report: str
    """Which weights it started from, in a sentence."""

    @property
    def best(self) -> Mapping[str, float] | None:
        """The evaluation of the run's model, where it was watched."""
        return next((entry for entry in self.evaluations if entry["step"] == self.model_step), None)

    @property
    def loss(self) -> float:
        """The last of `losses`."""
        return self.losses[-1][1]


def train(
    dataset: PreparedDataset,
    recipe: Recipe,
    out: Path,
    *,
    split: str = "train",
    seed: int = 0,
    resume: bool = False,
    weights: str | None = None,
    callbacks: Sequence[TrainerCallback] = (),
    **changes: Unpack[Changes],
) -> TrainingSummary:
    """Train a detector into the run directory `out`.

    A run that was stopped goes on with `resume` from its last checkpoint, with the very batches that would have come;
    on a CPU it ends in the very weights. Resuming a finished run changes nothing. Started in several processes, by
    `torchrun` or `accelerate launch`, these share each step's images, and the first of them writes.

    Args:
        dataset: prepared dataset.
        recipe: how to build and train; see `find_recipe`.
        out: directory of the run, new or empty unless `resume`.
        split: which images to train on.
        seed: decides initial weights, order and mirroring of the images.
        resume: go on with the run in `out`.
        weights: hub name or checkpoint directory to start from instead of the recipe's.
        callbacks: told of every step; what one of them raises ends the training.
        changes: what is to be other than the recipe has it, see `Changes`; resuming, as it was by default.

    Raises:
        UsageError: `out` is not empty, or holds no run or another one to resume; no such split, or one without
            objects; the weights are not there or do not fit; the dataset does not have the view, or cannot be augmented
            so; a number out of range; a batch does not fit into memory.
        DivergedError: the loss is not finite any more.
    """
    processes.begin()
    check_seed(seed)
    _check_objects(dataset, split, "--split")
    out = Path(out)
    if resume:
        if not out.exists():
            raise UsageError(f"there is no run {out} to resume", "leave out --resume to start one")
        before = read_description(out)
        changes = or_as_it_was(changes, before)
        weights = before["weights"] if weights is None else weights
    recipe = recipe.asked(dataset, split, **changes)
    if recipe.watch is not None:
        _check_objects(dataset, recipe.watch.split, "--evaluate-split")
    plan = Plan(recipe, seed, split, recipe.weights if weights is None else weights)
    if resume:
        plan = resumed(out, plan, dataset)
        if is_finished(out):
            return _summary(out, plan, read_description(out), ())
    elif out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise UsageError(f"{out} exists and is not empty", "give another directory, or --resume to go on with this run")
    return _run(dataset, plan, out, changes, callbacks)


def _check_objects(dataset: PreparedDataset, split: str, option: str) -> None:
    """Refuse a split that nothing can be learned from, or judged by; it is read up to its first object.

    Raises:
        UsageError: there is no such split, or no object in it that is to be found.
    """
    remedy = f"choose {option} among {', '.join(dataset.splits)}"
    if split not in dataset.splits:
        raise UsageError(f"{dataset.path} has no split {split!r}", remedy)
    if not dataset.splits[split]:
        raise UsageError(f"split {split!r} of {dataset.path} is empty", remedy)
    if not any((~record.objects.is_crowd).any() for record in dataset.records(split)):
        raise UsageError(f"split {split!r} of {dataset.path} has no objects to be found", remedy)


def _run(
    dataset: PreparedDataset, plan: Plan, out: Path, changes: Changes, callbacks: Sequence[TrainerCallback]
) -> TrainingSummary:
    recipe = plan.recipe
    begin_at(plan.seed)
    start_from = plan.weights if plan.checkpoint is None else str(plan.checkpoint.path)
    model, report = recipe.build(dataset.categories, start_from, view=recipe.view)
    processes.wait()  # Until all have looked at `out`.
    description = _opened(
        out,
        plan,
        describe_run(
            dataset, recipe, split=plan.split, seed=plan.seed, weights=plan.weights, weights_identity=report.identity
        )
        | {"changes": to_json(changes), "load_report": str(report)},
        model,
    )
    if processes.is_first():
        first = description["load_report"] if plan.checkpoint is None else f"resumed at step {plan.first_step}"
        sys.stderr.write(f"{first}\n")
    processes.wait()
    trained = train_stages(dataset, plan, out, model, callbacks)
    model_step, source = _chosen(recipe, trained)
    description |= {
        "losses": [loss for stage in trained for loss in stage.losses],
        "evaluations": [evaluation for stage in trained for evaluation in stage.evaluations],
        "steps": trained[-1].last_step,
        "model_step": model_step,
    }
    if processes.is_first():
        write_description(out, description)
        save_model(out, _finished_model(dataset, recipe, source), image_processor(recipe))
    processes.wait()
    return _summary(out, plan, description, trained)


def _opened(out: Path, plan: Plan, description: dict[str, Any], model: PreTrainedModel) -> dict[str, Any]:
    """The description of the run, written first of all, so that a run that is stopped can be told and resumed."""
    if plan.checkpoint is not None:
        return read_description(out)
    parameters = list(model.parameters())
    description |= {
        "parameters": sum(parameter.numel() for parameter in parameters),
        "trainable_parameters": sum(parameter.numel() for parameter in parameters if parameter.requires_grad),
    }
    if processes.is_first():
        out.mkdir(parents=True, exist_ok=True)
        shutil.rmtree(out / CHECKPOINTS, ignore_errors=True)  # None of them is complete.
        write_description(out, description)
    return description


def _chosen(recipe: Recipe, trained: tuple[TrainedStage, ...]) -> tuple[int, Checkpoint]:
    """The step and the checkpoint that the run's model is of: the last or, where it was watched, the best."""
    watch, last = recipe.watch, trained[-1]
    step, checkpoint = last.last_step, last.last
    best = None
    for stage in trained if watch is not None else ():
        assert watch is not None
        if stage.best is not None and watch.better(stage.best.value, best):
            best, step, checkpoint = stage.best.value, stage.best.step, stage.best.checkpoint
    return step, checkpoint


def _finished_model(dataset: PreparedDataset, recipe: Recipe, source: Checkpoint) -> PreTrainedModel:
    """The model of a checkpoint, with averaged weights where there are any."""
    model, _ = recipe.build(dataset.categories, str(source.path), view=recipe.view)
    if recipe.ema is not None:
        average = Average(model, recipe.ema)
        average.load(source.path)
        average.copy_to(model)
    return model


def _summary(
    out: Path, plan: Plan, description: Mapping[str, Any], trained: tuple[TrainedStage, ...]
) -> TrainingSummary:
    seconds = sum(stage.seconds for stage in trained)
    images = sum(stage.steps_done for stage in trained) * plan.recipe.batch_size
    steps = int(description.get("steps", plan.recipe.steps))
    return TrainingSummary(
        path=out,
        run_id=description["run_id"],
        recipe=plan.recipe.name,
        steps=steps,
        first_step=plan.first_step,
        batch_size=plan.recipe.batch_size,
        seconds=seconds,
        images_per_second=images / seconds if seconds else 0.0,
        losses=tuple((int(step), float(loss)) for step, loss in description["losses"]),
        evaluations=tuple(description.get("evaluations", ())),
        model_step=int(description.get("model_step", steps)),
        parameters=description["parameters"],
        trainable_parameters=description["trainable_parameters"],
        load_report=description["load_report"],
    )
