"""The stages of a run, one after the other: each has a `Trainer` and a directory of checkpoints of its own.

A stage begins with the weights that the one before ended with. Its optimiser, its schedule and the moving average of
the weights begin anew: what an optimiser remembers is of the parameters that it moved.
"""

import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from transformers import PreTrainedModel, TrainerCallback, TrainingArguments

from dataflow.bridge.loader import BatchLoader
from dataflow.errors import UsageError
from dataflow.prepared import PreparedDataset
from trainers.detectors.checkpoints import quiet_transformers
from trainers.detectors.detectors import part_patterns
from trainers.recipes.recipe import Recipe
from trainers.recipes.stages import PlannedStage, freeze
from trainers.recipes.watch import Watch
from trainers.training import processes
from trainers.training.averaging import Average
from trainers.training.detection_trainer import DetectionTrainer, Patience
from trainers.training.runs import TENSORBOARD, Checkpoint, last_checkpoint, stage_directory
from trainers.training.seeds import begin_at
from trainers.training.training_display import Board, ProgressLines
from trainers.training.validation import Validation

_LOGS = 50
"""How many times the losses are logged in a stage, at least."""
_KEPT_CHECKPOINTS = 2


@dataclass(frozen=True)
class Plan:
    """A run about to go on: what it is, and where from."""

    recipe: Recipe
    """With what was asked for."""
    seed: int
    split: str
    weights: str | None
    stage: int = 0
    """Index of the stage that `checkpoint` is of."""
    checkpoint: Checkpoint | None = None

    @property
    def first_step(self) -> int:
        """Step of the run that it goes on from."""
        step = 0 if self.checkpoint is None else self.checkpoint.step
        return self.recipe.planned_stages()[self.stage].first_step + step


@dataclass(frozen=True)
class Best:
    """The best evaluation of a stage."""

    step: int
    """Of the run."""
    value: float
    checkpoint: Checkpoint


@dataclass(frozen=True)
class TrainedStage:
    """A stage that has ended. Steps are those of the run."""

    last: Checkpoint
    last_step: int
    best: Best | None
    losses: tuple[tuple[int, float], ...]
    evaluations: tuple[Mapping[str, float], ...]
    steps_done: int = 0
    """In this call."""
    seconds: float = 0.0


def train_stages(
    dataset: PreparedDataset, plan: Plan, out: Path, model: PreTrainedModel, callbacks: Sequence[TrainerCallback] = ()
) -> tuple[TrainedStage, ...]:
    """Train the model through what is left of the stages; returns all of them, those before this call too.

    Raises:
        UsageError: a step's images cannot be shared by the processes and parts; a stage names no parameter.
        DivergedError: the loss is not finite any more.
    """
    recipe = plan.recipe
    stages = recipe.planned_stages()
    trainable = [name for name, parameter in model.named_parameters() if parameter.requires_grad]
    for stage in stages:  # A wrong name must not wait for its stage.
        freeze(model, trainable, stage.stage, part_patterns(model))
    board = Board(out / TENSORBOARD, plan.first_step) if processes.is_first() else None
    stage_run = _StageRun(dataset, plan, model, board, tuple(callbacks))
    trained = []
    try:
        for stage in stages:
            directory = stage_directory(out, stage.index, len(stages))
            found = plan.checkpoint if stage.index == plan.stage else None
            steps_done, seconds = 0, 0.0
            if stage.index >= plan.stage and not (found is not None and found.stopped):
                freeze(model, trainable, stage.stage, part_patterns(model))
                steps_done, seconds = stage_run.train(stage, directory, found)
            trained.append(_ended(stage, directory, recipe.watch, steps_done, seconds))
    finally:
        if board is not None:
            board.close()
    return tuple(trained)


@dataclass(frozen=True)
class _StageRun:
    """What all stages of a run share."""

    dataset: PreparedDataset
    plan: Plan
    model: PreTrainedModel
    board: Board | None
    callbacks: tuple[TrainerCallback, ...]

    def train(self, stage: PlannedStage, directory: Path, found: Checkpoint | None) -> tuple[int, float]:
        """Train a stage, from a checkpoint of it on if there is one; returns the steps, and the seconds they took."""
        recipe, first = self.plan.recipe, 0 if found is None else found.step
        arguments = _arguments(self.plan, stage, directory)
        average = None if recipe.ema is None else Average(self.model, recipe.ema)
        if average is not None and found is not None:
            average.load(found.path)
        trainer = DetectionTrainer(
            self.model,
            arguments,
            recipe,
            stage.stage,
            self._batches(arguments, stage.first_step + first),
            first_step=stage.first_step,
            validation=self._validation(arguments),
            average=average,
        )
        if arguments.process_index:
            begin_at(arguments.seed, arguments.process_index)  # Noise is each process's own.
        if recipe.watch is not None:
            trainer.add_callback(Patience(recipe.watch))
        for callback in (ProgressLines(recipe.batch_size, stage.first_step, recipe.steps), *self.callbacks):
            trainer.add_callback(callback)
        if self.board is not None:
            self.board.before = stage.first_step
            trainer.add_callback(self.board)
        start = time.monotonic()
        with quiet_transformers():
            trainer.train(resume_from_checkpoint=None if found is None else str(found.path))
        processes.wait()  # Until the first has written its checkpoint.
        return trainer.state.global_step - first, time.monotonic() - start

    def _batches(self, arguments: TrainingArguments, step: int) -> BatchLoader:
        recipe = self.plan.recipe
        return BatchLoader(
            self.dataset,
            self.plan.split,
            recipe.resize,
            recipe.batch_size // arguments.world_size,
            training=True,
            pad=recipe.pad,
            seed=self.plan.seed,
            rank=arguments.process_index,
            world_size=arguments.world_size,
            start_step=step,
            flip=recipe.flip,
            view=recipe.view,
            augmentation=recipe.augmentation,
        )

    def _validation(self, arguments: TrainingArguments) -> Validation | None:
        recipe = self.plan.recipe
        if recipe.watch is None:
            return None
        validation = Validation(self.dataset, recipe, recipe.watch, arguments.process_index, arguments.world_size)
        validation.show = None if self.board is None else self.board.show
        return validation


def _arguments(plan: Plan, stage: PlannedStage, directory: Path) -> TrainingArguments:
    recipe, asked, watch = plan.recipe, stage.stage, plan.recipe.watch
    schedule = {"cosine": "cosine" if asked.cycles == 1 else "cosine_with_restarts", "constant": "constant_with_warmup"}
    arguments = TrainingArguments(
        output_dir=str(directory),
        max_steps=stage.steps,
        gradient_accumulation_steps=recipe.accumulate,
        learning_rate=asked.learning_rate,
        lr_scheduler_type=schedule.get(asked.schedule, asked.schedule),
        lr_scheduler_kwargs={"num_cycles": asked.cycles} if asked.cycles > 1 else None,
        warmup_steps=min(asked.warm_up_steps, stage.steps // 2),
        weight_decay=recipe.weight_decay,
        max_grad_norm=recipe.clip_norm,
        bf16=recipe.bf16,
        use_cpu=not torch.cuda.is_available(),
        logging_steps=max(1, min(10, stage.steps // _LOGS)),
        logging_nan_inf_filter=False,  # It would hide what `DetectionTrainer` stops at.
        eval_strategy="no" if watch is None else "steps",
        eval_steps=None if watch is None else watch.every,
        metric_for_best_model=None if watch is None else watch.best,
        greater_is_better=None if watch is None else watch.best != "loss",
        save_strategy="steps",
        save_steps=recipe.checkpoint_steps,
        save_total_limit=_KEPT_CHECKPOINTS,
        seed=plan.seed + stage.index,
        ignore_data_skip=True,  # The loader starts at the right batch by itself.
        remove_unused_columns=False,
        disable_tqdm=True,
        report_to="none",
    )
    shared = arguments.world_size * recipe.accumulate
    if recipe.batch_size % shared:
        raise UsageError(
            f"{recipe.batch_size} images a step for {arguments.world_size} processes in {recipe.accumulate} parts each",
            f"give a multiple of {shared} as --batch-size",
        )
    arguments.per_device_train_batch_size = recipe.batch_size // shared
    return arguments


def _ended(stage: PlannedStage, directory: Path, watch: Watch | None, steps_done: int, seconds: float) -> TrainedStage:
    """A stage as its last checkpoint tells it."""
    last = last_checkpoint(directory)
    assert last is not None
    before = stage.first_step
    return TrainedStage(
        last=last,
        last_step=before + last.step,
        best=None if watch is None else _best(directory, last.log, watch, before),
        losses=tuple((before + entry["step"], entry["loss"]) for entry in last.log if "loss" in entry),
        evaluations=tuple(_evaluations(last.log, before)),
        steps_done=steps_done,
        seconds=seconds,
    )


def _evaluations(log: Iterable[Mapping[str, Any]], before: int) -> Iterable[dict[str, float]]:
    for entry in log:
        if "eval_loss" in entry:
            figures = {name.removeprefix("eval_"): entry[name] for name in ("eval_AP", "eval_AP50", "eval_loss")}
            yield {"step": before + entry["step"], **figures}


def _best(directory: Path, log: Iterable[Mapping[str, Any]], watch: Watch, before: int) -> Best | None:
    """The best evaluation of a stage, which has a checkpoint (see `Patience`)."""
    best: dict[str, float] | None = None
    for evaluation in _evaluations(log, 0):
        if watch.better(evaluation[watch.best], None if best is None else best[watch.best]):
            best = evaluation
    if best is None:
        return None
    step = int(best["step"])
    return Best(before + step, best[watch.best], Checkpoint(directory / f"checkpoint-{step}", step, True, ()))
