"""Training: a prepared dataset and a recipe to a run (see `trainers.runs` for what is in its directory)."""

import shutil
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from transformers import PreTrainedModel, TrainerCallback, TrainerState, TrainingArguments, set_seed

from dataflow.bridge import BatchLoader
from dataflow.errors import UsageError
from dataflow.padding import TO_LARGEST
from dataflow.prepared import PreparedDataset
from dataflow.view import View
from trainers.checkpoints import LoadReport, quiet_transformers
from trainers.detection_trainer import DetectionTrainer, ProgressLines, tensorboard_callback
from trainers.recipe import Recipe
from trainers.runs import (
    CHECKPOINTS,
    TENSORBOARD,
    describe_run,
    image_processor,
    is_finished,
    last_checkpoint,
    read_description,
    save_model,
    write_description,
)

_LOGS = 50
"""How many times the losses are logged in a run, at least."""
_KEPT_CHECKPOINTS = 2


@dataclass(frozen=True)
class TrainingSummary:
    """What was trained."""

    path: Path
    run_id: str
    recipe: str
    steps: int
    first_step: int
    """Step that this call started from: more than 0 where a run was resumed."""
    batch_size: int
    seconds: float
    """Of the steps of this call and their checkpoints; building the model and saving it at the end not counted."""
    images_per_second: float
    losses: tuple[tuple[int, float], ...]
    """(step, mean loss since the step before it in this list), over the whole run."""
    parameters: int
    trainable_parameters: int
    load_report: str
    """Which weights it started from, in a sentence."""

    @property
    def loss(self) -> float:
        """The last of `losses`."""
        return self.losses[-1][1]


@dataclass(frozen=True)
class _Plan:
    """A run about to go on: what it is, and where from."""

    recipe: Recipe
    """With what was asked for."""
    seed: int
    split: str
    weights: str | None
    checkpoint: Path | None = None
    first_step: int = 0


@dataclass(frozen=True)
class _Asked:
    """What the caller wants to be other than the recipe has it; None where it may stay."""

    steps: int | None
    batch_size: int | None
    weights: str | None
    view: View | None
    augment: bool | None

    def or_as_it_was(self, out: Path) -> "_Asked":
        """With what was not asked for as the run in `out` has it."""
        if not out.exists():
            raise UsageError(f"there is no run {out} to resume", "leave out --resume to start one")
        before = read_description(out)
        recipe = before["recipe"]
        return _Asked(
            steps=recipe["steps"] if self.steps is None else self.steps,
            batch_size=recipe["batch_size"] if self.batch_size is None else self.batch_size,
            weights=before["weights"] if self.weights is None else self.weights,
            view=self.view or View(**recipe["view"]),
            augment=recipe["augmentation"] is not None if self.augment is None else self.augment,
        )

    def applied_to(self, recipe: Recipe, dataset: PreparedDataset) -> Recipe:
        """The recipe for a dataset, as asked."""
        return recipe.asked(dataset, steps=self.steps, batch_size=self.batch_size, view=self.view, augment=self.augment)


def train(
    dataset: PreparedDataset,
    recipe: Recipe,
    out: Path,
    *,
    split: str = "train",
    steps: int | None = None,
    batch_size: int | None = None,
    seed: int = 0,
    resume: bool = False,
    weights: str | None = None,
    view: View | None = None,
    augment: bool | None = None,
    callbacks: Sequence[TrainerCallback] = (),
) -> TrainingSummary:
    """Train a detector into the run directory `out`.

    A run that was stopped goes on with `resume` from its last checkpoint, with the very batches that would have come;
    on a CPU it ends in the very weights. Resuming a finished run changes nothing.

    Args:
        dataset: prepared dataset.
        recipe: how to build and train; see `find_recipe`.
        out: directory of the run, new or empty unless `resume`.
        split: which images to train on.
        steps: optimiser steps instead of the recipe's; resuming, the run's own by default.
        batch_size: images a step instead of the recipe's; resuming, the run's own by default.
        seed: decides initial weights, order and mirroring of the images.
        resume: go on with the run in `out`.
        weights: hub name or checkpoint directory to start from instead of the recipe's.
        view: what to show of each example instead of the recipe's view; resuming, the run's own by default.
        augment: change images at random, of pairs both frames before they are compared; resuming, as the run does by
            default.
        callbacks: told of every step; what one of them raises ends the training.

    Raises:
        UsageError: `out` is not empty, or holds no run or another one to resume; no such split or an empty one; the
            weights are not there or do not fit; the dataset does not have the view, or cannot be augmented so.
        DivergedError: the loss is not finite any more.
    """
    if not dataset.splits[dataset.check_split(split)]:
        raise UsageError(f"split {split!r} of {dataset.path} is empty", "train on another --split")
    out = Path(out)
    asked = _Asked(steps, batch_size, weights, view, augment)
    if resume:
        asked = asked.or_as_it_was(out)
    recipe = asked.applied_to(recipe, dataset)
    plan = _Plan(recipe, seed, split, recipe.weights if asked.weights is None else asked.weights)
    if resume:
        plan = _resumed(out, plan, dataset)
        if is_finished(out):
            return _summary(out, plan, read_description(out))
    elif out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise UsageError(f"{out} exists and is not empty", "give another directory, or --resume to go on with this run")
    return _run(dataset, plan, out, callbacks)


def _resumed(out: Path, plan: _Plan, dataset: PreparedDataset) -> _Plan:
    """The plan from the last checkpoint on.

    Raises:
        UsageError: the run in `out` was started with other settings or on other data.
    """
    before = read_description(out)
    before["recipe"].setdefault("pad", asdict(TO_LARGEST))  # Runs from before there was a choice.
    now = describe_run(
        dataset,
        plan.recipe,
        split=plan.split,
        seed=plan.seed,
        weights=plan.weights,
        weights_identity=before["weights_identity"],
    )
    changed = list(_differences(before, now))
    if changed:
        raise UsageError(
            f"{out} was started differently: {'; '.join(changed)}", "ask for the same, or start another run"
        )
    found = last_checkpoint(out)
    return plan if found is None else replace(plan, checkpoint=found[0], first_step=found[1])


def _differences(before: Mapping[str, Any], now: Mapping[str, Any], prefix: str = "") -> list[str]:
    """What differs between two descriptions. Another version of a library may go on with a run; `run_id` tells."""
    found: list[str] = []
    for key in sorted(set(before) & set(now) - {"run_id", "versions"}):
        # One resize policy may have some of the names of another. Values of two kinds are compared as a whole.
        alike = isinstance(before[key], Mapping) and isinstance(now[key], Mapping)
        if alike and (not prefix or before[key].keys() == now[key].keys()):
            found += _differences(before[key], now[key], f"{prefix}{key}.")
        elif before[key] != now[key]:
            found.append(f"{prefix}{key} was {before[key]}, now {now[key]}")
    return found


def _run(dataset: PreparedDataset, plan: _Plan, out: Path, callbacks: Sequence[TrainerCallback]) -> TrainingSummary:
    recipe = plan.recipe
    set_seed(plan.seed)
    start_from = plan.weights if plan.checkpoint is None else str(plan.checkpoint)
    model, report = recipe.build(dataset.categories, start_from, view=recipe.view)
    description = _opened(dataset, plan, out, model, report)
    if plan.checkpoint is None:
        sys.stderr.write(f"{description['load_report']}\n")
    else:
        sys.stderr.write(f"resumed at step {plan.first_step}\n")
    history, seconds = _trained(dataset, plan, out, model, callbacks)
    losses = [[entry["step"], entry["loss"]] for entry in history if "loss" in entry]
    description["losses"] = losses
    write_description(out, description)
    save_model(out, model, image_processor(recipe))
    return _summary(out, plan, description, seconds)


def _opened(
    dataset: PreparedDataset, plan: _Plan, out: Path, model: PreTrainedModel, report: LoadReport
) -> dict[str, Any]:
    """The description of the run, written first of all, so that a run that is stopped can be told and resumed."""
    if plan.checkpoint is not None:
        return read_description(out)
    description = describe_run(
        dataset, plan.recipe, split=plan.split, seed=plan.seed, weights=plan.weights, weights_identity=report.identity
    )
    parameters = list(model.parameters())
    description |= {
        "load_report": str(report),
        "parameters": sum(parameter.numel() for parameter in parameters),
        "trainable_parameters": sum(parameter.numel() for parameter in parameters if parameter.requires_grad),
    }
    out.mkdir(parents=True, exist_ok=True)
    shutil.rmtree(out / CHECKPOINTS, ignore_errors=True)  # None of them is complete.
    write_description(out, description)
    return description


def _trained(
    dataset: PreparedDataset, plan: _Plan, out: Path, model: PreTrainedModel, callbacks: Sequence[TrainerCallback]
) -> tuple[list[dict[str, Any]], float]:
    """Train the model; returns the trainer's log over the whole run, and the seconds that this call's steps took."""
    if plan.checkpoint is not None and plan.first_step >= plan.recipe.steps:
        # It was stopped between its last step and the saving of the model. `Trainer` would take one step too many.
        return TrainerState.load_from_json(str(plan.checkpoint / "trainer_state.json")).log_history, 0.0
    recipe = plan.recipe
    arguments = _arguments(plan, out)
    batches = BatchLoader(
        dataset,
        plan.split,
        recipe.resize,
        recipe.batch_size,
        training=True,
        pad=recipe.pad,
        seed=plan.seed,
        rank=arguments.process_index,
        world_size=arguments.world_size,
        start_step=plan.first_step,
        flip=recipe.flip,
        view=recipe.view,
        augmentation=recipe.augmentation,
    )
    trainer = DetectionTrainer(model, arguments, recipe, batches)
    for callback in (ProgressLines(recipe.batch_size), *callbacks):
        trainer.add_callback(callback)
    board = tensorboard_callback(out / TENSORBOARD, plan.first_step)
    trainer.add_callback(board)
    start = time.monotonic()
    try:
        with quiet_transformers():
            trainer.train(resume_from_checkpoint=None if plan.checkpoint is None else str(plan.checkpoint))
    finally:
        if board.tb_writer is not None:
            board.tb_writer.close()
    return trainer.state.log_history, time.monotonic() - start


def _arguments(plan: _Plan, out: Path) -> TrainingArguments:
    recipe = plan.recipe
    return TrainingArguments(
        output_dir=str(out / CHECKPOINTS),
        per_device_train_batch_size=recipe.batch_size,
        max_steps=recipe.steps,
        learning_rate=recipe.learning_rate,
        lr_scheduler_type="constant_with_warmup" if recipe.schedule == "constant" else recipe.schedule,
        warmup_steps=min(recipe.warm_up_steps, recipe.steps // 2),
        weight_decay=recipe.weight_decay,
        max_grad_norm=recipe.clip_norm,
        logging_steps=max(1, min(10, recipe.steps // _LOGS)),
        logging_nan_inf_filter=False,  # It would hide what `DetectionTrainer` stops at.
        save_strategy="steps",
        save_steps=recipe.checkpoint_steps,
        save_total_limit=_KEPT_CHECKPOINTS,
        seed=plan.seed,
        ignore_data_skip=True,  # The loader starts at the right batch by itself.
        remove_unused_columns=False,
        disable_tqdm=True,
        report_to="none",
    )


def _summary(out: Path, plan: _Plan, description: Mapping[str, Any], seconds: float = 0.0) -> TrainingSummary:
    done = plan.recipe.steps - plan.first_step
    return TrainingSummary(
        path=out,
        run_id=description["run_id"],
        recipe=plan.recipe.name,
        steps=plan.recipe.steps,
        first_step=plan.first_step,
        batch_size=plan.recipe.batch_size,
        seconds=seconds,
        images_per_second=done * plan.recipe.batch_size / seconds if seconds else 0.0,
        losses=tuple((int(step), float(loss)) for step, loss in description["losses"]),
        parameters=description["parameters"],
        trainable_parameters=description["trainable_parameters"],
        load_report=description["load_report"],
    )
